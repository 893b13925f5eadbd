// Package rtpchain is what happens to RTP between the codecs and the cipher: sender and receiver reports (RFC 3550), feedback for
// every packet (transport-wide congestion control), requests for lost packets (RFC 4585) and their retransmission in a stream of
// their own (RFC 4588), requests for key frames (PLI).
//
// On the way out a packet passes TWCC numbering, then the reports, then the history for retransmission, then the cipher. A
// retransmission starts at the history, so nothing behind it can change a packet that keeps its number. On the way in a
// retransmission is unwrapped first and joins its stream where losses are tracked; reports speak of what the network did, before repair.
package rtpchain

import (
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/interceptor"
	"github.com/pion/interceptor/pkg/report"
	"github.com/pion/interceptor/pkg/twcc"
	"github.com/pion/logging"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
)

const (
	// TWCC is draft-holmer-rmcat-transport-wide-cc-extensions-01, and TWCCID its identifier in RFC 8285 one-byte form.
	TWCC   = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
	TWCCID = 3

	reportInterval = 500 * time.Millisecond
	twccInterval   = 100 * time.Millisecond
	nackInterval   = 10 * time.Millisecond
)

var errUnknownStream = errors.New("packet of a stream that was not announced")

// A Stream is one direction of one medium.
type Stream struct {
	SSRC           uint32
	PayloadType    uint8
	ClockRate      uint32
	RTXSSRC        uint32 // 0: no retransmission
	RTXPayloadType uint8
}

// A Packet is an incoming packet that was not seen before.
type Packet struct {
	Sequence  uint64 // sequence number plus rollovers
	Timestamp uint32
	Marker    bool
	Payload   []byte // valid during the call
	Arrival   time.Time
}

// Config connects a chain with what is below and above it.
type Config struct {
	WriteRTP   func(*rtp.Header, []byte) error
	WriteRTCP  func([]byte) error
	RoundTrip  func() time.Duration // the last one measured by ICE, 0 if unknown
	OnKeyFrame func(ssrc uint32)    // the peer asks for one
	MayResend  func() bool          // whether what the peer asks for may be sent again now; nil: always
}

// A Chain serves all streams of one session. HandleRTP and HandleRTCP are called by one goroutine, everything else by any.
type Chain struct {
	cfg    Config
	chain  interceptor.Interceptor
	rtcp   interceptor.RTCPWriter
	feed   feed
	reader interceptor.RTCPReader
	sender uint32 // SSRC in feedback messages of our own
	closed chan struct{}
	done   sync.WaitGroup

	retransmitted atomic.Uint64
	nacksReceived atomic.Uint64
	plisReceived  atomic.Uint64
	plisSent      atomic.Uint64

	mu      sync.Mutex
	remotes map[uint32]*remote   // by media SSRC and by retransmission SSRC
	reports map[uint32]Reception // by SSRC of a local stream
}

// New builds the chain and starts its reports.
func New(cfg Config) (*Chain, error) {
	c := &Chain{
		cfg: cfg, sender: rand.Uint32(), closed: make(chan struct{}),
		remotes: make(map[uint32]*remote), reports: make(map[uint32]Reception),
	}
	quiet := &logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled}
	senderReports, err := report.NewSenderInterceptor(report.SenderInterval(reportInterval), report.WithSenderLoggerFactory(quiet))
	if err != nil {
		return nil, err
	}
	receiverReports, err := report.NewReceiverInterceptor(report.ReceiverInterval(reportInterval), report.WithReceiverLoggerFactory(quiet))
	if err != nil {
		return nil, err
	}
	numbers, err := twcc.NewHeaderExtensionInterceptor()
	if err != nil {
		return nil, err
	}
	feedback, err := twcc.NewSenderInterceptor(twcc.SendInterval(twccInterval), twcc.WithLoggerFactory(quiet))
	if err != nil {
		return nil, err
	}
	// The first is nearest the wire.
	registry := &interceptor.Registry{}
	may := cfg.MayResend
	if may == nil {
		may = func() bool { return true }
	}
	registry.Add(factory{newResponder(&c.retransmitted, may)})
	registry.Add(senderReports)
	registry.Add(receiverReports)
	registry.Add(numbers)
	registry.Add(feedback)
	if c.chain, err = registry.Build(""); err != nil {
		return nil, err
	}
	c.reader = c.chain.BindRTCPReader(&c.feed)
	c.rtcp = c.chain.BindRTCPWriter(interceptor.RTCPWriterFunc(c.writeRTCP))
	c.done.Add(1)
	go c.requestLosses()
	return c, nil
}

