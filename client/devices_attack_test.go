package client

import (
	"bytes"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"sotto/e2ee/sealed"
	"sotto/wire"
)

// lists are the device lists that pass the spy on their way to the server.
func (s *spy) lists() (lists []*wire.SignedDeviceList) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.seen {
		for _, l := range []*wire.SignedDeviceList{f.GetAddDevice().GetDeviceList(), f.GetRemoveDevice().GetDeviceList()} {
			if l != nil {
				lists = append(lists, l)
			}
		}
	}
	return lists
}

func listed(t testing.TB, l *wire.SignedDeviceList) *wire.DeviceList {
	t.Helper()
	list, err := wire.ParseDeviceList(l.GetList())
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// signed signs whatever it is given, as a first device that does not care would.
func (p *person) signed(t testing.TB, list []byte) *wire.SignedDeviceList {
	t.Helper()
	name, err := wire.ServerName(p.account.Server)
	if err != nil {
		t.Fatal(err)
	}
	return &wire.SignedDeviceList{List: list, Signature: p.identity.Sign(wire.DeviceListToSign(name, list))}
}

// The server takes the list with a new device, says that it did not, and keeps it for later: a device of which the user believes that it was
// never added. The first device voids what it has signed, and signs nothing twice.
func TestListKeptByTheServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := spied(t, w)
	alice, bob := friends(t, w)
	s.do(func() {
		s.refuse = func(_ string, f *wire.ClientFrame) wire.Error_Code {
			if f.GetAddDevice() != nil {
				return wire.Error_CONFLICT
			}
			return wire.Error_UNKNOWN
		}
	})
	a := alice.addDevice(patience(t), true)
	ctx, cancel := context.WithCancel(patience(t))
	code, over := <-a.code, make(chan struct{})
	go func() {
		defer close(over)
		if _, err := Link(ctx, t.TempDir(), LinkOptions{Options: w.options(), Code: code}); err == nil {
			t.Error("it was linked")
		}
	}()
	if err := <-a.result; err == nil {
		t.Fatal("it was added")
	}
	cancel()
	<-over
	ghost := s.lists()[0]
	s.do(func() { s.refuse = nil })
	if l := listed(t, ghost); l.Epoch != 1 || len(l.Devices) != 2 {
		t.Fatal(l)
	}
	// Bob is shown it at once: he cannot know, until the next list is there.
	bob.mu.Lock()
	if _, err := bob.learnList(bob.contacts[alice.Account()], ghost); err != nil {
		t.Fatal(err)
	}
	bob.mu.Unlock()
	bob.knows(t, "alice", 1)
	bob.mu.Lock()
	if _, err := bob.learnList(bob.contacts[alice.Account()], ghost); err != errListOlder {
		t.Errorf("the voided list: %v", err)
	}
	bob.mu.Unlock()

	phone := w.link(alice)
	if id := phone.account.Device; id != 3 {
		t.Errorf("the next device has id %d", id)
	}
	byEpoch := map[uint32][]byte{}
	for _, l := range s.lists() {
		epoch := listed(t, l).Epoch
		if before := byEpoch[epoch]; before != nil && !bytes.Equal(before, l.List) {
			t.Errorf("two lists of epoch %d", epoch)
		}
		byEpoch[epoch] = l.List
	}
	bob.knows(t, "alice", 2)
}

