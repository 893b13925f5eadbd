package turnserver

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v4"
)

// BenchmarkForward measures packets through the relay on loopback, each a ChannelData message on the client's side. At most 64 are under way at
// once and every one must arrive, in order: a lost packet fails the benchmark. The generator runs in the same process and takes its
// share of the cores, so the figure compares versions of this relay on one machine and nothing else.
//
//	go test -run '^$' -bench Forward -benchtime 200000x ./turnserver
func BenchmarkForward(b *testing.B) {
	for _, plane := range dataPlanes() {
		b.Run(plane, func(b *testing.B) { benchmarkForward(b, plane) })
	}
}

func benchmarkForward(b *testing.B, plane string) {
	for _, size := range []int{172, 1200} { // an Opus packet, a video packet
		b.Run(fmt.Sprintf("to-peer/%d", size), func(b *testing.B) {
			alice, _, other := boundChannel(b, plane)
			pump(b, size, alice.conn.Write, other, 0)
		})
		b.Run(fmt.Sprintf("from-peer/%d", size), func(b *testing.B) {
			alice, relayed, other := boundChannel(b, plane)
			pump(b, size, func(p []byte) (int, error) { return other.WriteToUDPAddrPort(p[4:], relayed) }, alice.conn, 4)
		})
		b.Run(fmt.Sprintf("relay-to-relay/%d", size), func(b *testing.B) {
			s := startRelay(b, plane, nil)
			alice, bob := newRawClient(b, s, "alice"), newRawClient(b, s, "bob")
			atAlice := relayedAddr(b, alice.mustSucceed(stun.MethodAllocate, udpTransport))
			atBob := relayedAddr(b, bob.mustSucceed(stun.MethodAllocate, udpTransport))
			alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(atBob))
			bob.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(atAlice))
			pump(b, size, alice.conn.Write, bob.conn, 4)
		})
	}
}

// boundChannel is an allocation with a channel to a peer.
func boundChannel(b *testing.B, plane string) (client *rawClient, relayed netip.AddrPort, peer *net.UDPConn) {
	client = newRawClient(b, startRelay(b, plane, nil), "alice")
	relayed = relayedAddr(b, client.mustSucceed(stun.MethodAllocate, udpTransport))
	peer = listenOn(b, "127.0.0.2")
	client.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(addrPort(peer.LocalAddr())))
	return client, relayed, peer
}

// pump sends b.N numbered packets and checks that each arrives, behind the given number of header bytes.
func pump(b *testing.B, size int, send func([]byte) (int, error), to net.Conn, header int) {
	const window = 64
	credit := make(chan struct{}, window)
	done := make(chan error, 1)
	go func() {
		buf := make([]byte, 2048)
		for want := range uint64(b.N) {
			if want%window == 0 {
				_ = to.SetReadDeadline(time.Now().Add(5 * time.Second))
			}
			n, err := to.Read(buf)
			if err != nil || n != header+size || binary.BigEndian.Uint64(buf[header:]) != want {
				done <- fmt.Errorf("packet %d: %d bytes, %v", want, n, err)
				return
			}
			<-credit
		}
		done <- nil
	}()
	packet := make([]byte, 4+size)
	binary.BigEndian.PutUint16(packet, 0x4000)
	binary.BigEndian.PutUint16(packet[2:], uint16(size))
	b.SetBytes(int64(size))
	b.ResetTimer()
	for i := range uint64(b.N) {
		select {
		case credit <- struct{}{}:
		case err := <-done:
			b.Fatal(err)
		}
		binary.BigEndian.PutUint64(packet[4:], i)
		if _, err := send(packet); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "packets/s")
}
