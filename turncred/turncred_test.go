package turncred

import (
	"encoding/hex"
	"errors"
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
)

// TestVector was computed with another implementation:
//
//	printf 1700000300:alice | openssl dgst -sha1 -hmac north -binary | base64
//	printf '1700000300:alice:sotto:PASSWORD' | openssl md5
func TestVector(t *testing.T) {
	username, password := Mint(secret, "alice", 5*time.Minute, noon)
	if username != "1700000300:alice" || password != vectorPassword {
		t.Errorf("Mint = %q, %q", username, password)
	}
	if key := hex.EncodeToString(Key(username, "sotto", password)); key != vectorKey {
		t.Errorf("Key = %s, want %s", key, vectorKey)
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
		"", ":", "1700000000", "1700000000:", ":alice", "alice:1700000000", "-5:alice", "+1700000000:alice", "01700000000:alice",
		" 1700000000:alice", "0:alice", "1_700:alice", "0x10:alice", "99999999999999999999:alice", "1700000000:al\x00ice",
		"1700000000:al\nice", "1700000000:\xff", "1700000000:" + strings.Repeat("a", maxID+1),
	} {
		if _, _, err := Parse(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("Parse(%q) = %v", bad, err)
		}
	}
	if id, _, err := Parse("1700000000:room:7"); id != "room:7" || err != nil {
		t.Errorf("a colon in the id: %q, %v", id, err)
	}
}

// FuzzParse holds Parse to one spelling: what it accepts is what Mint would have written.
func FuzzParse(f *testing.F) {
	f.Add("1700000000:alice")
	f.Add("01700000000:alice")
	f.Add("9223372036854775807:x")
	f.Add("1:\xff")
	f.Fuzz(func(t *testing.T, username string) {
		id, expiry, err := Parse(username)
		if err != nil {
			return
		}
		if again, _ := Mint(secret, id, 0, expiry); again != username {
			t.Errorf("Parse accepts %q, Mint writes %q", username, again)
		}
	})
}