type factory struct{ interceptor.Interceptor }

func (f factory) NewInterceptor(string) (interceptor.Interceptor, error) { return f.Interceptor, nil }

// feed hands a packet that was pushed to interceptors that want to pull.
type feed struct{ packet []byte }

func (f *feed) Read(b []byte, a interceptor.Attributes) (int, interceptor.Attributes, error) {
	if a == nil {
		a = make(interceptor.Attributes)
	}
	if len(f.packet) > len(b) {
		return 0, nil, io.ErrShortBuffer
	}
	return copy(b, f.packet), a, nil
}

func (c *Chain) writeRTCP(packets []rtcp.Packet, _ interceptor.Attributes) (int, error) {
	b, err := rtcp.Marshal(packets)
	if err != nil {
		return 0, err
	}
	return len(b), c.cfg.WriteRTCP(b)
}

func (s Stream) info() *interceptor.StreamInfo {
	return &interceptor.StreamInfo{
		SSRC: s.SSRC, PayloadType: s.PayloadType, ClockRate: s.ClockRate,
		SSRCRetransmission: s.RTXSSRC, PayloadTypeRetransmission: s.RTXPayloadType,
		RTPHeaderExtensions: []interceptor.RTPHeaderExtension{{URI: TWCC, ID: TWCCID}},
	}
}

// A Writer sends the packets of one stream.
type Writer struct {
	stream   Stream
	writer   interceptor.RTPWriter
	sequence uint16
}

// AddLocal starts a stream of ours. Its reports begin with it.
func (c *Chain) AddLocal(s Stream) *Writer {
	c.mu.Lock()
	c.reports[s.SSRC] = Reception{}
	c.mu.Unlock()
	base := interceptor.RTPWriterFunc(func(header *rtp.Header, payload []byte, _ interceptor.Attributes) (int, error) {
		return len(payload), c.cfg.WriteRTP(header, payload)
	})
	return &Writer{stream: s, writer: c.chain.BindLocalStream(s.info(), base)}
}

// Write sends one packet with the next sequence number; one goroutine writes a stream. A packet that cannot be sent has used up its
// number all the same.
func (w *Writer) Write(timestamp uint32, marker bool, payload []byte) error {
	w.sequence++ // so the first is firstSequence
	_, err := w.writer.Write(&rtp.Header{
		Version: 2, Marker: marker, PayloadType: w.stream.PayloadType,
		SequenceNumber: w.sequence, Timestamp: timestamp, SSRC: w.stream.SSRC,
	}, payload, nil)
	return err
}

// RequestKeyFrame sends a picture loss indication (RFC 4585 section 6.3.1).
func (c *Chain) RequestKeyFrame(ssrc uint32) error {
	c.plisSent.Add(1)
	_, err := c.rtcp.Write([]rtcp.Packet{&rtcp.PictureLossIndication{SenderSSRC: c.sender, MediaSSRC: ssrc}}, nil)
	return err
}

// requestLosses asks for what is missing.
func (c *Chain) requestLosses() {
	defer c.done.Done()
	ticker := time.NewTicker(nackInterval)
	defer ticker.Stop()
	for {
		select {
		case <-c.closed:
			return
		case now := <-ticker.C:
			for _, nack := range c.nacks(now) {
				_, _ = c.rtcp.Write([]rtcp.Packet{nack}, nil) // lost feedback is repeated
			}
		}
	}
}

func (c *Chain) nacks(now time.Time) []rtcp.Packet {
	roundTrip := c.cfg.RoundTrip()
	c.mu.Lock()
	defer c.mu.Unlock()
	var nacks []rtcp.Packet
	for ssrc, r := range c.remotes {
		if ssrc != r.stream.SSRC || r.stream.RTXSSRC == 0 {
			continue
		}
		if due := r.tracker.due(now, roundTrip); len(due) > 0 {
			r.nacked += uint64(len(due))
			nacks = append(nacks, &rtcp.TransportLayerNack{
				SenderSSRC: c.sender, MediaSSRC: ssrc, Nacks: rtcp.NackPairsFromSequenceNumbers(due),
			})
		}
	}
	return nacks
}

// Close ends the reports and waits for them.
func (c *Chain) Close() error {
	close(c.closed)
	err := c.chain.Close()
	c.done.Wait()
	return err
}
