// Package xdp carries packets of a TURN relay in the network driver (XDP): ChannelData to peers, what peers answer, and both ends of a call relayed here.
//
// It is told which flows exist and until when, and decides nothing else: what it does not know, and what does not pass, goes on to the
// system as if it were not there. The program is in relay.bpf.c; relay.bpf.o is built from it by `go generate` with clang 14 and committed, so
// that building the relay needs no clang.
//
// It needs Linux 5.12, CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (without which the verifier refuses packet offsets that are not constant). Packets that it carries do not pass the system's packet filter (nftables) and are not seen by tcpdump.
package xdp

//go:generate clang-14 -target bpfel -mcpu=v3 -O2 -g -Wall -Werror -Wno-parentheses -fdebug-prefix-map=${PWD}=. -c relay.bpf.c -o relay.bpf.o
//go:generate llvm-strip-14 -g relay.bpf.o
