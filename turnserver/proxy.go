package turnserver

import (
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"time"

	"sotto/internal/proxyproto"
)

// A TCP proxy in front puts its clients' addresses, by which they are limited, in front of each
// connection (package proxyproto). From everybody else such a header is no TURN message.

func (s *Server) isProxy(a netip.Addr) bool {
	return slices.ContainsFunc(s.cfg.Proxies, func(p netip.Prefix) bool { return p.Contains(a) })
}

// acceptProxied waits for the header; from there on the connection is the client's.
func (s *Server) acceptProxied(conn net.Conn, proxy netip.AddrPort, config *tls.Config) {
	w := waiting{conn}
	if !s.headers.take(proxy.Addr()) {
		s.metrics.refusedConnection.Inc()
		_ = conn.Close()
		return
	}
	if !s.track(w) {
		s.headers.give(proxy.Addr())
		_ = conn.Close()
		return
	}
	go func() {
		defer s.untrack(w)
		_ = conn.SetDeadline(time.Now().Add(s.cfg.tune.firstFrame))
		behind, err := proxyproto.Accept(conn)
		s.headers.give(proxy.Addr())
		if err != nil {
			s.metrics.droppedMalformed.Inc()
			_ = conn.Close()
			return
		}
		client := behind.Client()
		if !client.IsValid() {
			client = proxy
		}
		s.admitStream(behind, client, config)
	}()
}

// waiting is a connection whose header has not come.
type waiting struct{ conn net.Conn }

func (w waiting) close() { _ = w.conn.Close() }
