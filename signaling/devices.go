package signaling

import (
	"bytes"
	"slices"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"sotto/signaling/store"
	"sotto/wire"
)

// How an account's devices change. The server cannot add one: peers take a list that device 1 has signed, and nothing else. What it checks
// keeps the list and what it serves the same.
//
//  1. the form, that it is device 1's link, the limit of the account
//  2. the list's signature by device 1's identity key, over this server's name
//  3. a list that is held already: the answer to an earlier request was lost, and is given again
//  4. the epoch is higher, no id is given again, and the devices are those held but for the one that comes or goes, if one does
//  5. of a device that comes: that its request waits, its id, its signature, its pre-keys and theirs
//  6. the store changes list and device together, if the list held is still the same

// mayChangeDevices is step 1.
func (l *link) mayChangeDevices() error {
	if l.device.Address.Device != 1 {
		return errPrimary
	}
	if wait := l.server.devices.take(l.device.Address.Account, l.server.now()); wait > 0 {
		return rateLimited(wait)
	}
	return nil
}

// A change is a list that device 1 has signed, beside the one held.
type change struct {
	held, next         store.DeviceList
	heldList, nextList *wire.DeviceList
}

// repeated says that the change was made before.
func (c *change) repeated() bool { return bytes.Equal(c.held.List, c.next.List) }

// readChange is step 2, and the epoch of step 4.
func (l *link) readChange(signed *wire.SignedDeviceList) (*change, error) {
	s := l.server
	own := l.device.Address.Account
	if !verify(l.device.IdentityKey, wire.DeviceListToSign(l.name, signed.GetList()), signed.GetSignature()) {
		return nil, errListSignature
	}
	c := &change{next: store.DeviceList{List: signed.List, Signature: signed.Signature}}
	var err error
	if c.nextList, err = wire.ParseDeviceList(signed.List); err != nil || !bytes.Equal(c.nextList.Account, own[:]) ||
		!bytes.Equal(c.nextList.IdentityOf(1), l.device.IdentityKey[:]) {
		return nil, badRequest("The device list is malformed, or another account's.")
	}
	if c.held, err = s.store.DeviceList(own); err != nil {
		return nil, err
	}
	if c.heldList, err = l.parseHeld(c.held); err != nil {
		return nil, err
	}
	switch {
	case c.repeated():
	case c.nextList.Epoch <= c.heldList.Epoch:
		return nil, errListChanged
	case !c.nextList.MayFollow(c.heldList):
		return nil, errNotThisDevice
	}
	return c, nil
}

// parseHeld reads a list from the store. Without one device 1 is alone, at epoch 0.
func (l *link) parseHeld(held store.DeviceList) (*wire.DeviceList, error) {
	if held.List == nil {
		return &wire.DeviceList{Devices: []*wire.DeviceList_Device{{Id: 1, IdentityKey: l.device.IdentityKey[:]}}}, nil
	}
	return wire.ParseDeviceList(held.List)
}

// oneMore returns the one device that b has and a has not, if there is nothing else between them.
func oneMore(a, b *wire.DeviceList) *wire.DeviceList_Device {
	if len(b.Devices) != len(a.Devices)+1 {
		return nil
	}
	for _, d := range a.Devices {
		if !bytes.Equal(b.IdentityOf(d.Id), d.IdentityKey) {
			return nil
		}
	}
	for _, d := range b.Devices {
		if a.IdentityOf(d.Id) == nil {
			return d
		}
	}
	return nil
}

func sameDevices(a, b *wire.DeviceList) bool {
	return slices.EqualFunc(a.Devices, b.Devices, func(a, b *wire.DeviceList_Device) bool {
		return a.Id == b.Id && bytes.Equal(a.IdentityKey, b.IdentityKey)
	})
}

