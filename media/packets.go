package media

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"

	"sotto/media/path"
	"sotto/media/secure"
)

// How one datagram passes.
//
// In: ice.Conn (validated address) → any path (demultiplexer, recover) → handle → secure.Opener → rtpchain → audioReceiver or videoReceiver.
// Out: audioSender or videoSender → rtpchain → writeRTP → secure.Sealer → the current path.

// errNotAccepted says that nothing may leave yet.
var errNotAccepted = errors.New("sending has not been started")

// handle takes one datagram from a path.
func (s *Session) handle(kind path.Kind, datagram []byte) {
	s.handling.Lock()
	defer s.handling.Unlock()
	now := time.Now()
	switch kind {
	case path.RTP:
		packet, err := s.opener.RTP(datagram, now)
		if err != nil {
			s.refused(err, now)
			return
		}
		s.opened(datagram, now)
		s.heardAgain()
		if s.counts.firstMediaAfter.CompareAndSwap(0, int64(max(1, now.Sub(s.started)))) {
			close(s.firstMedia)
			s.emit(EventFirstMedia)
		}
		if err := s.chain.HandleRTP(packet, now); err != nil {
			s.counts.malformed.Add(1)
		}
	case path.RTCP:
		packet, err := s.opener.RTCP(datagram, now)
		if err != nil {
			s.refused(err, now)
			return
		}
		s.opened(datagram, now)
		if s.sentMore(packet) && !s.deaf.since.IsZero() {
			s.deaf.reports++
		}
		if err := s.chain.HandleRTCP(packet, now); err != nil {
			s.counts.malformed.Add(1)
		}
	default:
		s.counts.malformed.Add(1)
	}
}

func (s *Session) opened(datagram []byte, now time.Time) {
	s.heardAt.Store(now.UnixNano())
	s.counts.bytesReceived.Add(uint64(len(datagram)))
}

// heardAgain ends a deafness.
func (s *Session) heardAgain() {
	if s.deaf.reported {
		s.emit(EventFirstMedia)
	}
	s.deaf = deafness{}
}

// maxSenders is more than a peer has streams.
const maxSenders = 8

// sentMore reports whether a sender report in a compound packet says that more media was sent than the one before (RFC 3550 section 6.4.1).
func (s *Session) sentMore(compound []byte) (more bool) {
	for len(compound) >= 4 {
		size := 4 * (int(binary.BigEndian.Uint16(compound[2:])) + 1)
		if size > len(compound) {
			break
		}
		if compound[1] == byte(rtcp.TypeSenderReport) && size >= 28 {
			sender, count := binary.BigEndian.Uint32(compound[4:]), binary.BigEndian.Uint32(compound[20:])
			before, known := s.sent[sender]
			if more = more || count != before; known || len(s.sent) < maxSenders {
				s.sent[sender] = count
			}
		}
		compound = compound[size:]
	}
	return more
}

// refused counts what was not opened. A packet that cannot be decrypted is an error the users must hear of, never silence.
func (s *Session) refused(err error, now time.Time) {
	if errors.Is(err, secure.ErrReplayed) {
		s.counts.replayed.Add(1)
		return
	}
	if s.counts.undecryptable.Add(1) == 1 {
		s.log.Error("media cannot be decrypted: the peer uses other keys, or something on the way changes packets")
		s.emit(EventUndecryptable)
	}
	if s.counts.firstMediaAfter.Load() != 0 && s.deaf.refused(now, time.Unix(0, s.heardAt.Load())) {
		s.log.Error("the peer changed its key to one that was not agreed: its media can no longer be decrypted")
		s.emit(EventPeerKeyChanged)
	}
}

// A single packet may be anybody's. A peer is taken to have another key when so many came in so long a time and not one that opened. If
// its reports still open they must say that it was sending: the first that does may be about what it sent before.
const (
	deafPackets = 10
	deafTime    = 2 * time.Second
	deafReports = 2
)

// deafness is what was refused since the last packet of media that opened.
type deafness struct {
	since            time.Time
	packets, reports int
	reported         bool
}

// refused reports whether it is to be told now, once until a packet opens again.
func (d *deafness) refused(now, opened time.Time) bool {
	if d.since.IsZero() {
		d.since = now
	}
	d.packets++
	sends := d.reports >= deafReports || !opened.After(d.since)
	if d.reported || d.packets < deafPackets || now.Sub(d.since) < deafTime || !sends {
		return false
	}
	d.reported = true
	return true
}

func (s *Session) writeRTP(header *rtp.Header, payload []byte) error {
	if !s.sending.Load() {
		return errNotAccepted
	}
	datagram, err := s.sealer.RTP(header, payload, time.Now())
	if err != nil {
		return err
	}
	if err := s.write(datagram); err != nil {
		return err
	}
	switch header.PayloadType {
	case opusPayloadType:
		s.counts.audioPacketsSent.Add(1)
	case vp8PayloadType:
		s.camera.counts.packetsSent.Add(1)
	case screenPayloadType:
		s.screen.counts.packetsSent.Add(1)
	}
	return nil
}

func (s *Session) writeRTCP(packet []byte) error {
	if !s.sending.Load() {
		return errNotAccepted
	}
	datagram, err := s.sealer.RTCP(packet, time.Now())
	if err != nil {
		return err
	}
	return s.write(datagram)
}

func (s *Session) write(datagram []byte) error {
	if err := s.current.Load().path.Write(datagram); err != nil {
		return err
	}
	s.counts.bytesSent.Add(uint64(len(datagram)))
	s.budget.spend(len(datagram)+headers, time.Now())
	return nil
}
