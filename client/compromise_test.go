package client

import (
	"bytes"
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"sotto/e2ee/ratchet"
	"sotto/wire"
)

var stolenAfter = flag.Int("stolen-after", 40, "messages before the theft of TestStolenDirectory")

// Who steals all files of an account directory, the key to them included, and has kept all envelopes the server ever saw, can decrypt none
// of those that had arrived by then, and finds no text of them. (Package ratchet's tests look at what is in a session more closely.)
//
//	go test -run StolenDirectory ./client -stolen-after 1000
func TestStolenDirectory(t *testing.T) {
	w := newWorld(t)
	server := spied(t, w)
	alice, bob := w.online("alice"), w.online("bob")
	for _, p := range [][2]*person{{alice, bob}, {bob, alice}} { // contacts confirm what they get
		if _, err := p[0].AddContact(patience(t), p[1].Username()); err != nil {
			t.Fatal(err)
		}
	}
	alice.send(t, "bob", "first text")
	bob.hears(t, "first text")
	bob.send(t, "alice", "second text")
	alice.hears(t, "second text")
	idle(t, alice, bob)
	early := map[*person]string{alice: copyDir(t, alice.dir), bob: copyDir(t, bob.dir)}
	before := len(delivered(server))

	from, to := alice, bob
	for i := range *stolenAfter {
		text := fmt.Sprintf("text %d ends here", i)
		from.send(t, to.Username(), text)
		to.hears(t, text)
		if i%3 == 2 {
			from, to = to, from
		}
	}
	idle(t, alice, bob)
	envelopes := delivered(server)
	if len(envelopes)-before < *stolenAfter {
		t.Fatalf("%d envelopes seen, of %d texts", len(envelopes)-before, *stolenAfter)
	}
	for _, p := range []*person{alice, bob} {
		if opened := decrypts(t, w, p, copyDir(t, p.dir), envelopes); opened != 0 {
			t.Errorf("the directory of %s opens %d envelopes from before the theft", p.Username(), opened)
		}
		// The copy from the beginning opens at least what came before the ratchets turned for the first time.
		if opened := decrypts(t, w, p, early[p], envelopes[before:]); opened == 0 {
			t.Errorf("the early directory of %s opens no envelope: the test shows nothing", p.Username())
		}
	}
}

// idle waits until what was sent has been confirmed: until then the sender keeps texts, to send them anew if it must.
func idle(t *testing.T, people ...*person) {
	t.Helper()
	for _, p := range people {
		for deadline := patience(t); len(p.store.list(recordSent))+len(p.store.list(recordInbox)) > 0; {
			select {
			case <-deadline.Done():
				t.Fatalf("%s still keeps texts", p.Username())
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
}

func delivered(s *spy) []*wire.Envelope {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*wire.Envelope(nil), s.delivered...)
}

// decrypts opens a copy of somebody's directory and returns how many envelopes can be decrypted with what is in it. It also looks for the
// texts.
func decrypts(t *testing.T, w *world, p *person, dir string, envelopes []*wire.Envelope) (opened int) {
	t.Helper()
	thief, err := Open(dir, w.options())
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	for _, name := range thief.store.list("") {
		value, err := thief.store.get(name)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(value, []byte(" text")) || bytes.Contains(value, []byte("ends here")) {
			t.Errorf("%s keeps a text in %q", p.Username(), name)
		}
	}
	for _, e := range envelopes {
		if !bytes.Equal(e.GetRecipient(), p.account.Account[:]) {
			continue
		}
		if e.GetType() == typeSealed {
			if e, _, err = thief.unseal(e); err != nil { // this anybody can who has the identity key: it tells who wrote
				t.Fatal(err)
			}
		}
		if thief.opens(t, e) {
			opened++
		}
	}
	return opened
}

// opens tries the session there is, and a new one with the pre-keys there are, and stores nothing.
func (c *Client) opens(t *testing.T, e *wire.Envelope) bool {
	t.Helper()
	sender := uuid.UUID(e.GetSender())
	remote := ratchet.Remote{Address: ratchet.Address{Account: sender, Device: firstDevice}}
	read := &tx{s: c.store, changes: map[string][]byte{}}
	s, err := readSession(read, remote.Address)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := readPreKeys(read)
	if err != nil {
		t.Fatal(err)
	}
	keys.Seen = nil // a thief does not mind repetitions
	for _, record := range []*ratchet.Record{s.ratchet, new(ratchet.Record)} {
		if _, err := record.Decrypt(c.local(), remote, e.GetType(), e.GetCiphertext(), lookup{keys}, time.Now()); err == nil {
			return true
		}
	}
	return false
}
