package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"sotto/e2ee/linking"
	"sotto/e2ee/ratchet"
	"sotto/wire"
)

// adding is AddDevice under way.
type adding struct {
	code   chan string
	digits chan string
	result chan error
}

func (p *person) addDevice(ctx context.Context, agree bool) *adding {
	a := &adding{make(chan string, 1), make(chan string, 2), make(chan error, 1)}
	go func() {
		_, err := p.AddDevice(ctx, AddDeviceOptions{
			Show:    func(code string) { a.code <- code },
			Confirm: func(_ context.Context, digits string) bool { a.digits <- digits; return agree },
		})
		a.result <- err
	}()
	return a
}

// link makes another device of first's account, which is not started.
func (w *world) link(first *person) *person {
	w.t.Helper()
	a := first.addDevice(patience(w.t), true)
	var shown string
	p := &person{dir: w.t.TempDir()}
	var err error
	p.Client, err = Link(patience(w.t), p.dir, LinkOptions{Options: w.options(), Code: <-a.code, Show: func(digits string) { shown = digits }})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { p.Close() })
	if err := <-a.result; err != nil {
		w.t.Fatal(err)
	}
	if asked := <-a.digits; asked != shown || len(asked) != 11 {
		w.t.Fatalf("the digits are %q on the first device and %q on the new one", asked, shown)
	}
	return p
}

// knows waits until p sends to so many devices of somebody's.
func (p *person) knows(t testing.TB, username string, devices int) {
	t.Helper()
	for ctx := patience(t); ; {
		p.mu.Lock()
		to := p.named(username)
		n := 0
		if to != nil {
			n = len(to.devices())
		}
		p.mu.Unlock()
		if n == devices {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%s knows %d devices of %s, not %d", p.Username(), n, username, devices)
		}
	}
}

func TestTwoDevices(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	phone := w.link(alice)
	phone.start(t)
	if phone.Username() != "alice" || phone.Account() != alice.Account() || !slices.Equal(phone.Devices(), []Device{{1, false}, {2, true}}) {
		t.Fatalf("the new device is %+v of %s", phone.Devices(), phone.Username())
	}

	// It begins with the same pins: nobody has to compare safety numbers again.
	for _, p := range []*person{alice, phone} {
		ours, err1 := p.SafetyNumber("bob")
		theirs, err2 := bob.SafetyNumber("alice")
		if err1 != nil || err2 != nil || ours != theirs {
			t.Errorf("safety numbers: %s and %s", ours, theirs)
		}
	}
	if got := phone.Contacts(); len(got) != 1 || got[0].Username != "bob" || !got[0].Accepted {
		t.Errorf("contacts of the new device: %+v", got)
	}

	// What bob writes arrives on both, and is delivered once.
	bob.knows(t, "alice", 2)
	sent, delivered := map[MessageID]int{}, map[MessageID]int{}
	for _, text := range []string{"to both", "again"} {
		bob.send(t, "alice", text)
		alice.hears(t, text)
		phone.hears(t, text)
	}
	bob.eventually(t, "receipts of both devices", func() bool { return len(bob.sent.texts) == 0 })
	for len(delivered) < 2 || len(bob.Events()) > 0 {
		switch e := expect[Event](t, bob).(type) {
		case MessageSent:
			sent[e.ID]++
		case MessageDelivered:
			delivered[e.ID]++
		}
	}
	for id, n := range delivered {
		if n != 1 || sent[id] != 1 {
			t.Errorf("a message was sent %d times and delivered %d times", sent[id], n)
		}
	}

	// Both write to him.
	phone.send(t, "bob", "from the phone")
	if m := bob.hears(t, "from the phone"); m.From.Username != "alice" {
		t.Errorf("it is from %s", m.From)
	}
	expect[MessageDelivered](t, phone)
	alice.send(t, "bob", "from the first")
	bob.hears(t, "from the first")

	// Somebody new is written to by the second device, and answers both.
	carol := w.online("carol")
	phone.send(t, "carol", "hello")
	carol.hears(t, "hello")
	carol.send(t, "alice", "hello you")
	phone.hears(t, "hello you")
	alice.hears(t, "hello you")
}

// token is the account's delivery token.
func (p *person) token() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.sealing.Token)
}

// knownAs is what p holds of a contact.
func (p *person) knownAs(who *person) *contact {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.contacts[who.Account()]
}

func (p *person) eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for ctx := patience(t); ; {
		p.mu.Lock()
		ok := is()
		p.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%s: not in time: %s", p.Username(), what)
		}
	}
}

