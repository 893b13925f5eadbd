//go:build !linux

package turnserver

import "net"

const hasLoops = false

func (s *Server) openLoops(*net.UDPConn) ([]udpListener, error) { panic("not reached") }

func (s *Server) dedicate()   {}
func (s *Server) undedicate() {}
