package client

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
)

// commit is the four steps at the head of this file. A single record needs no journal: its rename is the whole transaction.
func (s *store) commit(changes map[string][]byte) error {
	if len(changes) == 0 {
		return nil
	}
	var entries []byte
	var written []string
	abandon := func(err error) error { // nothing has happened yet
		for _, file := range written {
			s.d.remove(file) // what is left goes when the store is opened next
		}
		return s.writeError(err)
	}
	for _, name := range slices.Sorted(maps.Keys(changes)) {
		file, value := s.fileName(name), changes[name]
		if value == nil {
			entries = append(append(entries, journalDelete), file...)
			continue
		}
		entries = append(append(entries, journalPut), file...)
		written = append(written, file+suffixNew)
		if err := s.d.write(file+suffixNew, s.sealRecord(file, name, value)); err != nil {
			return abandon(err)
		}
	}
	if len(changes) > 1 {
		written = append(written, journalFile+suffixNew)
		if err := s.d.write(journalFile+suffixNew, encrypt(s.recordKey, []byte(journalFile), entries)); err != nil {
			return abandon(err)
		}
		if err := s.d.sync(); err != nil { // a journal must never be there without the files it names
			return abandon(err)
		}
		if err := s.d.rename(journalFile+suffixNew, journalFile); err != nil {
			return abandon(err)
		}
		if err := s.d.sync(); err != nil {
			return s.fail(err)
		}
	}
	if err := s.apply(entries); err != nil {
		return s.fail(err)
	}
	return nil
}

// apply does what a journal says, again if it was interrupted, and removes it.
func (s *store) apply(entries []byte) error {
	for entry := range slices.Chunk(entries, 1+fileNameLen) {
		file := string(entry[1:])
		var err error
		if entry[0] == journalDelete {
			err = s.d.remove(file)
		} else if err = s.d.rename(file+suffixNew, file); errors.Is(err, fs.ErrNotExist) {
			err = nil // done before the interruption
		}
		if err != nil {
			return err
		}
	}
	if err := s.d.sync(); err != nil || len(entries) == 1+fileNameLen {
		return err
	}
	if err := s.d.remove(journalFile); err != nil {
		return err
	}
	return s.d.sync()
}

// finish does what a journal says, and removes new files that no journal names.
func (s *store) finish() error {
	files, err := s.d.list()
	if err != nil {
		return s.readError(err)
	}
	if slices.Contains(files, journalFile) {
		sealed, err := s.d.read(journalFile)
		if err != nil {
			return s.readError(err)
		}
		entries, err := decrypt(s.recordKey, []byte(journalFile), sealed)
		if err != nil {
			return s.damagedError(journalFile)
		}
		if err := s.apply(entries); err != nil {
			return s.writeError(err)
		}
	}
	for _, file := range files {
		if strings.HasSuffix(file, suffixNew) {
			if err := s.d.remove(file); err != nil {
				return s.writeError(err)
			}
		}
	}
	return nil
}

// A record's file is nonce[24] || XChaCha20-Poly1305(be32(length of name) || name || value), the file's name its associated data.

func (s *store) fileName(name string) string {
	h := hmac.New(sha256.New, s.nameKey)
	h.Write([]byte(name))
	return hex.EncodeToString(h.Sum(nil)[:fileNameLen/2])
}

func (s *store) sealRecord(file, name string, value []byte) []byte {
	plaintext := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
	plaintext = append(append(plaintext, name...), value...)
	defer clear(plaintext)
	return encrypt(s.recordKey, []byte(file), plaintext)
}

func (s *store) readRecord(file string) (name string, value []byte, err error) {
	sealed, err := s.d.read(file)
	if err != nil {
		return "", nil, s.readError(err)
	}
	plaintext, err := decrypt(s.recordKey, []byte(file), sealed)
	if err != nil || len(plaintext) < 4 || uint64(binary.BigEndian.Uint32(plaintext)) > uint64(len(plaintext)-4) {
		return "", nil, s.damagedError(file)
	}
	n := 4 + binary.BigEndian.Uint32(plaintext)
	return string(plaintext[4:n]), plaintext[n:], nil
}