// A removed device gets nothing, and nobody takes what it sends, even if the server still carries it.
func TestRemovedDevice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	phone := w.link(alice)
	phone.start(t)
	bob.knows(t, "alice", 2)
	phone.send(t, "bob", "while it is listed")
	bob.hears(t, "while it is listed")
	token := alice.token()

	if err := phone.RemoveDevice(t.Context(), 2); err != errNotFirst {
		t.Errorf("the second device removes: %v", err)
	}
	if err := alice.RemoveDevice(patience(t), 1); err == nil {
		t.Error("the first device was removed")
	}
	if err := alice.RemoveDevice(patience(t), 3); err == nil {
		t.Error("a device that is not there was removed")
	}
	if err := alice.RemoveDevice(patience(t), 2); err != nil {
		t.Fatal(err)
	}
	if down := expect[LinkDown](t, phone); !down.Final || !errors.Is(down.Err, ErrUnauthenticated) {
		t.Errorf("the removed device's link ended with %v", down.Err)
	}
	bob.knows(t, "alice", 1)
	if len(bob.store.list(recordSession)) != 1 {
		t.Error("the session with the removed device is left")
	}
	if bytes.Equal(token, alice.token()) {
		t.Error("the delivery token is the one that the removed device knows")
	}
	phone.mu.Lock()
	content := phone.newContent()
	content.Body = &wire.Content_Text{Text: &wire.Text{Body: "after it was removed"}}
	phone.mu.Unlock()
	if err := phone.sendTo(bob.Account(), firstDevice, content, outgoing{}); err != nil {
		t.Fatal(err)
	}
	phone.mu.Lock()
	e := proto.CloneOf(phone.outbox.entries[len(phone.outbox.entries)-1].envelope)
	phone.mu.Unlock()
	e.Sender, e.SenderDevice = phone.account.Account[:], 2
	if err := bob.take(patience(t), e); err != nil {
		t.Fatal(err)
	}
	bob.send(t, "alice", "only to the first")
	alice.hears(t, "only to the first")
	quiet[Message](t, bob)
	if bob.knownAs(alice).Appeared != nil {
		t.Error("the account's key is taken for changed")
	}
}

