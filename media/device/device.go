package device

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"github.com/jfreymuth/pulse/proto"

	"sotto/media"
)

// kept is how many frames wait for a reader that is slow.
const kept = 3

// A Microphone is the default source of sound. It is a media.AudioSource.
type Microphone struct {
	server *server
	frames chan [media.FrameSamples]int16
	closed chan struct{}
	once   sync.Once

	partial [frameBytes]byte // owned by the connection's goroutine
	filled  int
}

// OpenMicrophone begins to record.
func OpenMicrophone() (*Microphone, error) {
	m := &Microphone{frames: make(chan [media.FrameSamples]int16, kept), closed: make(chan struct{})}
	var err error
	if m.server, err = connect(m.receive); err != nil {
		return nil, err
	}
	spec, channels, volumes := format()
	err = m.server.client.Request(&proto.CreateRecordStream{
		SampleSpec: spec, ChannelMap: channels, ChannelVolumes: volumes,
		SourceIndex: proto.Undefined, DirectOnInputIndex: proto.Undefined,
		BufferMaxLength: proto.Undefined, BufferFragSize: frameBytes, AdjustLatency: true,
		Properties: properties(),
	}, &proto.CreateRecordStreamReply{})
	if err != nil {
		m.server.close()
		return nil, fmt.Errorf("cannot open the microphone: %w", err)
	}
	return m, nil
}

// receive cuts what the server records into frames.
func (m *Microphone) receive(message any) {
	packet, ok := message.(*proto.DataPacket)
	if !ok {
		return
	}
	for data := packet.Data; len(data) > 0; {
		n := copy(m.partial[m.filled:], data)
		data, m.filled = data[n:], m.filled+n
		if m.filled < frameBytes {
			return
		}
		m.filled = 0
		var frame [media.FrameSamples]int16
		for i := range frame {
			frame[i] = int16(binary.LittleEndian.Uint16(m.partial[2*i:]))
		}
		select {
		case m.frames <- frame:
			continue
		default:
		}
		select { // nobody reads: the oldest goes
		case <-m.frames:
		default:
		}
		m.frames <- frame // this goroutine is the only one that writes
	}
}

// ReadFrame waits for the next 20 ms. It returns io.EOF after Close.
func (m *Microphone) ReadFrame(pcm []int16) error {
	select {
	case <-m.closed:
		return io.EOF
	default:
	}
	select {
	case frame := <-m.frames:
		copy(pcm, frame[:])
		return nil
	case <-m.closed:
		return io.EOF
	case <-m.server.done:
		return errGone
	}
}

// Close stops recording. It may be called while ReadFrame waits.
func (m *Microphone) Close() (err error) {
	m.once.Do(func() {
		close(m.closed)
		err = m.server.close()
	})
	return err
}

// A Speaker is the default sink of sound. It is a media.AudioSink.
type Speaker struct {
	server *server
	stream uint32
	room   int // bytes that the server still takes; under server.mu
	buffer []byte
}

// OpenSpeaker begins to play. Until the first frame it plays silence.
func OpenSpeaker() (*Speaker, error) {
	s := &Speaker{}
	var err error
	if s.server, err = connect(s.receive); err != nil {
		return nil, err
	}
	spec, channels, volumes := format()
	var reply proto.CreatePlaybackStreamReply
	err = s.server.client.Request(&proto.CreatePlaybackStream{
		SampleSpec: spec, ChannelMap: channels, ChannelVolumes: volumes, SinkIndex: proto.Undefined,
		BufferMaxLength: proto.Undefined, BufferTargetLength: kept * frameBytes,
		BufferPrebufferLength: 0, // begin at once, and go on after a gap
		BufferMinimumRequest:  proto.Undefined, AdjustLatency: true,
		Properties: properties(),
	}, &reply)
	if err != nil {
		s.server.close()
		return nil, fmt.Errorf("cannot open the speaker: %w", err)
	}
	s.server.mu.Lock()
	s.stream = reply.StreamIndex
	s.room += int(reply.Missing)
	s.server.mu.Unlock()
	return s, nil
}

// receive learns what the server has played.
func (s *Speaker) receive(message any) {
	if request, ok := message.(*proto.Request); ok {
		s.server.mu.Lock()
		s.room += int(request.Length)
		s.server.mu.Unlock()
	}
}

// WriteFrame plays 20 ms. It does not wait: if the speaker is behind, the frame is dropped.
func (s *Speaker) WriteFrame(pcm []int16) error {
	s.buffer = s.buffer[:0]
	for _, sample := range pcm {
		s.buffer = binary.LittleEndian.AppendUint16(s.buffer, uint16(sample))
	}
	s.server.mu.Lock()
	gone, fits := s.server.gone, s.room >= len(s.buffer)
	if fits {
		s.room -= len(s.buffer)
	}
	s.server.mu.Unlock()
	if gone {
		return errGone
	}
	if !fits {
		return nil
	}
	if err := s.server.client.Send(s.stream, s.buffer); err != nil {
		return errGone
	}
	return nil
}

// Close stops playing at once.
func (s *Speaker) Close() error { return s.server.close() }
