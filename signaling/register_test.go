package signaling

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"sotto/wire"
)

func TestRegistrationByInvitation(t *testing.T) {
	s := serve(t, func(c *Config, _ *timing) { c.OpenRegistration = false })
	token, err := s.NewInvitation(time.Hour, 1)
	if err != nil {
		t.Fatal(err)
	}
	alice, mallory := newDevice(s, "alice"), newDevice(s, "mallory")
	for _, c := range []struct {
		name       string
		device     *testDevice
		invitation string
		status     int
		code       wire.Error_Code
	}{
		{"without", alice, "", http.StatusForbidden, wire.Error_FORBIDDEN},
		{"mistyped", alice, token + "x", http.StatusForbidden, wire.Error_FORBIDDEN},
		{"good", alice, token, http.StatusOK, 0},
		{"used up", mallory, token, http.StatusForbidden, wire.Error_FORBIDDEN},
		{"taken, but nothing of that shows without an invitation", &testDevice{username: "alice", private: mallory.private, identity: mallory.identity}, token, http.StatusForbidden, wire.Error_FORBIDDEN},
		{"once more, after a lost answer", alice, token, http.StatusOK, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, result, failed := s.post(t, c.device.registration(c.invitation))
			if status != c.status || failed.GetCode() != c.code {
				t.Fatalf("got %d %v, want %d %v", status, failed, c.status, c.code)
			}
			if status != http.StatusOK {
				return
			}
			if len(result.Account) != 16 || result.Device != 1 {
				t.Errorf("result %v", result)
			}
			if alice.account != nil && !bytes.Equal(alice.account, result.Account) {
				t.Error("asking again made another account")
			}
			alice.account = result.Account
		})
	}
	alice.connect(t)
	late, _ := s.NewInvitation(time.Minute, 1)
	s.later(time.Hour)
	if status, _, failed := s.post(t, mallory.registration(late)); status != http.StatusForbidden {
		t.Errorf("an expired invitation: %d %v", status, failed)
	}
	if _, err := s.NewInvitation(time.Hour, 0); err == nil {
		t.Error("an invitation without uses was made")
	}
}

// TestStrangersPreKeysAreNotRead: without a good invitation nothing is said, and no work done, about pre-keys.
func TestStrangersPreKeysAreNotRead(t *testing.T) {
	s := serve(t, func(c *Config, _ *timing) { c.OpenRegistration = false })
	token, err := s.NewInvitation(time.Hour, 1)
	if err != nil {
		t.Fatal(err)
	}
	for invitation, want := range map[string]wire.Error_Code{"": wire.Error_FORBIDDEN, token: wire.Error_BAD_REQUEST} {
		d := newDevice(s, "mallory")
		r := d.registration(invitation)
		r.PreKeys = []byte{0xff}
		r.Signature = d.sign(wire.RegistrationToSign("127.0.0.1", r))
		if status, _, failed := s.post(t, r); failed.GetCode() != want {
			t.Errorf("got %d %v, want %v", status, failed, want)
		}
	}
}

