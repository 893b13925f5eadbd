package file

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"time"

	"sotto/media"
	"sotto/media/opus"
)

// longestPacket is 120 ms in 48 frames (RFC 6716 section 3.2.5), with room for their lengths.
const longestPacket = 48*1275 + 128

// oggReader decodes Opus in Ogg (RFC 7845).
type oggReader struct {
	pages   oggPages
	decoder *opus.Decoder
	skip    int   // samples at the beginning that are the codec's own (section 4.2)
	gain    int32 // to multiply with, times 2^16

	decoded int64 // samples, before skipping
	pcm     [opus.MaxSamples]int16
	ready   []int16 // of pcm, not yet read
	silence int64   // samples to be read before, in the place of lost ones

	told    int64 // samples of the streams before
	damaged func(offset int64, at time.Duration, what string, ends bool)
}

func newOggReader(r *bufio.Reader, damaged func(int64, time.Duration, string, bool)) (*oggReader, error) {
	o := &oggReader{pages: oggPages{r: r}, damaged: damaged}
	err := o.begin()
	o.pages.hole = o.hole
	return o, err
}

// longestHole is what is filled with silence, so that sound stays beside its pictures.
const longestHole = 5 * media.SampleRate

// hole hears where pages are missing or damaged, and what the next one holds.
func (o *oggReader) hole(offset int64, what string, ends bool) {
	at := time.Duration(o.told+o.decoded) * time.Second / media.SampleRate
	o.damaged(offset, at, what, ends)
	if begins, ok := o.pages.begins(); ok && !ends && begins > o.decoded {
		o.silence = min(begins-o.decoded, longestHole)
		o.decoded = begins
	}
}

// begin reads the headers of a stream. A file may be a chain of them (RFC 3533 section 4), as of
// several recordings, or of a radio's songs.
func (o *oggReader) begin() error {
	head, err := o.pages.packet()
	if err != nil {
		return err
	}
	if err := o.head(head); err != nil {
		return err
	}
	if tags, err := o.pages.packet(); err != nil {
		return err
	} else if len(tags) < 8 || string(tags[:8]) != "OpusTags" {
		return errDamaged
	}
	o.told, o.decoded = o.told+o.decoded, 0
	o.decoder, err = opus.NewDecoder()
	return err
}

// head reads the identification header (RFC 7845 section 5.1).
func (o *oggReader) head(b []byte) error {
	switch {
	case len(b) >= 7 && string(b[1:7]) == "vorbis":
		return wrongCodec("Vorbis")
	case len(b) >= 5 && string(b[1:5]) == "FLAC":
		return wrongCodec("FLAC")
	case len(b) < 19 || string(b[:8]) != "OpusHead" || b[8]>>4 != 0:
		return wrongCodec("something other than Opus")
	case b[9] < 1 || b[9] > 2 || b[18] > 1 || b[18] == 1 && (len(b) < 21 || b[19] != 1):
		return wrongCodec("Opus of more than two channels") // family 1 has one stream for up to two (section 5.1.1.2)
	}
	o.skip = int(binary.LittleEndian.Uint16(b[10:]))
	decibels := float64(int16(binary.LittleEndian.Uint16(b[16:]))) / 256
	o.gain = int32(math.Round(math.Pow(10, max(-60, min(60, decibels))/20) * (1 << 16)))
	return nil
}

