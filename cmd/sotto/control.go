package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// A running server is asked for invitations through a socket in its data directory: whoever may write there may invite.
// It speaks HTTP, POST /invitations?uses=N&ttl=D, and is answered by an invitation as JSON.

type invitation struct {
	Event   string    `json:"event"`
	Token   string    `json:"token"`
	Uses    int       `json:"uses"`
	Expires time.Time `json:"expires"`
}

type inviter func(ttl time.Duration, uses int) (token string, err error)

func invite(newInvitation inviter, ttl time.Duration, uses int) (invitation, error) {
	token, err := newInvitation(ttl, uses)
	if err != nil {
		return invitation{}, err
	}
	return invitation{"invitation", token, uses, time.Now().Add(ttl).Truncate(time.Second)}, nil
}

func controlSocket(dataDirectory string) string { return filepath.Join(dataDirectory, "control.sock") }

// serveControl answers on the socket until the returned function is called. The data directory is locked by the store, so a
// socket that is still there was left by a server that died.
func serveControl(dataDirectory string, newInvitation inviter) (stop func(), err error) {
	file := controlSocket(dataDirectory)
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.Listen("unix", file)
	if err != nil {
		return nil, fmt.Errorf("cannot open the control socket (a path over 100 bytes is too long: choose a shorter --data): %w", err)
	}
	if err := os.Chmod(file, 0o600); err != nil {
		listener.Close()
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /invitations", func(w http.ResponseWriter, r *http.Request) {
		var uses int
		_, badUses := fmt.Sscan(r.FormValue("uses"), &uses)
		ttl, badTTL := time.ParseDuration(r.FormValue("ttl"))
		if badUses != nil || badTTL != nil || uses < 1 || ttl <= 0 {
			http.Error(w, "uses must be a number from 1 and ttl a duration, for instance 24h", http.StatusBadRequest)
			return
		}
		made, err := invite(newInvitation, ttl, uses)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		json.NewEncoder(w).Encode(made)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go server.Serve(listener)
	return func() { server.Close() }, nil
}

// askForInvitation is the other end of the socket.
func askForInvitation(ctx context.Context, dataDirectory string, ttl time.Duration, uses int) (invitation, error) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", controlSocket(dataDirectory))
	}
	transport := &http.Transport{DialContext: dial}
	defer transport.CloseIdleConnections()
	query := url.Values{"uses": {fmt.Sprint(uses)}, "ttl": {ttl.String()}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://control/invitations?"+query.Encode(), nil)
	if err != nil {
		return invitation{}, err
	}
	response, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Do(request)
	if err != nil {
		return invitation{}, controlError(err, dataDirectory)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return invitation{}, err
	}
	if response.StatusCode != http.StatusOK {
		return invitation{}, errors.New(string(body))
	}
	var made invitation
	return made, json.Unmarshal(body, &made)
}

// controlError tells a server that is not there from one that cannot be asked.
func controlError(err error, dataDirectory string) error {
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED): // a server that died leaves its socket
		return fmt.Errorf("no server is running on %s; start it with: sotto serve --data %[1]s", dataDirectory)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("only the user that the server runs as may invite, and root: %s is not open to you", controlSocket(dataDirectory))
	}
	// What package http says of a connection that ends early names a protocol that nobody asked for.
	return fmt.Errorf("the server on %s cannot be asked for an invitation: it does not answer; try again, or look into its log", dataDirectory)
}
