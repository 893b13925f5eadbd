package rtpchain

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/interceptor"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
)

const (
	historySize   = 1024                  // packets kept for retransmission: about ten seconds of video
	resendSpacing = 10 * time.Millisecond // a packet is not sent again sooner, however often it is asked for

	// What is sent again is paid for by what was sent: as many bytes as that, so that every packet
	// may be lost once, and of what was saved up no more than this. Otherwise a peer could have a
	// thousand packets sent again and again by requests of 60 bytes.
	maxResendSaved   = 128 << 10
	firstResendSaved = 16 << 10 // of a stream that begins
)

// responder answers NACKs (RFC 4585 section 6.2.1) with retransmissions (RFC 4588).
//
// Every retransmission takes a fresh sequence number of the retransmission stream, also when the same packet is asked for again: the
// number is part of the SRTP nonce. pion's own responder fixes it when the packet is first sent, and seals a repeated answer twice
// with one nonce.
type responder struct {
	interceptor.NoOp
	now           func() time.Time
	retransmitted *atomic.Uint64
	may           func() bool // whether anything may be sent again now

	mu        sync.Mutex
	histories map[uint32]*history // by media SSRC
}

type history struct {
	stream Stream
	writer interceptor.RTPWriter

	mu       sync.Mutex // held while a retransmission is written, so that they leave in order
	sequence uint16     // last one used in the retransmission stream
	saved    int        // bytes that may be sent again
	packets  [historySize]struct {
		header  *rtp.Header
		payload []byte
		resent  time.Time
	}
}

func newResponder(retransmitted *atomic.Uint64, may func() bool) *responder {
	return &responder{now: time.Now, retransmitted: retransmitted, may: may, histories: make(map[uint32]*history)}
}

func (r *responder) BindLocalStream(info *interceptor.StreamInfo, writer interceptor.RTPWriter) interceptor.RTPWriter {
	if info.SSRCRetransmission == 0 {
		return writer
	}
	h := &history{
		stream: Stream{
			SSRC: info.SSRC, PayloadType: info.PayloadType,
			RTXSSRC: info.SSRCRetransmission, RTXPayloadType: info.PayloadTypeRetransmission,
		},
		writer: writer, saved: firstResendSaved,
	}
	r.mu.Lock()
	r.histories[info.SSRC] = h
	r.mu.Unlock()
	return interceptor.RTPWriterFunc(func(header *rtp.Header, payload []byte, a interceptor.Attributes) (int, error) {
		h.keep(header, payload)
		return writer.Write(header, payload, a)
	})
}

func (r *responder) BindRTCPReader(reader interceptor.RTCPReader) interceptor.RTCPReader {
	return interceptor.RTCPReaderFunc(func(b []byte, a interceptor.Attributes) (int, interceptor.Attributes, error) {
		n, attributes, err := reader.Read(b, a)
		if err != nil {
			return 0, nil, err
		}
		packets, err := attributes.GetRTCPPackets(b[:n])
		if err != nil {
			return 0, nil, err
		}
		for _, packet := range packets {
			if nack, ok := packet.(*rtcp.TransportLayerNack); ok {
				r.answer(nack)
			}
		}
		return n, attributes, nil
	})
}

func (r *responder) answer(nack *rtcp.TransportLayerNack) {
	r.mu.Lock()
	h := r.histories[nack.MediaSSRC]
	r.mu.Unlock()
	if h == nil {
		return
	}
	for i := range nack.Nacks {
		nack.Nacks[i].Range(func(sequence uint16) bool {
			if !r.may() {
				return false
			}
			if h.resend(sequence, r.now()) {
				r.retransmitted.Add(1)
			}
			return true
		})
	}
}

func (h *history) keep(header *rtp.Header, payload []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	slot := &h.packets[header.SequenceNumber%historySize]
	kept := header.Clone()
	slot.header, slot.payload, slot.resent = &kept, append(slot.payload[:0], payload...), time.Time{}
	h.saved = min(h.saved+len(payload), maxResendSaved)
}

func (h *history) resend(sequence uint16, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	slot := &h.packets[sequence%historySize]
	if slot.header == nil || slot.header.SequenceNumber != sequence || now.Sub(slot.resent) < resendSpacing ||
		h.saved < len(slot.payload) {
		return false
	}
	slot.resent = now
	h.saved -= len(slot.payload)
	h.sequence++
	header, payload := wrapRTX(h.stream, h.sequence, slot.header, slot.payload)
	_, err := h.writer.Write(header, payload, nil)
	return err == nil
}