// What the server says of devices is taken only as the pinned key has signed it, and never an older list again.
func TestServerSlipsInADevice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	phone := w.link(alice)
	bob.knows(t, "alice", 2)
	bob.mu.Lock()
	defer bob.mu.Unlock()
	p := bob.named("alice")
	now := &wire.SignedDeviceList{List: p.List, Signature: p.Signature}
	server := ratchet.GenerateKeyPair()
	sign := func(by *ratchet.KeyPair, epoch uint32, ids ...uint8) *wire.SignedDeviceList {
		list := &wire.DeviceList{Account: p.Account[:], Epoch: epoch, LastId: 2}
		for _, id := range ids {
			list.LastId = max(list.LastId, uint32(id))
			key := map[uint8][]byte{1: alice.identity.Public().Bytes(), 2: phone.identity.Public().Bytes(), 3: server.Public().Bytes()}[id]
			list.Devices = append(list.Devices, &wire.DeviceList_Device{Id: uint32(id), IdentityKey: key})
		}
		private := [32]byte(by.Marshal())
		signed, err := linking.SignList(bob.account.Server, &private, list)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	edited := sign(server, 2, 1, 2, 3)
	edited.Signature = now.Signature
	for name, test := range map[string]struct {
		list *wire.SignedDeviceList
		want error
	}{
		"signed by the server":        {sign(server, 2, 1, 2, 3), errListRefused},
		"signed by the second device": {sign(phone.identity, 2, 1, 2, 3), errListRefused},
		"edited":                      {edited, errListRefused},
		"another of the same epoch":   {sign(alice.identity, 1, 1), errListRefused},
		"none any more":               {nil, errListOlder},
		"the same":                    {now, nil},
	} {
		if got, err := bob.learnList(p, test.list); err != test.want || got != p {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	newer, err := bob.learnList(p, sign(alice.identity, 3, 1))
	if err != nil || len(newer.devices()) != 1 || newer.Epoch != 3 {
		t.Fatalf("a newer list is not taken: %v", err)
	}
	for _, older := range []*wire.SignedDeviceList{now, sign(alice.identity, 2, 1, 2)} {
		if _, err := bob.learnList(newer, older); err != errListOlder {
			t.Errorf("an older list: %v", err)
		}
	}
	if got := bob.contacts[alice.Account()]; got.Epoch != 3 {
		t.Errorf("the epoch is %d", got.Epoch)
	}
}

// Nor can it add a device to this account, or make this device believe that the account's key is another.
func TestServerSlipsInAnOwnDevice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.online("alice")
	mallory := w.online("mallory")
	e := mallory.sealedWhileConnected(t, "alice")
	e.Sender, e.SenderDevice = alice.account.Account[:], 2
	if err := alice.take(patience(t), e); err != nil {
		t.Fatal(err)
	}
	alice.mu.Lock()
	defer alice.mu.Unlock()
	key := mallory.identity.Public().Bytes()
	list := &wire.DeviceList{Account: alice.account.Account[:], Epoch: 1, LastId: 2, Devices: []*wire.DeviceList_Device{
		{Id: 1, IdentityKey: key}, {Id: 2, IdentityKey: ratchet.GenerateKeyPair().Public().Bytes()},
	}}
	private := [32]byte(mallory.identity.Marshal())
	signed, err := linking.SignList(alice.account.Server, &private, list)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := alice.learnList(alice.ownContact(), signed); err != errListRefused {
		t.Errorf("a list of the server's: %v", err)
	}
	if len(alice.contacts) != 0 || alice.accountIdentity() != [33]byte(alice.identity.Public().Bytes()) {
		t.Error("the account has a record that the server has made")
	}
}

// A server that edits its replies: bundles of devices that are not on the list, or with other keys, begin no session.
func TestBundlesOfUnlistedDevices(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	phone := w.link(alice)
	bob.knows(t, "alice", 2)
	mallory := w.online("mallory")
	reply, err := bob.fetchBundles(patience(t), mallory.Account(), 0)
	if err != nil {
		t.Fatal(err)
	}
	slipped := proto.CloneOf(reply.Bundles[0])
	slipped.Account = alice.account.Account[:]
	if err := bob.store.update(func(t *tx) error {
		t.delete(addressRecord(recordSession, phone.local().Address))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, device := range []uint32{2, 3} {
		slipped.Device = device
		if err := bob.startSessions(alice.Account(), "", &wire.Bundles{Bundles: []*wire.Bundle{slipped}}); err != nil {
			t.Errorf("device %d: %v", device, err)
		}
	}
	if names := bob.store.list(recordSession + alice.Account().String()); len(names) != 1 || names[0] != sessionRecord(alice) {
		t.Errorf("sessions: %q", names)
	}
}

func TestLinkingIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.online("alice")
	link := func(code string) error {
		c, err := Link(patience(t), t.TempDir(), LinkOptions{Options: w.options(), Code: code})
		if err == nil {
			c.Close()
		}
		return err
	}
	a := alice.addDevice(patience(t), false)
	if err := link(<-a.code); err == nil || !strings.Contains(err.Error(), "make a new one") {
		t.Errorf("what was declined: %v", err)
	}
	if err := <-a.result; err != errDeclined {
		t.Errorf("the first device: %v", err)
	}
	code, err := linking.NewCode(w.url(), [33]byte(alice.identity.Public().Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if err := link(code.String()); err == nil || !strings.Contains(err.Error(), "make a new one") {
		t.Errorf("a code that nobody shows: %v", err)
	}
	if err := link("hello"); err == nil {
		t.Error("no code at all")
	}
	if _, err := Link(patience(t), alice.dir, LinkOptions{Options: w.options(), Code: code.String()}); err == nil {
		t.Error("a directory that is in use")
	}
	if len(alice.Devices()) != 1 {
		t.Errorf("devices: %+v", alice.Devices())
	}
}

// Either end dies in the middle, and the server too: the same code is used once more, or the list is asked for.
func TestCrashDuringLinking(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.online("alice")
	a := alice.addDevice(patience(t), true)
	code := <-a.code

	// The new device dies after it was added, before it has stored that.
	dir := t.TempDir()
	var request *joining
	{
		s, err := openStore(dir, Key{}, true)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := linking.ParseCode(code)
		if err == nil {
			request, err = draftJoining(s, parsed)
		}
		if err != nil {
			t.Fatal(err)
		}
		slot := parsed.Slot()
		body, err := proto.Marshal(&wire.LinkRequest{Slot: slot[:], Blob: request.Request})
		if err != nil {
			t.Fatal(err)
		}
		server, err := parseServer(w.url(), false)
		if err == nil {
			_, err = askToLink(patience(t), server, nil, body)
		}
		if err != nil {
			t.Fatal(err)
		}
		s.close()
	}
	if err := <-a.result; err != nil {
		t.Fatal(err)
	}
	c, err := Link(patience(t), dir, LinkOptions{Options: w.options(), Code: code})
	if err != nil {
		t.Fatal(err)
	}
	phone := &person{Client: c, dir: dir}
	defer phone.Close()
	if !bytes.Equal(phone.account.Identity, request.Identity) {
		t.Error("it has another key than was added")
	}
	if names := phone.store.list(recordLinking); len(names) != 0 {
		t.Error("the code is kept")
	}

	// The first device dies before it hears that the server has the list.
	if err := alice.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := openStore(alice.dir, Key{}, false)
	if err != nil {
		t.Fatal(err)
	}
	alice.account.SignedEpoch, alice.account.SignedLastID = 1, 2
	err = before.update(func(t *tx) error {
		t.delete(recordContact + alice.Account().String())
		return alice.account.write(t)
	})
	if err != nil {
		t.Fatal(err)
	}
	before.close()
	alice.reopen(t, w)
	if len(alice.Devices()) != 1 {
		t.Fatal("the crash did not happen")
	}
	alice.start(t)
	alice.eventually(t, "the list from the server", func() bool { return alice.epoch.Load() == 1 && !alice.unsettled() })

	// The server goes on knowing both.
	w.stop()
	w.start()
	phone.start(t)
}

// A new delivery token reaches the server and all devices, whichever of them wants it.
func TestDevicesAgreeOnTheToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, _ := friends(t, w)
	phone := w.link(alice)
	phone.start(t)
	for _, by := range []*person{phone, alice} {
		carol := w.online("carol" + string(rune('0'+by.account.Device)))
		if _, err := by.AddContact(patience(t), carol.Username()); err != nil {
			t.Fatal(err)
		}
		before := alice.token()
		if err := by.RemoveContact(carol.Username()); err != nil {
			t.Fatal(err)
		}
		alice.eventually(t, "a new token", func() bool { return !bytes.Equal(before, alice.sealing.Token) && alice.sealing.Told })
		after := alice.token()
		phone.eventually(t, "the same token", func() bool { return bytes.Equal(after, phone.sealing.Token) })
	}
}

// Only the first device says what the account's token is; to it any other may propose one.
func TestTheFirstDeviceOwnsTheToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.online("alice")
	phone := w.link(alice)
	for _, test := range []struct {
		at   *person
		from uint8
		size int
		want bool
	}{
		{phone, firstDevice, wire.DeliveryTokenSize, true},
		{phone, 3, wire.DeliveryTokenSize, false},
		{alice, 2, wire.DeliveryTokenSize, true},
		{alice, 2, wire.DeliveryTokenSize - 1, false},
	} {
		test.at.mu.Lock()
		taken := test.at.adopted(test.from, randomBytes(test.size))
		test.at.mu.Unlock()
		if (taken != nil) != test.want {
			t.Errorf("device %d takes one of %d bytes from device %d: %v",
				test.at.account.Device, test.size, test.from, taken != nil)
		}
	}
}

// What was signed may be at the server, and with it at anybody's: the next list has a higher epoch,
// and gives no id again, though this device never took the one before.
func TestNothingIsSignedTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.register("alice")
	alice.mu.Lock()
	list := alice.nextList(alice.ownContact())
	list.LastId = 2
	key := ratchet.GenerateKeyPair().Public().Bytes()
	list.Devices = append(list.Devices, &wire.DeviceList_Device{Id: 2, IdentityKey: key})
	_, err := alice.signList(list)
	alice.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time after a restart
		next := alice.nextList(alice.ownContact())
		if next.Epoch != list.Epoch+1 || next.LastId != 2 || len(next.Devices) != 1 {
			t.Errorf("after %v comes %v", list, next)
		}
		alice.reopen(t, w)
	}
}

