package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// flipper stands between devices and their relay, and once it is told to changes a bit of every sealed packet.
type flipper struct {
	front  *net.UDPConn
	relay  *net.UDPAddr
	change atomic.Bool

	mu   sync.Mutex
	back map[string]*net.UDPConn // of each device
}

func newFlipper(t *testing.T, relay string) *flipper {
	t.Helper()
	to, err := net.ResolveUDPAddr("udp", relay)
	if err != nil {
		t.Fatal(err)
	}
	front, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	f := &flipper{front: front, relay: to, back: map[string]*net.UDPConn{}}
	var running sync.WaitGroup
	running.Go(func() { f.forward(&running) })
	t.Cleanup(func() {
		front.Close()
		f.mu.Lock()
		for _, c := range f.back {
			c.Close()
		}
		f.mu.Unlock()
		running.Wait()
	})
	return f
}

func (f *flipper) forward(running *sync.WaitGroup) {
	b := make([]byte, 2048)
	for {
		n, device, err := f.front.ReadFromUDP(b)
		if err != nil {
			return
		}
		f.mu.Lock()
		c := f.back[device.String()]
		if c == nil {
			if c, err = net.DialUDP("udp", nil, f.relay); err != nil {
				f.mu.Unlock()
				return
			}
			f.back[device.String()] = c
			running.Go(func() {
				b := make([]byte, 2048)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					f.front.WriteToUDP(b[:n], device)
				}
			})
		}
		f.mu.Unlock()
		// ChannelData (RFC 8656 section 12.4) with RTP inside (RFC 7983).
		if f.change.Load() && n > 40 && b[0] >= 64 && b[0] < 80 && b[4] >= 128 && b[4] < 192 {
			b[30] ^= 1
		}
		c.Write(b[:n])
	}
}

// When the relay changes packets the agent is told, its input ends, and the call with it: no silence comes in the place of what was said.
func TestAgentIsToldOfUndecryptableMedia(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	secret := filepath.Join(home, "secret")
	if err := os.WriteFile(secret, []byte("of the relay and of the server\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, turn := sotto(t, home, nil, "turn", "--relay-listen", "127.0.0.1:0", "--relay-allow", "127.0.0.1/32", "--relay-secret-file", secret,
		"--metrics", "off", "--json")
	f := newFlipper(t, turn.find(`turn:(127\.0\.0\.1:\d+)\?transport=udp`))
	_, server := sotto(t, home, nil, "serve", "--listen", "127.0.0.1:0", "--metrics", "off", "--data", filepath.Join(home, "server"), "--json",
		"--relay-secret-file", secret, "--relay-url", "turn:"+f.front.LocalAddr().String()+"?transport=udp")
	url, token := server.find(`"url":"([^"]+)"`), server.find(`"token":"([^"]+)"`)
	for _, name := range []string{"alice", "bob"} {
		if cmd, _ := sotto(t, home, nil, "register", name, "--server", url, "--invitation", token); cmd.Wait() != nil {
			t.Fatalf("%s cannot register", name)
		}
	}
	_, bob := sotto(t, home, nil, "listen", "--as", "bob", "--json", "--answer", "--relay-only",
		"--agent", `cat <&3 >>news & cat >heard; echo its input has ended >>news; wait`)
	bob.find("link_up")
	call, alice := sotto(t, home, nil, "call", "bob", "--as", "alice", "--json", "--audio", "tone", "--relay-only")
	alice.find(`"first_media"`)
	alice.find(`"progress".*"seconds":[1-9]`)
	f.change.Store(true)
	bob.find(`"event":"undecryptable","peer":"alice"`)
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
	for _, want := range []string{`"event":"undecryptable"`, `"event":"summary"`, "its input has ended\n"} {
		if strings.Count(string(news), want) != 1 {
			t.Errorf("the agent was told:\n%s", news)
		}
	}
	if heard, err := os.Stat(filepath.Join(home, "heard")); err != nil || heard.Size() < 48000 {
		t.Errorf("what was heard before: %v, %v", heard, err)
	}
}
