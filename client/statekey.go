package client

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
)

// An account directory's state is encrypted under a random master key. The file "master" holds that key, wrapped by a key file or a
// passphrase:
//
//	magic || method, and for a passphrase the Argon2id parameters || nonce[24] || XChaCha20-Poly1305(master key)[48]
//
// where all before the nonce is associated data.

const (
	masterFile  = "master"
	keyFile     = "key" // of the zero Key
	masterMagic = "sotto state v1\n"

	methodKeyFile    = 1
	methodPassphrase = 2
)

// A Key opens an account directory. The zero Key is the key file "key" in the directory itself, made at registration: it
// protects copies of the directory that leave it out, and nothing else.
type Key struct {
	passphrase *[]byte // behind a pointer, so that printing a Key does not print it
	path       string
}

// Passphrase is a Key that a person remembers. It is used exactly as given, byte for byte.
func Passphrase(passphrase []byte) Key {
	p := bytes.Clone(passphrase)
	return Key{passphrase: &p}
}

// KeyFile is a Key kept in a file, which is made at registration if it is not there.
func KeyFile(path string) Key {
	return Key{path: path}
}

// argon is what a passphrase is stretched with (RFC 9106 section 4, second recommendation).
var argon = argonParameters{Time: 3, Memory: 64 << 10, Threads: 4}

type argonParameters struct {
	Time, Memory uint32 // passes; KiB
	Threads      uint8
	Salt         [16]byte
}

// createMaster makes and wraps the master key of a new account directory.
func createMaster(dir string, d disk, key Key) ([]byte, error) {
	header := []byte(masterMagic)
	var wrapping []byte
	var err error
	if key.passphrase != nil {
		p := argon
		rand.Read(p.Salt[:])
		header, _ = binary.Append(append(header, methodPassphrase), binary.BigEndian, p)
		wrapping, err = p.stretch(*key.passphrase)
	} else {
		header = append(header, methodKeyFile)
		wrapping, err = readKeyFile(key.file(dir), true)
	}
	if err != nil {
		return nil, err
	}
	master := make([]byte, chacha20poly1305.KeySize)
	rand.Read(master)
	return master, replace(d, masterFile, append(header, encrypt(wrapping, header, master)...))
}

// openMaster unwraps the master key. Which key was given decides, so that a tampered file cannot ask for another.
func openMaster(dir string, file []byte, key Key) ([]byte, error) {
	damaged := fmt.Errorf("%s is damaged: put a copy of it back; without it the account in %s is lost", filepath.Join(dir, masterFile), dir)
	method, ok := bytes.CutPrefix(file, []byte(masterMagic))
	if !ok || len(method) == 0 {
		return nil, damaged
	}
	var wrapping []byte
	var err error
	rest, wrong := method[1:], ""
	switch {
	case method[0] == methodPassphrase && key.passphrase == nil:
		return nil, fmt.Errorf("account directory %s is protected by a passphrase: give it", dir)
	case method[0] == methodPassphrase:
		var p argonParameters
		n, err := binary.Decode(rest, binary.BigEndian, &p)
		if err != nil || p.Time == 0 || p.Time > 16 || p.Memory > 256<<10 || p.Threads == 0 {
			return nil, damaged
		}
		rest, wrong = rest[n:], "wrong passphrase for account directory "+dir
		if wrapping, err = p.stretch(*key.passphrase); err != nil {
			return nil, err
		}
	case method[0] == methodKeyFile && key.passphrase != nil:
		return nil, fmt.Errorf("account directory %s is protected by a key file, not by a passphrase", dir)
	case method[0] == methodKeyFile:
		wrong = fmt.Sprintf("key file %s does not open account directory %s: give the one it was made with", key.file(dir), dir)
		if wrapping, err = readKeyFile(key.file(dir), false); err != nil {
			return nil, err
		}
	default:
		return nil, damaged
	}
	master, err := decrypt(wrapping, file[:len(file)-len(rest)], rest)
	if err != nil {
		return nil, errors.New(wrong)
	}
	return master, nil
}

func (p argonParameters) stretch(passphrase []byte) ([]byte, error) {
	if len(passphrase) == 0 {
		return nil, errors.New("the passphrase is empty")
	}
	return argon2.IDKey(passphrase, p.Salt[:], p.Time, p.Memory, p.Threads, chacha20poly1305.KeySize), nil
}

func (k Key) file(dir string) string {
	if k.path == "" {
		return filepath.Join(dir, keyFile)
	}
	return k.path
}

// readKeyFile reads 32 bytes in hexadecimal, or makes them.
func readKeyFile(path string, create bool) ([]byte, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) && create {
		text := hex.AppendEncode(nil, randomBytes(chacha20poly1305.KeySize))
		d := osDisk(filepath.Dir(path))
		if err := replace(d, filepath.Base(path), append(text, '\n')); err != nil {
			return nil, fmt.Errorf("cannot make key file: %w", err)
		}
		return readKeyFile(path, false)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("key file %s is missing: without it, or a copy, the account cannot be opened", path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read key file: %w", err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("key file %s can be read by others: make it yours alone (chmod 600)", path)
	}
	text, err := readStart(path, 4096)
	if err != nil {
		return nil, fmt.Errorf("cannot read key file: %w", err)
	}
	key, err := hex.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil || len(key) != chacha20poly1305.KeySize {
		return nil, fmt.Errorf("%s is not a key file (32 bytes in hexadecimal)", path)
	}
	return key, nil
}

// readStart reads no more of a file than that many bytes.
func readStart(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}

// encrypt encrypts under a fresh nonce, which it puts first. 24 bytes of chance do not repeat.
func encrypt(key, associated, plaintext []byte) []byte {
	aead, _ := chacha20poly1305.NewX(key) // fails only on another key size
	nonce := randomBytes(chacha20poly1305.NonceSizeX)
	return aead.Seal(nonce, nonce, plaintext, associated)
}

var errDamaged = errors.New("damaged, or written under another key")

func decrypt(key, associated, sealed []byte) ([]byte, error) {
	aead, _ := chacha20poly1305.NewX(key)
	if len(sealed) < chacha20poly1305.NonceSizeX {
		return nil, errDamaged
	}
	plaintext, err := aead.Open(nil, sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:], associated)
	if err != nil {
		return nil, errDamaged
	}
	return plaintext, nil
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}
