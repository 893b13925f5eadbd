//go:build !linux

package turnserver

import (
	"net"
	"net/netip"
)

func askLocal(*net.UDPConn) (tells, v6 bool) { return false, false }

func localOf([]byte) netip.Addr { return netip.Addr{} }

func fromLocal(netip.Addr, bool) []byte { return nil }
