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
	"strconv"
	"strings"
	"syscall"
	"time"

	"sotto/signaling"
)

// A running server is operated through a socket in its data directory: by the user that it runs as,
// and root. It speaks HTTP and answers with JSON, one object a line:
//
//	POST   /invitations?uses=N&ttl=D    GET /invitations    DELETE /invitations?id=ID
//	GET    /accounts                    DELETE /accounts?name=NAME
//	POST   /accounts/disable?name=NAME, /accounts/enable?name=NAME
//	POST   /accounts/quota?name=NAME&envelopes=N&bytes=N
//	GET    /state
//	POST   /backup?directory=DIR

type invitation struct {
	Event   string    `json:"event"` // "invitation"
	Token   string    `json:"token,omitempty"`
	ID      string    `json:"id,omitempty"`
	Uses    int       `json:"uses"`
	Expires time.Time `json:"expires"`
}

type accountState struct {
	Event        string `json:"event"` // "account"
	Username     string `json:"username"`
	Disabled     bool   `json:"disabled"`
	Devices      int    `json:"devices"`
	Waiting      int    `json:"waiting"` // envelopes
	WaitingBytes int64  `json:"waiting_bytes"`
	Quota        int    `json:"quota"` // envelopes for each device
	QuotaBytes   int64  `json:"quota_bytes"`
	QuotaOwn     bool   `json:"quota_own"` // and not the server's
}

type serverState struct {
	Event           string `json:"event"` // "state"
	Version         string `json:"version"`
	Uptime          int64  `json:"uptime"` // seconds
	Accounts        int    `json:"accounts"`
	Disabled        int    `json:"disabled"`
	Devices         int    `json:"devices"`
	Invitations     int    `json:"invitations"`
	Mailboxes       int    `json:"mailboxes"` // with something in them
	Waiting         int    `json:"waiting"`   // envelopes
	WaitingBytes    int64  `json:"waiting_bytes"`
	Links           int    `json:"links"`
	Anonymous       int    `json:"anonymous"`
	Unauthenticated int    `json:"unauthenticated"`
	StoreBytes      int64  `json:"store_bytes"`
	FreeBytes       int64  `json:"free_bytes"`
}

type doneLine struct {
	Event string `json:"event"`
}

type inviter func(ttl time.Duration, uses int) (token string, err error)

func invite(newInvitation inviter, ttl time.Duration, uses int) (invitation, error) {
	token, err := newInvitation(ttl, uses)
	if err != nil {
		return invitation{}, err
	}
	expires := time.Now().Add(ttl).Truncate(time.Second)
	return invitation{Event: "invitation", Token: token, Uses: uses, Expires: expires}, nil
}

func controlSocket(dataDirectory string) string { return filepath.Join(dataDirectory, "control.sock") }

// serveControl answers on the socket until the returned function is called, which waits for what is
// being answered. The data directory is locked by the store, so a socket that is still there was
// left by a server that died.
func serveControl(
	dataDirectory string, s *signaling.Server,
) (stop func(context.Context) error, err error) {
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
	handler := controlHandler(dataDirectory, s)
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	go server.Serve(ownUsers{listener})
	return func(ctx context.Context) error {
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
		return nil
	}, nil
}

// ownUsers lets in who may operate the server, whatever has become of the socket's mode.
type ownUsers struct{ net.Listener }

func (l ownUsers) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil || mayOperate(conn) {
			return conn, err
		}
		conn.Close()
	}
}

// controlHandler answers requests.
func controlHandler(data string, s *signaling.Server) http.Handler {
	mux := http.NewServeMux()
	list := func(pattern string, do func(say func(line any)) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) { inLines(w, do) })
	}
	answer := func(pattern string, do func(q url.Values) (line any, err error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			inLines(w, func(say func(any)) error {
				line, err := do(r.URL.Query())
				if err == nil {
					say(line)
				}
				return err
			})
		})
	}
	byName := func(pattern, event string, do func(name string) error) {
		answer(pattern, func(q url.Values) (any, error) { return doneLine{event}, do(q.Get("name")) })
	}
	list("GET /invitations", func(say func(any)) error { return listInvitations(s, say) })
	answer("POST /invitations", func(q url.Values) (any, error) { return newInvitation(s, q) })
	answer("DELETE /invitations", func(q url.Values) (any, error) {
		return doneLine{"invitation_revoked"}, s.RevokeInvitation(q.Get("id"))
	})
	list("GET /accounts", func(say func(any)) error { return listAccounts(s, say) })
	byName("DELETE /accounts", "account_deleted", s.DeleteAccount)
	byName("POST /accounts/disable", "account_disabled", s.DisableAccount)
	byName("POST /accounts/enable", "account_enabled", s.EnableAccount)
	answer("POST /accounts/quota", func(q url.Values) (any, error) { return setQuota(s, q) })
	answer("GET /state", func(url.Values) (any, error) { return stateOf(s) })
	answer("POST /backup", func(q url.Values) (any, error) {
		return backup(s, data, q.Get("directory"))
	})
	return mux
}

