package senderkey

import (
	"bytes"
	"testing"
)

func BenchmarkEncrypt(b *testing.B) {
	s, plaintext := NewSender(group), make([]byte, 100)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Encrypt(plaintext); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecrypt(b *testing.B) {
	s, r := newPair(b)
	text := string(make([]byte, 100))
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		m := encrypt(b, s, text)
		b.StartTimer()
		if _, err := r.Decrypt(m); err != nil {
			b.Fatal(err)
		}
	}
}

// The longest jump, which only the sender itself can cause.
func BenchmarkJump(b *testing.B) {
	s, r := newPair(b)
	skip(s, maxJump)
	m := encrypt(b, s, "x")
	stored := r.Marshal()
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		r, err := UnmarshalReceiver(stored)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if _, err := r.Decrypt(m); err != nil {
			b.Fatal(err)
		}
	}
}

// What anybody can cause, whatever the iteration it names.
func BenchmarkForged(b *testing.B) {
	s, r := newPair(b)
	skip(s, maxJump)
	m := encrypt(b, s, string(make([]byte, 64<<10)))
	m = bytes.Clone(m)
	m[len(m)-1] ^= 1
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Decrypt(m); err == nil {
			b.Fatal("decrypted")
		}
	}
}
