package wire

import (
	"bytes"
	"encoding/hex"
	"testing"

	"google.golang.org/protobuf/proto"
)

func identityKey(n byte) []byte {
	return append([]byte{identityKeyType}, bytes.Repeat([]byte{n}, identityKeySize-1)...)
}

// listOf makes a list of devices with these ids, each with a key of its own.
func listOf(ids ...uint32) *DeviceList {
	l := &DeviceList{Account: bytes.Repeat([]byte{0xac}, accountSize), Epoch: 7}
	for i, id := range ids {
		l.Devices = append(l.Devices, &DeviceList_Device{Id: id, IdentityKey: identityKey(byte(i + 1))})
		l.LastId = max(l.LastId, id)
	}
	return l
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseDeviceList(t *testing.T) {
	const golden = "0a10" + "acacacacacacacacacacacacacacacac" + "1007" +
		"1a25" + "0801" + "1221" + "050101010101010101010101010101010101010101010101010101010101010101" +
		"1a25" + "087f" + "1221" + "050202020202020202020202020202020202020202020202020202020202020202" + "207f"
	raw, err := hex.DecodeString(golden)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ParseDeviceList(raw)
	if err != nil || !proto.Equal(l, listOf(1, 127)) {
		t.Fatal(l, err)
	}
	if !bytes.Equal(l.IdentityOf(127), identityKey(2)) || l.IdentityOf(2) != nil || (*DeviceList)(nil).IdentityOf(1) != nil {
		t.Error("IdentityOf is wrong")
	}
	for _, c := range []struct {
		name   string
		list   *DeviceList
		change func(*DeviceList)
		ok     bool
	}{
		{"device 1 alone", listOf(1), func(*DeviceList) {}, true},
		{"four", listOf(1, 2, 3, 4), func(*DeviceList) {}, true},
		{"five", listOf(1, 2, 3, 4, 5), func(*DeviceList) {}, false},
		{"nobody", listOf(), func(*DeviceList) {}, false},
		{"no device 1", listOf(2, 3), func(*DeviceList) {}, false},
		{"device 0", listOf(0, 1), func(*DeviceList) {}, false},
		{"device 128", listOf(1, 128), func(*DeviceList) {}, false},
		{"out of order", listOf(1, 3, 2), func(*DeviceList) {}, false},
		{"a device twice", listOf(1, 2, 2), func(*DeviceList) {}, false},
		{"a key twice", listOf(1, 2), func(l *DeviceList) { l.Devices[1].IdentityKey = identityKey(1) }, false},
		{"a short key", listOf(1), func(l *DeviceList) { l.Devices[0].IdentityKey = identityKey(1)[:32] }, false},
		{"a key of another type", listOf(1), func(l *DeviceList) { l.Devices[0].IdentityKey[0] = 6 }, false},
		{"epoch 0", listOf(1), func(l *DeviceList) { l.Epoch = 0 }, false},
		{"last id 0", listOf(1), func(l *DeviceList) { l.LastId = 0 }, false},
		{"a device behind the last id", listOf(1, 3), func(l *DeviceList) { l.LastId = 2 }, false},
		{"devices that are gone", listOf(1, 3), func(l *DeviceList) { l.LastId = 127 }, true},
		{"last id 128", listOf(1), func(l *DeviceList) { l.LastId = 128 }, false},
		{"no account", listOf(1), func(l *DeviceList) { l.Account = nil }, false},
	} {
		c.change(c.list)
		if _, err := ParseDeviceList(marshal(t, c.list)); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := ParseDeviceList(append(raw, 0x07)); err == nil {
		t.Error("a list with something unreadable behind it passed")
	}
}

// TestMayFollow: a list is replaced only by a later one in which every id that was ever given is the same device's, or nobody's.
func TestMayFollow(t *testing.T) {
	before := listOf(1, 3)
	before.LastId = 5
	for _, c := range []struct {
		name   string
		change func(*DeviceList)
		ok     bool
	}{
		{"the same devices", func(*DeviceList) {}, true},
		{"many epochs later", func(l *DeviceList) { l.Epoch = 1<<32 - 1 }, true},
		{"the same epoch", func(l *DeviceList) { l.Epoch-- }, false},
		{"after the last epoch", func(l *DeviceList) { l.Epoch = 0 }, false},
		{"a new device", func(l *DeviceList) { l.LastId, l.Devices = 6, listOf(1, 3, 6).Devices }, true},
		{"one removed", func(l *DeviceList) { l.Devices = l.Devices[:1] }, true},
		{"an id that was never listed, but given", func(l *DeviceList) { l.Devices = listOf(1, 3, 4).Devices }, false},
		{"the last id once more", func(l *DeviceList) { l.Devices = listOf(1, 3, 5).Devices }, false},
		{"an id forgotten", func(l *DeviceList) { l.LastId = 4 }, false},
		{"another key for device 3", func(l *DeviceList) { l.Devices[1].IdentityKey = identityKey(9) }, false},
		{"another key for device 1", func(l *DeviceList) { l.Devices[0].IdentityKey = identityKey(9) }, false},
	} {
		l := proto.CloneOf(before)
		l.Epoch++
		c.change(l)
		if l.MayFollow(before) != c.ok {
			t.Errorf("%s: %v", c.name, !c.ok)
		}
	}
	if !listOf(1, 2).MayFollow(nil) || !listOf(1).MayFollow(nil) {
		t.Error("no first list")
	}
}

// FuzzParseDeviceList: what passes has device 1, no more than four devices, and finds each of them.
func FuzzParseDeviceList(f *testing.F) {
	f.Add(marshal(f, listOf(1, 2, 127)))
	f.Add(marshal(f, listOf(2)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := ParseDeviceList(raw)
		if err != nil {
			return
		}
		if l.Epoch == 0 || len(l.Account) != accountSize || len(l.Devices) > MaxDevices || l.IdentityOf(1) == nil {
			t.Errorf("accepted %v", l)
		}
		for _, d := range l.Devices {
			if !bytes.Equal(l.IdentityOf(d.Id), d.IdentityKey) {
				t.Errorf("device %d has two keys", d.Id)
			}
		}
	})
}
