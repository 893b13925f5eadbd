package signaling

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"sotto/e2ee/linking"
	"sotto/wire"
)

// openLinking has device 1 show a code.
func (d *testDevice) openLinking(t testing.TB) linking.Code {
	t.Helper()
	code, err := linking.NewCode(d.server.http.URL, d.identity)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.openSlot(code); err != nil {
		t.Fatal(err)
	}
	return code
}

func (d *testDevice) openSlot(code linking.Code) error {
	slot := code.Slot()
	_, err := d.ask(&wire.ClientFrame{Body: &wire.ClientFrame_OpenLinking{OpenLinking: &wire.OpenLinking{Slot: slot[:]}}})
	return err
}

func (d *testDevice) decline(code linking.Code) error {
	slot := code.Slot()
	_, err := d.ask(&wire.ClientFrame{Body: &wire.ClientFrame_DeclineLinking{DeclineLinking: &wire.DeclineLinking{Slot: slot[:]}}})
	return err
}

// linkRequest is what a new device posts. Its pre-keys are signed, and so is all of it.
func (d *testDevice) linkRequest(t testing.TB, code linking.Code) *wire.LinkRequest {
	t.Helper()
	preKeys, err := proto.Marshal(d.preKeys(2))
	if err != nil {
		t.Fatal(err)
	}
	blob, err := code.SealRequest(&wire.NewDevice{IdentityKey: d.identity[:], RegistrationId: wire.RegistrationID(d.identity[:]), PreKeys: preKeys}, &d.private)
	if err != nil {
		t.Fatal(err)
	}
	slot := code.Slot()
	return &wire.LinkRequest{Slot: slot[:], Blob: blob}
}

// An answered is what a new device's request came to.
type answered struct {
	reply []byte
	err   error // codeError, or of the transport
}

// requestLinking posts, and returns at once.
func (s *testServer) requestLinking(ctx context.Context, r *wire.LinkRequest) chan answered {
	answer := make(chan answered, 1)
	url, client := s.http.URL, s.client()
	go func() {
		reply, err := postLinking(ctx, client, url, r)
		answer <- answered{reply, err}
	}()
	return answer
}

func postLinking(ctx context.Context, client *http.Client, url string, m proto.Message) ([]byte, error) {
	body, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/devices", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	response, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		e := &wire.Error{}
		return nil, errors.Join(proto.Unmarshal(answer, e), &codeError{e})
	}
	reply := &wire.LinkReply{}
	err = proto.Unmarshal(answer, reply)
	return reply.GetBlob(), err
}

// linkingRequest returns the next request that device 1 is handed.
func (d *testDevice) linkingRequest(t testing.TB) *wire.LinkRequest {
	t.Helper()
	for i, f := range d.events {
		if r := f.GetLinkingRequest(); r != nil {
			d.events = append(d.events[:i:i], d.events[i+1:]...)
			return r
		}
	}
	for {
		f, err := d.read()
		if err != nil {
			t.Fatal(err)
		}
		if r := f.GetLinkingRequest(); r != nil {
			return r
		}
		d.events = append(d.events, f)
	}
}

func wait(t testing.TB, c chan answered) answered {
	t.Helper()
	select {
	case a := <-c:
		return a
	case <-time.After(patience):
		t.Fatal("the request was not answered")
		panic("unreachable")
	}
}

