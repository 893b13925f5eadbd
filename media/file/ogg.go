package file

import (
	"bufio"
	"encoding/binary"
	"io"
	"math"

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
}

func newOggReader(f io.Reader) (*oggReader, error) {
	o := &oggReader{pages: oggPages{r: bufio.NewReaderSize(f, 1<<15)}}
	return o, o.begin()
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
	o.decoded = 0
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
	for len(o.ready) == 0 {
		packet, err := o.pages.packet()
		if err == io.EOF && o.pages.chained() {
			if err = o.begin(); err == nil {
				continue
			}
		}
		if err != nil {
			return 0, err
		}
		n, err := o.decoder.Decode(packet, o.pcm[:])
		if err != nil {
			return 0, errDamaged
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
	n := copy(pcm, o.ready)
	o.ready = o.ready[n:]
	return n, nil
}

// oggPages yields the packets of the first stream in an Ogg file (RFC 3533). It holds one page and one packet.
type oggPages struct {
	r       *bufio.Reader
	started bool
	serial  uint32
	last    bool // this page ends the stream
	granule int64

	page  [27 + 255 + 255*255]byte
	lens  []byte // of the segments that were not yet taken
	body  []byte // of them
	whole []byte // packet
}

// packet returns the next packet, valid until the next call.
func (o *oggPages) packet() ([]byte, error) {
	o.whole = o.whole[:0]
	for begun := false; ; {
		for len(o.lens) == 0 {
			if o.last {
				return nil, io.EOF
			}
			if err := o.next(begun); err != nil {
				return nil, err
			}
		}
		n := o.lens[0]
		if len(o.whole) < longestPacket { // pictures in tags are longer: their beginning is enough
			o.whole = append(o.whole, o.body[:n]...)
		}
		o.lens, o.body, begun = o.lens[1:], o.body[n:], true
		if n < 255 && len(o.whole) > 0 {
			return o.whole, nil
		}
		if n < 255 {
			begun = false // an empty packet
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

// next reads a page (RFC 3533 section 6) of our stream, past those of others.
func (o *oggPages) next(within bool) error {
	for {
		head := o.page[:27]
		if _, err := io.ReadFull(o.r, head); err != nil {
			if err == io.EOF && !within && o.started {
				return io.EOF // no page said it is the last: the recording was cut off
			}
			return io.ErrUnexpectedEOF
		}
		if string(head[:4]) != "OggS" || head[4] != 0 {
			return errDamaged
		}
		lens := o.page[27 : 27+int(head[26])]
		if _, err := io.ReadFull(o.r, lens); err != nil {
			return io.ErrUnexpectedEOF
		}
		length := 0
		for _, n := range lens {
			length += int(n)
		}
		whole := o.page[:27+len(lens)+length]
		body := whole[27+len(lens):]
		if _, err := io.ReadFull(o.r, body); err != nil {
			return io.ErrUnexpectedEOF
		}
		sum := binary.LittleEndian.Uint32(head[22:])
		clear(head[22:26])
		if oggSum(whole) != sum {
			return errDamaged
		}
		serial := binary.LittleEndian.Uint32(head[14:])
		if o.started && serial != o.serial || o.foreign(body) {
			continue
		}
		continued, first, last := head[5]&1 != 0, head[5]&2 != 0, head[5]&4 != 0
		if continued != within || first == o.started {
			return errDamaged
		}
		o.started, o.serial, o.last = true, serial, last
		o.granule = int64(binary.LittleEndian.Uint64(head[6:]))
		o.lens, o.body = lens, body
		return nil
	}
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
