package turnserver

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"time"

	"github.com/pion/stun/v4"
)

// A message is what admission needs to know of a STUN request or indication. parse is strict: pion's own goroutine handles what it lets
// pass, where a panic could not be caught, so nothing reaches pion whose attributes pion would have to doubt.
type message struct {
	class  stun.MessageClass
	method stun.Method
	peers  []netip.AddrPort // every XOR-PEER-ADDRESS, IPv4-mapped addresses unmapped

	username, realm, nonce []byte // nil where there is none

	transport          bool // REQUESTED-TRANSPORT is there
	protocol           byte // what it asks for
	family, additional byte // REQUESTED-ADDRESS-FAMILY and ADDITIONAL-ADDRESS-FAMILY; 0: there is none
	even, reserves     bool // EVEN-PORT is there, and asks for the next port too
	token              bool // RESERVATION-TOKEN is there
	hasLifetime        bool
	lifetime           time.Duration
	channel            uint16

	unknown   []stun.AttrType // that must be understood
	integrity int             // offset of MESSAGE-INTEGRITY, 0 if there is none
	raw       []byte
}

const (
	headerSize    = 20 // RFC 8489 section 5
	magicCookie   = 0x2112A442
	channelHeader = 4 // RFC 8656 section 12.4
	integritySize = 4 + sha1.Size
	fingerprint   = 0x5354554e // RFC 8489 section 14.7
	maxUnknown    = 16         // attributes named in one answer
)

// attributeSizes are the least and greatest lengths of the attributes that are read.
var attributeSizes = map[stun.AttrType][2]int{
	stun.AttrUsername:               {1, 508}, // RFC 8489 section 14.3
	stun.AttrRealm:                  {1, 763}, // section 14.9
	stun.AttrNonce:                  {1, 763}, // section 14.10
	stun.AttrMessageIntegrity:       {sha1.Size, sha1.Size},
	stun.AttrFingerprint:            {4, 4},
	stun.AttrChannelNumber:          {4, 4}, // RFC 8656 section 18
	stun.AttrLifetime:               {4, 4},
	stun.AttrRequestedTransport:     {4, 4},
	stun.AttrRequestedAddressFamily: {4, 4},
	attrAdditionalAddressFamily:     {4, 4},
	stun.AttrEvenPort:               {1, 1},
	stun.AttrReservationToken:       {8, 8},
}

const (
	attrAdditionalAddressFamily = stun.AttrType(0x8000) // RFC 8656 section 18.11
	attrMessageIntegritySHA256  = stun.AttrType(0x001C) // RFC 8489 section 14.6; it is not offered, so not checked
	attrPriority                = stun.AttrType(0x0024) // RFC 8445 section 16.1: ICE checks carry these two,
	attrUseCandidate            = stun.AttrType(0x0025) // and some clients ask us with theirs
)

// parse reads a whole STUN message. Refused are: responses, methods we do not offer (RFC 6062 among
// them), lengths that do not add up, and attributes of the wrong size. What follows
// MESSAGE-INTEGRITY is not authenticated and ignored, but for FINGERPRINT (RFC 8489 section 14.5).
func parse(b []byte) (m message, ok bool) {
	if len(b) < headerSize || b[0]&0xC0 != 0 || len(b)%4 != 0 ||
		int(binary.BigEndian.Uint16(b[2:])) != len(b)-headerSize || binary.BigEndian.Uint32(b[4:]) != magicCookie {
		return message{}, false
	}
	var t stun.MessageType
	t.ReadValue(binary.BigEndian.Uint16(b))
	m = message{class: t.Class, method: t.Method, raw: b}

	data := false
	for at := headerSize; at < len(b); {
		if len(b)-at < 4 {
			return message{}, false
		}
		attr := stun.AttrType(binary.BigEndian.Uint16(b[at:]))
		size := int(binary.BigEndian.Uint16(b[at+2:]))
		if size > len(b)-at-4 {
			return message{}, false
		}
		value := b[at+4 : at+4+size]
		if attr == stun.AttrFingerprint {
			if at+8 != len(b) || size != 4 || binary.BigEndian.Uint32(value) != crc32.ChecksumIEEE(b[:at])^fingerprint {
				return message{}, false
			}
		} else if m.integrity == 0 && !m.take(attr, value, at) {
			return message{}, false
		}
		data = data || attr == stun.AttrData && m.integrity == 0
		at += 4 + (size+3)&^3
	}

	switch (stun.MessageType{Class: m.class, Method: m.method}) {
	case stun.NewType(stun.MethodBinding, stun.ClassRequest), stun.NewType(stun.MethodRefresh, stun.ClassRequest),
		stun.NewType(stun.MethodAllocate, stun.ClassRequest), stun.NewType(stun.MethodCreatePermission, stun.ClassRequest),
		stun.NewType(stun.MethodChannelBind, stun.ClassRequest):
		return m, true
	case stun.NewType(stun.MethodSend, stun.ClassIndication): // one that cannot be obeyed is dropped: indications get no answer
		return m, len(m.peers) == 1 && data && len(m.unknown) == 0
	}
	return message{}, false
}

