package path

import (
	"strings"
	"testing"

	"github.com/pion/ice/v4"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDemultiplex(t *testing.T) {
	pad := func(b ...byte) []byte { return append(b, make([]byte, 20)...) }
	for _, c := range []struct {
		datagram []byte
		want     Kind
	}{
		{nil, Unknown},
		{pad(0, 1), STUN},
		{pad(3), STUN},
		{pad(4), Unknown},
		{pad(16), Unknown}, // ZRTP
		{pad(20), DTLS},
		{pad(63), DTLS},
		{pad(64), Unknown}, // TURN channel
		{pad(127), Unknown},
		{pad(128, 111), RTP},
		{pad(144, 111|128), RTP}, // extension and marker
		{pad(191, 96), RTP},
		{pad(128, 191), RTP},
		{pad(128, 192), RTCP},
		{pad(128, 200), RTCP},
		{pad(128, 206), RTCP},
		{pad(128, 223), RTCP},
		{pad(128, 224), RTP},
		{pad(192, 111), Unknown},
		{[]byte{128, 111, 0, 1, 0, 0, 0, 0, 0, 0, 0}, Unknown},
		{[]byte{128, 201, 0, 1, 0, 0, 0}, Unknown},
		{[]byte{128, 201, 0, 1, 0, 0, 0, 1}, RTCP},
		{[]byte{128}, Unknown},
	} {
		if got := Demultiplex(c.datagram); got != c.want {
			t.Errorf("%v: %v, not %v", c.datagram, got, c.want)
		}
	}
}

func FuzzDemultiplex(f *testing.F) {
	f.Add([]byte{128, 111, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{128, 200})
	f.Add([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42})
	f.Add([]byte{22, 254, 253})
	f.Fuzz(func(t *testing.T, datagram []byte) {
		switch Demultiplex(datagram) {
		case RTP:
			if len(datagram) < 12 || datagram[0]>>6 != 2 {
				t.Error("no RTP")
			}
		case RTCP:
			if len(datagram) < 8 || datagram[0]>>6 != 2 {
				t.Error("no RTCP")
			}
		}
	})
}

func TestRemoteCandidates(t *testing.T) {
	for candidate, ok := range map[string]bool{
		"1 1 udp 2130706431 192.0.2.1 50000 typ host":                           true,
		"candidate:1 1 udp 2130706431 192.0.2.1 50000 typ host":                 true,
		"1 1 udp 1694498815 192.0.2.1 50000 typ srflx raddr 0.0.0.0 rport 9":    true,
		"1 1 udp 16777215 192.0.2.1 50000 typ relay raddr 0.0.0.0 rport 9":      true,
		"1 1 udp 2130706431 2001:db8::1 50000 typ host":                         true,
		"1 1 udp 2130706431 example.org 50000 typ host":                         false, // would be looked up
		"1 1 udp 2130706431 0f0f0f0f.local 50000 typ host":                      false,
		"1 1 udp 1694498815 example.org 5000 typ srflx raddr 0.0.0.0 rport 9":   false,
		"1 1 udp 2130706431 224.0.0.1 50000 typ host":                           false,
		"1 1 udp 2130706431 0.0.0.0 50000 typ host":                             false,
		"1 1 udp 2130706431 192.0.2.1 0 typ host":                               false,
		"1 1 tcp 2130706431 192.0.2.1 50000 typ host tcptype passive":           false,
		"1 1 udp 2130706431 192.0.2.1 50000 typ " + strings.Repeat("host", 100): false,
		"": false,
	} {
		if _, err := parseCandidate(candidate); (err == nil) != ok {
			t.Errorf("%q: %v", candidate, err)
		}
	}
}

func TestOwnCandidatesHideTheirBase(t *testing.T) {
	relay, err := ice.NewCandidateRelay(&ice.CandidateRelayConfig{
		Network: "udp", Address: "203.0.113.1", Port: 5000, Component: 1, RelAddr: "192.168.1.7", RelPort: 4000,
	})
	if err != nil {
		t.Fatal(err)
	}
	got := marshalCandidate(relay)
	if strings.Contains(got, "192.168.1.7") || strings.Contains(got, "4000") || !strings.HasSuffix(got, "typ relay raddr 0.0.0.0 rport 9") {
		t.Error(got)
	}
	if _, err := parseCandidate(got); err != nil {
		t.Error(err)
	}
}

func FuzzCandidate(f *testing.F) {
	f.Add("1 1 udp 2130706431 192.0.2.1 50000 typ host")
	f.Add("1 1 udp 16777215 2001:db8::1 50000 typ relay raddr 0.0.0.0 rport 9 generation 0")
	f.Add("1 1 tcp 1 192.0.2.1 9 typ host tcptype active")
	f.Fuzz(func(t *testing.T, candidate string) {
		parsed, err := parseCandidate(candidate)
		if err == nil && (parsed.Port() < 1 || parsed.Port() > 65535) {
			t.Errorf("port %d", parsed.Port())
		}
	})
}

func TestAPanicDropsOneDatagramOnly(t *testing.T) {
	handled := 0
	p, err := New(Config{Loopback: true, Handle: func(kind Kind, _ []byte) {
		handled++
		if kind == RTCP {
			panic("a parser")
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p.handle([]byte{128, 200, 0, 1, 0, 0, 0, 1})
	p.handle([]byte{128, 111, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0})
	if handled != 2 {
		t.Error(handled)
	}
}