// The server, together with a device that was removed, keeps the list without it back. What the first device says gives that away: from then
// on bob sends nothing to the account, and takes nothing of its further devices.
func TestListWithheld(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := spied(t, w)
	alice, bob := friends(t, w)
	phone := w.link(alice)
	phone.start(t)
	bob.knows(t, "alice", 2)
	phone.send(t, "bob", "while it is listed")
	bob.hears(t, "while it is listed")
	old := bob.knownAs(alice)
	withheld := &wire.SignedDeviceList{List: old.List, Signature: old.Signature}
	hold := true
	s.do(func() {
		s.alter = func(f *wire.ServerFrame) *wire.ServerFrame {
			switch {
			case f.GetDeliver() != nil && bytes.Equal(f.GetDeliver().Recipient, bob.account.Account[:]) && hold:
				return nil
			case len(f.GetDeviceList().GetList()) > 0:
				f.Body = &wire.ServerFrame_DeviceList{DeviceList: withheld}
			case f.GetBundles().GetDeviceList() != nil:
				f.GetBundles().DeviceList = withheld
			}
			return f
		}
	})
	if err := alice.RemoveDevice(patience(t), 2); err != nil {
		t.Fatal(err)
	}
	if err := alice.WaitTold(patience(t)); err != nil {
		t.Fatal(err)
	}
	s.do(func() { hold = false })
	alice.send(t, "bob", "hello")
	bob.hears(t, "hello")
	if _, err := bob.Send(patience(t), "alice", "to whom?"); !errors.Is(err, errListOlder) {
		t.Errorf("bob sends: %v", err)
	}
	if err := bob.take(patience(t), phone.saysAs(t, "of the removed device", bob)); err != nil {
		t.Fatal(err)
	}
	alice.send(t, "bob", "again")
	bob.hears(t, "again")

	// As soon as the server gives in, it goes on.
	s.do(func() { s.alter = nil })
	bob.reopen(t, w)
	bob.start(t)
	bob.knows(t, "alice", 1)
	bob.send(t, "alice", "to you")
	alice.hears(t, "to you")
	quiet[Message](t, bob)
}

// saysAs is a text as the server would bring it, with the sender outside.
func (p *person) saysAs(t testing.TB, text string, to *person) *wire.Envelope {
	t.Helper()
	content := p.newContent()
	content.Body = &wire.Content_Text{Text: &wire.Text{Body: text}}
	return p.brings(t, content, to)
}

// brings is a content to the first device of somebody's, as the server would bring it with the sender outside.
func (p *person) brings(t testing.TB, content *wire.Content, to *person) *wire.Envelope {
	t.Helper()
	if err := p.sendTo(to.Account(), firstDevice, content, outgoing{}); err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e := proto.CloneOf(p.outbox.entries[len(p.outbox.entries)-1].envelope)
	e.Sender, e.SenderDevice, e.AcceptedAt = p.account.Account[:], uint32(p.account.Device), timestamp(time.Now())
	return e
}

// fetches counts how often the server was asked for lists.
func (s *spy) fetches() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.seen {
		if f.GetFetchDeviceList() != nil {
			n++
		}
	}
	return n
}

