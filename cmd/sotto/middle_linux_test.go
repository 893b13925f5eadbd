package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"sotto/media"
	"sotto/media/file"
)

// A middle stands between devices and their relay: it notes the sizes of sealed packets, and once it is told to changes a bit of each.
type middle struct {
	front  *net.UDPConn
	relay  *net.UDPAddr
	change atomic.Bool

	mu    sync.Mutex
	back  map[string]*net.UDPConn // of each device
	sizes map[int]int             // how many RTP packets devices sent of each
}

func newMiddle(t *testing.T, relay string) *middle {
	t.Helper()
	to, err := net.ResolveUDPAddr("udp", relay)
	if err != nil {
		t.Fatal(err)
	}
	front, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	m := &middle{front: front, relay: to, back: map[string]*net.UDPConn{}, sizes: map[int]int{}}
	var running sync.WaitGroup
	running.Go(func() { m.forward(&running) })
	t.Cleanup(func() {
		front.Close()
		m.mu.Lock()
		for _, c := range m.back {
			c.Close()
		}
		m.mu.Unlock()
		running.Wait()
	})
	return m
}

// forward passes on what devices send, and begins to pass back what comes for them.
func (m *middle) forward(running *sync.WaitGroup) {
	b := make([]byte, 2048)
	for {
		n, device, err := m.front.ReadFromUDP(b)
		if err != nil {
			return
		}
		m.mu.Lock()
		c := m.back[device.String()]
		if c == nil {
			if c, err = net.DialUDP("udp", nil, m.relay); err != nil {
				m.mu.Unlock()
				return
			}
			m.back[device.String()] = c
			running.Go(func() {
				b := make([]byte, 2048)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					m.front.WriteToUDP(b[:n], device)
				}
			})
		}
		if isRTP(b[:n]) {
			m.sizes[n]++
			if m.change.Load() {
				b[30] ^= 1
			}
		}
		m.mu.Unlock()
		c.Write(b[:n])
	}
}

// isRTP knows RTP in ChannelData (RFC 8656 section 12.4, RFC 7983) from RTCP (RFC 5761 section 4).
func isRTP(b []byte) bool {
	return len(b) > 40 && b[0] >= 64 && b[0] < 80 && b[4] >= 128 && b[4] < 192 && (b[5] < 192 || b[5] > 223)
}

// throughMiddle is a server whose devices reach their relay through a middle, and two of its accounts.
func throughMiddle(t *testing.T) (home string, m *middle) {
	t.Helper()
	home = t.TempDir()
	secret := filepath.Join(home, "secret")
	if err := os.WriteFile(secret, []byte("of the relay and of the server\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, turn := sotto(t, home, nil, "turn", "--relay-listen", "127.0.0.1:0", "--relay-allow", "127.0.0.1/32", "--relay-secret-file", secret,
		"--metrics", "off", "--json")
	m = newMiddle(t, turn.find(`turn:(127\.0\.0\.1:\d+)\?transport=udp`))
	_, server := sotto(t, home, nil, "serve", "--listen", "127.0.0.1:0", "--metrics", "off", "--data", filepath.Join(home, "server"), "--json",
		"--relay-secret-file", secret, "--relay-url", "turn:"+m.front.LocalAddr().String()+"?transport=udp")
	url, token := server.find(`"url":"([^"]+)"`), server.find(`"token":"([^"]+)"`)
	for _, name := range []string{"alice", "bob"} {
		if cmd, _ := sotto(t, home, nil, "register", name, "--server", url, "--invitation", token); cmd.Wait() != nil {
			t.Fatalf("%s cannot register", name)
		}
	}
	return home, m
}

// Whoever sees all packets of a call sees one size, of speech with its pauses at one end and silence at the other, also when the file that
// speaks is over; with --variable-rate there are others.
func TestSizesOnTheWire(t *testing.T) {
	t.Parallel()
	home, m := throughMiddle(t)
	speech, err := filepath.Abs("sample/speech-alice.ogg")
	if err != nil {
		t.Fatal(err)
	}
	short := filepath.Join(home, "short.wav")
	wav, err := file.CreateWAV(short)
	if err != nil {
		t.Fatal(err)
	}
	for range 50 { // a second
		if err := wav.WriteFrame(make([]int16, media.FrameSamples)); err != nil {
			t.Fatal(err)
		}
	}
	if err := wav.Close(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		says  string
		flags []string
		one   bool
	}{{speech, nil, true}, {short, nil, true}, {speech, []string{"--variable-rate"}, false}} {
		m.mu.Lock()
		clear(m.sizes)
		m.mu.Unlock()
		answer := []string{"listen", "--as", "bob", "--json", "--answer", "--relay-only", "--agent", "cat >/dev/null", "--once"}
		listen, bob := sotto(t, home, nil, append(answer, test.flags...)...)
		bob.find("link_up")
		call := append([]string{"call", "bob", "--as", "alice", "--json", "--audio", test.says, "--relay-only", "--for", "4s"}, test.flags...)
		if cmd, _ := sotto(t, home, nil, call...); cmd.Wait() != nil {
			t.Fatal("the call failed")
		}
		listen.Wait()
		m.mu.Lock()
		packets := 0
		for _, n := range m.sizes {
			packets += n
		}
		if packets < 100 || (len(m.sizes) == 1) != test.one || !test.one && len(m.sizes) < 10 {
			t.Errorf("%v: %d packets, by size %v", test.flags, packets, m.sizes)
		}
		m.mu.Unlock()
	}
}

// When the relay changes packets the agent is told, its input ends, and the call with it: no silence comes in the place of what was said.
func TestAgentIsToldOfUndecryptableMedia(t *testing.T) {
	t.Parallel()
	home, m := throughMiddle(t)
	_, bob := sotto(t, home, nil, "listen", "--as", "bob", "--json", "--answer", "--relay-only",
		"--agent", `cat <&3 >>news & cat >heard; echo its input has ended >>news; wait`)
	bob.find("link_up")
	call, alice := sotto(t, home, nil, "call", "bob", "--as", "alice", "--json", "--audio", "tone", "--relay-only")
	alice.find(`"first_media"`)
	alice.find(`"progress".*"seconds":[1-9]`)
	m.change.Store(true)
	bob.find(`"event":"undecryptable","peer":"alice"`)
	bob.find(`"event":"deaf","peer":"alice"`)
	bob.find(`"event":"summary".*"reason":"hung up"`)
	bob.find(`"event":"call_failed".*cannot be decrypted`)
	alice.find(`"event":"summary".*"reason":"hung up"`)
	if err := call.Wait(); err != nil {
		t.Error(err)
	}
	news, err := os.ReadFile(filepath.Join(home, "news"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"event":"undecryptable"`, `"event":"deaf"`, `"event":"summary"`, "its input has ended\n"} {
		if strings.Count(string(news), want) != 1 {
			t.Errorf("the agent was told:\n%s", news)
		}
	}
	if heard, err := os.Stat(filepath.Join(home, "heard")); err != nil || heard.Size() < 48000 {
		t.Errorf("what was heard before: %v, %v", heard, err)
	}
}
