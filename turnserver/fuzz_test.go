package turnserver

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v4"
)

func seeds() [][]byte {
	build := func(setters ...stun.Setter) []byte {
		m, err := stun.Build(append([]stun.Setter{stun.NewTransactionIDSetter([12]byte{1, 2, 3})}, setters...)...)
		if err != nil {
			panic(err)
		}
		return m.Raw
	}
	signed := []stun.Setter{
		stun.NewUsername("1700000000:alice"), stun.NewRealm("sotto"), stun.NewNonce("nonce"),
		stun.NewLongTermIntegrity("1700000000:alice", "sotto", "password"), stun.Fingerprint,
	}
	request := func(m stun.Method, attrs ...stun.Setter) []byte {
		return build(append(append([]stun.Setter{stun.NewType(m, stun.ClassRequest)}, attrs...), signed...)...)
	}
	return [][]byte{
		build(stun.BindingRequest),
		build(stun.BindingRequest, stun.Fingerprint),
		build(stun.NewType(stun.MethodAllocate, stun.ClassRequest), udpTransport),
		request(stun.MethodAllocate, udpTransport, lifetime(600)),
		request(stun.MethodAllocate, udpTransport, stun.RawAttribute{Type: stun.AttrEvenPort, Value: []byte{0x80}}),
		request(stun.MethodRefresh, lifetime(0)),
		request(stun.MethodCreatePermission, peer("9.9.9.9:1"), peer("[2600::1]:2"), peer("[::ffff:10.0.0.1]:3")),
		request(stun.MethodChannelBind, channelAttr(0x4000), peer("9.9.9.9:1")),
		build(stun.NewType(stun.MethodSend, stun.ClassIndication), peer("9.9.9.9:1"), stun.RawAttribute{Type: stun.AttrData, Value: []byte("data")}),
		// The datagram that kills pion/turn v3: a Send indication with an empty XOR-PEER-ADDRESS.
		build(stun.NewType(stun.MethodSend, stun.ClassIndication), stun.RawAttribute{Type: stun.AttrXORPeerAddress}, stun.RawAttribute{Type: stun.AttrData, Value: []byte("data")}),
		{0x40, 0x00, 0x00, 0x04, 'd', 'a', 't', 'a'},
		{0x40, 0x00, 0xff, 0xff},
		{},
	}
}

// FuzzParse holds our parser to pion's: what it lets pass, pion decodes, and both see the same peers.
func FuzzParse(f *testing.F) {
	for _, b := range seeds() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, ok := parse(b)
		if !ok {
			return
		}
		theirs := &stun.Message{Raw: append([]byte(nil), b...)}
		if err := theirs.Decode(); err != nil {
			t.Fatalf("pion refuses what parse accepts: %v", err)
		}
		if theirs.Type.Class != m.class || theirs.Type.Method != m.method || theirs.Contains(stun.AttrMessageIntegrity) != (m.integrity != 0) {
			t.Fatalf("%v, pion says %v", m, theirs)
		}
		var peers []netip.AddrPort
		err := theirs.ForEach(stun.AttrXORPeerAddress, func(m *stun.Message) error {
			var x stun.XORMappedAddress
			if err := x.GetFromAs(m, stun.AttrXORPeerAddress); err != nil {
				return err
			}
			peers = append(peers, addrPort(&net.UDPAddr{IP: append(net.IP(nil), x.IP...), Port: x.Port}))
			return nil
		})
		if err != nil || len(peers) != len(m.peers) {
			t.Fatalf("peers %v, pion says %v, %v", m.peers, peers, err)
		}
		for i := range peers {
			if peers[i] != m.peers[i] {
				t.Fatalf("peer %v, pion says %v", m.peers[i], peers[i])
			}
		}
		key := []byte("0123456789abcdef")
		if m.integrity != 0 && m.authentic(key) != (stun.MessageIntegrity(key).Check(theirs) == nil) {
			t.Fatal("parse and pion disagree about MESSAGE-INTEGRITY")
		}
	})
}

// FuzzChannelData holds the reader of ChannelData to what it may accept, and the Data indication made of the same bytes to pion's reader.
func FuzzChannelData(f *testing.F) {
	for _, b := range seeds() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if number, data, ok := channelData(b); ok {
			again := append(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, number), uint16(len(data))), data...)
			if number < 0x4000 || number > 0x7fff || !bytes.HasPrefix(b, again) {
				t.Fatalf("channel %#x, % x", number, data)
			}
		}
	})
}