// A list that is older than what the contact's first device has said is not taken, though newer
// than the one that is known.
func TestAListOlderThanHeardOf(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	p := *bob.knownAs(alice)
	p.Heard = 3
	for epoch, want := range map[uint32]error{1: errListOlder, 2: errListOlder, 3: nil, 4: nil} {
		list, err := proto.Marshal(&wire.DeviceList{
			Account: p.Account[:], Epoch: epoch, LastId: 1,
			Devices: []*wire.DeviceList_Device{{Id: firstDevice, IdentityKey: p.Identity}},
		})
		if err != nil {
			t.Fatal(err)
		}
		v, err := bob.verifyList(&p, alice.signed(t, list))
		if err != want || (v != nil) != (want == nil) {
			t.Errorf("epoch %d: %v", epoch, err)
		}
	}
}

// Somebody links one device after the other, as who sets up a household does, or who tries. The
// limits on key bundles leave room for that, and for each device to be reached.
func TestSixDevicesOneAfterTheOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	carol := w.online("carol") // who has not accepted alice: what she is sent goes by name
	alice.send(t, "carol", "hi")
	carol.hears(t, "hi")
	for i := range 6 {
		phone := w.link(alice)
		phone.start(t)
		text := fmt.Sprintf("to device %d", i+2)
		bob.knows(t, "alice", 2)
		bob.send(t, "alice", text)
		phone.hears(t, text)
		alice.hears(t, text)
		phone.send(t, "bob", "from "+text)
		bob.hears(t, "from "+text)
		phone.send(t, "carol", text)
		carol.hears(t, text)
		if err := alice.RemoveDevice(patience(t), int(phone.account.Device)); err != nil {
			t.Fatal(err)
		}
		phone.Close()
		bob.knows(t, "alice", 1)
	}
}