// Whatever a removed device sends, with sessions and a certificate that are still good: it is dropped, and costs no request.
func TestRemovedDeviceTriesEverything(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := spied(t, w)
	alice, bob := friends(t, w)
	phone := w.link(alice)
	phone.start(t)
	bob.knows(t, "alice", 2)
	phone.send(t, "bob", "while it is listed")
	bob.hears(t, "while it is listed")
	bob.send(t, "alice", "secret")
	phone.hears(t, "secret")
	alice.hears(t, "secret")
	if err := alice.RemoveDevice(patience(t), 2); err != nil {
		t.Fatal(err)
	}
	bob.knows(t, "alice", 1)
	expect[LinkDown](t, phone)
	alice.send(t, "bob", "with the new token") // which would come later and change what is known
	bob.hears(t, "with the new token")

	var contents []*wire.Content
	for _, body := range []func(*wire.Content){
		func(c *wire.Content) { c.Body = &wire.Content_Text{Text: &wire.Text{Body: "text"}} },
		func(c *wire.Content) { c.Body = &wire.Content_Receipt{Receipt: &wire.Receipt{}} },
		func(c *wire.Content) {
			offer, _ := proto.Marshal(&wire.Offer{Timestamp: timestamp(time.Now())})
			c.Body = &wire.Content_Call{Call: &wire.CallMessage{CallId: randomBytes(16), Body: &wire.CallMessage_Offer{Offer: offer}}}
		},
		func(c *wire.Content) {
			c.Body = &wire.Content_MissedCall{MissedCall: &wire.MissedCall{CallId: randomBytes(16)}}
		},
		func(c *wire.Content) { c.DeviceListEpoch = math.MaxUint32 },
		func(c *wire.Content) { c.DeliveryToken = randomBytes(16) },
	} {
		content := phone.newContent()
		body(content)
		contents = append(contents, content)
	}
	stored := func() []string {
		return slices.Concat(bob.store.list(recordInbox), bob.store.list(recordHeld), bob.store.list(recordSession), bob.store.list(recordMissed))
	}
	before, known, asked := stored(), bob.knownAs(alice), s.fetches()
	for range 5 {
		for _, content := range contents {
			e := phone.brings(t, content, bob)
			again := proto.CloneOf(e)
			again.Id, again.Sender, again.SenderDevice = randomBytes(16), nil, 0
			for _, e := range []*wire.Envelope{e, sealedBy(t, phone.identity, phone.sealing.certificate, bob, again)} {
				if err := bob.take(patience(t), e); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	retry := sealedBy(t, phone.identity, phone.sealing.certificate, bob, &wire.Envelope{
		Id: randomBytes(16), Recipient: bob.account.Account[:], RecipientDevice: firstDevice, Type: sealed.TypePlaintext, Ciphertext: []byte{0x80},
	})
	if err := bob.take(patience(t), retry); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(before, stored()) || bob.knownAs(alice) != known {
		t.Error("something was stored")
	}
	if n := s.fetches() - asked; n != 0 {
		t.Errorf("the server was asked %d times", n)
	}
	quiet[Message](t, bob)
	quiet[IncomingCall](t, bob)
	quiet[MissedCall](t, bob)
	if phone.WaitConnected(patience(t)) == nil {
		t.Error("it is connected")
	}

	// Its id is nobody's any more, whoever signs that.
	next := w.link(alice)
	if id := next.account.Device; id != 3 {
		t.Errorf("the next device has id %d", id)
	}
	bob.knows(t, "alice", 2)
	bob.mu.Lock()
	defer bob.mu.Unlock()
	p := bob.contacts[alice.Account()]
	list := proto.CloneOf(p.listed)
	list.Epoch++
	list.Devices[1].Id = 2
	raw, err := proto.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bob.learnList(p, alice.signed(t, raw)); err != errListRefused {
		t.Errorf("an id that was given before: %v", err)
	}
}

// Another device of a contact's has gone bad, and says that there are lists without end: the server is asked four times, and nothing else
// happens.
func TestSecondDeviceGoesBad(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := spied(t, w)
	alice, bob := friends(t, w)
	phone := w.link(alice)
	phone.start(t)
	bob.knows(t, "alice", 2)
	asked := s.fetches()
	phone.mu.Lock()
	own := phone.contacts[phone.Account()]
	phone.epoch.Store(math.MaxUint32)
	phone.mu.Unlock()
	for range 10 {
		phone.send(t, "bob", "boo")
		bob.hears(t, "boo")
	}
	// It cannot sign either.
	list := proto.CloneOf(own.listed)
	list.Epoch, list.Devices = math.MaxUint32, list.Devices[:1]
	raw, err := proto.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	content := phone.newContent()
	content.Body = &wire.Content_DeviceList{DeviceList: phone.signed(t, raw)}
	if err := bob.take(patience(t), phone.brings(t, content, bob)); err != nil {
		t.Fatal(err)
	}
	if n := s.fetches() - asked; n > maxRetries+2 { // two of the friends' own
		t.Errorf("the server was asked %d times", n)
	}
	if p := bob.knownAs(alice); p.Epoch != 1 || p.Heard > 1 || p.outdated() {
		t.Errorf("epoch %d, heard of %d", p.Epoch, p.Heard)
	}
	bob.send(t, "alice", "still there")
	alice.hears(t, "still there")
}

// Lists that a contact's first device may sign, but that are none; and so many that are.
func TestHostileLists(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	bob.mu.Lock()
	defer bob.mu.Unlock()
	p := bob.contacts[alice.Account()]
	listOf := func(epoch, last uint32, devices int) *wire.DeviceList {
		l := &wire.DeviceList{Account: p.Account[:], Epoch: epoch, LastId: last}
		for i := range devices {
			key := p.Identity
			if i > 0 {
				key = append([]byte{5}, randomBytes(32)...)
			}
			l.Devices = append(l.Devices, &wire.DeviceList_Device{Id: uint32(i + 1), IdentityKey: key})
		}
		return l
	}
	raw := func(l *wire.DeviceList) []byte {
		b, err := proto.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, list := range map[string][]byte{
		"1000 devices":        raw(listOf(1, 127, 1000)),
		"five devices":        raw(listOf(1, 5, 5)),
		"no device":           raw(listOf(1, 1, 0)),
		"epoch 0":             raw(listOf(0, 1, 1)),
		"ids beyond the last": raw(listOf(1, 1, 2)),
		"last id 128":         raw(listOf(1, 128, 1)),
		"over-long":           append(raw(listOf(1, 1, 1)), bytes.Repeat([]byte{0x28, 1}, 1024)...),
		"half a field":        append(raw(listOf(1, 1, 1)), 0x2a),
	} {
		if _, err := bob.learnList(p, alice.signed(t, list)); err != errListRefused {
			t.Errorf("%s: %v", name, err)
		}
	}
	later := append(raw(listOf(1, 1, 1)), 0x28, 1) // a field of a later version
	p, err := bob.learnList(p, alice.signed(t, later))
	if err != nil || p.Epoch != 1 {
		t.Fatal(err)
	}
	for epoch := uint32(2); epoch < 102; epoch++ {
		if p, err = bob.learnList(p, alice.signed(t, raw(listOf(epoch, 1, 1)))); err != nil {
			t.Fatal(err)
		}
	}
	if p, err = bob.learnList(p, alice.signed(t, raw(listOf(math.MaxUint32, 1, 1)))); err != nil {
		t.Fatal(err)
	}
	if _, err = bob.learnList(p, alice.signed(t, raw(listOf(1, 1, 1)))); err != errListOlder {
		t.Errorf("after the last epoch: %v", err)
	}
	quiet[DevicesChanged](t, bob)
}

// A list that the first device has signed is not taken all the same if it does not follow the one
// that is known: its key would then be some other device's.
func TestListsThatDoNotFollow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	bob.mu.Lock()
	defer bob.mu.Unlock()
	p := bob.contacts[alice.Account()]
	second := append([]byte{5}, randomBytes(32)...)
	list := func(epoch, last uint32, keys ...[]byte) *wire.SignedDeviceList {
		l := &wire.DeviceList{Account: p.Account[:], Epoch: epoch, LastId: last}
		for i, key := range append([][]byte{p.Identity}, keys...) {
			d := &wire.DeviceList_Device{Id: uint32(i + 1), IdentityKey: key}
			l.Devices = append(l.Devices, d)
		}
		b, err := proto.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		return alice.signed(t, b)
	}
	p, err := bob.learnList(p, list(5, 2, second))
	if err != nil {
		t.Fatal(err)
	}
	another := append([]byte{5}, randomBytes(32)...)
	for name, signed := range map[string]*wire.SignedDeviceList{
		"another of its epoch":   list(5, 2),
		"an id given again":      list(6, 2, another),
		"a last id that is less": list(6, 1),
	} {
		if _, err := bob.learnList(p, signed); err != errListRefused {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := bob.learnList(p, list(6, 2)); err != nil {
		t.Error("the device removed:", err)
	}
}

// The power fails at each step of removing a device: what was signed is remembered, so that nothing else is ever signed for its epoch; and the
// token that the device knows is gone with the list that has it.
func TestRemovalSurvivesPowerFailure(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.online("alice")
	w.link(alice)
	token := alice.token()
	disk := alice.onMemory(t)
	random := rand.New(rand.NewPCG(7, 8))
	for step := 1; ; step++ {
		before := w.from(t, disk.afterPowerFailure(random))
		d := before.store.d.(*memDisk)
		d.failAt, d.err, d.off, d.steps = step, errPower, true, 0
		before.mu.Lock()
		list := before.nextList(before.ownContact())
		list.Devices = list.Devices[:1]
		signed, err := before.signList(list)
		before.mu.Unlock()
		left := err == nil // the server may have it
		if left {
			err = before.adoptList(signed)
		}
		finished := d.steps < step
		if finished != (err == nil) {
			t.Fatalf("step %d: %v", step, err)
		}
		before.Close()

		after := w.from(t, d.afterPowerFailure(random))
		after.mu.Lock()
		own := after.ownContact()
		switch taken := own.Epoch == list.Epoch; {
		case left && after.nextList(own).Epoch <= list.Epoch:
			t.Errorf("step %d: it would sign epoch %d again", step, list.Epoch)
		case left && !taken && !after.unsettled():
			t.Errorf("step %d: it does not ask what became of the list", step)
		case taken == bytes.Equal(token, after.sealing.Token):
			t.Errorf("step %d: list and token do not go together", step)
		}
		after.mu.Unlock()
		after.Close()
		if finished {
			return
		}
	}
}

// The answer to a removal is lost: the device is removed, and nobody needs to do anything about it.
func TestRemovalIsNotAnswered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := spied(t, w)
	alice := w.online("alice")
	phone := w.link(alice)
	phone.start(t)
	token := alice.token()
	silent := true
	s.do(func() {
		s.alter = func(f *wire.ServerFrame) *wire.ServerFrame {
			if f.GetDone() != nil && silent {
				return nil
			}
			return f
		}
	})
	ctx, cancel := context.WithCancel(patience(t))
	go func() {
		expect[LinkDown](t, phone) // it was removed
		cancel()
	}()
	if err := alice.RemoveDevice(ctx, 2); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	s.do(func() { silent = false })
	alice.eventually(t, "the list without it", func() bool { return len(alice.ownContact().devices()) == 1 })
	if bytes.Equal(token, alice.token()) {
		t.Error("the token is the one that the removed device knows")
	}
}

// A user who agrees when the code's time is over has agreed to nothing; and while a code is shown there is no second.
func TestConfirmedTooLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := spied(t, w)
	alice := w.online("alice")
	ctx, expire := context.WithCancel(patience(t))
	code, result := make(chan string, 1), make(chan error, 1)
	go func() {
		_, err := alice.AddDevice(ctx, AddDeviceOptions{
			Show: func(shown string) { code <- shown },
			Confirm: func(context.Context, string) bool {
				expire()
				return true
			},
		})
		result <- err
	}()
	shown := <-code
	if _, err := alice.AddDevice(patience(t), AddDeviceOptions{}); err == nil {
		t.Error("two codes at once")
	}
	if err := alice.RemoveDevice(patience(t), 2); err == nil {
		t.Error("a device is removed while another is added")
	}
	if _, err := Link(patience(t), t.TempDir(), LinkOptions{Options: w.options(), Code: shown}); err == nil {
		t.Error("it was linked")
	}
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("the first device: %v", err)
	}
	if lists := s.lists(); len(lists) != 0 {
		t.Errorf("%d lists have left", len(lists))
	}
	if !slices.Equal(alice.Devices(), []Device{{1, true}}) || alice.account.SignedEpoch != 0 {
		t.Error("something was signed")
	}
}
