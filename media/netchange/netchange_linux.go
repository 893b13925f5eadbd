package netchange

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE

// watchSystem subscribes to the kernel's news about links, addresses and routes. What they say is not read: the picture is.
func watchSystem(ctx context.Context) (<-chan struct{}, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	socket := os.NewFile(uintptr(fd), "rtnetlink") // so that a Close ends a Read
	hints := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	go func() {
		defer close(hints)
		defer stop()
		defer socket.Close()
		buffer := make([]byte, 1<<16)
		for {
			// ENOBUFS says that news were lost, which is news as well.
			if _, err := socket.Read(buffer); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return
			}
			select {
			case hints <- struct{}{}:
			default:
			}
		}
	}()
	return hints, nil
}