func (o *oggReader) Read(pcm []int16) (int, error) {
	for len(o.ready) == 0 && o.silence == 0 {
		packet, err := o.pages.packet()
		if err == io.EOF && o.pages.chained() {
			if err = o.begin(); err == nil {
				continue
			}
			o.hole(o.pages.at, err.Error(), true)
			err = io.EOF
		}
		if err != nil {
			return 0, err
		}
		n, err := o.decoder.Decode(packet, o.pcm[:])
		if err != nil {
			o.hole(o.pages.at, "holds a packet that is no Opus before", false)
			continue
		}
		o.decoded += int64(n)
		if end, ok := o.pages.end(); ok && o.decoded > end { // the last packet is longer than the sound (section 4.4)
			n = max(0, n-int(min(o.decoded-end, opus.MaxSamples)))
		}
		drop := min(n, o.skip)
		o.skip -= drop
		o.ready = o.pcm[drop:n]
		if o.gain != 1<<16 {
			for i, s := range o.ready {
				o.ready[i] = int16(max(math.MinInt16, min(math.MaxInt16, int64(s)*int64(o.gain)>>16)))
			}
		}
	}
	if o.silence > 0 {
		n := int(min(o.silence, int64(len(pcm))))
		clear(pcm[:n])
		o.silence -= int64(n)
		return n, nil
	}
	n := copy(pcm, o.ready)
	o.ready = o.ready[n:]
	return n, nil
}

// oggPages yields the packets of the first stream in an Ogg file (RFC 3533). It holds one page and one packet.
type oggPages struct {
	r        *bufio.Reader
	at       int64 // bytes taken from it
	started  bool
	serial   uint32
	number   uint32 // of this page
	last     bool   // this page ends the stream
	granule  int64
	hole     func(offset int64, what string, ends bool) // nil: what is damaged is an error
	captures int                                        // capture patterns that began no page

	page  [27 + 255 + 255*255]byte
	lens  []byte // of the segments that were not yet taken
	body  []byte // of them
	whole []byte // packet
	begun bool   // some of it is there
}

// packet returns the next packet, valid until the next call.
func (o *oggPages) packet() ([]byte, error) {
	o.whole, o.begun = o.whole[:0], false
	for {
		for len(o.lens) == 0 {
			if o.last {
				return nil, io.EOF
			}
			if err := o.next(); err != nil {
				return nil, err
			}
		}
		n := o.lens[0]
		if len(o.whole) < longestPacket { // pictures in tags are longer: their beginning is enough
			o.whole = append(o.whole, o.body[:n]...)
		}
		o.lens, o.body, o.begun = o.lens[1:], o.body[n:], true
		if n < 255 && len(o.whole) > 0 {
			return o.whole, nil
		}
		if n < 255 {
			o.begun = false // an empty packet
		}
	}
}

// chained begins the next stream of a chain, if there is one.
func (o *oggPages) chained() bool {
	next, err := o.r.Peek(6)
	if err != nil || string(next[:4]) != "OggS" || next[5]&2 == 0 {
		return false
	}
	o.started, o.last = false, false
	return true
}

// foreign says whether a page begins a stream that is no Opus, a picture or a film, while there is
// a chance of one that is.
func (o *oggPages) foreign(body []byte) bool {
	if o.started || len(body) >= 8 && string(body[:8]) == "OpusHead" {
		return false
	}
	next, err := o.r.Peek(6)
	return err == nil && string(next[:4]) == "OggS" && next[5]&2 != 0 // all streams begin before any goes on (RFC 3533 section 4)
}

// end is the number of samples in the stream, which only its last page tells.
func (o *oggPages) end() (int64, bool) {
	return o.granule, o.last && len(o.lens) == 0 && o.granule >= 0
}

// next reads a page (RFC 3533 section 6) of our stream, past those of others. Behind damage it looks
// for the next capture pattern.
func (o *oggPages) next() error {
	broken, what := int64(-1), ""
	for {
		err := o.take()
		switch {
		case err == io.EOF && broken < 0 && !o.begun && o.started:
			return io.EOF // no page said it is the last: the recording was cut off
		case err == io.EOF && o.hole == nil:
			return io.ErrUnexpectedEOF
		case err == io.EOF && broken < 0:
			broken, what = o.at, errTruncated.Error()
			fallthrough
		case err == io.EOF:
			o.hole(broken, what, true)
			return io.EOF
		case err == errDamaged || err == errTruncated:
			if o.hole == nil {
				return err
			}
			if broken < 0 {
				broken, what = o.at, err.Error()
			}
			o.seek()
			continue
		case err != nil:
			return err
		}
		head := o.page[:27]
		serial := binary.LittleEndian.Uint32(head[14:])
		if o.started && serial != o.serial || o.foreign(o.body) {
			o.lens, o.body = nil, nil
			continue
		}
		return o.begin(head, serial, broken, what)
	}
}

