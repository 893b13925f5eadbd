package ratchet

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
)

func decodeHex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// libraryKey is the ratchet key in what follows.
const libraryKey = "053aca2f87f1b7534e4ea0346bb2c35b33c19e5d842251ed51e04535bbb5734d66"

// What libsignal-client 0.103.0 makes.
var libraryErrors = []struct {
	ratchetKey string
	timestamp  uint64
	device     uint32
	bytes      string
}{
	{libraryKey, 0, 0, "c042270a21" + libraryKey + "1000180080"},
	{libraryKey, 1700000000000, 1, "c0422c0a21" + libraryKey + "1080d095ffbc31180180"},
	{libraryKey, 1<<53 - 1, 127, "c0422e0a21" + libraryKey + "10ffffffffffffff0f187f80"},
	{"", 5, 1, "c042041005180180"},
}

func TestDecryptionError(t *testing.T) {
	for _, library := range libraryErrors {
		e := &DecryptionError{Timestamp: library.timestamp, Device: library.device}
		if library.ratchetKey != "" {
			e.RatchetKey, _ = ParsePublicKey(decodeHex(t, library.ratchetKey))
		}
		want := decodeHex(t, library.bytes)
		if got := e.PlaintextContent(); !bytes.Equal(got, want) {
			t.Errorf("made %x, want %x", got, want)
		}
		if got, err := ParseDecryptionError(want); err != nil || *got != *e {
			t.Errorf("%x is read as %#v, %v", want, got, err)
		}
	}
	largest := &DecryptionError{GenerateKeyPair().Public(), math.MaxUint64, math.MaxUint32}
	if got, err := ParseDecryptionError(largest.PlaintextContent()); err != nil || *got != *largest {
		t.Error("the largest values do not survive", err)
	}
	if s := fmt.Sprintf("%v %+v %#v", largest, *largest, *largest); bytes.Contains([]byte(s), []byte("18446744073709551615")) {
		t.Error("formatting shows", s)
	}
}

