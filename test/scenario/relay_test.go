package scenario

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const seed = 1 // of the moments at which things happen

// callThroughRelay is call, but the relay is a process of its own, the only way between the two, and what they hear is recorded.
func (w town) callThroughRelay(t *testing.T) (alice, bob, relay *process, another func() *process) {
	directory := t.TempDir()
	cert, key := certificate(t, "10.94.0.1")
	secret := filepath.Join(directory, "secret")
	if err := os.WriteFile(secret, []byte("of the relay and of the server\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	another = func() *process {
		p := start(t, w.middle, "turn", "--relay-listen", "10.94.0.1:3478", "--relay-allow", "10.94.0.0/16", "--relay-secret-file", secret, "--metrics", "off")
		p.event("relay")
		return p
	}
	relay = another()
	server := start(t, w.middle, "serve", "--listen", "10.94.0.1:0", "--metrics", "off", "--data", filepath.Join(directory, "server"),
		"--tls-cert", cert, "--tls-key", key, "--relay-secret-file", secret, "--relay-url", "turn:10.94.0.1:3478?transport=udp")
	url := server.event("server")["url"].(string)
	token := server.event("invitation")["token"].(string)
	as := func(name string) []string {
		return []string{"--account", filepath.Join(directory, name), "--ca", cert, "--audio", "tone", "--relay-only", "--record", filepath.Join(directory, name+"-heard")}
	}
	for name, namespace := range map[string]string{"alice": w.alice, "bob": w.bob} {
		run(t, namespace, append([]string{"register", name, "--server", url, "--invitation", token}, as(name)[:4]...)...)
	}
	bob = start(t, w.bob, append([]string{"listen", "--answer", "--once"}, as("bob")...)...)
	bob.event("link_up")
	alice = start(t, w.alice, append([]string{"call", "bob"}, as("alice")...)...)
	return alice, bob, relay, another
}

// The only relay is killed, and another process takes its place, as a supervisor would have it. The call goes on over new allocations.
func TestRelayIsKilled(t *testing.T) {
	kills, most := 2, 10*time.Second // on a machine that may be busy with other tests, this says whether it works and not how fast
	if *long {
		kills, most = 20, 3*time.Second
	}
	w := newTown(t)
	random := rand.New(rand.NewPCG(seed, 0))
	alice, bob, relay, another := w.callThroughRelay(t)
	for _, p := range []*process{alice, bob} {
		p.event("first_media")
	}
	for range kills {
		time.Sleep(5*time.Second + time.Duration(random.Int64N(int64(2*time.Second))))
		relay.cmd.Process.Signal(syscall.SIGKILL)
		relay.wait()
		relay = another()
	}
	time.Sleep(most + 2*time.Second) // in which the last is made good
	alice.cmd.Process.Signal(syscall.SIGINT)
	var gaps []time.Duration
	for name, p := range map[string]*process{"alice": alice, "bob": bob} {
		summary := p.event("summary")
		if summary["reason"] != "hung up" || summary["path"] != "relay" {
			t.Errorf("%s's summary is %v", name, summary)
		}
		isHeardAgain(t, name, summary)
		heard := silences(t, summary)
		if len(heard) > kills+2 {
			t.Errorf("%s: the relay was killed %d times, and the sound was away for %v", name, kills, heard)
		}
		for len(heard) < kills { // a gap that is hardly longer cannot be told
			heard = append(heard, madeUp)
		}
		if concealed := number(t, summary, "audio.frames_concealed"); concealed < float64(kills)*madeUp.Seconds()*50 {
			t.Errorf("%s: %.0f frames were made up in %d gaps", name, concealed, kills)
		}
		gaps = append(gaps, heard...)
	}
	if len(gaps) == 0 {
		t.Fatal("nothing was heard, or no kill")
	}
	slices.Sort(gaps)
	p95 := gaps[(len(gaps)*95+99)/100-1] // nearest rank
	t.Logf("%d gaps: median %v, p95 %v, longest %v", len(gaps), gaps[len(gaps)/2], p95, gaps[len(gaps)-1])
	if p95 > most {
		t.Errorf("the gap's 95th percentile is %v", p95)
	}
}

// madeUp is how long a receiver goes on with a tone that does not come any more (media/playout). Only then there is silence.
const madeUp = time.Second

// silences are the times for which a tone was away, as it was recorded, if that was longer than madeUp.
func silences(t *testing.T, summary line) (all []time.Duration) {
	t.Helper()
	const shortest = 2
	began, quiet := false, 0
	for _, loud := range recorded(t, summary) {
		if !loud {
			quiet++
			continue
		}
		if began && quiet >= shortest {
			all = append(all, madeUp+time.Duration(quiet)*20*time.Millisecond)
		}
		began, quiet = true, 0
	}
	return all
}

// isHeardAgain fails the test if what was recorded last, for longer than a receiver makes up, is not the tone.
func isHeardAgain(t *testing.T, name string, summary line) {
	t.Helper()
	const last = 75 // frames, 1.5 s
	frames := recorded(t, summary)
	loud := 0
	for _, is := range frames[max(0, len(frames)-last):] {
		if is {
			loud++
		}
	}
	if loud < last/2 { // the rest is what a busy machine makes up
		t.Errorf("%s: of the last %d frames that were recorded %d are loud", name, last, loud)
	}
}

// recorded tells of each frame of a recording whether it is loud.
func recorded(t *testing.T, summary line) (frames []bool) {
	t.Helper()
	const header, frame, loud = 44, 960, 1000
	b, err := os.ReadFile(summary["recorded"].([]any)[0].(string))
	if err != nil {
		t.Fatal(err)
	}
	for b = b[min(header, len(b)):]; len(b) >= 2*frame; b = b[2*frame:] {
		var peak int16
		for i := 0; i < 2*frame; i += 2 {
			peak = max(peak, int16(binary.LittleEndian.Uint16(b[i:])))
		}
		frames = append(frames, peak >= loud)
	}
	return frames
}

// One end's machine sleeps: its process stands still, and so does its clock in the middle of what it does. The call survives that as it
// survives a cut, and both ends hear each other again.
func TestAnEndSleeps(t *testing.T) {
	sleeps := map[time.Duration]string{6 * time.Second: "hung up"}
	if *long {
		sleeps[20*time.Second], sleeps[45*time.Second] = "hung up", "connection lost"
	}
	for sleep, reason := range sleeps {
		t.Run(fmt.Sprint(sleep), func(t *testing.T) {
			w := newTown(t)
			alice, bob := w.call(t, sleep+15*time.Second)
			alice.cmd.Process.Signal(syscall.SIGSTOP)
			time.Sleep(sleep) // what is tested
			alice.cmd.Process.Signal(syscall.SIGCONT)
			for name, p := range map[string]*process{"alice": alice, "bob": bob} {
				summary := p.event("summary")
				if summary["reason"] != reason {
					t.Errorf("%s's summary is %v\n%s", name, summary, strings.TrimSpace(p.errs.String()))
				}
				if reason == "hung up" {
					isHeardAgain(t, name, summary)
				}
			}
		})
	}
}