// FuzzDatagram throws datagrams at the sockets of a running relay: from a stranger, from the client of an allocation, and from a peer. Each
// time the relay must still answer.
func FuzzDatagram(f *testing.F) {
	for _, b := range seeds() {
		f.Add(b)
	}
	var targets []func(t *testing.T, b []byte)
	for _, plane := range dataPlanes() {
		s := startRelay(f, plane, func(c *Config) { c.tune.now = flying() })
		alice := newRawClient(f, s, "alice")
		relayed := relayedAddr(f, alice.mustSucceed(stun.MethodAllocate, udpTransport))
		from := listenOn(f, "127.0.0.2")
		alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(addrPort(from.LocalAddr())))
		stranger, err := net.Dial("udp4", s.Addrs().UDP[0].String())
		if err != nil {
			f.Fatal(err)
		}
		defer stranger.Close()
		targets = append(targets, func(t *testing.T, b []byte) {
			_, _ = stranger.Write(b)
			_, _ = alice.conn.Write(b)
			_, _ = from.WriteToUDPAddrPort(b, relayed)
			again := *alice
			again.t = t
			for range 3 { // an answer may be lost among what the fuzzer provokes
				if codeOf(again.ask(stun.BindingRequest)) == 0 {
					return
				}
			}
			t.Fatal("the relay does not answer any more: " + plane)
		})
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, target := range targets {
			target(t, b)
		}
	})
}

// flying is a clock that gains a quarter of a second with each look, so that the allowance of strangers does not run out.
func flying() func() time.Time {
	start := time.Now()
	ticks := make(chan time.Duration, 1)
	ticks <- 0
	return func() time.Time {
		d := <-ticks
		ticks <- d + time.Second/4
		return start.Add(d)
	}
}

// FuzzReply holds the reader of pion's answers to pion's own: what it calls authenticated is, and what is an answer it sees as one.
func FuzzReply(f *testing.F) {
	for _, b := range seeds() {
		f.Add(b)
	}
	for _, setters := range [][]stun.Setter{
		{stun.BindingSuccess},
		{stun.NewType(stun.MethodAllocate, stun.ClassErrorResponse), stun.CodeUnauthorized, stun.NewRealm("sotto"), stun.NewNonce("nonce")},
		{stun.NewType(stun.MethodRefresh, stun.ClassSuccessResponse), lifetime(600), stun.MessageIntegrity("key")},
	} {
		f.Add(stun.MustBuild(append([]stun.Setter{stun.TransactionID}, setters...)...).Raw)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, authenticated := parseReply(b)
		m := &stun.Message{Raw: bytes.Clone(b)}
		if m.Decode() != nil || len(b) != headerSize+int(m.Length) { // not one of pion's
			return
		}
		response := m.Type.Class == stun.ClassSuccessResponse || m.Type.Class == stun.ClassErrorResponse
		if b[0]&0xC0 == 0 && response && kind != m.Type || authenticated && !response {
			t.Fatalf("%v, %v, pion says %v", kind, authenticated, m.Type)
		}
		if b[0]&0xC0 == 0 && response && authenticated != m.Contains(stun.AttrMessageIntegrity) {
			t.Fatalf("authenticated %v, pion says %v", authenticated, !authenticated)
		}
	})
}

// FuzzFrame holds the reader of connections to the framing of RFC 8656 section 12.5: messages follow one another, none longer than we take,
// and what is none ends it.
func FuzzFrame(f *testing.F) {
	var all []byte
	for _, b := range seeds() {
		f.Add(b)
		all = append(all, b...)
	}
	f.Add(all)
	f.Fuzz(func(t *testing.T, b []byte) {
		st := &stream{s: &Server{}, conn: nowhere{}, r: bufio.NewReaderSize(bytes.NewReader(b), 2048), holds: func() bool { return false }}
		buf := make([]byte, maxDatagram)
		for rest := b; ; {
			n, _, err := st.read(buf)
			if err != nil {
				if len(rest) >= 4 && rest[0] < 0x80 {
					size := headerSize + int(binary.BigEndian.Uint16(rest[2:]))
					if rest[0] >= 0x40 {
						size = 4 + (size-headerSize+3)/4*4
					}
					if size <= maxFrame && size <= len(rest) {
						t.Fatalf("a message of %d bytes was refused: %v", size, err)
					}
				}
				return
			}
			if n < 4 || n > maxFrame || !bytes.HasPrefix(rest, buf[:n]) {
				t.Fatalf("%d bytes that are not the next", n)
			}
			rest = rest[n:]
		}
	})
}

// nowhere is a connection of which only the deadlines are used.
type nowhere struct{ net.Conn }

func (nowhere) SetReadDeadline(time.Time) error { return nil }

// FuzzRecords holds both readers of DTLS records to what they may say of the same datagram.
func FuzzRecords(f *testing.F) {
	f.Add([]byte{22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{23, 0xFE, 0xFD, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 21, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 40})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		hello := isClientHello(b)
		some, strange := inTheClear(b)
		if hello && !some || strange && !some {
			t.Fatalf("a ClientHello %v, in the clear %v, strange %v", hello, some, strange)
		}
		if _, more := inTheClear(append(bytes.Clone(b), 0)); strange && !more {
			t.Fatal("a byte more makes it harmless")
		}
	})
}
