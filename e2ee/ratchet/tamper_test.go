package ratchet

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"

	"sotto/e2ee/spqr"
	"sotto/internal/protofield"
)

// tamper tries single-bit flips, all truncations and a few extensions of a message, and returns the flipped bits that were accepted.
// try reports the result of one decryption by a recipient in always the same state. A sparse run leaves out most bits of the Kyber
// ciphertext, which ends a pre-key message and is nine tenths of it.
func tamper(t *testing.T, message []byte, sparse bool, try func([]byte) error) (accepted []int) {
	t.Helper()
	dense := 8 * len(message)
	if (sparse || underRace || testing.Short()) && len(message) > kyberCiphertextSize {
		dense -= 8 * kyberCiphertextSize
	}
	altered := bytes.Clone(message)
	for i := 0; i < len(message)*8; i++ {
		if i > dense+16 && i%61 != 0 {
			continue
		}
		altered[i/8] ^= 1 << (i % 8)
		if try(altered) == nil {
			accepted = append(accepted, i)
		}
		altered[i/8] ^= 1 << (i % 8)
	}
	for n := range message {
		if try(message[:n]) == nil {
			t.Errorf("accepted when cut to %d of %d bytes", n, len(message))
		}
	}
	for _, more := range [][]byte{{0}, {0x28, 1}, {0x08, 1}, {0x78, 1}, {0x7a, 0}, bytes.Repeat([]byte{0}, 8)} {
		if try(append(bytes.Clone(message), more...)) == nil {
			t.Errorf("accepted with %x behind", more)
		}
	}
	return accepted
}

func (d *device) try(from *device, typ uint32) func([]byte) error {
	before := d.record.Marshal()
	return func(message []byte) error {
		_, err := d.record.Decrypt(d.local, from.remote(), typ, message, d, start)
		if err != nil && !errors.Is(err, ErrUndecryptable) && !errors.Is(err, ErrDuplicate) && !errors.Is(err, ErrIdentityChanged) {
			d.t.Fatal(err)
		}
		if err != nil && !bytes.Equal(before, d.record.Marshal()) {
			d.t.Fatal("a failed decryption changed the record")
		}
		return err
	}
}

func TestAlteredFirstMessage(t *testing.T) {
	for _, oneTime := range []bool{true, false} {
		alice, bob := pair(t)
		alice.initiate(bob, oneTime)
		m := alice.encrypt(bob, "hello")
		if accepted := tamper(t, m.Bytes, !oneTime, bob.try(alice, m.Type)); len(accepted) > 0 {
			t.Errorf("one-time %v: flipped bits accepted: %v", oneTime, accepted)
		}
		bob.expect(alice, m, "hello")
	}
}

// In a further pre-key message of a live session nothing outside the inner message takes part in its decryption.
func TestAlteredFurtherPreKeyMessage(t *testing.T) {
	alice, bob := pair(t)
	alice.initiate(bob, true)
	bob.expect(alice, alice.encrypt(bob, "first"), "first")
	m := alice.encrypt(bob, "second")
	if accepted := tamper(t, m.Bytes, false, bob.try(alice, m.Type)); len(accepted) > 0 {
		t.Errorf("flipped bits accepted: %v", accepted)
	}
	bob.expect(alice, m, "second")
}

func TestAlteredLaterMessage(t *testing.T) {
	alice, bob := established(t)
	for _, text := range []string{"known chain", "new chain"} {
		m := bob.encrypt(alice, text)
		if accepted := tamper(t, m.Bytes, false, alice.try(bob, m.Type)); len(accepted) > 0 {
			t.Errorf("%s: flipped bits accepted: %v", text, accepted)
		}
		alice.expect(bob, m, text)
		bob.expect(alice, alice.encrypt(bob, "turn"), "turn")
	}
}

// Another implementation's registration id is the one thing no MAC covers. Nothing uses it.
func TestAlteredForeignFirstMessage(t *testing.T) {
	c := loadConversation(t, "recipient.json")
	keys := c.preKeys(t)
	message := c.Events[0].Message
	accepted := tamper(t, message, true, func(message []byte) error {
		local := c.local(t)
		_, err := new(Record).Decrypt(local, c.remote(t), TypePreKeyMessage, message, keys, start)
		return err
	})
	id := protofield.AppendVarint(nil, 5, uint64(c.Them.RegistrationID))
	first := 8 * (bytes.LastIndex(message, id) + 1)
	for _, i := range accepted {
		if i < first || i >= first+8*(len(id)-1) {
			t.Errorf("flipped bit %d accepted", i)
		}
	}
	if len(accepted) != 14 {
		t.Errorf("%d bits of the registration id are open, not 14", len(accepted))
	}
}

// What the post-quantum ratchet cannot take is refused, though the message is authentic otherwise:
// here the header of an encapsulation key, of which three messages have a piece each.
func TestForgedPostQuantumHeader(t *testing.T) {
	alice, bob := pair(t)
	alice.initiate(bob, true)
	state := alice.record.current.pq.Marshal()
	const mac = 1 + 1 + 1 + 1 + 32 // version, direction, state, epoch, root
	state[mac] ^= 1
	forged, err := spqr.Unmarshal(state)
	if err != nil {
		t.Fatal(err)
	}
	alice.record.current.pq = forged
	bob.expect(alice, alice.encrypt(bob, "one"), "one")
	bob.expect(alice, alice.encrypt(bob, "two"), "two")
	bob.refuse(alice, alice.encrypt(bob, "three"), ErrUndecryptable)
}

