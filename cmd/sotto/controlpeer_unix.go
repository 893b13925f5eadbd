//go:build linux || darwin

package main

import (
	"net"
	"os"
)

// mayOperate says whether the process at the other end ran as this one's user, or as root, when it
// connected.
func mayOperate(conn net.Conn) bool {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return false
	}
	user, err := userOf(socket)
	return err == nil && (user == 0 || user == os.Geteuid())
}
