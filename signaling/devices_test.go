package signaling

import (
	"bytes"
	"encoding/base64"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"sotto/e2ee/linking"
	"sotto/signaling/store"
	"sotto/wire"
)

func (d *testDevice) fetchList(account []byte) (*wire.SignedDeviceList, error) {
	f, err := d.ask(&wire.ClientFrame{Body: &wire.ClientFrame_FetchDeviceList{FetchDeviceList: &wire.FetchDeviceList{Account: account}}})
	return f.GetDeviceList(), err
}

func (d *testDevice) fetchListSealed(account, token []byte) (*wire.SignedDeviceList, error) {
	f, err := d.ask(&wire.ClientFrame{Body: &wire.ClientFrame_FetchDeviceList{
		FetchDeviceList: &wire.FetchDeviceList{Account: account, DeliveryToken: token},
	}})
	return f.GetDeviceList(), err
}

// TestChangesRefused: each is refused, and after all of them the account is what it was, and the same request takes the device in.
func TestChangesRefused(t *testing.T) {
	s := serve(t, func(c *Config, _ *timing) { c.Limits.Devices = Rate{1000, time.Second} })
	alice, mallory := s.connected(t, "alice"), s.connected(t, "mallory")
	second := alice.link(t, 2, 1)
	held, err := alice.fetchList(alice.account)
	if err != nil {
		t.Fatal(err)
	}
	third := newDevice(s, "alice")
	third.account, third.device = alice.account, 3
	stranger := &testDevice{device: 4, identity: newDevice(s, "").identity}
	shown := alice.openLinking(t)
	answer := s.requestLinking(t.Context(), third.linkRequest(t, shown))
	request := alice.linkingRequest(t)
	good := alice.accept(t, shown, request, 3, alice.signList(t, 2, alice, second, third))

	sign := func(by *testDevice, server string, l *wire.DeviceList) *wire.SignedDeviceList {
		t.Helper()
		signed, err := linking.SignList(server, &by.private, l)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	listed, err := wire.ParseDeviceList(good.DeviceList.List)
	if err != nil {
		t.Fatal(err)
	}
	change := func(by *testDevice, f func(*wire.DeviceList)) *wire.SignedDeviceList {
		l := proto.CloneOf(listed)
		f(l)
		return sign(by, s.http.URL, l)
	}
	keys := func(d *testDevice, f func(*wire.PreKeys)) []byte {
		k := d.preKeys(1)
		f(k)
		return known(k)
	}
	resign := func(m *wire.AddDevice, slot []byte) {
		m.Device.Signature = third.sign(wire.NewDeviceToSign("127.0.0.1", slot, m.Device))
	}

	for _, c := range []struct {
		name   string
		by     *testDevice
		change func(*wire.AddDevice)
		want   wire.Error_Code
	}{
		{"by device 2", second, func(*wire.AddDevice) {}, wire.Error_FORBIDDEN},
		{"by another account", mallory, func(*wire.AddDevice) {}, wire.Error_UNAUTHENTICATED},
		{"no list", alice, func(m *wire.AddDevice) { m.DeviceList = nil }, wire.Error_UNAUTHENTICATED},
		{"no signature", alice, func(m *wire.AddDevice) { m.DeviceList.Signature = nil }, wire.Error_UNAUTHENTICATED},
		{"signed by device 2", alice, func(m *wire.AddDevice) { m.DeviceList = change(second, func(*wire.DeviceList) {}) }, wire.Error_UNAUTHENTICATED},
		{"signed for another server", alice, func(m *wire.AddDevice) { m.DeviceList = sign(alice, "other.example", listed) }, wire.Error_UNAUTHENTICATED},
		{"a changed list", alice, func(m *wire.AddDevice) { m.DeviceList.List[len(m.DeviceList.List)-1] ^= 1 }, wire.Error_UNAUTHENTICATED},
		{"another account's", alice, func(m *wire.AddDevice) {
			m.DeviceList = change(alice, func(l *wire.DeviceList) { l.Account = mallory.account })
		}, wire.Error_BAD_REQUEST},
		{"another device 1", alice, func(m *wire.AddDevice) {
			m.DeviceList = change(alice, func(l *wire.DeviceList) { l.Devices[0].IdentityKey = stranger.identity[:] })
		}, wire.Error_BAD_REQUEST},
		{"the epoch held", alice, func(m *wire.AddDevice) {
			m.DeviceList = change(alice, func(l *wire.DeviceList) { l.Epoch = 1 })
		}, wire.Error_CONFLICT},
		{"device 2 dropped", alice, func(m *wire.AddDevice) { m.DeviceList = alice.signList(t, 2, alice, third) }, wire.Error_BAD_REQUEST},
		{"device 2 replaced", alice, func(m *wire.AddDevice) {
			m.DeviceList = change(alice, func(l *wire.DeviceList) { l.Devices[1].IdentityKey = stranger.identity[:] })
		}, wire.Error_BAD_REQUEST},
		{"two added", alice, func(m *wire.AddDevice) { m.DeviceList = alice.signList(t, 2, alice, second, third, stranger) }, wire.Error_BAD_REQUEST},
		{"nothing added", alice, func(m *wire.AddDevice) { m.DeviceList = alice.signList(t, 2, alice, second) }, wire.Error_BAD_REQUEST},
		{"another's key", alice, func(m *wire.AddDevice) {
			m.DeviceList = change(alice, func(l *wire.DeviceList) { l.Devices[2].IdentityKey = stranger.identity[:] })
		}, wire.Error_BAD_REQUEST},
		{"a list that is held, for a device that is not on it", alice, func(m *wire.AddDevice) { m.DeviceList = held }, wire.Error_BAD_REQUEST},
		{"device 2 once more", alice, func(m *wire.AddDevice) { m.Device.Id = 2 }, wire.Error_BAD_REQUEST},
		{"device 1", alice, func(m *wire.AddDevice) { m.Device.Id = 1 }, wire.Error_BAD_REQUEST},
		{"device 128", alice, func(m *wire.AddDevice) { m.Device.Id = 128 }, wire.Error_BAD_REQUEST},
		{"no device", alice, func(m *wire.AddDevice) { m.Device = nil }, wire.Error_BAD_REQUEST},
		{"no registration id", alice, func(m *wire.AddDevice) { m.Device.RegistrationId = 0 }, wire.Error_BAD_REQUEST},
		{"another registration id", alice, func(m *wire.AddDevice) { m.Device.RegistrationId++ }, wire.Error_BAD_REQUEST},
		{"other pre-keys", alice, func(m *wire.AddDevice) { m.Device.PreKeys = keys(third, func(*wire.PreKeys) {}) }, wire.Error_UNAUTHENTICATED},
		{"pre-keys of somebody else", alice, func(m *wire.AddDevice) {
			m.Device.PreKeys = keys(mallory, func(*wire.PreKeys) {})
			resign(m, m.Slot)
		}, wire.Error_BAD_REQUEST},
		{"no last resort", alice, func(m *wire.AddDevice) {
			m.Device.PreKeys = keys(third, func(k *wire.PreKeys) { k.LastResortKyber = nil })
			resign(m, m.Slot)
		}, wire.Error_BAD_REQUEST},
		{"no pre-keys at all", alice, func(m *wire.AddDevice) { m.Device.PreKeys = []byte{0xff}; resign(m, m.Slot) }, wire.Error_BAD_REQUEST},
		{"signed for another slot", alice, func(m *wire.AddDevice) { resign(m, make([]byte, 16)) }, wire.Error_UNAUTHENTICATED},
		{"a slot in which nobody waits", alice, func(m *wire.AddDevice) { m.Slot = make([]byte, 16) }, wire.Error_FORBIDDEN},
		{"no slot", alice, func(m *wire.AddDevice) { m.Slot = nil }, wire.Error_BAD_REQUEST},
		{"no reply", alice, func(m *wire.AddDevice) { m.Reply = nil }, wire.Error_BAD_REQUEST},
		{"a reply that is too large", alice, func(m *wire.AddDevice) { m.Reply = make([]byte, wire.MaxLinkReply+1) }, wire.Error_TOO_LARGE},
	} {
		m := proto.CloneOf(good)
		c.change(m)
		if err := c.by.add(m); err == nil || code(err) != c.want {
			t.Errorf("adding, %s: %v, want %v", c.name, err, c.want)
		}
	}
	for _, c := range []struct {
		name string
		by   *testDevice
		list *wire.SignedDeviceList
		want wire.Error_Code
	}{
		{"by device 2", second, alice.signList(t, 2, alice), wire.Error_FORBIDDEN},
		{"no list", alice, nil, wire.Error_UNAUTHENTICATED},
		{"signed by device 2", alice, change(second, func(l *wire.DeviceList) { l.Devices = l.Devices[:1] }), wire.Error_UNAUTHENTICATED},
		{"the epoch held", alice, alice.signList(t, 1, alice), wire.Error_CONFLICT},
		{"one added", alice, alice.signList(t, 2, alice, second, third), wire.Error_BAD_REQUEST},
		{"one exchanged", alice, alice.signList(t, 2, alice, third), wire.Error_BAD_REQUEST},
	} {
		if err := c.by.remove(c.list); err == nil || code(err) != c.want {
			t.Errorf("removing, %s: %v, want %v", c.name, err, c.want)
		}
	}
	if err := second.openSlot(shown); code(err) != wire.Error_FORBIDDEN {
		t.Errorf("device 2 opens a slot: %v", err)
	}
	if err := second.decline(shown); code(err) != wire.Error_FORBIDDEN {
		t.Errorf("device 2 declines: %v", err)
	}

	if now, err := alice.fetchList(alice.account); err != nil || !proto.Equal(now, held) {
		t.Error("the list has changed:", now, err)
	}
	if devices, err := s.store.Devices(alice.storeAddress().Account); err != nil || len(devices) != 2 {
		t.Error("the devices have changed:", devices, err)
	}
	if err := alice.add(good); err != nil {
		t.Fatal(err)
	}
	if a := wait(t, answer); a.err != nil {
		t.Error(a.err)
	}
}

func TestFourDevices(t *testing.T) {
	s := serve(t)
	alice := s.connected(t, "alice")
	second := alice.link(t, 2, 1)
	third := alice.link(t, 3, 2, second)
	fourth := alice.link(t, 100, 3, second, third)
	shown := alice.openLinking(t)
	fifth := newDevice(s, "alice")
	answer := s.requestLinking(t.Context(), fifth.linkRequest(t, shown))
	request := alice.linkingRequest(t)
	// A list of five has not the form of one; and one of four does not follow one of four.
	fifth.device = 101
	list := &wire.DeviceList{Account: alice.account, Epoch: 4, LastId: 101}
	for _, d := range []*testDevice{alice, second, third, fourth, fifth} {
		list.Devices = append(list.Devices, &wire.DeviceList_Device{Id: d.device, IdentityKey: d.identity[:]})
	}
	raw := known(list)
	five := &wire.SignedDeviceList{List: raw, Signature: alice.sign(wire.DeviceListToSign("127.0.0.1", raw))}
	if err := alice.add(alice.accept(t, shown, request, 101, five)); code(err) != wire.Error_BAD_REQUEST {
		t.Errorf("a list of five: %v", err)
	}
	exchanged := alice.signList(t, 4, alice, second, third, fifth)
	if err := alice.add(alice.accept(t, shown, request, 101, exchanged)); code(err) != wire.Error_FORBIDDEN {
		t.Errorf("a fifth device: %v", err)
	}
	// In the place of one that is removed it is taken, but not under its id.
	if err := alice.remove(alice.signList(t, 4, alice, third, fourth)); err != nil {
		t.Fatal(err)
	}
	fifth.device = 2
	if err := alice.add(alice.accept(t, shown, request, 2, alice.signList(t, 5, alice, fifth, third, fourth))); code(err) != wire.Error_BAD_REQUEST {
		t.Errorf("its id: %v", err)
	}
	fifth.device = 99
	if err := alice.add(alice.accept(t, shown, request, 99, alice.signList(t, 5, alice, third, fifth, fourth))); code(err) != wire.Error_BAD_REQUEST {
		t.Errorf("an id below the last: %v", err)
	}
	fifth.device = 102
	if err := alice.add(alice.accept(t, shown, request, 102, alice.signList(t, 5, alice, third, fourth, fifth))); err != nil {
		t.Fatal(err)
	}
	if a := wait(t, answer); a.err != nil {
		t.Error(a.err)
	}
	if err := second.dial(second.identityProof); code(err) != wire.Error_UNAUTHENTICATED {
		t.Errorf("the removed device: %v", err)
	}
}

// TestListRenewed: device 1 voids a list that it has signed, and of which it was not told whether the server took it, by one of the same
// devices with a higher epoch. What it voids is not taken afterwards.
func TestListRenewed(t *testing.T) {
	s := serve(t)
	alice := s.connected(t, "alice")
	second, third := alice.link(t, 2, 1), newDevice(s, "alice")
	third.device = 3
	shown := alice.openLinking(t)
	answer := s.requestLinking(t.Context(), third.linkRequest(t, shown))
	voided := alice.accept(t, shown, alice.linkingRequest(t), 3, alice.signList(t, 2, alice, second, third))
	renewed := alice.signList(t, 3, alice, second)
	for range 2 {
		if err := alice.remove(renewed); err != nil {
			t.Fatal(err)
		}
	}
	if err := alice.add(voided); code(err) != wire.Error_CONFLICT {
		t.Errorf("the voided list: %v", err)
	}
	if list, err := alice.fetchList(alice.account); err != nil || !proto.Equal(list, renewed) {
		t.Error(list, err)
	}
	if _, err := second.fetchList(alice.account); err != nil {
		t.Errorf("a device that has stayed: %v", err)
	}
	if err := alice.decline(shown); err != nil {
		t.Fatal(err)
	}
	wait(t, answer)
}

// TestDeviceLists are shown on both kinds of link, and with bundles.
func TestDeviceLists(t *testing.T) {
	s := serve(t, func(c *Config, _ *timing) {
		c.Limits.BundleFetches, c.Limits.SealedFetches = Rate{6, time.Hour}, Rate{6, time.Hour}
	})
	alice, bob := s.connected(t, "alice"), s.connected(t, "bob")
	token := alice.setToken(t)
	nobody := s.anonymously(t)
	shows := func(want *wire.SignedDeviceList) {
		t.Helper()
		named, err := bob.fetchList(alice.account)
		if err != nil || !proto.Equal(named, want) {
			t.Errorf("over a link: %v, %v", named, err)
		}
		sealed, err := nobody.fetchListSealed(alice.account, token)
		if err != nil || !proto.Equal(sealed, want) {
			t.Errorf("over an anonymous link: %v, %v", sealed, err)
		}
		f, err := bob.ask(&wire.ClientFrame{Body: &wire.ClientFrame_FetchBundles{FetchBundles: &wire.FetchBundles{Account: alice.account}}})
		if with := f.GetBundles().GetDeviceList(); err != nil || len(want.List) == 0 && with != nil || len(want.List) > 0 && !proto.Equal(with, want) {
			t.Errorf("with bundles: %v, %v", with, err)
		}
	}
	shows(&wire.SignedDeviceList{})
	second := alice.link(t, 2, 1)
	list := alice.signList(t, 1, alice, second)
	held, err := s.deviceList(alice.storeAddress().Account)
	if err != nil || !bytes.Equal(held.List, list.List) {
		t.Fatal(held, err)
	}
	shows(held)
	if l, err := linking.OpenList(s.http.URL, alice.account, alice.identity[:], held); err != nil || l.Epoch != 1 {
		t.Error(l, err)
	}

	for _, c := range []struct {
		name           string
		link           *testDevice
		account, token []byte
		want           wire.Error_Code
	}{
		{"no such account", bob, make([]byte, 16), nil, wire.Error_NOT_FOUND},
		{"no account", bob, nil, nil, wire.Error_BAD_REQUEST},
		{"a token over a link", bob, alice.account, token, wire.Error_BAD_REQUEST},
		{"too often", bob, alice.account, nil, wire.Error_UNKNOWN}, // the sixth
		{"too often", bob, alice.account, nil, wire.Error_RATE_LIMITED},
		{"no token", nobody, alice.account, nil, wire.Error_BAD_REQUEST},
		{"no account", nobody, nil, token, wire.Error_BAD_REQUEST},
		{"a wrong token", nobody, alice.account, make([]byte, 16), wire.Error_FORBIDDEN},
		{"no such account", nobody, make([]byte, 16), token, wire.Error_FORBIDDEN},
		{"too often", nobody, alice.account, token, wire.Error_UNKNOWN},
		{"too often", nobody, alice.account, token, wire.Error_UNKNOWN}, // the sixth
		{"too often", nobody, alice.account, token, wire.Error_RATE_LIMITED},
	} {
		if _, err := c.link.fetchListSealed(c.account, c.token); code(err) != c.want {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

// TestRemoval: the device's link ends, it cannot come back, nothing can be sent to it, and nothing of it is left in the files.
func TestRemoval(t *testing.T) {
	s := serve(t)
	alice, bob := s.connected(t, "alice"), s.connected(t, "bob")
	token := alice.setToken(t)
	second := alice.link(t, 2, 1)
	bundles, err := bob.fetch(alice.account, 2) // uses up one of its keys of each kind; the other is to be erased
	if err != nil || len(bundles) != 1 {
		t.Fatal(bundles, err)
	}
	unacknowledged := bob.envelope(second, 500)
	if err := bob.send(unacknowledged); err != nil { // stored after 250 ms
		t.Fatal(err)
	}
	if _, err := second.receive(); err != nil {
		t.Fatal(err)
	}
	keys := second.preKeys(1)
	if _, err := second.upload(keys); err != nil {
		t.Fatal(err)
	}
	parts := map[string][]byte{
		"its envelope":     unacknowledged.Ciphertext,
		"its identity key": base64.StdEncoding.AppendEncode(nil, second.identity[:]), // as records hold it
		"its curve key":    keys.OneTime[0].PublicKey[1:],
		"its Kyber key":    keys.OneTimeKyber[0].PublicKey[1:200],
	}
	for what, b := range parts {
		if timesOnDisk(t, s.cfg.DataDir, b) == 0 {
			t.Fatalf("no file holds %s before it is erased: the search is blind", what)
		}
	}

	removal := alice.signList(t, 2, alice)
	for range 2 {
		if err := alice.remove(removal); err != nil {
			t.Fatal(err)
		}
	}
	f, err := second.read()
	if e := f.GetError(); err != nil || e.GetCode() != wire.Error_UNAUTHENTICATED || e.GetMessage() != errRemoved.message {
		t.Errorf("the removed device hears %v, %v", f, err)
	}
	if _, err := second.read(); !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
		t.Errorf("and then %v", err)
	}
	if err := second.dial(second.identityProof); code(err) != wire.Error_UNAUTHENTICATED {
		t.Errorf("it comes back: %v", err)
	}
	if err := bob.send(bob.envelope(second, 10)); code(err) != wire.Error_NOT_FOUND {
		t.Errorf("an envelope to it: %v", err)
	}
	if err := s.anonymously(t).sendSealed(sealed(second, 10), token); code(err) != wire.Error_NOT_FOUND {
		t.Errorf("a sealed envelope to it: %v", err)
	}
	if _, err := bob.fetch(alice.account, 2); code(err) != wire.Error_NOT_FOUND {
		t.Errorf("its bundle: %v", err)
	}
	if bundles, err := bob.fetch(alice.account, 0); err != nil || len(bundles) != 1 {
		t.Errorf("all bundles: %v, %v", bundles, err)
	}
	if list, err := bob.fetchList(alice.account); err != nil || !proto.Equal(list, removal) {
		t.Error(list, err)
	}

	s.scrub()
	for what, b := range parts {
		if n := timesOnDisk(t, s.cfg.DataDir, b); n != 0 {
			t.Errorf("%s is still in the files, %d times", what, n)
		}
	}
}

// TestRemovalUnderTraffic: who sends to a device while it is removed is told of each envelope that it was delivered, or that there is no
// such device; and none stays behind.
func TestRemovalUnderTraffic(t *testing.T) {
	s := serve(t, func(c *Config, t *timing) {
		c.Limits.Sends = Rate{1 << 20, time.Millisecond}
		t.straight = 20 * time.Millisecond
	})
	alice, bob := s.connected(t, "alice"), s.connected(t, "bob")
	second := alice.link(t, 2, 1)
	refused := make(chan error, 1)
	go func() {
		for {
			if err := bob.send(bob.envelope(second, 100)); err != nil {
				refused <- err
				return
			}
		}
	}()
	for range 5 {
		if _, err := second.receive(); err != nil {
			t.Fatal(err)
		}
	}
	if err := alice.remove(alice.signList(t, 2, alice)); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-refused:
		if code(err) != wire.Error_NOT_FOUND {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("the sender goes on")
	}
	if list, _, err := s.store.Mailbox(second.storeAddress(), 0, 100, time.Now()); err != nil || len(list) != 0 {
		t.Errorf("%d envelopes wait for a device that is not there, %v", len(list), err)
	}
	var closed *websocket.CloseError
	for {
		if _, err := second.read(); errors.As(err, &closed) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// removing is a store in which a device is removed after its signature was checked, and before its link is known.
type removing struct {
	store.Store
	device store.Address
	asked  atomic.Int32
}

func (r *removing) Device(a store.Address) (store.Device, error) {
	if a == r.device && r.asked.Add(1) > 1 {
		return store.Device{}, store.ErrNotFound
	}
	return r.Store.Device(a)
}

// TestRemovalWhileAuthenticating: the link of a device that is removed at that moment ends all the same.
func TestRemovalWhileAuthenticating(t *testing.T) {
	s := serve(t)
	alice := s.connected(t, "alice")
	second := alice.link(t, 2, 1)
	s.wrap = func(all store.Store) store.Store { return &removing{Store: all, device: second.storeAddress()} }
	s.restart(t)
	if err := second.dial(second.identityProof); err == nil { // Welcome may have been on its way
		_, err := second.read()
		for err == nil {
			_, err = second.read()
		}
		if !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
			t.Errorf("the link ended with %v", err)
		}
	} else if code(err) != wire.Error_UNAUTHENTICATED {
		t.Error(err)
	}
}
