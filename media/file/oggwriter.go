package file

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"

	"sotto/media"
	"sotto/media/opus"
)

// packetsPerPage is what a killed recording loses at most: a second.
const packetsPerPage = 50

// Ogg is a recording as Opus in Ogg (RFC 7845). It is a media.AudioSink.
type Ogg struct {
	file    *os.File
	mu      sync.Mutex // a call writes while its end closes
	encoder *opus.Encoder
	serial  uint32
	number  uint32 // of the next page
	samples int64  // encoded

	lens    []byte // of the page being filled
	body    []byte
	packets int
}

// CreateOgg begins a recording, over whatever is at path.
func CreateOgg(path string, cfg opus.Config) (*Ogg, error) {
	encoder, err := opus.NewEncoder(cfg)
	if err != nil {
		return nil, err
	}
	f, err := create(path)
	if err != nil {
		return nil, err
	}
	o := &Ogg{file: f, encoder: encoder, serial: rand.Uint32()}
	head := append([]byte("OpusHead"), 1, 1) // version, channels
	head = binary.LittleEndian.AppendUint16(head, uint16(encoder.Lookahead()))
	head = binary.LittleEndian.AppendUint32(head, media.SampleRate)
	head = append(head, 0, 0, 0) // gain, channel mapping family
	tags := binary.LittleEndian.AppendUint32([]byte("OpusTags"), uint32(len("sotto")))
	tags = append(tags, "sotto\x00\x00\x00\x00"...) // and no comments
	o.add(head)
	err = o.flush(2, 0)
	o.add(tags)
	if err := errors.Join(err, o.flush(0, 0)); err != nil {
		f.Close()
		return nil, err
	}
	return o, nil
}

// WriteFrame appends 20 ms.
func (o *Ogg) WriteFrame(pcm []int16) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.write(pcm)
}

func (o *Ogg) write(pcm []int16) error {
	packet, err := o.encoder.Encode(pcm)
	if err != nil {
		return err
	}
	o.add(packet)
	if o.samples += int64(len(pcm)); o.packets == packetsPerPage {
		return o.flush(0, o.samples)
	}
	return nil
}

// Close encodes what the codec still holds back and ends the stream.
func (o *Ogg) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	end := o.samples + int64(o.encoder.Lookahead())
	err := o.write(make([]int16, media.FrameSamples))
	return errors.Join(err, o.flush(4, end), o.file.Close())
}

// add puts a packet on the page: its length as bytes of 255 and a rest (RFC 3533 section 5).
func (o *Ogg) add(packet []byte) {
	n := len(packet)
	for ; n >= 255; n -= 255 {
		o.lens = append(o.lens, 255)
	}
	o.lens = append(o.lens, byte(n))
	o.body = append(o.body, packet...)
	o.packets++
}

// flush writes the page (RFC 3533 section 6).
func (o *Ogg) flush(flags byte, granule int64) error {
	page := append([]byte("OggS"), 0, flags)
	page = binary.LittleEndian.AppendUint64(page, uint64(granule))
	page = binary.LittleEndian.AppendUint32(page, o.serial)
	page = binary.LittleEndian.AppendUint32(page, o.number)
	page = append(page, 0, 0, 0, 0, byte(len(o.lens)))
	page = append(append(page, o.lens...), o.body...)
	binary.LittleEndian.PutUint32(page[22:], oggSum(page))
	o.number++
	o.packets, o.lens, o.body = 0, o.lens[:0], o.body[:0]
	if _, err := o.file.Write(page); err != nil {
		return fmt.Errorf("cannot record: %w", err)
	}
	return nil
}