func TestRegistrationIsChecked(t *testing.T) {
	s := serve(t)
	s.register(t, "taken")
	resign := func(d *testDevice, r *wire.Registration) {
		r.Signature = d.sign(wire.RegistrationToSign("127.0.0.1", r))
	}
	preKeys := func(d *testDevice, change func(*wire.PreKeys)) func(r *wire.Registration) {
		return func(r *wire.Registration) {
			k := &wire.PreKeys{}
			proto.Unmarshal(r.PreKeys, k)
			change(k)
			r.PreKeys, _ = proto.Marshal(k)
			resign(d, r)
		}
	}
	d := newDevice(s, "dave")
	for _, c := range []struct {
		name   string
		change func(*wire.Registration)
		want   wire.Error_Code
	}{
		{"name taken", func(r *wire.Registration) { r.Username = "taken"; resign(d, r) }, wire.Error_USERNAME_TAKEN},
		{"name altered", func(r *wire.Registration) { r.Username = "dava" }, wire.Error_UNAUTHENTICATED},
		{"upper case", func(r *wire.Registration) { r.Username = "Dave"; resign(d, r) }, wire.Error_BAD_REQUEST},
		{"a path", func(r *wire.Registration) { r.Username = ".."; resign(d, r) }, wire.Error_BAD_REQUEST},
		{"a flag", func(r *wire.Registration) { r.Username = "--help"; resign(d, r) }, wire.Error_BAD_REQUEST},
		{"registration id of another key", func(r *wire.Registration) {
			r.RegistrationId = r.RegistrationId%wire.MaxRegistrationID + 1
			resign(d, r)
		}, wire.Error_BAD_REQUEST},
		{"registration id 0", func(r *wire.Registration) { r.RegistrationId = 0; resign(d, r) }, wire.Error_BAD_REQUEST},
		{"registration id too high", func(r *wire.Registration) { r.RegistrationId = 16381; resign(d, r) }, wire.Error_BAD_REQUEST},
		{"pre-keys altered", func(r *wire.Registration) { r.PreKeys[len(r.PreKeys)-1] ^= 1 }, wire.Error_UNAUTHENTICATED},
		{"identity key of another type", func(r *wire.Registration) { r.IdentityKey = append([]byte{4}, r.IdentityKey[1:]...); resign(d, r) }, wire.Error_BAD_REQUEST},
		{"identity key of small order", func(r *wire.Registration) {
			r.IdentityKey = append([]byte{5}, make([]byte, 32)...)
			r.RegistrationId = wire.RegistrationID(r.IdentityKey)
			resign(d, r)
		}, wire.Error_UNAUTHENTICATED},
		{"for another server", func(r *wire.Registration) { r.Signature = d.sign(wire.RegistrationToSign("other.example", r)) }, wire.Error_UNAUTHENTICATED},
		{"signed pre-key missing", preKeys(d, func(k *wire.PreKeys) { k.SignedPreKey = nil }), wire.Error_BAD_REQUEST},
		{"last resort missing", preKeys(d, func(k *wire.PreKeys) { k.LastResortKyber = nil }), wire.Error_BAD_REQUEST},
		{"signed pre-key's signature", preKeys(d, func(k *wire.PreKeys) { k.SignedPreKey.Signature[5] ^= 1 }), wire.Error_BAD_REQUEST},
		{"last resort's signature", preKeys(d, func(k *wire.PreKeys) { k.LastResortKyber.Signature[5] ^= 1 }), wire.Error_BAD_REQUEST},
		{"Kyber key's signature", preKeys(d, func(k *wire.PreKeys) { k.OneTimeKyber[1].Signature[5] ^= 1 }), wire.Error_BAD_REQUEST},
		{"one-time key's size", preKeys(d, func(k *wire.PreKeys) { k.OneTime[0].PublicKey = k.OneTime[0].PublicKey[:32] }), wire.Error_BAD_REQUEST},
		{"key id 0", preKeys(d, func(k *wire.PreKeys) { k.OneTime[0].Id = 0 }), wire.Error_BAD_REQUEST},
		{"a one-time key with the last resort's id", preKeys(d, func(k *wire.PreKeys) {
			k.OneTimeKyber[0].Id = k.LastResortKyber.Id
		}), wire.Error_BAD_REQUEST},
		{"too many keys", preKeys(d, func(k *wire.PreKeys) {
			for range uploadLimit {
				k.OneTime = append(k.OneTime, k.OneTime[0])
			}
		}), wire.Error_TOO_LARGE},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := d.registration("")
			c.change(r)
			if status, _, failed := s.post(t, r); status == http.StatusOK || failed.GetCode() != c.want || failed.GetMessage() == "" {
				t.Errorf("got %d %v, want %v", status, failed, c.want)
			}
		})
	}
	if status, _, failed := s.postBytes(t, []byte("\xff\xff")); status != http.StatusBadRequest || failed.Code != wire.Error_BAD_REQUEST {
		t.Errorf("no protobuf: %d %v", status, failed)
	}
	if status, _, failed := s.postBytes(t, make([]byte, maxRegistration+1)); status != http.StatusRequestEntityTooLarge || failed.Code != wire.Error_TOO_LARGE {
		t.Errorf("too large: %d %v", status, failed)
	}
	if status, _, failed := s.post(t, d.registration("")); status != http.StatusOK {
		t.Errorf("the unaltered one: %d %v", status, failed)
	}
}

func TestRegistrationsPerAddress(t *testing.T) {
	s := serve(t, func(c *Config, _ *timing) { c.Limits.Registrations = Rate{2, time.Hour} })
	s.register(t, "alice")
	s.register(t, "bob")
	status, _, failed := s.post(t, newDevice(s, "carol").registration(""))
	if status != http.StatusTooManyRequests || failed.GetCode() != wire.Error_RATE_LIMITED || failed.GetRetryAfter() < 3000 {
		t.Errorf("got %d %v", status, failed)
	}
}

func TestValidUsername(t *testing.T) {
	for name, want := range map[string]bool{
		"ab": true, "a.b_c-9": true, strings.Repeat("x", 32): true,
		"": false, "a": false, strings.Repeat("x", 33): false, "Ab": false, "a b": false, "a\x00": false, "äb": false, "a/b": false, "aé": false,
	} {
		if got := ValidUsername(name); got != want {
			t.Errorf("ValidUsername(%q) = %v", name, got)
		}
	}
}

// A refusal is the answer to a whole request: a device that still writes would hear of a broken
// connection instead, and not know what became of its name.
func TestRefusalsAwaitTheRequest(t *testing.T) {
	s := serve(t)
	for _, path := range []string{"/v1/accounts", "/v1/devices"} {
		conn, err := net.Dial("tcp", s.http.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		const size = 10_000
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: other.example\r\nContent-Length: %d\r\n"+
			"Connection: close\r\n\r\n", path, size)
		conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if n, err := conn.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: answered before the request was there: %d, %v", path, n, err)
		}
		conn.SetDeadline(time.Now().Add(time.Minute))
		if _, err := conn.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if err != nil || !strings.Contains(string(answer), "does not go by that name") {
			t.Errorf("%s: %q, %v", path, answer, err)
		}
	}
}
