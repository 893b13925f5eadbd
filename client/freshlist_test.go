package client

import (
	"testing"
	"time"

	"sotto/signaling"
	"sotto/wire"
)

// linkedWhileAway links devices of bob's until he has so many, while alice is away.
func linkedWhileAway(t *testing.T, w *world, alice, bob *person, devices int) (linked []*person) {
	t.Helper()
	if err := alice.Close(); err != nil {
		t.Fatal(err)
	}
	for len(bob.Devices()) < devices {
		p := w.link(bob)
		p.start(t)
		linked = append(linked, p)
	}
	bob.eventually(t, "alice's mailbox has the list", bob.told)
	return linked
}

// withoutMail holds back what waits in a person's mailbox: their list of devices is far behind it.
func (s *spy) withoutMail(p *person) {
	s.do(func() {
		s.alter = func(f *wire.ServerFrame) *wire.ServerFrame {
			if e := f.GetDeliver(); e != nil && string(e.Recipient) == string(p.account.Account[:]) {
				return nil
			}
			return f
		}
	})
}

// Devices that were linked while the writer was away get their first text, whether it is written
// before there is a link or after it. The list does not reach the writer in time.
func TestNewDevicesGetTheFirstText(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := spied(t, w)
	alice, bob := friends(t, w)
	all := []*person{bob}
	for devices := 2; devices <= 4; devices++ {
		all = append(all, linkedWhileAway(t, w, alice, bob, devices)...)
		s.withoutMail(alice)
		var err error
		if alice.Client, err = Open(alice.dir, w.options()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { alice.Close() })
		if devices > 2 {
			alice.start(t)
		}
		text := "first for " + string(rune('0'+devices))
		id, err := alice.Send(patience(t), "bob", text)
		if err != nil {
			t.Fatal(err)
		}
		if devices == 2 {
			alice.start(t)
		}
		if err := alice.WaitSent(patience(t), id); err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			p.hears(t, text)
		}
		s.do(func() { s.alter = nil })
	}
}

// They ring for the first call, too.
func TestNewDevicesRingForTheFirstCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := spied(t, w)
	alice, bob := friends(t, w)
	all := []*person{bob}
	for devices := 2; devices <= 4; devices++ {
		all = append(all, linkedWhileAway(t, w, alice, bob, devices)...)
		s.withoutMail(alice)
		alice.reopened(t, w)
		call, err := alice.Call(patience(t), "bob", CallOptions{MediaOptions: new(end).media()})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			expect[IncomingCall](t, p)
		}
		call.Hangup()
		<-call.Done()
		s.do(func() { s.alter = nil })
	}
}

// What is refused for its rate does not arrive behind what was sent after it, on any way.
func TestOrderUnderRateLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *signaling.Config) {
		c.Limits.Sends = signaling.Rate{Burst: 8, Every: 100 * time.Millisecond}
		c.Limits.SealedTo = signaling.Rate{Burst: 8, Every: 100 * time.Millisecond}
	})
	s := spied(t, w)
	alice, bob := friends(t, w)
	refusals := 0
	s.do(func() {
		s.alter = func(f *wire.ServerFrame) *wire.ServerFrame {
			if f.GetError().GetCode() == wire.Error_RATE_LIMITED {
				refusals++
			}
			return f
		}
	})
	const texts = 24
	name := func(i int) string { return string([]rune{'a' + rune(i/26), 'a' + rune(i%26)}) }
	pace := time.NewTicker(20 * time.Millisecond) // faster than the server takes them
	defer pace.Stop()
	for i := range texts {
		<-pace.C
		if _, err := alice.Send(patience(t), "bob", name(i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range texts {
		bob.hears(t, name(i))
	}
	s.do(func() {
		if refusals == 0 {
			t.Error("nothing was refused for its rate")
		}
	})
}