func TestDecryptionErrorRefused(t *testing.T) {
	for name, b := range map[string]string{
		"nothing":               "",
		"type alone":            "c0",
		"no message":            "c080",
		"another type":          "c142041005180180",
		"no padding":            "c0420410051801",
		"padding of another":    "c042041005180181",
		"more padding":          "c04204100518018000",
		"another field":         "c04a041005180180",
		"a field more":          "c042041005180148" + "0180",
		"no timestamp":          "c04202180180",
		"no device":             "c04202100580",
		"fields exchanged":      "c042041801100580",
		"padded varint":         "c04205108500180180",
		"device twice":          "c0420610051801180180",
		"an unknown field":      "c0420610051801200180",
		"device above 32 bits":  "c04208100518808080801080",
		"message twice":         "c0420410051801420410051801" + "80",
		"key of another type":   "c042270a2106" + libraryKey[2:] + "1000180080",
		"short key":             "c042060a0105" + "1000180080",
		"empty key":             "c042060a0010" + "00180080",
		"key after the others":  "c0422710001800" + "0a21" + libraryKey + "80",
		"key as a varint":       "c04206080110051801" + "80",
		"longer than its bytes": "c0427f1005180180",
	} {
		if e, err := ParseDecryptionError(decodeHex(t, b)); !errors.Is(err, ErrUndecryptable) || e != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A DecryptionError names the key under which the sender's session sends, be the message a pre-key message or not.
func TestRatchetKey(t *testing.T) {
	alice, bob := pair(t)
	alice.initiate(bob, true)
	first := alice.encrypt(bob, "first")
	bob.expect(alice, first, "first")
	if key, err := RatchetKey(first.Type, first.Bytes); err != nil || !alice.record.Current(key) || bob.record.Current(key) {
		t.Error("pre-key message:", err)
	}
	reply := bob.encrypt(alice, "reply")
	if key, err := RatchetKey(reply.Type, reply.Bytes); err != nil || !bob.record.Current(key) || alice.record.Current(key) {
		t.Error("message:", err)
	}
	alice.expect(bob, reply, "reply") // which gives alice a new ratchet key
	if key, err := RatchetKey(first.Type, first.Bytes); err != nil || alice.record.Current(key) {
		t.Error("the key before is still the current one:", err)
	}
	for _, m := range []Message{
		{TypePreKeyMessage, reply.Bytes}, {TypeMessage, first.Bytes}, {7, reply.Bytes}, {TypeMessage, nil}, {TypePreKeyMessage, nil},
		{TypeMessage, reply.Bytes[1:]}, {TypePreKeyMessage, first.Bytes[1:]},
	} {
		if _, err := RatchetKey(m.Type, m.Bytes); !errors.Is(err, ErrUndecryptable) {
			t.Errorf("type %d, %d bytes: %v", m.Type, len(m.Bytes), err)
		}
	}
	if new(Record).Current(PublicKey{}) {
		t.Error("a record without sessions has a current key")
	}
}

func TestArchive(t *testing.T) {
	alice, bob := established(t)
	underway := alice.encrypt(bob, "under way")
	bob.record.Archive()
	bob.record.Archive() // once more changes nothing
	bob.restore()
	if bob.record.CanEncrypt(alice.remote(), start) || bob.record.Current(PublicKey{}) {
		t.Error("an archived session still sends")
	}
	if _, err := bob.record.Encrypt(bob.local, alice.remote(), nil, start); !errors.Is(err, ErrNoSession) {
		t.Error(err)
	}

	bob.initiate(alice, true)
	bob.restore()
	if len(bob.record.archived) != 1 {
		t.Fatal(len(bob.record.archived), "archived sessions")
	}
	anew := bob.encrypt(alice, "anew")
	if anew.Type != TypePreKeyMessage {
		t.Fatal("not a new session's first message")
	}
	alice.expect(bob, anew, "anew")
	bob.expect(alice, alice.encrypt(bob, "thanks"), "thanks")
	bob.expect(alice, underway, "under way")

	// Nothing but archived sessions: a message makes its own the current one.
	alice.record.Archive()
	alice.restore()
	alice.expect(bob, bob.encrypt(alice, "back"), "back")
	bob.expect(alice, alice.encrypt(bob, "back as well"), "back as well")

	var none Record
	none.Archive()
	if len(none.Marshal()) != 1 {
		t.Error("an empty record archived something")
	}
}

// Archiving keeps to the limit, whatever comes after.
func TestArchiveManyTimes(t *testing.T) {
	alice, bob := established(t)
	for range maxArchived + 2 {
		alice.record.Archive()
		alice.restore()
		alice.initiate(bob, true)
		bob.expect(alice, alice.encrypt(bob, "x"), "x")
	}
	alice.record.Archive()
	alice.restore()
	if len(alice.record.archived) != maxArchived || len(bob.record.archived) != maxArchived {
		t.Error(len(alice.record.archived), len(bob.record.archived))
	}
}

// Either side's state is lost, and the exchange of retry.go mends it.
func TestRetry(t *testing.T) {
	for _, lost := range []string{"recipient", "sender"} {
		t.Run(lost, func(t *testing.T) {
			alice, bob := established(t)
			loser := map[string]*device{"recipient": bob, "sender": alice}[lost]
			before := loser.record.Marshal()
			for range 3 {
				bob.expect(alice, alice.encrypt(bob, "x"), "x")
				alice.expect(bob, bob.encrypt(alice, "y"), "y")
			}
			r, err := UnmarshalRecord(before)
			if err != nil {
				t.Fatal(err)
			}
			loser.record = *r
			failed := alice.encrypt(bob, "text")
			if _, err := bob.decrypt(alice, failed); err == nil {
				t.Fatal("decrypts after the loss")
			}
			key, err := RatchetKey(failed.Type, failed.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			request, err := ParseDecryptionError((&DecryptionError{RatchetKey: key, Timestamp: 1, Device: 1}).PlaintextContent())
			if err != nil || !alice.record.Current(request.RatchetKey) {
				t.Fatal("the request does not name the current session", err)
			}
			alice.record.Archive()
			alice.initiate(bob, true)
			bob.expect(alice, alice.encrypt(bob, "text"), "text")
			if alice.record.Current(request.RatchetKey) {
				t.Error("the same request again would reset the new session")
			}
			for range 3 {
				alice.expect(bob, bob.encrypt(alice, "y"), "y")
				bob.expect(alice, alice.encrypt(bob, "x"), "x")
			}
		})
	}
}

func FuzzDecryptionError(f *testing.F) {
	for _, library := range libraryErrors {
		f.Add(decodeHex(f, library.bytes))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseDecryptionError(b)
		if err != nil {
			if !errors.Is(err, ErrUndecryptable) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(e.PlaintextContent(), b) {
			t.Fatal("accepted in another encoding than ours")
		}
	})
}

// FuzzRatchetKey: what names a ratchet key is what Decrypt would look at.
func FuzzRatchetKey(f *testing.F) {
	alice, bob := pair(f)
	alice.initiate(bob, true)
	first := alice.encrypt(bob, "first")
	f.Add(first.Type, first.Bytes)
	bob.expect(alice, first, "first")
	reply := bob.encrypt(alice, "reply")
	f.Add(reply.Type, reply.Bytes)
	f.Add(uint32(8), (&DecryptionError{}).PlaintextContent())
	f.Fuzz(func(t *testing.T, typ uint32, b []byte) {
		key, err := RatchetKey(typ, b)
		switch {
		case err != nil && (!errors.Is(err, ErrUndecryptable) || !key.IsZero()):
			t.Fatal(err)
		case err == nil && (key.IsZero() || !slices.Contains([]uint32{TypeMessage, TypePreKeyMessage}, typ)):
			t.Fatal("a key of type", typ)
		}
	})
}
