package main

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// The key of alice, whose password is "hers": printf alice:sotto:hers | md5sum
const aliceKey = "0x490b1638d575a0b5703a5dfd81f8e33d"

func writeKey(t *testing.T, name, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestRelayUsers: a file holds a password or a key. Read again it changes who may allocate.
func TestRelayUsers(t *testing.T) {
	alice, bob := writeKey(t, "alice", "hers\r\nand what else\n"), writeKey(t, "bob", "his")
	flags := relayFlags{users: []string{"alice:" + alice, "bob:" + bob}, ports: "49152-65535"}
	flags.onLoopback()
	relay, err := flags.start(nil, nil, testLog())
	if err != nil {
		t.Fatal(err)
	}
	defer stopRelay(relay)
	at := relay.Addrs().UDP[0].String()
	allocates := func(name, password string) bool {
		t.Helper()
		conn, err := relayClientOf(t, at, name, password).Allocate()
		if err == nil {
			conn.Close()
		}
		return err == nil
	}
	if !allocates("alice", "hers") || !allocates("bob", "his") || allocates("alice", "his") {
		t.Fatal("the passwords do not hold")
	}

	if err := os.WriteFile(alice, []byte(aliceKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	now := flags
	now.users = []string{"alice:" + alice}
	if err := flags.take(relay, &now, nil); err != nil {
		t.Fatal(err)
	}
	if !allocates("alice", "hers") || allocates("bob", "his") {
		t.Error("the key is not hers, or he is still a user")
	}
	now.users = nil
	if err := flags.take(relay, &now, nil); err != nil {
		t.Fatal(err)
	}
	if allocates("alice", "hers") {
		t.Error("the last user stays")
	}
}

func TestRelayUserErrors(t *testing.T) {
	alice, open := writeKey(t, "alice", "hers"), writeKey(t, "open", "hers")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		users []string
		want  string
	}{
		{[]string{"alice"}, "NAME:KEYFILE"},
		{[]string{":" + alice}, "NAME:KEYFILE"},
		{[]string{"alice:"}, "NAME:KEYFILE"},
		{[]string{"alice:" + alice, "alice:" + alice}, "twice"},
		{[]string{"alice:" + alice + ".not"}, `key of relay user "alice"`},
		{[]string{"alice:" + filepath.Dir(alice)}, "is a directory"},
		{[]string{"alice:" + writeKey(t, "empty", "\nhers")}, "first line is empty"},
		{[]string{"alice:" + open}, "other users may read"},
	} {
		if runtime.GOOS == "windows" && c.want == "other users may read" {
			continue
		}
		_, err := (&relayFlags{users: c.users}).keys()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v", c.users, err)
		}
	}
}

// TestHashUser: what it prints stands for the password.
func TestHashUser(t *testing.T) {
	var stdout bytes.Buffer
	out := newOutput(&stdout, &stdout, false)
	err := hashUser(out, strings.NewReader("hers\nmore"), "alice")
	if err != nil || stdout.String() != aliceKey+"\n" {
		t.Errorf("%q, %v", &stdout, err)
	}
	for name, password := range map[string]string{"alice": "\n", "a:b": "hers"} {
		if err := hashUser(out, strings.NewReader(password), name); err == nil {
			t.Errorf("%q with %q is hashed", name, password)
		}
	}
}

// TestCheckAsUser: a relay that has users and no secret can be tried.
func TestCheckAsUser(t *testing.T) {
	alice, key := "alice:"+writeKey(t, "alice", "hers"), "alice:"+writeKey(t, "key", aliceKey)
	flags := relayFlags{users: []string{alice}, ports: "49152-65535"}
	flags.onLoopback()
	relay, err := flags.start(nil, nil, testLog())
	if err != nil {
		t.Fatal(err)
	}
	defer stopRelay(relay)
	for user, want := range map[string]int{alice: exitDone, key: exitUsage} {
		var stdout bytes.Buffer
		args := []string{"turn", "--json", "--relay-user", user, "--check", relay.URLs()[0]}
		if code := run(t.Context(), args, &stdout, &stdout); code != want {
			t.Errorf("%s: exit code %d: %s", user, code, &stdout)
		}
	}
}
