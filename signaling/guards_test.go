package signaling

import (
	"bytes"
	"crypto/sha512"
	"net/http"
	"slices"
	"testing"
	"time"

	"filippo.io/edwards25519"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"sotto/signaling/store"
	"sotto/wire"
)

// signedByNobody is a signature that the key of unknown devices verifies: its u coordinate is the
// base point's, whose private scalar is 1.
func signedByNobody(t testing.TB, message []byte) []byte {
	t.Helper()
	one, err := edwards25519.NewScalar().SetCanonicalBytes(append([]byte{1}, make([]byte, 31)...))
	if err != nil {
		t.Fatal(err)
	}
	base := edwards25519.NewGeneratorPoint().Bytes() // the public key, and the nonce's point
	h := sha512.Sum512(slices.Concat(base, base, message))
	scalar, err := edwards25519.NewScalar().SetUniformBytes(h[:])
	if err != nil {
		t.Fatal(err)
	}
	return append(slices.Clone(base), scalar.Add(scalar, one).Bytes()...)
}

// TestNobodyAuthenticates: anybody can sign with the key that stands in for those of unknown
// devices. It opens no link, and the answer is that to a wrong signature.
func TestNobodyAuthenticates(t *testing.T) {
	s := serve(t)
	alice := s.register(t, "alice")
	want := alice.dial(func(nonce []byte, binding [32]byte) *wire.Authenticate {
		a := alice.identityProof(nonce, binding)
		a.Signature[0] ^= 1
		return a
	})
	for name, change := range map[string]func(*wire.Authenticate){
		"unknown account": func(a *wire.Authenticate) { a.Account = randomBytes(16) },
		"unknown device":  func(a *wire.Authenticate) { a.Device = 2 },
	} {
		err := alice.dial(func(nonce []byte, binding [32]byte) *wire.Authenticate {
			a := alice.identityProof(nonce, binding)
			change(a)
			device := uint8(a.Device)
			message := wire.AuthenticationToSign("127.0.0.1", nonce, a.Account, device, binding)
			a.Signature = signedByNobody(t, message)
			if !verify(nobody, message, a.Signature) {
				t.Fatal("the signature does not verify: this test shows nothing")
			}
			return a
		})
		if code(err) != wire.Error_UNAUTHENTICATED || err.Error() != want.Error() {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
}

// TestAnAcknowledgementIsOneDevices: each device has a mailbox of its own. What one acknowledges,
// once or again, stays for the other, and is not delivered to the first again.
func TestAnAcknowledgementIsOneDevices(t *testing.T) {
	s := serve(t)
	alice, bob := s.connected(t, "alice"), s.connected(t, "bob")
	second := bob.link(t, 2, 1)
	bob.conn.Close()
	id := randomBytes(16)
	for _, to := range []*testDevice{bob, second} { // the same id, as for one message
		e := alice.envelope(to, 100)
		e.Id = id
		if err := alice.send(e); err != nil {
			t.Fatal(err)
		}
	}
	second.connect(t)
	got, err := second.receive()
	if err != nil || !bytes.Equal(got.Id, id) {
		t.Fatal(got, err)
	}
	for range 2 { // the second time it is not handed over any more
		second.acknowledge(got)
		second.settle(t)
	}
	for d, want := range map[*testDevice]int{bob: 1, second: 0} {
		list, _, err := s.store.Mailbox(d.storeAddress(), 0, 10, time.Now())
		if err != nil || len(list) != want {
			t.Errorf("device %d: %d envelopes wait, want %d; %v", d.device, len(list), want, err)
		}
	}
	bob.connect(t)
	if got, err := bob.receive(); err != nil || !bytes.Equal(got.Id, id) {
		t.Errorf("device 1 receives %v, %v", got, err)
	}
}

// slow is a store whose disk is not done before it is let.
type slow struct {
	store.Store
	let   chan struct{}
	asked chan struct{} // has room
}

func (s *slow) Put(e store.Envelope, l store.Limits) (func() error, error) {
	wait, err := s.Store.Put(e, l)
	if err != nil {
		return nil, err
	}
	s.asked <- struct{}{}
	return func() error { <-s.let; return wait() }, nil
}

// TestSentWaitsForTheDisk: Sent comes once the envelope is durable; until then other requests of
// the link are answered.
func TestSentWaitsForTheDisk(t *testing.T) {
	s := serve(t)
	disk := &slow{let: make(chan struct{}), asked: make(chan struct{}, 8)}
	s.wrap = func(all store.Store) store.Store { disk.Store = all; return disk }
	s.restart(t)
	alice, away, silent := s.connected(t, "alice"), s.register(t, "away"), s.connected(t, "silent")
	silent.live(t)
	var ids []uint64
	for _, to := range []*testDevice{away, silent} { // one waits, the other says nothing
		id, err := alice.post(alice.envelope(to, 100))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
		<-disk.asked
	}
	for range 20 { // time enough for an answer that does not wait
		alice.settle(t)
	}
	for _, f := range alice.events {
		if slices.Contains(ids, f.ReplyTo) {
			t.Errorf("before the disk was done: %v", f)
		}
	}
	close(disk.let)
	for _, id := range ids {
		if f, err := alice.answer(id); err != nil || f.GetSent() == nil {
			t.Errorf("then: %v, %v", f, err)
		}
	}
}

// TestTheWindowIsBounded: of a full mailbox no more is handed over than the window holds, until
// something is acknowledged.
func TestTheWindowIsBounded(t *testing.T) {
	s := serve(t, func(c *Config, _ *timing) { c.Limits.Sends = Rate{1000, time.Millisecond} })
	alice, bob := s.connected(t, "alice"), s.register(t, "bob")
	const sent = 2*windowCount + 10
	for range sent {
		if err := alice.send(alice.envelope(bob, 10)); err != nil {
			t.Fatal(err)
		}
	}
	bob.connect(t)
	handed := func() int {
		l := s.hub.get(bob.storeAddress())
		for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			l.mu.Lock()
			n, idle := len(l.handed), !l.pumping
			l.mu.Unlock()
			if idle && n > 0 {
				return n
			}
			if time.Now().After(deadline) {
				t.Fatal("the mailbox is still being handed out")
			}
		}
	}
	if n := handed(); n != windowCount {
		t.Errorf("%d are handed over, want %d", n, windowCount)
	}
	for range sent {
		e, err := bob.receive()
		if err != nil {
			t.Fatal(err)
		}
		bob.acknowledge(e)
	}
}

// TestLinksAreBounded: a full hub takes no device more, and those that are there may come anew.
func TestLinksAreBounded(t *testing.T) {
	h := newHub(2, prometheus.NewGauge(prometheus.GaugeOpts{Name: "links"}))
	device := func(id uint8) *link {
		return &link{device: store.Device{Address: store.Address{Device: id}}}
	}
	first, second := device(1), device(2)
	for _, l := range []*link{first, second} {
		if err := h.add(l); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.add(device(3)); err != errTooManyLinks {
		t.Errorf("one too many: %v", err)
	}
	h.remove(first)
	if err := h.add(device(3)); err != nil {
		t.Errorf("when one is gone: %v", err)
	}
}

// TestRegisteredByItsKey: the answer to a registration whose first answer was lost goes to who has
// the key, though the invitation is used up.
func TestRegisteredByItsKey(t *testing.T) {
	for _, open := range []bool{true, false} {
		s := serve(t, func(c *Config, _ *timing) { c.OpenRegistration = open })
		token, err := s.NewInvitation(time.Hour, 1)
		if err != nil {
			t.Fatal(err)
		}
		alice, mallory := newDevice(s, "alice"), newDevice(s, "mallory")
		if status, _, failed := s.post(t, alice.registration(token)); status != http.StatusOK {
			t.Fatal(failed)
		}
		for name, sign := range map[string]func([]byte) []byte{
			"by another key": mallory.sign, "not at all": func([]byte) []byte { return nil },
		} {
			again := alice.registration(token)
			again.Signature = sign(wire.RegistrationToSign("127.0.0.1", again))
			if status, result, _ := s.post(t, again); status == http.StatusOK {
				t.Errorf("open %v, signed %s: %v", open, name, result)
			}
		}
	}
}

// TestRelayIDsLastADay: the relay's quotas follow an account for a day; over longer it cannot tell
// whom it serves.
func TestRelayIDsLastADay(t *testing.T) {
	secret, account := []byte("0123456789abcdef0123456789abcdef"), store.UUID{1}
	morning := time.Date(2026, 1, 1, 1, 0, 0, 0, time.UTC)
	id := relayID(secret, account, morning)
	if relayID(secret, account, morning.Add(20*time.Hour)) != id {
		t.Error("another one in the evening")
	}
	for name, other := range map[string]string{
		"the next day":     relayID(secret, account, morning.Add(24*time.Hour)),
		"another account":  relayID(secret, store.UUID{2}, morning),
		"of another relay": relayID([]byte("another secret of the same length"), account, morning),
	} {
		if other == id {
			t.Errorf("%s: the same", name)
		}
	}
}

// TestTheDeviceThatComesIsTheOneAdded: a list with one device more does not replace the record of
// another that is on it.
func TestTheDeviceThatComesIsTheOneAdded(t *testing.T) {
	s := serve(t, func(c *Config, _ *timing) { c.Limits.Devices = Rate{1000, time.Second} })
	alice := s.connected(t, "alice")
	second := alice.link(t, 2, 1)
	before, err := s.store.Device(second.storeAddress())
	if err != nil {
		t.Fatal(err)
	}
	third := newDevice(s, "alice")
	third.account, third.device = alice.account, 3
	shown := alice.openLinking(t)
	answer := s.requestLinking(t.Context(), second.linkRequest(t, shown))
	list := alice.signList(t, 2, alice, second, third)
	m := alice.accept(t, shown, alice.linkingRequest(t), 2, list)
	listed, err := wire.ParseDeviceList(m.DeviceList.List)
	if err != nil || len(listed.Devices) != 3 || m.Device.Id != 2 {
		t.Fatal(listed, m.Device, err)
	}
	if err := alice.add(proto.CloneOf(m)); code(err) != wire.Error_BAD_REQUEST {
		t.Errorf("adding device 2 once more with a list that adds device 3: %v", err)
	}
	if after, err := s.store.Device(second.storeAddress()); err != nil || after != before {
		t.Errorf("device 2 is %v, %v", after, err)
	}
	devices, err := s.store.Devices(alice.storeAddress().Account)
	if err != nil || len(devices) != 2 {
		t.Errorf("devices: %v, %v", devices, err)
	}
	if err := alice.decline(shown); err != nil {
		t.Fatal(err)
	}
	wait(t, answer)
}