func TestOneEncoding(t *testing.T) {
	alice, bob := pair(t)
	alice.initiate(bob, true)
	outer, err := parsePreKeyMessage(alice.encrypt(bob, "hello").Bytes)
	if err != nil {
		t.Fatal(err)
	}
	b := outer.encode()
	fields := b[1:]
	id := protofield.AppendVarint(nil, 7, uint64(outer.kyberID))
	at := bytes.LastIndex(b[:len(b)-kyberCiphertextSize], id)
	for name, b := range map[string][]byte{
		"version 3":      append([]byte{0x34}, fields...),
		"newer sender":   append([]byte{0x45}, fields...),
		"older sender":   append([]byte{0x43}, fields...),
		"repeated field": protofield.AppendVarint(bytes.Clone(b), 5, uint64(outer.registrationID)),
		"unknown field":  protofield.AppendVarint(bytes.Clone(b), 9, 1),
		"wrong order":    append(protofield.AppendVarint([]byte{versionByte}, 7, uint64(outer.kyberID)), fields...),
		"padded varint":  append(append(bytes.Clone(b[:at]), 7<<3, byte(outer.kyberID)|0x80, 0), b[at+len(id):]...),
		"wide varint":    append(append(bytes.Clone(b[:at]), protofield.AppendVarint(nil, 7, 1<<32+uint64(outer.kyberID))...), b[at+len(id):]...),
		"no field":       append(bytes.Clone(b[:at]), b[at+len(id):]...),
		"empty":          nil,
	} {
		if _, err := parsePreKeyMessage(b); !errors.Is(err, ErrUndecryptable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := parsePreKeyMessage(b); err != nil {
		t.Error("the untouched message is refused")
	}
}

// A base key with a torsion part, or above the modulus, leads to the same secrets. Only its one canonical form is accepted.
func TestBaseKeyIsCanonical(t *testing.T) {
	alice, bob := pair(t)
	alice.initiate(bob, true)
	first := alice.encrypt(bob, "hello")
	m, err := parsePreKeyMessage(first.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	m.baseKey.bytes[PublicKeySize-1] |= 0x80 // X25519 ignores this bit
	bob.refuse(alice, Message{TypePreKeyMessage, m.encode()}, ErrUndecryptable)
	bob.expect(alice, first, "hello")
}

// Decryption must not copy the skipped seeds: with all five chains full of them a message allocates no more than a few kilobytes.
func TestSkippedSeedsAreNotCopied(t *testing.T) {
	alice, bob := established(t)
	fillChains(alice, bob)
	m := alice.encrypt(bob, "hello")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := bob.record.Decrypt(bob.local, alice.remote(), m.Type, m.Bytes, bob, start)
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	seeds := uint64(maxReceivingChains * maxSkipped * skippedSize)
	if size := after.TotalAlloc - before.TotalAlloc; size > seeds/10 {
		t.Errorf("one message allocated %d bytes; the skipped seeds are %d", size, seeds)
	}
}

func fillChains(alice, bob *device) {
	for range maxReceivingChains {
		for range maxSkipped {
			alice.encrypt(bob, "")
		}
		bob.expect(alice, alice.encrypt(bob, "x"), "x")
		alice.expect(bob, bob.encrypt(alice, "y"), "y")
	}
	bob.expect(alice, alice.encrypt(bob, "x"), "x")
}

func TestNothingSecretIsPrinted(t *testing.T) {
	alice, bob := established(t)
	kyber := bob.kyber[bob.last]
	identity := alice.local.Identity
	values := []any{
		identity, identity.Public(), *identity, kyber, *kyber, &alice.record, alice.record, alice.local, &alice.local, alice.remote(),
		[]*KeyPair{identity}, map[string]*KyberKeyPair{"k": kyber},
	}
	session := alice.record.current
	for _, v := range values {
		var out bytes.Buffer
		slog.New(slog.NewTextHandler(&out, nil)).Info("text", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "v", v)
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		for _, secret := range [][]byte{
			identity.Marshal(), identity.Public().Bytes()[1:], kyber.Marshal(), session.root[:], session.sending.key[:], session.ratchet.private[:],
		} {
			decimal := strings.Trim(fmt.Sprint(secret[:6]), "[]")
			for _, form := range []string{
				fmt.Sprintf("%x", secret[:6]), fmt.Sprintf("%X", secret[:6]), decimal, strings.ReplaceAll(decimal, " ", ","),
				string(secret[:6]), strings.Trim(fmt.Sprintf("%#v", secret[:6])[len("[]byte"):], "{}"),
			} {
				if strings.Contains(out.String(), form) {
					t.Errorf("%T prints key bytes: %s", v, out.String())
				}
			}
		}
	}
}
