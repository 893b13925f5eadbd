package signaling

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"sotto/signaling/store"
	"sotto/wire"
)

// TestShutdownLosesNothing stops the server under eight senders, half of them without a name, to one device that is there and one that is not. All that was
// answered with Sent and not acknowledged is in the mailboxes afterwards; every link hears that the server goes away.
func TestShutdownLosesNothing(t *testing.T) {
	s := serve(t, func(c *Config, _ *timing) {
		c.Limits.Sends = Rate{1 << 20, time.Millisecond}
		c.Limits.SealedSends, c.Limits.SealedTo = c.Limits.Sends, c.Limits.Sends
	})
	present, absent := s.connected(t, "present"), s.connected(t, "absent")
	tokens := map[*testDevice][]byte{present: present.setToken(t), absent: absent.setToken(t)}
	absent.conn.Close()
	var mu sync.Mutex
	sent := map[string]bool{}
	var all sync.WaitGroup
	for i := range 8 {
		to := []*testDevice{present, absent}[i%2]
		d := s.anonymously(t)
		post := func() (*wire.Envelope, uint64, error) {
			e := sealed(to, 200)
			id, err := d.postSealed(e, tokens[to])
			return e, id, err
		}
		if i < 4 {
			d = s.connected(t, fmt.Sprint("sender", i))
			post = func() (*wire.Envelope, uint64, error) {
				e := d.envelope(to, 200)
				id, err := d.post(e)
				return e, id, err
			}
		}
		all.Go(func() {
			ids := map[uint64]*wire.Envelope{}
			for {
				for len(ids) < 8 {
					e, id, err := post()
					if err != nil {
						break
					}
					ids[id] = e
				}
				f, err := d.read()
				if websocket.IsCloseError(err, websocket.CloseGoingAway) {
					return
				}
				if err != nil {
					t.Errorf("the link ended with %v", err)
					return
				}
				if f.GetSent() != nil {
					mu.Lock()
					sent[string(ids[f.ReplyTo].Id)] = true
					mu.Unlock()
					delete(ids, f.ReplyTo)
				}
			}
		})
	}
	acknowledged := map[string]bool{}
	all.Go(func() {
		for n := 0; ; n++ {
			e, err := present.receive()
			if err != nil {
				return
			}
			if n%5 != 0 { // one in five waits for the next link
				acknowledged[string(e.Id)] = true
				present.acknowledge(e)
			}
		}
	})
	deadline := time.Now().Add(patience)
	for enough := false; !enough && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		mu.Lock()
		enough = len(sent) > 300
		mu.Unlock()
	}
	s.close(t)
	all.Wait()
	s.open(t)

	found := map[string]bool{}
	for _, d := range []*testDevice{present, absent} {
		list, _, err := s.store.Mailbox(d.storeAddress(), 0, 1<<20, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			found[string(e.ID[:])] = true
		}
	}
	lost := 0
	for id := range sent {
		if !found[id] && !acknowledged[id] {
			lost++
		}
	}
	if len(sent) < 300 || lost > 0 {
		t.Errorf("%d of %d envelopes are lost", lost, len(sent))
	}
}

func TestNothingNewWhileStopping(t *testing.T) {
	s := serve(t)
	d := newDevice(s, "late")
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Shutdown(t.Context()); err == nil {
		t.Error("stopping twice is no error")
	}
	if status, _, failed := s.post(t, d.registration("")); status != http.StatusServiceUnavailable || failed.GetCode() != wire.Error_UNAVAILABLE {
		t.Errorf("registration: %d %v", status, failed)
	}
	s.http.Close()
	s.Server = nil
}

// TestStrangersDoNotHoldShutdown: half a registration and half a request line are not waited for.
func TestStrangersDoNotHoldShutdown(t *testing.T) {
	s := serve(t)
	l, err := Listen(ListenConfig{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- l.Serve(s.Handler()) }()
	for _, half := range []string{"POST /v1/accounts HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\nContent-Length: 200000\r\n\r\n", "GET /hea"} {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprint(c, half)
		if strings.HasPrefix(half, "POST") { // once the body is asked for, the registration is being read
			c.SetReadDeadline(time.Now().Add(patience))
			if _, err := io.ReadFull(c, make([]byte, 12)); err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(c, "x")
		}
	}
	start := time.Now()
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := l.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 5*time.Second { // ReadHeaderTimeout is 10 s, ReadTimeout 30 s
		t.Errorf("stopping took %v", took)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	s.http.Close()
	s.Server = nil
}

// TestStoppedServersFilesHoldNothingDelivered: what was acknowledged leaves the disk with an orderly stop, or else soon after the next
// start; EraseEvery is not waited for.
func TestStoppedServersFilesHoldNothingDelivered(t *testing.T) {
	s := serve(t, func(c *Config, _ *timing) { c.EraseEvery = time.Hour })
	alice, bob := s.connected(t, "alice"), s.register(t, "bob")
	e := alice.envelope(bob, 500)
	if err := alice.send(e); err != nil {
		t.Fatal(err)
	}
	s.restart(t)
	if !onDisk(t, s.cfg.DataDir, e.Ciphertext) {
		t.Fatal("a stored envelope is not found: the search is blind")
	}
	bob.connect(t)
	got, err := bob.receive()
	if err != nil {
		t.Fatal(err)
	}
	bob.acknowledge(got)
	bob.settle(t)
	s.close(t)
	if onDisk(t, s.cfg.DataDir, e.Ciphertext) {
		t.Error("the files of a stopped server hold an envelope that was acknowledged")
	}

	s.open(t) // the last run may have crashed: so the first erasing is not after an hour
	for deadline := time.Now().Add(patience); counterOf(t, s, "sotto_signaling_erase_seconds_count", "") == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is erased after a start")
		}
	}
}

// TestKill: a process that is killed under load keeps all that it answered.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	victim := exec.Command(os.Args[0])
	victim.Env = append(os.Environ(), "SOTTO_TEST_SERVE="+dir)
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	defer victim.Wait()
	defer victim.Process.Kill()
	line := make([]byte, 200)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	s := remote(strings.TrimSpace(string(line[:n])))
	bob := s.register(t, "bob")
	var mu sync.Mutex
	sent := map[string][]byte{}
	var all sync.WaitGroup
	for i := range 4 {
		d := s.register(t, fmt.Sprint("sender", i))
		d.connect(t)
		all.Go(func() {
			for {
				e := d.envelope(bob, 200)
				if d.send(e) != nil {
					return
				}
				mu.Lock()
				sent[string(e.Id)] = e.Ciphertext
				mu.Unlock()
			}
		})
	}
	deadline := time.Now().Add(patience)
	for enough := false; !enough && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		mu.Lock()
		enough = len(sent) > 200
		mu.Unlock()
	}
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	victim.Wait()

	db, err := store.OpenPebble(dir, s.cfg.Logger)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	list, _, err := db.Mailbox(bob.storeAddress(), 0, 1<<20, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, e := range list {
		found[string(e.ID[:])] = bytes.Contains(e.Body, sent[string(e.ID[:])])
	}
	for id := range sent {
		if !found[id] {
			t.Fatalf("of %d envelopes answered with Sent, one at least is lost", len(sent))
		}
	}
	if len(sent) < 200 {
		t.Errorf("only %d were sent", len(sent))
	}
}
