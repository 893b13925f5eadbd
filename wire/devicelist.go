package wire

import (
	"bytes"
	"errors"

	"google.golang.org/protobuf/proto"
)

// Limits of a DeviceList.
const (
	MaxDevices      = 4
	MaxDeviceID     = 127
	maxListSize     = 1 << 10 // four devices take 200 bytes
	accountSize     = 16
	identityKeySize = 33
	identityKeyType = 0x05
)

// Limits of what devices that are being linked send each other, sealed.
const (
	MaxLinkRequest = 64 << 10
	MaxLinkReply   = 128 << 10
)

var errDeviceList = errors.New("the device list is malformed")

// ParseDeviceList returns a list whose every field has the right form. It is worth nothing before its signature was verified, with the
// identity key that the account is known by, and its account compared.
func ParseDeviceList(list []byte) (*DeviceList, error) {
	l := &DeviceList{}
	if len(list) > maxListSize || proto.Unmarshal(list, l) != nil {
		return nil, errDeviceList
	}
	devices := l.GetDevices()
	if len(l.GetAccount()) != accountSize || l.GetEpoch() == 0 || len(devices) == 0 || len(devices) > MaxDevices || devices[0].GetId() != 1 {
		return nil, errDeviceList
	}
	if l.GetLastId() < devices[len(devices)-1].GetId() || l.GetLastId() > MaxDeviceID {
		return nil, errDeviceList
	}
	last, seen := uint32(0), map[string]bool{}
	for _, d := range devices {
		key := d.GetIdentityKey()
		if d.GetId() <= last || d.GetId() > MaxDeviceID || len(key) != identityKeySize || key[0] != identityKeyType || seen[string(key)] {
			return nil, errDeviceList
		}
		last, seen[string(key)] = d.GetId(), true
	}
	return l, nil
}

// MayFollow tells whether a list, of the same account, may take the place of before: its epoch is higher, devices that are on both have kept
// their keys, and no id is given again that a device had and lost. So an id stands for one device for ever. A nil before is an account whose
// device 1 was alone.
func (l *DeviceList) MayFollow(before *DeviceList) bool {
	last := max(before.GetLastId(), 1)
	if l.GetEpoch() <= before.GetEpoch() || l.GetLastId() < last {
		return false
	}
	for _, d := range l.GetDevices() {
		if d.GetId() <= last && d.GetId() != 1 && !bytes.Equal(before.IdentityOf(d.GetId()), d.GetIdentityKey()) {
			return false
		}
	}
	return before == nil || bytes.Equal(before.IdentityOf(1), l.IdentityOf(1))
}

// IdentityOf returns the identity key of a device, nil if it is not on the list. A nil list has none.
func (l *DeviceList) IdentityOf(device uint32) []byte {
	for _, d := range l.GetDevices() {
		if d.GetId() == device {
			return d.GetIdentityKey()
		}
	}
	return nil
}
