package turncred

import (
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	secret = []byte("north")
	noon   = time.Unix(1_700_000_000, 0)
)

const (
	vectorPassword = "9G1RQudwl1L/ozNGiXzitEuA3uc="
	vectorKey      = "66bf2c4eb36741883590843f36e093b9"
	vectorSHA256   = "KD+lZMipkrCLknPi17kMuKxwHTlNr0/DeXMfpqlUhXs="
)

// TestVector was computed with another implementation:
//
//	printf 1700000300:alice | openssl dgst -sha1 -hmac north -binary | base64
//	printf '1700000300:alice:sotto:PASSWORD' | openssl md5
//	printf 1700000300:alice | openssl dgst -sha256 -hmac north -binary | base64
func TestVector(t *testing.T) {
	username, password := Mint(secret, "alice", 5*time.Minute, noon)
	if username != "1700000300:alice" || password != vectorPassword {
		t.Errorf("Mint = %q, %q", username, password)
	}
	if key := hex.EncodeToString(Key(username, "sotto", password)); key != vectorKey {
		t.Errorf("Key = %s, want %s", key, vectorKey)
	}
	if password := PasswordSHA256(secret, username); password != vectorSHA256 {
		t.Errorf("PasswordSHA256 = %q", password)
	}
}

// TestKeyRFC8489 is the example of RFC 8489 section 9.2.2 (and RFC 5389 section 15.4).
func TestKeyRFC8489(t *testing.T) {
	if key := hex.EncodeToString(Key("user", "realm", "pass")); key != "8493fbc53ba582fb4c044c456bdc40eb" {
		t.Errorf("Key = %s", key)
	}
}

func TestCheck(t *testing.T) {
	username, password := Mint(secret, "alice", time.Minute, noon)
	old, new := []byte("the old secret"), secret
	for _, c := range []struct {
		name               string
		secrets            [][]byte
		username, password string
		now                time.Time
		want               error
	}{
		{"valid", [][]byte{secret}, username, password, noon, nil},
		{"valid in the last second", [][]byte{secret}, username, password, noon.Add(time.Minute - 1), nil},
		{"expired", [][]byte{secret}, username, password, noon.Add(time.Minute), ErrExpired},
		{"second of two secrets", [][]byte{old, new}, username, password, noon, nil},
		{"SHA-256", [][]byte{old, new}, username, PasswordSHA256(secret, username), noon, nil},
		{"SHA-256, retired", [][]byte{old}, username, PasswordSHA256(secret, username), noon, ErrWrong},
		{"secret retired", [][]byte{old}, username, password, noon, ErrWrong},
		{"no secret at all", nil, username, password, noon, ErrWrong},
		{"another id", [][]byte{secret}, strings.Replace(username, "alice", "mallory", 1), password, noon, ErrWrong},
		{"a later expiry", [][]byte{secret}, "9" + username, password, noon, ErrWrong},
		{"a password cut short", [][]byte{secret}, username, password[:8], noon, ErrWrong},
		{"no password", [][]byte{secret}, username, "", noon, ErrWrong},
		{"wrong and expired says wrong", [][]byte{secret}, username, "", noon.Add(time.Hour), ErrWrong},
	} {
		t.Run(c.name, func(t *testing.T) {
			id, expiry, err := Check(c.secrets, c.username, c.password, c.now)
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Fatalf("err = %v, want %v", err, c.want)
			}
			if err == nil && (id != "alice" || !expiry.Equal(noon.Add(time.Minute))) {
				t.Errorf("Check = %q, %v", id, expiry)
			}
		})
	}
}

func TestMintCapsTheLife(t *testing.T) {
	username, _ := Mint(secret, "alice", 24*time.Hour, noon)
	if _, expiry, err := Parse(username); err != nil || !expiry.Equal(noon.Add(MaxTTL)) {
		t.Errorf("expiry %v (%v), want %v", expiry, err, noon.Add(MaxTTL))
	}
}

func TestParse(t *testing.T) {
	for _, bad := range []string{
		"", ":", "1700000000:", ":alice", "-5:alice", "+1700000000:alice", "01700000000:alice",
		" 1700000000:alice", "0:alice", "1_700:alice", "0x10:alice", "99999999999999999999:alice", "1700000000:al\x00ice",
		"1700000000:al\nice", "1700000000:\xff", "1700000000:" + strings.Repeat("a", maxID+1),
		"alice", "0", "-5", "01700000000", ":1700000000", "alice:", "alice:01700000000", "alice:-5",
		"alice:0", "al\x00ice:1700000000", "alice:1700000000:", "alice:1700000000 ",
		strings.Repeat("a", maxID+1) + ":1700000000", "99999999999999999999",
		"99999999999999999999:1700000000",
	} {
		if id, _, err := Parse(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("Parse(%q) = %q, %v", bad, id, err)
		}
	}
	for username, want := range map[string]string{
		"1700000000:alice":      "alice",
		"1700000000:room:7":     "room:7",
		"alice:1700000000":      "alice",
		"room:seven:1700000000": "room:seven",
		"1700000000":            "1700000000",
		"1700000000:1800000000": "1800000000", // the first number is the expiry
		"1700000000:al:1":       "al:1",
	} {
		id, expiry, err := Parse(username)
		if id != want || expiry.Unix() != 1_700_000_000 || err != nil {
			t.Errorf("Parse(%q) = %q, %v, %v", username, id, expiry, err)
		}
	}
}

// FuzzParse holds Parse to one spelling of an expiry: a username is what its parts make again, in
// one of the three forms.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"1700000000:alice", "01700000000:alice", "9223372036854775807:x", "1:\xff", "alice:1", "1",
		"a:1:2", "1:2",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, username string) {
		id, expiry, err := Parse(username)
		if err != nil {
			return
		}
		minted, _ := Mint(secret, id, 0, expiry)
		digits := strconv.FormatInt(expiry.Unix(), 10)
		if username != minted && username != id+":"+digits && (username != digits || id != digits) {
			t.Errorf("Parse accepts %q as %q, %s", username, id, digits)
		}
	})
}
