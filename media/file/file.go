// Package file reads and writes the sound and the pictures of calls as files.
//
//	reads   WAV (PCM of 8 to 32 bits, float, G.711; up to 8 channels; any usual rate), Ogg/Opus, IVF with VP8
//	writes  the same: WAV and Ogg/Opus of 48 kHz mono, IVF with VP8
//	makes   a tone, raw samples of another program, an endless loop of any of these
//
// What a file holds is told by its content, not by its name, and what is wrong with it by an error
// that says what to do; damage in its middle by OnDamage, as reading goes on behind it. Readers hold
// a bounded part of the file, whatever it says about itself, and streams as well as files. A recording that was cut short, because the program was killed, is
// readable up to there; recordings are private files, readable by their owner alone.
package file

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"sotto/media"
	"sotto/media/resample"
)

// Audio is a sound file being read. It is a media.AudioSource; the last frame is filled up with silence.
type Audio struct {
	input
	source resample.Source // at 48 kHz

	ahead [media.FrameSamples]int16 // the next frame, so that a file that cannot be read is found when it is opened
	got   int                       // samples in it
	err   error                     // behind it
}

// OpenAudio opens a WAV or Ogg/Opus file.
func OpenAudio(path string) (*Audio, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	a, err := NewAudio(path, f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return a, nil
}

// NewAudio reads WAV or Ogg/Opus from a file that is already open, from memory or from a stream. What
// is an io.Seeker can be rewound. The name is for error messages.
func NewAudio(name string, r io.Reader) (*Audio, error) {
	a := &Audio{input: input{name: name, Reader: r}}
	return a, a.Rewind()
}

// Rewind goes back to the beginning.
func (a *Audio) Rewind() error {
	a.err = nil
	if err := a.rewind(); err != nil {
		return err
	}
	size := a.size()
	r := bufio.NewReaderSize(&a.input, readAhead)
	start, err := a.beginning(r)
	if err != nil {
		return err
	}
	var source resample.Source // of the file, mixed to mono
	rate := media.SampleRate
	switch {
	case bytes.HasPrefix(start, []byte("RIFF")), bytes.HasPrefix(start, []byte("RF64")):
		var wav *wavReader
		if wav, err = newWAVReader(r, size, a.damaged); err == nil {
			source, rate = wav, wav.rate
		}
	case bytes.HasPrefix(start, []byte("OggS")):
		source, err = newOggReader(r, a.damaged)
	default:
		return fmt.Errorf("%s is %s, not WAV or Ogg/Opus: %s", a.name, guess(start), convertAudio(a.name))
	}
	if err != nil {
		return a.explain(err)
	}
	if a.source = source; rate != media.SampleRate {
		a.source = resample.New(source, rate, media.SampleRate)
	}
	if a.load(); a.err == io.EOF && a.got == 0 {
		return fmt.Errorf("%s holds no sound", a.name)
	} else if a.err != nil && a.err != io.EOF {
		return a.explain(a.err)
	}
	return nil
}

// readAhead holds the longest page of Ogg, and 0.3 s of the largest WAV.
const readAhead = 1 << 17

// load reads the next frame.
func (a *Audio) load() {
	a.got = 0
	for a.got < len(a.ahead) && a.err == nil {
		var n int
		n, a.err = a.source.Read(a.ahead[a.got:])
		a.got += n
	}
	clear(a.ahead[a.got:])
}

// ReadFrame fills pcm with the next 20 ms.
func (a *Audio) ReadFrame(pcm []int16) error {
	defer a.tell()
	if a.got == 0 && a.err == io.EOF {
		return io.EOF
	}
	if a.got == 0 {
		return a.explain(a.err)
	}
	copy(pcm, a.ahead[:])
	a.load()
	return nil
}

// Close closes the file underneath.
func (a *Audio) Close() error { return closeFile(a.Reader) }

func (a *Audio) explain(err error) error {
	var codec wrongCodec
	if errors.As(err, &codec) {
		return fmt.Errorf("%s holds %s, which is not understood here: %s", a.name, string(codec), convertAudio(a.name))
	}
	return explain(a.name, err)
}

func convertAudio(name string) string {
	return fmt.Sprintf("convert it with `ffmpeg -i %s -ar 48000 -ac 1 -c:a pcm_s16le speech.wav`", name)
}

// Errors that the parsers return, without the name of the file.
var (
	errTruncated = errors.New("is truncated")
	errDamaged   = errors.New("is damaged")
)

// wrongCodec is an error: the container is right, what is in it is not.
type wrongCodec string

func (c wrongCodec) Error() string { return "holds " + string(c) }

func explain(name string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errTruncated
	}
	return fmt.Errorf("%s %w", name, err)
}

func open(path string) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no file %s", path)
	}
	if err != nil {
		return nil, fmt.Errorf("media file: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// guess names what a file that begins so is likely to be.
func guess(start []byte) string {
	for _, kind := range []struct {
		name, magic string
		at          int
	}{
		{"WAV", "WAVE", 8}, {"AVI", "AVI ", 8}, {"Ogg", "OggS", 0}, {"IVF", "DKIF", 0}, {"FLAC", "fLaC", 0}, {"MP3", "ID3", 0},
		{"MP3", "\xff\xfb", 0}, {"AAC", "\xff\xf1", 0}, {"MP4", "ftyp", 4}, {"WebM or Matroska", "\x1a\x45\xdf\xa3", 0},
		{"PNG", "\x89PNG", 0}, {"JPEG", "\xff\xd8\xff", 0},
	} {
		if len(start) >= kind.at && bytes.HasPrefix(start[kind.at:], []byte(kind.magic)) {
			return kind.name
		}
	}
	return "something else"
}

func closeFile(f any) error {
	if c, ok := f.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// create makes a file for a recording, in place of one that is there. A link that somebody has put
// there is replaced, not followed: what it leads to is not overwritten.
func create(path string) (*os.File, error) {
	_ = os.Remove(path) // what cannot be removed is in the way
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot record: %w", err)
	}
	return f, nil
}
