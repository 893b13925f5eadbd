package ratchet

import (
	"testing"
)

var text = make([]byte, 100)

func BenchmarkEncrypt(b *testing.B) {
	alice, bob := established(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := alice.record.Encrypt(alice.local, bob.remote(), text, start); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecrypt takes messages in order in one chain; then with all receiving chains full of skipped seeds; then with a
// Diffie-Hellman step for every message.
func BenchmarkDecrypt(b *testing.B) {
	decrypt := func(b *testing.B, to, from *device, m Message) {
		if _, err := to.record.Decrypt(to.local, from.remote(), m.Type, m.Bytes, to, start); err != nil {
			b.Fatal(err)
		}
	}
	run := func(name string, prepare, before func(b *testing.B, alice, bob *device)) {
		b.Run(name, func(b *testing.B) {
			alice, bob := established(b)
			prepare(b, alice, bob)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				before(b, alice, bob)
				m := alice.encrypt(bob, string(text))
				b.StartTimer()
				decrypt(b, bob, alice, m)
			}
		})
	}
	nothing := func(*testing.B, *device, *device) {}
	run("chain", nothing, nothing)
	run("10000-skipped", func(_ *testing.B, alice, bob *device) { fillChains(alice, bob) }, nothing)
	run("turn", nothing, func(b *testing.B, alice, bob *device) { decrypt(b, alice, bob, bob.encrypt(alice, "y")) })
}

// BenchmarkSessionSetup is a start: the initiator's, from the bundle to the first message, and the recipient's, which is the first
// message's decryption.
func BenchmarkSessionSetup(b *testing.B) {
	alice, bob := pair(b)
	bundle := bob.bundle(true)
	initiate := func() Message {
		var r Record
		if err := r.Initiate(alice.local, bob.remote(), bundle, start); err != nil {
			b.Fatal(err)
		}
		m, err := r.Encrypt(alice.local, bob.remote(), text, start)
		if err != nil {
			b.Fatal(err)
		}
		return m
	}
	b.Run("initiator", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			initiate()
		}
	})
	b.Run("recipient", func(b *testing.B) {
		m := initiate()
		b.ReportAllocs()
		for b.Loop() {
			var r Record
			if _, err := r.Decrypt(bob.local, alice.remote(), m.Type, m.Bytes, bob, start); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkForged is the most that a message can cost without being authentic, with 40 archived sessions: as a long jump, which
// LongJumps limits to four a minute; and otherwise, when it is worst to make every session do a Diffie-Hellman step and use up the
// allowance of the archived ones among them; and the same for messages that pretend to begin a session.
func BenchmarkForged(b *testing.B) {
	for _, c := range []struct {
		name  string
		limit *LongJumps
		first bool
		jump  uint32
	}{
		{"long", nil, false, maxJump}, {"short", spent(start), false, shortJump / maxArchived},
		{"first-long", nil, true, maxJump}, {"first-short", spent(start), true, shortJump},
	} {
		b.Run(c.name, func(b *testing.B) {
			bob, from, _ := manySessions(b)
			bob.local.LongJumps = c.limit
			m := forge(GenerateKeyPair().Public(), c.jump, 48<<10)
			if c.first {
				from, m = forgeFirst(bob, c.jump, 48<<10)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := bob.record.Decrypt(bob.local, from.remote(), m.Type, m.Bytes, bob, start); err == nil {
					b.Fatal("accepted")
				}
			}
		})
	}
}