// take reads one attribute.
func (m *message) take(attr stun.AttrType, value []byte, at int) bool {
	if bounds, known := attributeSizes[attr]; known && (len(value) < bounds[0] || len(value) > bounds[1]) {
		return false
	}
	switch attr {
	case stun.AttrXORPeerAddress:
		peer, ok := xorAddress(value, m.raw[8:headerSize])
		if !ok {
			return false
		}
		m.peers = append(m.peers, peer)
	case stun.AttrUsername:
		m.username = value
	case stun.AttrRealm:
		m.realm = value
	case stun.AttrNonce:
		m.nonce = value
	case stun.AttrMessageIntegrity:
		m.integrity = at
	case stun.AttrRequestedTransport:
		m.transport, m.protocol = true, value[0]
	case stun.AttrRequestedAddressFamily:
		if m.family = value[0]; m.family == 0 {
			m.family = 0xff // as little a family as 0, which here means that none was asked for
		}
	case attrAdditionalAddressFamily:
		m.additional = value[0]
	case stun.AttrEvenPort:
		m.even, m.reserves = true, value[0]&0x80 != 0 // RFC 8656 section 18.6
	case stun.AttrReservationToken:
		m.token = true
	case stun.AttrLifetime:
		m.hasLifetime, m.lifetime = true, time.Duration(binary.BigEndian.Uint32(value))*time.Second
	case stun.AttrChannelNumber:
		m.channel = binary.BigEndian.Uint16(value)
	case stun.AttrData, attrMessageIntegritySHA256, attrPriority, attrUseCandidate:
	default: // DONT-FRAGMENT is one that is not understood: the system decides (RFC 8656 section 7.2)
		if attr.Required() && len(m.unknown) < maxUnknown {
			m.unknown = append(m.unknown, attr)
		}
	}
	return true
}

// xorAddress decodes RFC 8489 section 14.2.
func xorAddress(v, transaction []byte) (netip.AddrPort, bool) {
	if len(v) < 4 || v[0] != 0 {
		return netip.AddrPort{}, false
	}
	var mask [16]byte
	binary.BigEndian.PutUint32(mask[:], magicCookie)
	copy(mask[4:], transaction)
	port := binary.BigEndian.Uint16(v[2:]) ^ magicCookie>>16
	ip := make([]byte, len(v)-4)
	switch {
	case v[1] == 1 && len(ip) == 4, v[1] == 2 && len(ip) == 16:
		for i := range ip {
			ip[i] = v[4+i] ^ mask[i]
		}
	default:
		return netip.AddrPort{}, false
	}
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port), true
}

// authentic says whether MESSAGE-INTEGRITY was made with key (RFC 8489 section 14.5: the length field counts up to and with that attribute).
func (m message) authentic(key []byte) bool {
	if m.integrity == 0 {
		return false
	}
	var head [4]byte
	copy(head[:], m.raw[:2])
	binary.BigEndian.PutUint16(head[2:], uint16(m.integrity+integritySize-headerSize))
	mac := hmac.New(sha1.New, key)
	mac.Write(head[:])
	mac.Write(m.raw[4:m.integrity])
	return hmac.Equal(mac.Sum(nil), m.raw[m.integrity+4:m.integrity+integritySize])
}

// channelData reads one whole ChannelData message (RFC 8656 section 12.4), padded or not.
func channelData(b []byte) (number uint16, data []byte, ok bool) {
	if len(b) < channelHeader || b[0]&0xC0 != 0x40 {
		return 0, nil, false
	}
	size := int(binary.BigEndian.Uint16(b[2:]))
	if size > len(b)-channelHeader {
		return 0, nil, false
	}
	return binary.BigEndian.Uint16(b), b[channelHeader : channelHeader+size], true
}

// A reply is what pion answers: a response, of which it matters whether its client was authenticated, or data on its way to the client.
func parseReply(b []byte) (t stun.MessageType, authenticated bool) {
	if len(b) < headerSize || b[0]&0xC0 != 0 {
		return t, false
	}
	t.ReadValue(binary.BigEndian.Uint16(b))
	if t.Class != stun.ClassSuccessResponse && t.Class != stun.ClassErrorResponse {
		return t, false
	}
	for at := headerSize; at+4 <= len(b); at += 4 + (int(binary.BigEndian.Uint16(b[at+2:]))+3)&^3 {
		if stun.AttrType(binary.BigEndian.Uint16(b[at:])) == stun.AttrMessageIntegrity {
			return t, true
		}
	}
	return t, false
}
