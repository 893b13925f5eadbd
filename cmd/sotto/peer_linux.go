package main

import "golang.org/x/sys/unix"

// peerUser is the user of the process at the other end of a socket (SO_PEERCRED, unix(7)).
func peerUser(fd int) (int, error) {
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, err
	}
	return int(peer.Uid), nil
}
