package sealedwire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

const (
	sentVersion     = 0x23
	receivedVersion = 0x22 // e2ee/sealed opens it

	serviceIDSize     = 17 // kind byte, UUID
	maxRegistrationID = 1<<14 - 1
	moreDevices       = 0x8000
)

// Multi is a message for many recipients as its sender hands it to the server:
//
//	0x23 || recipient count (varint) || recipients || ephemeral public key [32] || body
//
// The body is the same for all. The server cuts the message up: each device gets what Received returns.
type Multi struct {
	Recipients []Recipient
	Ephemeral  [32]byte // u coordinate, without a type byte
	Body       []byte   // ciphertext and tag
}

// Recipient is one account in a Multi:
//
//	00 || account UUID [16] || devices || encrypted key [32] || authentication tag [16]
//	device: id [1] || registration id (2 bytes, big endian, 14 bits; the top bit set if another device follows)
//
// An account without devices is excluded: a member of the group whom the sender knows of and who gets nothing. Its entry is the service
// id and a zero byte.
//
// Nothing here is authenticated towards the recipient, who never sees it: it is for the server, which checks that the devices and their
// registration ids are those it knows, and whose delivery it governs anyway.
type Recipient struct {
	Account [16]byte
	Devices []Device
	Key     [32]byte
	Tag     [16]byte
}

// Device is one device of a Recipient.
type Device struct {
	ID             uint8  // 1 to 127
	RegistrationID uint16 // 14 bits
}

// Encode returns the message as it is sent.
func (m *Multi) Encode() ([]byte, error) {
	b := protowire.AppendVarint([]byte{sentVersion}, uint64(len(m.Recipients)))
	for _, r := range m.Recipients {
		b = append(b, 0)
		b = append(b, r.Account[:]...)
		if len(r.Devices) == 0 {
			b = append(b, 0)
			continue
		}
		for i, d := range r.Devices {
			if d.ID < 1 || d.ID > 127 || d.RegistrationID > maxRegistrationID {
				return nil, ErrMalformed
			}
			id := d.RegistrationID
			if i < len(r.Devices)-1 {
				id |= moreDevices
			}
			b = append(b, d.ID)
			b = binary.BigEndian.AppendUint16(b, id)
		}
		b = append(b, r.Key[:]...)
		b = append(b, r.Tag[:]...)
	}
	b = append(b, m.Ephemeral[:]...)
	return append(b, m.Body...), nil
}

// ParseMulti reads what Encode wrote. No account may be named twice, nor a device of one. The body is part of b.
func ParseMulti(b []byte) (*Multi, error) {
	p := &reader{b: b}
	if p.take(1)[0] != sentVersion {
		return nil, ErrMalformed
	}
	count := p.varint()
	if count > uint64(len(p.b))/(serviceIDSize+1) { // so many would not fit: nothing is made for them
		return nil, ErrMalformed
	}
	m := &Multi{Recipients: make([]Recipient, 0, count)}
	seen := make(map[[16]byte]bool, count)
	for range count {
		r := p.recipient()
		if p.failed || seen[r.Account] {
			return nil, ErrMalformed
		}
		seen[r.Account] = true
		m.Recipients = append(m.Recipients, r)
	}
	copy(m.Ephemeral[:], p.take(32))
	if p.failed || len(p.b) < 16 {
		return nil, ErrMalformed
	}
	m.Body = p.b
	if again, err := m.Encode(); err != nil || !bytes.Equal(again, b) {
		return nil, ErrMalformed
	}
	return m, nil
}

// Received returns the message as the devices of one recipient get it:
//
//	0x22 || encrypted key [32] || authentication tag [16] || ephemeral public key [32] || body
func (m *Multi) Received(r *Recipient) []byte {
	b := make([]byte, 0, 1+32+16+32+len(m.Body))
	b = append(b, receivedVersion)
	b = append(b, r.Key[:]...)
	b = append(b, r.Tag[:]...)
	b = append(b, m.Ephemeral[:]...)
	return append(b, m.Body...)
}

// reader takes a message apart. Past the end it gives zeros and remembers that it failed.
type reader struct {
	b      []byte
	failed bool
}

func (p *reader) recipient() (r Recipient) {
	id := p.take(serviceIDSize)
	p.failed = p.failed || id[0] != 0 // an account; the other kind of service id, 1, does not exist here
	copy(r.Account[:], id[1:])
	for more := true; more && !p.failed; {
		device := p.take(1)[0]
		if device == 0 && len(r.Devices) == 0 {
			return r // excluded
		}
		id := binary.BigEndian.Uint16(p.take(2))
		more = id&moreDevices != 0
		if slices.ContainsFunc(r.Devices, func(d Device) bool { return d.ID == device }) || len(r.Devices) == 127 {
			p.failed = true
		}
		r.Devices = append(r.Devices, Device{device, id &^ moreDevices})
	}
	copy(r.Key[:], p.take(32))
	copy(r.Tag[:], p.take(16))
	return r
}

func (p *reader) take(n int) []byte {
	if n > len(p.b) {
		p.failed = true
		return make([]byte, n)
	}
	taken := p.b[:n]
	p.b = p.b[n:]
	return taken
}

func (p *reader) varint() uint64 {
	v, n := protowire.ConsumeVarint(p.b)
	if n < 0 {
		p.failed = true
		return 0
	}
	p.b = p.b[n:]
	return v
}

// Format writes the type alone, whatever the verb: logs name no recipients.
func (m Multi) Format(f fmt.State, _ rune) { fmt.Fprint(f, "sealedwire.Multi") }

// Format writes the type alone, whatever the verb.
func (r Recipient) Format(f fmt.State, _ rune) { fmt.Fprint(f, "sealedwire.Recipient") }

// LogValue is the type alone.
func (m Multi) LogValue() slog.Value { return slog.StringValue("sealedwire.Multi") }

// LogValue is the type alone.
func (r Recipient) LogValue() slog.Value { return slog.StringValue("sealedwire.Recipient") }
