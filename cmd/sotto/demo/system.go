package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"sotto/signaling"
	"sotto/turnserver"
)

// A system is a real server and a real relay on loopback, each behind a tap. Clients are told the taps' addresses only.
type system struct {
	directory string
	listener  *signaling.Listener
	server    *signaling.Server
	relay     *turnserver.Server
	serverTap *tap
	relayTap  *tap

	serverAddr, relayAddr net.Addr // of the taps
}

// The ends' relayed addresses are each other's peers, and they are on loopback.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}

func startSystem(directory string, log *slog.Logger) (_ *system, err error) {
	s := &system{directory: directory}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	secret := make([]byte, 32)
	rand.Read(secret)

	if s.relay, err = turnserver.New(turnserver.Config{
		UDP: []string{"127.0.0.1:0"}, Secrets: [][]byte{secret}, AllowPeers: loopback, Logger: log,
	}); err != nil {
		return nil, fmt.Errorf("the relay does not start: %w", err)
	}
	if s.relayTap, s.relayAddr, err = tapUDP(net.UDPAddrFromAddrPort(s.relay.Addrs().UDP[0])); err != nil {
		return nil, err
	}

	if s.listener, err = signaling.Listen(signaling.ListenConfig{Address: "127.0.0.1:0", Logger: log}); err != nil {
		return nil, fmt.Errorf("the server does not start: %w", err)
	}
	if s.serverTap, s.serverAddr, err = tapTCP(s.listener.Addr().String()); err != nil {
		return nil, err
	}
	if s.server, err = signaling.New(signaling.Config{
		DataDir: filepath.Join(directory, "server"),
		Names:   []string{"127.0.0.1"},
		Relay:   &signaling.RelayConfig{URLs: []string{"turn:" + s.relayAddr.String() + "?transport=udp"}, Secret: secret},
		Logger:  log,
	}); err != nil {
		return nil, fmt.Errorf("the server does not start: %w", err)
	}
	go s.listener.Serve(s.server.Handler())
	return s, nil
}

// url is what clients are told.
func (s *system) url() string { return "http://" + s.serverAddr.String() }

// stop takes the system down and erases its directory.
func (s *system) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var errs []error
	if s.server != nil {
		errs = append(errs, s.server.Shutdown(ctx))
	}
	if s.listener != nil {
		errs = append(errs, s.listener.Shutdown(ctx))
	}
	if s.relay != nil {
		errs = append(errs, s.relay.Shutdown(ctx))
	}
	for _, tap := range []*tap{s.serverTap, s.relayTap} {
		if tap != nil {
			tap.Close()
		}
	}
	return errors.Join(append(errs, os.RemoveAll(s.directory))...)
}