func (l *link) addDevice(m *wire.AddDevice) (*wire.ServerFrame, error) {
	s := l.server
	account := l.device.Address.Account
	device, err := parseAddDevice(m)
	if err != nil {
		return nil, err
	}
	device.Address.Account = account
	if err := l.mayChangeDevices(); err != nil {
		return nil, err
	}
	c, err := l.readChange(m.DeviceList)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(c.nextList.IdentityOf(m.Device.Id), m.Device.IdentityKey) {
		return nil, errNotThisDevice
	}
	if c.repeated() {
		s.meetings.answer(account, slot(m.Slot), m.Reply, s.now())
		return done(nil)
	}
	switch d := oneMore(c.heldList, c.nextList); {
	case len(c.heldList.Devices) >= wire.MaxDevices:
		return nil, errDevices
	case d == nil || d.Id != m.Device.Id:
		return nil, errNotThisDevice
	case !s.meetings.isTaken(account, slot(m.Slot), s.now()):
		return nil, errSlot
	}
	if !verify(device.IdentityKey, wire.NewDeviceToSign(l.name, m.Slot, m.Device), m.Device.Signature) {
		return nil, errSignature
	}
	preKeys := &wire.PreKeys{}
	if proto.Unmarshal(m.Device.PreKeys, preKeys) != nil {
		return nil, errMalformed
	}
	keys, err := parsePreKeys(preKeys, device.IdentityKey, true)
	if err != nil {
		return nil, err
	}
	if err := s.store.AddDevice(device, keys, c.held, c.next); err != nil {
		return nil, err
	}
	s.meetings.answer(account, slot(m.Slot), m.Reply, s.now())
	return done(nil)
}

var errNotThisDevice = badRequest("The device list differs from the one held by more than this device.")

// parseAddDevice checks the form of all but the list, and returns the device without its account.
func parseAddDevice(m *wire.AddDevice) (d store.Device, err error) {
	n := m.GetDevice()
	switch {
	case len(m.GetSlot()) != wire.SlotSize, n.GetId() < 2, n.GetId() > wire.MaxDeviceID, !validCurveKey(n.GetIdentityKey()),
		n.GetRegistrationId() != wire.RegistrationID(n.GetIdentityKey()), len(m.GetReply()) == 0:
		return d, errMalformed
	case len(m.Reply) > wire.MaxLinkReply:
		return d, errTooLarge
	}
	d.Address.Device, d.RegistrationID, d.IdentityKey = uint8(n.Id), n.RegistrationId, [33]byte(n.IdentityKey)
	return d, nil
}

func (l *link) removeDevice(m *wire.RemoveDevice) (*wire.ServerFrame, error) {
	s := l.server
	if err := l.mayChangeDevices(); err != nil {
		return nil, err
	}
	c, err := l.readChange(m.GetDeviceList())
	if err != nil {
		return nil, err
	}
	if c.repeated() {
		return done(nil)
	}
	gone := oneMore(c.nextList, c.heldList)
	switch {
	case gone == nil && sameDevices(c.nextList, c.heldList):
		return done(s.store.RenewList(l.device.Address.Account, c.held, c.next))
	case gone == nil:
		return nil, errNotThisDevice
	}
	address := store.Address{Account: l.device.Address.Account, Device: uint8(gone.Id)}
	if err := s.store.RemoveDevice(address, c.held, c.next); err != nil {
		return nil, err
	}
	s.erased.Store(true)
	if removed := s.hub.get(address); removed != nil {
		removed.end(errRemoved, websocket.ClosePolicyViolation)
	}
	return done(nil)
}

// fetchDeviceList shows the list to any device, as it shows bundles.
func (l *link) fetchDeviceList(f *wire.FetchDeviceList) (*wire.ServerFrame, error) {
	s := l.server
	if len(f.GetAccount()) != 16 || len(f.GetDeliveryToken()) > 0 { // a token is for who is not known
		return nil, errMalformed
	}
	if wait := s.bundleFetches.take(l.device.Address.Account, s.now()); wait > 0 {
		return nil, rateLimited(wait)
	}
	target := store.UUID(f.Account)
	if _, err := s.store.Device(store.Address{Account: target, Device: 1}); err != nil {
		return nil, err
	}
	return s.deviceListFrame(target)
}

func (s *Server) deviceListFrame(account store.UUID) (*wire.ServerFrame, error) {
	list, err := s.deviceList(account)
	if err != nil {
		return nil, err
	}
	if list == nil {
		list = &wire.SignedDeviceList{}
	}
	return &wire.ServerFrame{Body: &wire.ServerFrame_DeviceList{DeviceList: list}}, nil
}

// deviceList returns nil for an account that has none.
func (s *Server) deviceList(account store.UUID) (*wire.SignedDeviceList, error) {
	held, err := s.store.DeviceList(account)
	if err != nil || held.List == nil {
		return nil, err
	}
	return &wire.SignedDeviceList{List: held.List, Signature: held.Signature}, nil
}
