package safety

import (
	"encoding/hex"
	"regexp"
	"testing"
)

var vectors = []struct {
	name                string
	localKey, remoteKey string
	localID, remoteID   string
	number              string
}{
	{
		name:      "made by libsignal-client 0.103.0",
		localKey:  "05a406678a08c74ad76b4f2be39c48cd877b08215c7308af459c66499294827b1c",
		remoteKey: "05b6be4b75828d0147433a08d3cd79417cbe3096213ae1df59d4165817dd8be878",
		localID:   "03e5f9d1-b2a3-4813-b0a6-af4e9b1f40fc",
		remoteID:  "27be016e-25e2-46ee-9f19-2350cec168a3",
		number:    "071813444658896583921268251705448762354520788055745853189492",
	},
	{
		name:      "libsignal's unit tests",
		localKey:  "0506863bc66d02b40d27b8d49ca7c09e9239236f9d7d25d6fcca5ce13c7064d868",
		remoteKey: "05f781b6fb32fed9ba1cf2de978d4d5da28dc34046ae814402b5c0dbd96fda907b",
		localID:   "+14152222222",
		remoteID:  "+14153333333",
		number:    "300354477692869396892869876765458257569162576843440918079131",
	},
	{
		name:      "private keys 0x11 and 0x22, 32 times",
		localKey:  "057b4e909bbe7ffe44c465a220037d608ee35897d31ef972f07f74892cb0f73f13",
		remoteKey: "050faa684ed28867b97f4a6a2dee5df8ce974e76b7018e3f22a1c4cf2678570f20",
		localID:   "alice",
		remoteID:  "bob",
		number:    "010863110140374666048734561592102485054693111813422108341091",
	},
}

func TestVectors(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			local, remote := key(t, v.localKey), key(t, v.remoteKey)
			if got := Number(local, remote, []byte(v.localID), []byte(v.remoteID)); got != v.number {
				t.Errorf("local end sees %s, want %s", got, v.number)
			}
			if got := Number(remote, local, []byte(v.remoteID), []byte(v.localID)); got != v.number {
				t.Errorf("remote end sees %s, want %s", got, v.number)
			}
		})
	}
}

// TestEveryInputCounts changes each byte of both keys, and the identifiers.
func TestEveryInputCounts(t *testing.T) {
	v := vectors[2]
	local, remote := key(t, v.localKey), key(t, v.remoteKey)
	for i := range 33 {
		changed := local
		changed[i] ^= 1
		if Number(changed, remote, []byte(v.localID), []byte(v.remoteID)) == v.number {
			t.Errorf("byte %d of the local key does not count", i)
		}
		changed = remote
		changed[i] ^= 0x80
		if Number(local, changed, []byte(v.localID), []byte(v.remoteID)) == v.number {
			t.Errorf("byte %d of the remote key does not count", i)
		}
	}
	if Number(local, remote, []byte("alicf"), []byte(v.remoteID)) == v.number ||
		Number(local, remote, []byte(v.localID), []byte("bo")) == v.number {
		t.Error("an identifier does not count")
	}
	if Number(local, remote, []byte(v.remoteID), []byte(v.localID)) == v.number {
		t.Error("it does not count whose identifier is whose")
	}
}

func TestFormat(t *testing.T) {
	got := Format(vectors[1].number)
	if want := "30035 44776 92869 39689 28698 76765 45825 75691 62576 84344 09180 79131"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !regexp.MustCompile(`^\d{5}( \d{5}){11}$`).MatchString(got) {
		t.Errorf("%q is not twelve groups of five", got)
	}
}

func BenchmarkNumber(b *testing.B) {
	var local, remote [33]byte
	id := make([]byte, 16)
	for b.Loop() {
		Number(local, remote, id, id)
	}
}

func key(t testing.TB, s string) (k [33]byte) {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(k) {
		t.Fatal("bad key in test")
	}
	return [33]byte(b)
}
