package client

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"sotto/wire"
)

// senders are all that content tells of who sends it, from the shortest to the longest.
func senders() (all []*wire.Content) {
	for name := 2; name <= maxUsername; name++ {
		for _, epoch := range []uint32{0, 1, 200, 1 << 31} {
			for _, token := range [][]byte{nil, make([]byte, wire.DeliveryTokenSize)} {
				all = append(all, &wire.Content{
					Id: make([]byte, 16), Timestamp: 1 << 40, Username: strings.Repeat("a", name),
					DeviceListEpoch: epoch, DeliveryToken: token,
				})
			}
		}
	}
	return all
}

// Content of one meaning has one length, whoever sends it: names, device lists and tokens are
// padded as if they were the longest.
func TestContentLengthsTellNoSender(t *testing.T) {
	var bodies []func(*wire.Content)
	for n := 1; n < 400; n++ {
		bodies = append(bodies, func(c *wire.Content) {
			c.Body = &wire.Content_Text{Text: &wire.Text{Body: strings.Repeat("x", n)}}
		})
	}
	for n := 1; n < 12; n++ {
		bodies = append(bodies, func(c *wire.Content) {
			ids := slices.Repeat([][]byte{make([]byte, 16)}, n)
			c.Body = &wire.Content_Receipt{Receipt: &wire.Receipt{MessageIds: ids}}
		})
	}
	for n := 1900; n < 2100; n += 3 {
		bodies = append(bodies, func(c *wire.Content) {
			c.Body = &wire.Content_Call{Call: &wire.CallMessage{
				CallId: make([]byte, 16), Body: &wire.CallMessage_Offer{Offer: make([]byte, n)},
			}}
		})
	}
	for i, body := range bodies {
		lengths := map[int]bool{}
		for _, sender := range senders() {
			content := proto.CloneOf(sender)
			body(content)
			b, err := sealable(content)
			if err != nil {
				t.Fatal(err)
			}
			lengths[len(b)] = true
			if _, err := unpad(b); err != nil {
				t.Fatalf("body %d of %q: %v", i, sender.Username, err)
			}
		}
		if len(lengths) != 1 {
			t.Errorf("body %d has the lengths %v", i, slices.Sorted(maps.Keys(lengths)))
		}
	}
}

// What two people send to a third, of names and devices as different as can be, has one length on
// the anonymous link.
func TestLengthsOnTheAnonymousLink(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := spied(t, w)
	carol := w.online("carol")
	lengths := map[string][]int{}
	for _, name := range []string{"al", "alexandria-of-macedonia-the-great"[:maxUsername]} {
		person := w.online(name)
		if len(name) > 2 {
			w.link(person) // its epoch is told in all that it sends
		}
		person.send(t, "carol", "hi")
		carol.hears(t, "hi")
		carol.send(t, name, "hi")
		person.hears(t, "hi")
		for _, text := range []string{strings.Repeat("x", 60), strings.Repeat("x", 90), "yes"} {
			person.send(t, "carol", text)
			if err := carol.hears(t, text).Done(); err != nil {
				t.Fatal(err)
			}
		}
		call, err := person.Call(patience(t), "carol", CallOptions{})
		if err != nil {
			t.Fatal(err)
		}
		incoming := expect[IncomingCall](t, carol)
		awaitEvent[Ringing](t, &end{Call: call})
		call.Hangup()
		<-incoming.Call.Done()
		<-call.Done()
		lengths[name] = s.sealedTo(carol)
	}
	short, long := lengths["al"], lengths["alexandria-of-macedonia-the-grea"]
	if len(short) < 2 {
		t.Fatalf("%d lengths only", len(short))
	}
	for _, n := range long {
		if !slices.Contains(short, n) {
			t.Errorf("a length of the one with the long name only: %d; the other has %v", n, short)
		}
	}
}

// sealedTo takes the lengths of what was sealed to somebody since the last time.
func (s *spy) sealedTo(p *person) (lengths []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.seen {
		id := p.Account()
		if e := f.GetSendSealed().GetEnvelope(); e != nil && string(e.Recipient) == string(id[:]) {
			lengths = append(lengths, len(f.raw)-proto.Size(&wire.ClientFrame{Id: f.Id}))
		}
	}
	s.seen = nil
	slices.Sort(lengths)
	return slices.Compact(lengths)
}