// inLines writes what is said. What cannot be done is a sentence, with the status 400; if that shows
// when something has been said, the answer breaks off.
func inLines(w http.ResponseWriter, do func(say func(line any)) error) {
	said := false
	lines := json.NewEncoder(w)
	err := do(func(line any) {
		said = true
		_ = lines.Encode(line)
	})
	switch {
	case err == nil:
	case said:
		panic(http.ErrAbortHandler)
	default:
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

func newInvitation(s *signaling.Server, q url.Values) (invitation, error) {
	uses, badUses := strconv.Atoi(q.Get("uses"))
	ttl, badTTL := time.ParseDuration(q.Get("ttl"))
	if badUses != nil || badTTL != nil || uses < 1 || ttl <= 0 {
		return invitation{}, errors.New("uses must be a number from 1 and ttl a duration, for instance 24h")
	}
	return invite(s.NewInvitation, ttl, uses)
}

func listInvitations(s *signaling.Server, say func(any)) error {
	list, err := s.Invitations()
	for _, i := range list {
		say(invitation{Event: "invitation", ID: i.ID, Uses: i.Uses, Expires: i.Expires})
	}
	return err
}

// listAccounts goes in steps: a slow reader holds nothing of the store.
func listAccounts(s *signaling.Server, say func(any)) error {
	const step = 1000
	for after := ""; ; {
		list, err := s.Accounts(after, step)
		if err != nil {
			return err
		}
		for _, a := range list {
			say(lineOf(a))
			after = a.Name
		}
		if len(list) < step {
			return nil
		}
	}
}

func lineOf(a signaling.AccountState) accountState {
	return accountState{
		Event: "account", Username: a.Name, Disabled: a.Disabled, Devices: a.Devices,
		Waiting: a.Waiting.Envelopes, WaitingBytes: a.Waiting.Bytes,
		Quota: a.Mailbox.Envelopes, QuotaBytes: a.Mailbox.Bytes, QuotaOwn: a.Mailbox.Own,
	}
}

// setQuota changes it if numbers are given, and shows it.
func setQuota(s *signaling.Server, q url.Values) (accountState, error) {
	name := q.Get("name")
	if q.Has("envelopes") {
		envelopes, badEnvelopes := strconv.Atoi(q.Get("envelopes"))
		bytes, badBytes := strconv.ParseInt(q.Get("bytes"), 10, 64)
		if err := errors.Join(badEnvelopes, badBytes); err != nil {
			return accountState{}, err
		}
		if err := s.SetMailboxQuota(name, envelopes, bytes); err != nil {
			return accountState{}, err
		}
	}
	a, err := s.Account(name)
	return lineOf(a), err
}

func stateOf(s *signaling.Server) (serverState, error) {
	now, err := s.State()
	t := now.Totals
	return serverState{
		Event: "state", Version: built().Version, Uptime: int64(now.Uptime / time.Second),
		Accounts: t.Accounts, Disabled: t.Disabled, Devices: t.Devices, Invitations: t.Invitations,
		Mailboxes: t.Mailboxes, Waiting: t.Waiting.Envelopes, WaitingBytes: t.Waiting.Bytes,
		Links: now.Links, Anonymous: now.Anonymous, Unauthenticated: now.Unauthenticated,
		StoreBytes: now.StoreBytes, FreeBytes: now.FreeBytes,
	}, err
}

// askServer is the other end of the socket. take gets each line of the answer.
func askServer(
	ctx context.Context, dataDirectory, method, path string, q url.Values,
	take func(line []byte) error,
) error {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", controlSocket(dataDirectory))
	}
	transport := &http.Transport{DialContext: dial}
	defer transport.CloseIdleConnections()
	to := "http://control" + path + "?" + q.Encode()
	request, err := http.NewRequestWithContext(ctx, method, to, nil)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return controlError(err, dataDirectory)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return refusedByServer(response)
	}
	for lines := json.NewDecoder(response.Body); ; {
		var line json.RawMessage
		switch err := lines.Decode(&line); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return controlError(err, dataDirectory)
		}
		if err := take(line); err != nil {
			return err
		}
	}
}

// refusedByServer makes an error of the server's sentence. An older server does not know the path.
func refusedByServer(response *http.Response) error {
	said, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	switch {
	case err != nil:
		return err
	case response.StatusCode != http.StatusBadRequest:
		return errors.New("the server that runs is older than this program and does not know " +
			"that: restart it")
	}
	return errors.New(strings.TrimSpace(string(said)))
}

func askForInvitation(
	ctx context.Context, dataDirectory string, ttl time.Duration, uses int,
) (made invitation, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	q := url.Values{"uses": {fmt.Sprint(uses)}, "ttl": {ttl.String()}}
	take := func(line []byte) error { return json.Unmarshal(line, &made) }
	return made, askServer(ctx, dataDirectory, http.MethodPost, "/invitations", q, take)
}

// controlError tells a server that is not there from one that cannot be asked.
func controlError(err error, dataDirectory string) error {
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED): // a server that died leaves its socket
		return fmt.Errorf("no server is running on %s; start it with: sotto serve --data %[1]s", dataDirectory)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("only the user that the server runs as may operate it, and root: "+
			"%s is not open to you", controlSocket(dataDirectory))
	}
	// What package http says of a connection that ends early names a protocol that nobody asked for.
	return fmt.Errorf("the server on %s cannot be asked: it does not answer; it may run as "+
		"another user; try again, or look into its log", dataDirectory)
}