// begin begins a page of our stream. Bytes are missing before it if broken is not negative, and
// pages if it does not go on where the one before has ended.
func (o *oggPages) begin(head []byte, serial uint32, broken int64, what string) error {
	continued, first, last := head[5]&1 != 0, head[5]&2 != 0, head[5]&4 != 0
	number := binary.LittleEndian.Uint32(head[18:])
	follows := continued == o.begun && (!o.started || o.hole == nil || number == o.number+1)
	if first == o.started || !follows && o.hole == nil {
		return errDamaged
	}
	o.started, o.serial, o.number, o.last = true, serial, number, last
	o.granule = int64(binary.LittleEndian.Uint64(head[6:]))
	if broken < 0 && follows {
		return nil
	}
	if broken < 0 {
		broken, what = o.at, "lacks pages before"
	}
	o.whole, o.begun = o.whole[:0], false
	for partial := continued; partial && len(o.lens) > 0; o.lens = o.lens[1:] {
		partial = o.lens[0] == 255
		o.body = o.body[o.lens[0]:]
	}
	o.hole(broken, what, false)
	return nil
}

// take takes the page that comes next, if it is whole; else nothing.
func (o *oggPages) take() error {
	need := 27
	for {
		b, err := o.r.Peek(need)
		switch {
		case len(b) == 0 && err == io.EOF:
			return io.EOF
		case err == io.EOF:
			return errTruncated
		case err != nil:
			return err
		case string(b[:4]) != "OggS" || b[4] != 0:
			return errDamaged
		}
		lens := b[27:min(len(b), 27+int(b[26]))]
		whole := 27 + int(b[26])
		for _, n := range lens {
			whole += int(n)
		}
		if len(b) < 27+int(b[26]) || len(b) < whole {
			need = max(27+int(b[26]), whole)
			continue
		}
		page := o.page[:copy(o.page[:], b)]
		sum := binary.LittleEndian.Uint32(page[22:])
		clear(page[22:26])
		if oggSum(page) != sum {
			return errDamaged
		}
		o.lens, o.body = page[27:27+len(lens)], page[27+len(lens):]
		o.discard(len(page))
		return nil
	}
}

// falseCaptures bounds the work that a file can make: each costs the sum over a page.
const falseCaptures = 1000

// seek goes on to the next capture pattern, or to the end.
func (o *oggPages) seek() {
	o.discard(1)
	o.captures++
	for {
		b, err := o.r.Peek(max(4, o.r.Buffered()))
		i := bytes.Index(b, []byte("OggS"))
		switch {
		case i >= 0 && o.captures < falseCaptures:
			o.discard(i)
			return
		case err != nil:
			o.discard(len(b))
			return
		}
		o.discard(len(b) - 3)
	}
}

func (o *oggPages) discard(n int) {
	n, _ = o.r.Discard(n) // it was peeked at
	o.at += int64(n)
}

// begins is the place of this page's first packet in the stream, in samples.
func (o *oggPages) begins() (int64, bool) {
	if o.granule < 0 {
		return 0, false
	}
	at, body := o.granule, o.body
	length := 0
	for _, n := range o.lens {
		if length += int(n); n < 255 {
			at -= int64(opus.Samples(body[:length]))
			body, length = body[length:], 0
		}
	}
	return at, true
}

// oggTable is of the CRC with polynomial 0x04c11db7, not reflected, as the standard library has none.
var oggTable = func() (table [256]uint32) {
	for i := range table {
		r := uint32(i) << 24
		for range 8 {
			carry := r >> 31
			r = r<<1 ^ carry*0x04c11db7
		}
		table[i] = r
	}
	return table
}()

func oggSum(b []byte) (sum uint32) {
	for _, c := range b {
		sum = sum<<8 ^ oggTable[byte(sum>>24)^c]
	}
	return sum
}
