package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"golang.org/x/term"

	"sotto/internal/visible"
	"sotto/turncred"
)

// relayRealm is turnserver's default, which the keys of users are made for.
const relayRealm = "sotto"

// A relayUser is somebody with a lasting credential. The password is not known where the file holds
// the key.
type relayUser struct {
	name, password string
	key            []byte
}

// relayUsers reads the files of --relay-user NAME:KEYFILE.
func (r *relayFlags) relayUsers() (users []relayUser, err error) {
	for _, text := range r.users {
		name, file, found := strings.Cut(text, ":")
		if !found || name == "" || file == "" {
			return nil, usagef("--relay-user %q is not NAME:KEYFILE, "+
				"for instance alice:/etc/sotto/alice.key", text)
		}
		for _, other := range users {
			if other.name == name {
				return nil, usagef("--relay-user names %q twice", name)
			}
		}
		content, err := readPrivate(file)
		if err != nil {
			return nil, fmt.Errorf("cannot read the key of relay user %q: %w", name, err)
		}
		line, _, _ := bytes.Cut(content, []byte("\n"))
		user, err := newRelayUser(name, string(bytes.TrimSuffix(line, []byte("\r"))))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		users = append(users, user)
	}
	return users, nil
}

// newRelayUser takes a password, or a key as "sotto turn --hash-user" and coturn's "turnadmin -k"
// print it.
func newRelayUser(name, line string) (relayUser, error) {
	if line == "" {
		return relayUser{}, errors.New("the first line is empty: " +
			"write the password there, or what sotto turn --hash-user prints")
	}
	if digits, isKey := strings.CutPrefix(line, "0x"); isKey && len(digits) == 32 {
		if key, err := hex.DecodeString(digits); err == nil {
			return relayUser{name: name, key: key}, nil
		}
	}
	return relayUser{name, line, turncred.Key(name, relayRealm, line)}, nil
}

// keys are what the relay keeps of its users: never nil, so that a reload takes away the last one
// too.
func (r *relayFlags) keys() (map[string][]byte, error) {
	users, err := r.relayUsers()
	if err != nil {
		return nil, err
	}
	keys := make(map[string][]byte)
	for _, user := range users {
		keys[user.name] = user.key
	}
	return keys, nil
}

// readPrivate reads a small file that other users must not. The group may read: two services that
// share it run as different users. Windows has no such bits.
func readPrivate(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, fmt.Errorf("%s is a directory: name a file in it", name)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o037 != 0 {
		return nil, fmt.Errorf("other users may read %s, or its group may change it: "+
			"chmod 600 %[1]s, and make a new secret if they had a chance to", name)
	}
	return io.ReadAll(io.LimitReader(file, 64<<10))
}

type userKeyLine struct {
	Event string `json:"event"` // "relay_user"
	User  string `json:"user"`
	Key   string `json:"key"`
}

// hashUser prints the key of a password, which is asked for or is the first line of standard input.
func hashUser(out *output, stdin io.Reader, name string) error {
	if name == "" || strings.Contains(name, ":") {
		return usagef("--hash-user %q is no name of a relay user: give one without a colon", name)
	}
	password, err := readPassword(out, stdin)
	if err != nil {
		return err
	}
	user, err := newRelayUser(name, password)
	if err != nil {
		return err
	}
	key := "0x" + hex.EncodeToString(user.key)
	out.say(userKeyLine{"relay_user", name, key}, "%s", visible.Line(key))
	return nil
}

func readPassword(out *output, stdin io.Reader) (string, error) {
	if file, ok := stdin.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		password, err := askPassphrase(out, "Password: ")
		return string(password), err
	}
	text, err := io.ReadAll(io.LimitReader(stdin, 4<<10))
	if err != nil {
		return "", fmt.Errorf("cannot read the password: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSuffix(line, "\r"), nil
}