// signList signs a list of these devices, with the highest id that it ever signed.
func (d *testDevice) signList(t testing.TB, epoch uint32, devices ...*testDevice) *wire.SignedDeviceList {
	t.Helper()
	l := &wire.DeviceList{Account: d.account, Epoch: epoch}
	for _, o := range devices {
		l.Devices = append(l.Devices, &wire.DeviceList_Device{Id: o.device, IdentityKey: o.identity[:]})
		d.lastID = max(d.lastID, o.device)
	}
	l.LastId = d.lastID
	signed, err := linking.SignList(d.server.http.URL, &d.private, l)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func (d *testDevice) add(m *wire.AddDevice) error {
	_, err := d.ask(&wire.ClientFrame{Body: &wire.ClientFrame_AddDevice{AddDevice: m}})
	return err
}

func (d *testDevice) remove(list *wire.SignedDeviceList) error {
	_, err := d.ask(&wire.ClientFrame{Body: &wire.ClientFrame_RemoveDevice{RemoveDevice: &wire.RemoveDevice{DeviceList: list}}})
	return err
}

// accept is what device 1 answers a request with, when its user has confirmed.
func (d *testDevice) accept(t testing.TB, code linking.Code, r *wire.LinkRequest, id uint32, list *wire.SignedDeviceList) *wire.AddDevice {
	t.Helper()
	device, err := code.OpenRequest(r.Blob)
	if err != nil {
		t.Fatal(err)
	}
	device.Id = id
	reply, err := code.SealReply(r.Blob, &wire.Linked{
		Account: d.account, Username: d.username, Device: id, IdentityKey: d.identity[:], DeviceList: list,
	}, &d.private)
	if err != nil {
		t.Fatal(err)
	}
	return &wire.AddDevice{Slot: r.Slot, DeviceList: list, Device: device, Reply: reply}
}

// link adds a device to d's account, which has the others already, and opens its link.
func (d *testDevice) link(t testing.TB, id, epoch uint32, others ...*testDevice) *testDevice {
	t.Helper()
	n := newDevice(d.server, d.username)
	n.account, n.device = d.account, id
	code := d.openLinking(t)
	answer := d.server.requestLinking(t.Context(), n.linkRequest(t, code))
	list := d.signList(t, epoch, append(append([]*testDevice{d}, others...), n)...)
	if err := d.add(d.accept(t, code, d.linkingRequest(t), id, list)); err != nil {
		t.Fatal(err)
	}
	if a := wait(t, answer); a.err != nil {
		t.Fatal(a.err)
	}
	n.connect(t)
	return n
}

// The main job: a new device asks, device 1 adds it, and it is a device like the other.
func TestLinking(t *testing.T) {
	s := serve(t)
	alice, bob := s.connected(t, "alice"), s.connected(t, "bob")
	second := newDevice(s, "alice")
	code := alice.openLinking(t)

	typed, err := linking.ParseCode(code.String())
	if err != nil {
		t.Fatal(err)
	}
	request := second.linkRequest(t, typed)
	answer := s.requestLinking(t.Context(), request)
	handed := alice.linkingRequest(t)
	if !proto.Equal(handed, request) {
		t.Fatal("device 1 is handed something else than was posted")
	}
	list := alice.signList(t, 1, alice, &testDevice{device: 2, identity: second.identity})
	add := alice.accept(t, code, handed, 2, list)
	select {
	case a := <-answer:
		t.Fatal("answered before device 1 said anything", a)
	default:
	}
	if err := alice.add(add); err != nil {
		t.Fatal(err)
	}
	a := wait(t, answer)
	if a.err != nil {
		t.Fatal(a.err)
	}
	linked, err := typed.OpenReply(request.Blob, a.reply, second.identity)
	if err != nil {
		t.Fatal(err)
	}
	second.account, second.device = linked.Account, linked.Device
	second.connect(t)
	if c := second.welcome.KeyCounts; c.OneTime != 2 || c.OneTimeKyber != 2 {
		t.Errorf("the server holds %v of its keys", c)
	}

	// Bob finds both, with the list, and reaches both.
	bundles, err := bob.fetch(alice.account, 0)
	if err != nil || len(bundles) != 2 || !bytes.Equal(bundles[1].IdentityKey, second.identity[:]) || bundles[1].RegistrationId != wire.RegistrationID(second.identity[:]) {
		t.Fatal(bundles, err)
	}
	for _, to := range []*testDevice{alice, second} {
		e := bob.envelope(to, 10)
		if _, err := bob.post(e); err != nil {
			t.Fatal(err)
		}
		got, err := to.receive()
		if err != nil || !bytes.Equal(got.Ciphertext, e.Ciphertext) {
			t.Fatal(got, err)
		}
		if err := to.acknowledge(got); err != nil {
			t.Fatal(err)
		}
	}
	e := second.envelope(bob, 10)
	if err := second.send(e); err != nil {
		t.Fatal(err)
	}
	if got, err := bob.receive(); err != nil || got.SenderDevice != 2 {
		t.Error(got, err)
	}
	// After a restart all of it is there.
	s.restart(t)
	second.connect(t)
	bob.connect(t)
	got, err := bob.fetchList(alice.account)
	if err != nil || !proto.Equal(got, list) {
		t.Error(got, err)
	}
}

// TestLinkingRefused: what a new device is told when the slot is not one, or not any more.
func TestLinkingRefused(t *testing.T) {
	s := serve(t)
	alice := s.connected(t, "alice")
	post := func(r *wire.LinkRequest) error {
		t.Helper()
		_, err := postLinking(t.Context(), s.client(), s.http.URL, r)
		return err
	}
	request := func(code linking.Code) *wire.LinkRequest { return newDevice(s, "").linkRequest(t, code) }
	refused := func(what string, err error, want wire.Error_Code) {
		t.Helper()
		if err == nil || code(err) != want {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	unknown, err := linking.NewCode(s.http.URL, alice.identity)
	if err != nil {
		t.Fatal(err)
	}
	refused("a slot that nobody opened", post(request(unknown)), wire.Error_FORBIDDEN)

	old := alice.openLinking(t)
	current := alice.openLinking(t)
	refused("a slot that gave way to another", post(request(old)), wire.Error_FORBIDDEN)

	waiting := s.requestLinking(t.Context(), request(current))
	alice.linkingRequest(t)
	refused("a slot that another has taken", post(request(current)), wire.Error_FORBIDDEN)
	if err := alice.decline(current); err != nil {
		t.Fatal(err)
	}
	refused("declined", wait(t, waiting).err, wire.Error_FORBIDDEN)
	refused("a slot that was closed", post(request(current)), wire.Error_FORBIDDEN)

	expiring := alice.openLinking(t)
	waiting = s.requestLinking(t.Context(), request(expiring))
	alice.linkingRequest(t)
	s.later(11 * time.Minute)
	refused("an expired slot", post(request(expiring)), wire.Error_FORBIDDEN)
	refused("a slot that expired under the request", wait(t, waiting).err, wire.Error_FORBIDDEN)

	fresh := alice.openLinking(t)
	large := request(fresh)
	large.Blob = append(large.Blob, make([]byte, wire.MaxLinkRequest-len(large.Blob)+1)...)
	refused("one byte too many", post(large), wire.Error_TOO_LARGE)
	large.Blob = append(large.Blob, make([]byte, 10_000)...)
	refused("a body that is too large", post(large), wire.Error_TOO_LARGE)
	refused("no slot", post(&wire.LinkRequest{Blob: []byte("blob")}), wire.Error_BAD_REQUEST)
	refused("no blob", post(&wire.LinkRequest{Slot: large.Slot}), wire.Error_BAD_REQUEST)

	bob := s.connected(t, "bob")
	refused("another account's slot", bob.openSlot(fresh), wire.Error_FORBIDDEN)
	if err := bob.decline(fresh); err != nil { // which closes nothing
		t.Fatal(err)
	}
	answer := s.requestLinking(t.Context(), request(fresh))
	alice.linkingRequest(t)
	if err := alice.decline(fresh); err != nil {
		t.Fatal(err)
	}
	wait(t, answer)
}

// TestLinkingIsRepeated: whatever of it is lost, the same bytes again lead to the same end, also after a restart.
func TestLinkingIsRepeated(t *testing.T) {
	s := serve(t)
	alice := s.connected(t, "alice")
	second := newDevice(s, "alice")
	second.account, second.device = alice.account, 2
	code := alice.openLinking(t)
	request := second.linkRequest(t, code)

	// The new device loses its connection; device 1 loses its link before it is asked.
	alice.conn.Close()
	gone, cancel := context.WithCancel(t.Context())
	lost := s.requestLinking(gone, request)
	alice.connect(t)
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) { // until the server has the request
		s.meetings.mu.Lock()
		taken := s.meetings.bySlot[code.Slot()].taken
		s.meetings.mu.Unlock()
		if taken {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the request did not take the slot")
		}
	}
	cancel()
	wait(t, lost)
	if err := alice.openSlot(code); err != nil {
		t.Fatal(err)
	}
	handed := alice.linkingRequest(t)
	if !proto.Equal(handed, request) {
		t.Fatal("another request")
	}
	answer := s.requestLinking(t.Context(), request)
	add := alice.accept(t, code, handed, 2, alice.signList(t, 1, alice, second))
	for range 3 {
		if err := alice.add(add); err != nil {
			t.Fatal(err)
		}
	}
	reply := wait(t, answer).reply
	if again := wait(t, s.requestLinking(t.Context(), request)); again.err != nil || !bytes.Equal(again.reply, reply) {
		t.Error("the same request got another answer:", again.err)
	}
	if err := alice.openSlot(code); err != nil {
		t.Error(err)
	}

	// The server dies after it has stored the device and before it has told anyone.
	s.restart(t)
	alice.connect(t)
	if err := alice.openSlot(code); err != nil {
		t.Fatal(err)
	}
	answer = s.requestLinking(t.Context(), request)
	if !proto.Equal(alice.linkingRequest(t), request) {
		t.Fatal("another request")
	}
	if err := alice.add(add); err != nil {
		t.Fatal(err)
	}
	a := wait(t, answer)
	if a.err != nil {
		t.Fatal(a.err)
	}
	if _, err := code.OpenReply(request.Blob, a.reply, second.identity); err != nil {
		t.Error(err)
	}
	second.connect(t)
	if c := second.welcome.KeyCounts; c.OneTime != 2 {
		t.Errorf("its keys were stored again: %v", c)
	}
}

// TestLinkingOutlivesHTTPTimeouts: a person takes longer than an HTTP server grants.
func TestLinkingOutlivesHTTPTimeouts(t *testing.T) {
	s := serve(t, func(_ *Config, t *timing) { t.confirm = 1500 * time.Millisecond })
	alice := s.connected(t, "alice")
	const timeout = 500 * time.Millisecond
	strict := httptest.NewUnstartedServer(s.Handler())
	strict.Config.ReadTimeout, strict.Config.WriteTimeout = timeout, timeout
	strict.Start()
	defer strict.Close()
	code := alice.openLinking(t)
	request := newDevice(s, "").linkRequest(t, code)
	start := time.Now()
	_, err := postLinking(t.Context(), s.client(), strict.URL, request)
	var told *codeError
	if !errors.As(err, &told) || told.frame.Code != wire.Error_UNAVAILABLE || told.frame.RetryAfter != 1 {
		t.Errorf("nobody confirmed: %v", err)
	}
	if took := time.Since(start); took < 1500*time.Millisecond {
		t.Errorf("it waited for %v", took)
	}
}

func TestLinkingEndsOnShutdown(t *testing.T) {
	s := serve(t)
	alice := s.connected(t, "alice")
	answer := s.requestLinking(t.Context(), newDevice(s, "").linkRequest(t, alice.openLinking(t)))
	alice.linkingRequest(t)
	start := time.Now()
	s.close(t)
	if a := wait(t, answer); code(a.err) != wire.Error_UNAVAILABLE {
		t.Errorf("a request that waits: %v", a.err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("the server waited %v for it", took)
	}
}

func TestLinkingLimits(t *testing.T) {
	s := serve(t, func(c *Config, _ *timing) {
		c.Limits.LinkRequests = Rate{3, time.Hour}
		c.Limits.Devices = Rate{2, time.Hour}
		c.Limits.Linkings = 1
	})
	alice, bob := s.connected(t, "alice"), s.connected(t, "bob")
	first := alice.openLinking(t)
	if err := bob.openSlot(first); code(err) != wire.Error_FORBIDDEN {
		t.Errorf("another account's: %v", err)
	}
	other, err := linking.NewCode(s.http.URL, alice.identity)
	if err != nil {
		t.Fatal(err)
	}
	if err := bob.openSlot(other); code(err) != wire.Error_UNAVAILABLE {
		t.Errorf("a second slot on the server: %v", err)
	}
	if err := bob.openSlot(other); code(err) != wire.Error_RATE_LIMITED {
		t.Errorf("a third attempt: %v", err)
	}
	if err := alice.openSlot(other); err != nil {
		t.Errorf("in place of the account's own: %v", err)
	}
	for i := range 4 {
		_, err := postLinking(t.Context(), s.client(), s.http.URL, newDevice(s, "").linkRequest(t, first))
		want := wire.Error_FORBIDDEN
		if i == 3 {
			want = wire.Error_RATE_LIMITED
		}
		if code(err) != want {
			t.Errorf("request %d: %v", i, err)
		}
	}
}
