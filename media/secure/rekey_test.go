package secure

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/pion/rtcp"
)

// chain is a Source, and counts how often it was asked.
type chain struct {
	secret [32]byte
	asked  int
}

func (c *chain) next() (key, salt []byte, err error) {
	c.asked++
	c.secret = sha256.Sum256(c.secret[:])
	k, s := sha256.Sum256(append([]byte("key"), c.secret[:]...)), sha256.Sum256(append([]byte("salt"), c.secret[:]...))
	return k[:], s[:SaltLen], nil
}

// rekeying is a pair that changes keys every second.
func rekeying(t *testing.T) (*Sealer, *Opener, *chain) {
	t.Helper()
	sending, receiving := &chain{}, &chain{}
	sealer, err := NewSealer(testKey, testSalt, sending.next, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	opener, err := NewOpener(testKey, testSalt, receiving.next)
	if err != nil {
		t.Fatal(err)
	}
	return sealer, opener, receiving
}

func sealAt(t *testing.T, s *Sealer, sequence uint16, at time.Duration) []byte {
	t.Helper()
	datagram, err := s.RTP(header(sequence), []byte("twenty milliseconds"), begin.Add(at))
	if err != nil {
		t.Fatal(err)
	}
	return datagram
}

// Ten minutes of a call that rekeys every second: the MKI comes round twice, and so do the sequence numbers' high bits.
func TestEpochsFollowOneAnother(t *testing.T) {
	sealer, opener, _ := rekeying(t)
	sequence := uint16(65000)
	for at := time.Duration(0); at < 10*time.Minute; at += 100 * time.Millisecond {
		sequence++
		datagram := sealAt(t, sealer, sequence, at)
		if got := datagram[len(datagram)-1]; got != byte(at/time.Second) {
			t.Fatalf("after %v the MKI is %d", at, got)
		}
		if _, err := opener.RTP(datagram, begin.Add(at)); err != nil {
			t.Fatalf("after %v: %v", at, err)
		}
		report, _ := (&rtcp.ReceiverReport{SSRC: 1}).Marshal()
		datagram, err := sealer.RTCP(report, begin.Add(at))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := opener.RTCP(datagram, begin.Add(at)); err != nil || !bytes.Equal(got, report) {
			t.Fatalf("RTCP after %v: %v", at, err)
		}
	}
	if sealer.Epoch() != 599 || opener.Epoch() != 599 {
		t.Errorf("epochs %d and %d", sealer.Epoch(), opener.Epoch())
	}
}

// A packet that was overtaken by the next epoch opens within the grace, once, and not later.
func TestAnOvertakenPacketOpens(t *testing.T) {
	sealer, opener, _ := rekeying(t)
	var early [4][]byte
	for i := range early {
		early[i] = sealAt(t, sealer, uint16(i+1), 0)
	}
	if _, err := opener.RTP(sealAt(t, sealer, 5, time.Second), begin.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := opener.RTP(early[1], begin.Add(time.Second)); err != nil {
		t.Error(err)
	}
	if _, err := opener.RTP(early[1], begin.Add(time.Second)); !errors.Is(err, ErrReplayed) {
		t.Errorf("a second time: %v", err)
	}
	if _, err := opener.RTP(early[2], begin.Add(time.Second+grace)); err != nil {
		t.Error(err)
	}
	if _, err := opener.RTP(early[3], begin.Add(time.Second+grace+1)); !errors.Is(err, ErrUndecryptable) {
		t.Errorf("an erased key opened a packet: %v", err)
	}
}

// Epochs that began and ended unheard are passed, up to the limit.
func TestUnheardEpochs(t *testing.T) {
	for steps, ok := range map[int]bool{1: true, 20: true, lookAhead: true, lookAhead + 1: false, 200: false} {
		sealer, opener, source := rekeying(t)
		var datagram []byte
		for i := range steps + 1 {
			datagram = sealAt(t, sealer, uint16(i+1), time.Duration(i)*time.Second)
		}
		if _, err := opener.RTP(datagram, begin); (err == nil) != ok {
			t.Errorf("%d epochs ahead: %v", steps, err)
		}
		if !ok && source.asked != 0 {
			t.Errorf("%d epochs ahead: %d keys were derived", steps, source.asked)
		}
	}
}

// The keys of epochs that were passed unheard are erased: what is left of those epochs does not
// open.
func TestPassedEpochsAreErased(t *testing.T) {
	sealer, opener, _ := rekeying(t)
	var sealed [][]byte
	for i := range 5 {
		sealed = append(sealed, sealAt(t, sealer, uint16(i+1), time.Duration(i)*time.Second))
	}
	for _, c := range []struct {
		epoch int
		opens bool
	}{{0, true}, {3, true}, {1, false}, {2, false}, {4, true}} {
		if _, err := opener.RTP(sealed[c.epoch], begin.Add(time.Second)); (err == nil) != c.opens {
			t.Errorf("a packet of epoch %d: %v", c.epoch, err)
		}
	}
}

// What a source gives is erased once a cipher is made of it.
func TestNextKeysAreErased(t *testing.T) {
	var given [][]byte
	source := func() Source {
		c := &chain{}
		return func() (key, salt []byte, err error) {
			key, salt, err = c.next()
			given = append(given, key, salt)
			return key, salt, err
		}
	}
	sealer, err := NewSealer(testKey, testSalt, source(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	opener, err := NewOpener(testKey, testSalt, source())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		at := time.Duration(i) * time.Second
		if _, err := opener.RTP(sealAt(t, sealer, uint16(i+1), at), begin.Add(at)); err != nil {
			t.Fatal(err)
		}
	}
	if len(given) != 2*2*2 {
		t.Fatalf("%d keys and salts were asked for", len(given))
	}
	if all := slices.Concat(given...); !bytes.Equal(all, make([]byte, len(all))) {
		t.Error("keys or salts are left")
	}
}

// Forged packets of every MKI derive each key of the epochs ahead once, change nothing, and what the peer sends opens afterwards.
func TestForgedEpochs(t *testing.T) {
	sealer, opener, source := rekeying(t)
	forged := sealAt(t, sealer, 2, 0)
	for range 10 {
		for mki := range 256 {
			forged[len(forged)-1] = byte(mki)
			forged[20] ^= byte(mki + 1)
			if _, err := opener.RTP(forged, begin); !errors.Is(err, ErrUndecryptable) {
				t.Fatalf("MKI %d: %v", mki, err)
			}
		}
	}
	if source.asked != lookAhead || opener.Epoch() != 0 {
		t.Errorf("%d keys were derived, the epoch is %d", source.asked, opener.Epoch())
	}
	for i, at := range []time.Duration{0, 1, 2} {
		if _, err := opener.RTP(sealAt(t, sealer, uint16(i+3), at*time.Second), begin.Add(at*time.Second)); err != nil {
			t.Errorf("after %d s: %v", at, err)
		}
	}
	if source.asked != lookAhead {
		t.Errorf("%d keys were derived", source.asked)
	}
}

// A peer whose next key is not the one agreed: its packets are refused, and the key before still opens.
func TestWrongNextKey(t *testing.T) {
	sealer, _, _ := rekeying(t)
	opener, err := NewOpener(testKey, testSalt, (&chain{secret: [32]byte{1}}).next)
	if err != nil {
		t.Fatal(err)
	}
	first, second := sealAt(t, sealer, 1, 0), sealAt(t, sealer, 2, 0)
	if _, err := opener.RTP(first, begin); err != nil {
		t.Fatal(err)
	}
	if _, err := opener.RTP(sealAt(t, sealer, 3, time.Second), begin); !errors.Is(err, ErrUndecryptable) {
		t.Errorf("a wrong key: %v", err)
	}
	if _, err := opener.RTP(second, begin); err != nil {
		t.Errorf("the key before: %v", err)
	}
}

// Without the next key nothing is sealed any more: the old one is not stretched.
func TestNoNextKey(t *testing.T) {
	sealer, err := NewSealer(testKey, testSalt, func() ([]byte, []byte, error) { return nil, nil, errors.New("erased") }, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	sealAt(t, sealer, 1, 999*time.Millisecond)
	if _, err := sealer.RTP(header(2), []byte{1}, begin.Add(2*time.Second)); err == nil {
		t.Error("sealed with a key whose time is over")
	}
	if _, err := sealer.RTCP(make([]byte, 8), begin.Add(2*time.Second)); err == nil {
		t.Error("sealed RTCP with a key whose time is over")
	}
}

// A silent sender does not run away: an epoch begins with a packet.
func TestSilenceBeginsNoEpoch(t *testing.T) {
	sealer, opener, _ := rekeying(t)
	sealAt(t, sealer, 1, 0)
	if _, err := opener.RTP(sealAt(t, sealer, 2, 24*time.Hour), begin.Add(24*time.Hour)); err != nil {
		t.Error(err)
	}
	if sealer.Epoch() != 1 {
		t.Errorf("epoch %d", sealer.Epoch())
	}
}

func BenchmarkForgedEpoch(b *testing.B) {
	opener, err := NewOpener(testKey, testSalt, (&chain{}).next)
	if err != nil {
		b.Fatal(err)
	}
	sealer, err := NewSealer(testKey, testSalt, nil, 0)
	if err != nil {
		b.Fatal(err)
	}
	datagram, err := sealer.RTP(header(1), make([]byte, 80), begin)
	if err != nil {
		b.Fatal(err)
	}
	for name, mki := range map[string]byte{"this": 0, "ahead": lookAhead} {
		b.Run(name, func(b *testing.B) {
			datagram[len(datagram)-1] = mki
			datagram[20] ^= 1
			for b.Loop() {
				_, _ = opener.RTP(datagram, begin)
			}
		})
	}
}
