package secure

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
)

var (
	testKey  = bytes.Repeat([]byte{7}, KeyLen)
	testSalt = bytes.Repeat([]byte{9}, SaltLen)
	begin    = time.Unix(1_700_000_000, 0)
)

func pair(t *testing.T) (*Sealer, *Opener) {
	t.Helper()
	sealer, err := NewSealer(testKey, testSalt, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	opener, err := NewOpener(testKey, testSalt, nil)
	if err != nil {
		t.Fatal(err)
	}
	return sealer, opener
}

func header(sequence uint16) *rtp.Header {
	return &rtp.Header{Version: 2, PayloadType: 111, SequenceNumber: sequence, Timestamp: 960, SSRC: 0x1234}
}

func seal(t *testing.T, s *Sealer, sequence uint16) []byte {
	t.Helper()
	datagram, err := s.RTP(header(sequence), []byte("twenty milliseconds"), begin)
	if err != nil {
		t.Fatal(err)
	}
	return datagram
}

// A second implementation, written from RFC 3711 section 4.3 and RFC 7714 sections 8 and 9 with the standard library alone, opens what
// a Sealer seals.
func TestBytesOnTheWire(t *testing.T) {
	sealer, _ := pair(t)
	datagram := seal(t, sealer, 5)
	if want := 12 + len("twenty milliseconds") + Overhead; len(datagram) != want {
		t.Fatalf("%d bytes, not %d", len(datagram), want)
	}
	if datagram[len(datagram)-1] != 0 {
		t.Error("the first epoch's MKI is 0")
	}
	derive := func(label byte, n int) []byte {
		block, _ := aes.NewCipher(testKey)
		iv := make([]byte, 16)
		copy(iv, testSalt)
		iv[7] ^= label
		out := make([]byte, n)
		cipher.NewCTR(block, iv).XORKeyStream(out, out)
		return out
	}
	nonce := make([]byte, 12)
	binary.BigEndian.PutUint32(nonce[2:], 0x1234)
	binary.BigEndian.PutUint16(nonce[10:], 5) // rollover counter 0 before it
	for i, b := range derive(2, SaltLen) {
		nonce[i] ^= b
	}
	block, _ := aes.NewCipher(derive(0, KeyLen))
	gcm, _ := cipher.NewGCM(block)
	plain, err := gcm.Open(nil, nonce, datagram[12:len(datagram)-1], datagram[:12])
	if err != nil || string(plain) != "twenty milliseconds" {
		t.Errorf("%q, %v", plain, err)
	}
}

func TestASequenceNumberIsSealedOnce(t *testing.T) {
	sealer, _ := pair(t)
	for _, step := range []struct {
		sequence uint16
		ok       bool
	}{{65000, true}, {65000, false}, {64999, false}, {65001, true}, {10, true}, {65002, false}, {9, false}, {10, false}, {11, true}} {
		_, err := sealer.RTP(header(step.sequence), []byte{1}, begin)
		if (err == nil) != step.ok {
			t.Errorf("sequence number %d: %v", step.sequence, err)
		}
	}
}

func TestOpenOnce(t *testing.T) {
	sealer, opener := pair(t)
	datagram := seal(t, sealer, 1)
	if _, err := opener.RTP(datagram, begin); err != nil {
		t.Fatal(err)
	}
	if _, err := opener.RTP(datagram, begin); !errors.Is(err, ErrReplayed) {
		t.Errorf("replayed RTP: %v", err)
	}
	report, _ := (&rtcp.ReceiverReport{SSRC: 1}).Marshal()
	datagram, err := sealer.RTCP(report, begin)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := opener.RTCP(datagram, begin); err != nil || !bytes.Equal(got, report) {
		t.Fatalf("%x, %v", got, err)
	}
	if _, err := opener.RTCP(datagram, begin); !errors.Is(err, ErrReplayed) {
		t.Errorf("replayed RTCP: %v", err)
	}
}

// A retransmission or a reordered packet may be late by up to the window.
func TestLatePackets(t *testing.T) {
	sealer, opener := pair(t)
	late := [2][]byte{seal(t, sealer, 1), seal(t, sealer, 2)}
	for sequence := uint16(3); sequence <= window+1; sequence++ {
		if _, err := opener.RTP(seal(t, sealer, sequence), begin); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := opener.RTP(late[1], begin); err != nil {
		t.Errorf("late by %d: %v", window-1, err)
	}
	if _, err := opener.RTP(late[0], begin); !errors.Is(err, ErrReplayed) {
		t.Errorf("late by %d: %v", window, err)
	}
}

// Every single-bit change of a packet, its header and its MKI included, makes it undecryptable or a packet of another SSRC that is
// undecryptable too.
func TestEveryBitCounts(t *testing.T) {
	sealer, _ := pair(t)
	datagram := seal(t, sealer, 1)
	for bit := range len(datagram) * 8 {
		_, opener := pair(t)
		altered := bytes.Clone(datagram)
		altered[bit/8] ^= 1 << (bit % 8)
		if _, err := opener.RTP(altered, begin); !errors.Is(err, ErrUndecryptable) {
			t.Errorf("bit %d: %v", bit, err)
		}
	}
}

func TestEveryKeyBitCounts(t *testing.T) {
	sealer, _ := pair(t)
	datagram := seal(t, sealer, 1)
	for bit := range (KeyLen + SaltLen) * 8 {
		secret := append(bytes.Clone(testKey), testSalt...)
		secret[bit/8] ^= 1 << (bit % 8)
		opener, err := NewOpener(secret[:KeyLen], secret[KeyLen:], nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := opener.RTP(datagram, begin); !errors.Is(err, ErrUndecryptable) {
			t.Errorf("bit %d: %v", bit, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	sealer, _ := NewSealer(testKey, testSalt, nil, 0)
	packet, _ := sealer.RTP(header(1), []byte("payload"), begin)
	f.Add(packet)
	report, _ := (&rtcp.ReceiverReport{SSRC: 1}).Marshal()
	packet, _ = sealer.RTCP(report, begin)
	f.Add(packet)
	f.Add([]byte{128, 200, 0, 0})
	f.Fuzz(func(t *testing.T, datagram []byte) {
		other, err := NewOpener(bytes.Repeat([]byte{1}, KeyLen), testSalt, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.RTP(datagram, begin); err == nil {
			t.Error("forged RTP")
		}
		if _, err := other.RTCP(datagram, begin); err == nil {
			t.Error("forged RTCP")
		}
	})
}
