package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"
)

// A Damage is a place in a file that cannot be read. Sound and pictures go on behind it where the
// format lets a reader find its place again.
type Damage struct {
	Name   string
	Offset int64         // bytes from the beginning
	At     time.Duration // of what was read before
	What   string        // what is wrong, in words that follow the name of the file
	Ends   bool          // nothing behind it can be read
}

func (d Damage) Error() string {
	goesOn := "it goes on behind that"
	if d.Ends {
		goesOn = "it ends there"
	}
	return fmt.Sprintf("%s %s at byte %d, after %s: %s", d.Name, d.What, d.Offset,
		d.At.Round(10*time.Millisecond), goesOn)
}

// An input is what a reader reads, and what it tells of damage. A file can be read again from its
// beginning; a stream, such as standard input, once.
type input struct {
	name string
	io.Reader
	read int64 // bytes

	// OnDamage hears of each place that cannot be read. It is called by ReadFrame; nil drops it.
	OnDamage func(Damage)
	found    []Damage // and not told: of what is read ahead
}

// foundAhead is how many are kept while a file is opened.
const foundAhead = 8

func (in *input) Read(b []byte) (int, error) {
	n, err := in.Reader.Read(b)
	in.read += int64(n)
	return n, err
}

func (in *input) damaged(offset int64, at time.Duration, what string, ends bool) {
	if len(in.found) < foundAhead {
		in.found = append(in.found, Damage{in.name, offset, at, what, ends})
	}
}

// tell tells of what was found.
func (in *input) tell() {
	for _, d := range in.found {
		if in.OnDamage != nil {
			in.OnDamage(d)
		}
	}
	in.found = nil
}

// rewind goes back to the beginning.
func (in *input) rewind() error {
	if in.read == 0 {
		return nil
	}
	in.read = 0
	seeker, ok := in.Reader.(io.Seeker)
	if !ok {
		return fmt.Errorf("%s can be played once only", in.name)
	}
	if _, err := seeker.Seek(0, io.SeekStart); err != nil {
		return explain(in.name, err)
	}
	return nil
}

// size is how many bytes there are, or less than 0 for a stream.
func (in *input) size() int64 {
	seeker, ok := in.Reader.(io.Seeker)
	if !ok {
		return -1
	}
	size, err := seeker.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = seeker.Seek(0, io.SeekStart)
	}
	if err != nil {
		return -1
	}
	return size
}

// beginning returns what is peeked at, which tells the format.
func (in *input) beginning(r interface{ Peek(int) ([]byte, error) }) ([]byte, error) {
	start, err := r.Peek(12)
	switch {
	case len(start) == 0 && err == io.EOF:
		return nil, fmt.Errorf("%s is empty", in.name)
	case err != nil && !errors.Is(err, io.EOF):
		return nil, fmt.Errorf("media file: %w", err)
	}
	return bytes.Clone(start), nil
}
