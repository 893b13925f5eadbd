package demo

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"sotto/client"
	"sotto/media"
	"sotto/media/opus"
	"sotto/media/quality"
	"sotto/wire"
)

// What counts as kept.
const (
	similarEnough   = 0.80 // of 1, between what was said and what was heard
	differentEnough = 0.30 // at least so much less for the other's speech, or the measure measures nothing

	// One frame concealed of so many heard is more than loopback loses on a machine that keeps up.
	tooManyConcealed = 50
)

// evaluate compares what the ends hold, and searches what passed in between.
func (r *run) evaluate() error {
	ends := []*person{r.alice, r.bob}
	call := &r.report.Call
	call.Cipher = r.alice.stats.Cipher
	call.RoundTrip = seconds(r.alice.stats.RoundTrip)
	for _, p := range ends {
		call.Path = append(call.Path, p.stats.Path.Kind)
		call.VerificationCode = append(call.VerificationCode, p.code)
		call.SafetyNumber = append(call.SafetyNumber, p.safety)
	}
	for i := range r.report.Directions {
		from, to := ends[i], ends[1-i]
		d := &r.report.Directions[i]
		heard := to.ear.pcm()
		d.AudioSent, d.AudioHeard = int(from.stats.Audio.FramesSent), int(to.stats.Audio.FramesReceived)
		d.AudioConcealed = int(to.stats.Audio.FramesConcealed)
		d.Similarity, d.Wrong = similarity(from.mouth.said, heard), similarity(to.mouth.said, heard)
		d.Loss = to.stats.Audio.Loss()
		seen := to.eye.frames()
		d.VideoSent, d.VideoReceived, d.VideoIdentical = len(from.camera.sent), len(seen), identical(from.camera.sent, seen)
		d.Undecryptable = int(to.stats.Undecryptable)
	}

	if err := r.writeFiles(); err != nil {
		return err
	}
	if err := r.search(); err != nil {
		return err
	}
	r.judge()
	return r.writeReport()
}

// similarity is the intelligibility of what was heard, less what is missing of what was said; 0 where there is too little to compare.
func similarity(said, heard []int16) float64 {
	result, err := quality.Compare(said, heard)
	if err != nil {
		return 0
	}
	whole := time.Duration(len(said)) * time.Second / media.SampleRate
	return result.Score * min(1, result.Compared.Seconds()/whole.Seconds())
}

// search looks for everything the ends hold in everything that passed the server and the relay, and then in the same bytes
// with one secret of each kind slipped in, and in what the ends hold: there it must find.
func (r *run) search() error {
	secrets, err := r.secrets()
	if err != nil {
		return err
	}
	search, err := newSearch(secrets)
	if err != nil {
		return err
	}
	result := Search{
		Patterns: search.needles(),
		Server:   map[string]int{}, Relay: map[string]int{}, Ends: map[string]int{}, Planted: map[string]int{},
	}

	server, relay := r.system.serverTap.seen(), r.system.relayTap.seen()
	r.report.Server = serverView(server)
	r.report.Relay = relayReport(relay)
	for _, p := range server {
		search.in(p.data, result.Server)
		for _, message := range websocketMessages(p.data) {
			search.in(message, result.Server)
		}
	}
	for _, p := range relay {
		search.in(p.data, result.Relay)
	}
	for _, held := range r.held() {
		search.in(held, result.Ends)
	}
	for i, kind := range kinds {
		around := server[i%len(server)].data
		if len(relay) > 0 {
			around = relay[i*len(relay)/len(kinds)].data
		}
		found := map[string]int{}
		search.in(plant(around, secrets, kind), found)
		result.Planted[kind] = found[kind]
	}
	r.report.Search = result
	return nil
}

// plant puts the first secret of a kind into the middle of a copy of what passed.
func plant(around []byte, secrets []secret, kind string) []byte {
	for _, s := range secrets {
		if s.kind == kind {
			middle := len(around) / 2
			return append(append(bytes.Clone(around[:middle]), s.bytes...), around[middle:]...)
		}
	}
	return nil
}

// secrets is what nobody but the ends may read: the messages, what offer, answer and candidates say, the speech as samples and
// as the packets the encoder makes of it, the pictures.
func (r *run) secrets() ([]secret, error) {
	var secrets []secret
	add := func(kind string, bytes []byte) { secrets = append(secrets, secret{kind, bytes}) }
	for _, d := range r.report.Directions {
		add("messages", []byte(d.Message))
	}
	for _, p := range []*person{r.alice, r.bob} {
		add("call parameters", candidateText(p.stats.Path.LocalAddress))
	}
	for _, codec := range []string{media.Opus, media.VP8} {
		add("call parameters", codecField(codec))
	}
	for _, p := range []*person{r.alice, r.bob} {
		packets, decoded, err := coded(p.mouth.said)
		if err != nil {
			return nil, err
		}
		for _, packet := range packets {
			add("speech", packet)
		}
		add("speech", samples(p.mouth.said))
		add("speech", samples(decoded))
		shown, _ := p.camera.count()
		for i := range shown {
			add("video", p.camera.clip[i%len(p.camera.clip)].Data)
		}
	}
	return secrets, nil
}

// held is what came out at the other end: the messages as they were read, the peer's parameters, what was heard and seen. Samples
// match where they are what the decoder makes of the very packets that the search looks for in between.
func (r *run) held() [][]byte {
	var held [][]byte
	for _, d := range r.report.Directions {
		held = append(held, []byte(d.messageRead))
	}
	for _, p := range []*person{r.alice, r.bob} {
		held = append(held, candidateText(p.stats.Path.RemoteAddress),
			codecField(p.stats.Audio.Codec), codecField(p.stats.Video.Codec), samples(p.ear.pcm()))
		for _, frame := range p.eye.frames() {
			held = append(held, frame.Data)
		}
	}
	return held
}

// candidateText is an address as a candidate-attribute has it: address, port, "typ" (RFC 8839 section 5.1).
func candidateText(address media.Address) []byte {
	host, port, err := net.SplitHostPort(address.Reveal())
	if err != nil {
		return []byte("no path, no candidate")
	}
	return []byte(host + " " + port + " typ ")
}

// codecField is a codec's name as an offer or answer announces it.
func codecField(codec string) []byte {
	stream, _ := proto.Marshal(&wire.Stream{Codec: codec})
	return stream
}

// coded is what the call's encoder makes of the speech, which would be on the wire if it were not sealed, and what the decoder
// makes of that, which is what the other end hears.
func coded(pcm []int16) (packets [][]byte, decoded []int16, err error) {
	encoder, err := opus.NewEncoder(opus.Config{})
	if err != nil {
		return nil, nil, err
	}
	decoder, err := opus.NewDecoder()
	if err != nil {
		return nil, nil, err
	}
	frame := make([]int16, media.FrameSamples)
	for ; len(pcm) >= media.FrameSamples; pcm = pcm[media.FrameSamples:] {
		packet, err := encoder.Encode(pcm[:media.FrameSamples])
		if err != nil {
			return nil, nil, err
		}
		if _, err := decoder.Decode(packet, frame); err != nil {
			return nil, nil, err
		}
		packets = append(packets, bytes.Clone(packet))
		decoded = append(decoded, frame...)
	}
	return packets, decoded, nil
}

func samples(pcm []int16) []byte {
	b := make([]byte, 0, 2*len(pcm))
	for _, s := range pcm {
		b = binary.LittleEndian.AppendUint16(b, uint16(s))
	}
	return b
}

func serverView(passages []passage) ServerView {
	var view ServerView
	var sealed [256]int
	for _, p := range passages {
		view.Bytes += len(p.data)
		if !p.fromClient {
			continue
		}
		view.Connections++
		for _, message := range websocketMessages(p.data) {
			frame := new(wire.ClientFrame)
			if proto.Unmarshal(message, frame) != nil {
				continue
			}
			envelope := frame.GetSendSealed().GetEnvelope()
			if envelope == nil {
				if envelope = frame.GetSend(); envelope == nil {
					continue
				}
				view.Named++ // by the server, which knows whose link this is
			}
			view.Envelopes++
			view.SealedBytes += len(envelope.GetCiphertext())
			for _, b := range envelope.GetCiphertext() {
				sealed[b]++
			}
		}
	}
	view.SealedEntropy = entropy(&sealed)
	return view
}

func relayReport(passages []passage) RelayView {
	var view relayView
	for _, p := range passages {
		view.add(p.data)
	}
	report := RelayView{Datagrams: view.datagrams, Bytes: view.bytes, MediaPackets: view.media, Checks: view.checks}
	for _, n := range view.sealed {
		report.SealedBytes += n
	}
	report.SealedEntropy = entropy(&view.sealed)
	return report
}

// judge holds the numbers against what is claimed.
func (r *run) judge() {
	p, c, s := r.report, r.report.Call, r.report.Search
	a, b := p.Directions[0], p.Directions[1]
	wanted := "relay"
	if r.Direct {
		wanted = "direct"
	}
	p.claim(a.messageRead == a.Message && b.messageRead == b.Message, "the messages were read as they were written", "both")
	p.claim(c.Cipher == "AEAD_AES_256_GCM", "the media was sealed with AES-256-GCM", c.Cipher)
	p.claim(c.Path[0] == wanted && c.Path[1] == wanted, "the media took the path asked for", both(c.Path))
	p.claim(c.VerificationCode[0] != "" && c.VerificationCode[0] == c.VerificationCode[1],
		"both ends show one verification code", both(c.VerificationCode))
	number := strings.Fields(c.SafetyNumber[0])
	p.claim(c.SafetyNumber[0] != "" && c.SafetyNumber[0] == c.SafetyNumber[1],
		"both ends have one safety number", strings.Join(number[:min(3, len(number))], " ")+" ...")
	for _, d := range []Direction{a, b} {
		p.claimHeard(d)
		p.claim(d.VideoSent > 0 && d.VideoIdentical == d.VideoSent && d.VideoReceived == d.VideoSent,
			fmt.Sprintf("%s saw every picture of %s, byte for byte", d.To, d.From), fmt.Sprintf("%d of %d", d.VideoIdentical, d.VideoSent))
	}
	p.claim(a.Undecryptable+b.Undecryptable == 0, "every packet opened", fmt.Sprintf("%d did not", a.Undecryptable+b.Undecryptable))
	p.claim(p.Server.Envelopes > 0 && total(s.Server) == 0,
		"the server could read nothing", found(s.Server)+fmt.Sprintf(" in %s", size(p.Server.Bytes)))
	p.claim(p.Server.Named <= 1, "the server was told a sender for the first message alone",
		fmt.Sprintf("%d of %d envelopes", p.Server.Named, p.Server.Envelopes))
	if !r.Direct {
		p.claim(p.Relay.MediaPackets > 0 && total(s.Relay) == 0,
			"the relay could read nothing", found(s.Relay)+fmt.Sprintf(" in %s", size(p.Relay.Bytes)))
	}
	p.claim(s.plantedFound() == len(kinds), "the search finds what is planted", fmt.Sprintf("%d of %d kinds", s.plantedFound(), len(kinds)))
	atEnds := 0
	for _, kind := range kinds {
		if s.Ends[kind] > 0 {
			atEnds++
		}
	}
	p.claim(atEnds == len(kinds), "the search finds what the ends hold", fmt.Sprintf("%d of %d kinds", atEnds, len(kinds)))
	p.claim(r.bob.ended.Reason == client.Normal && r.alice.ended.Reason == client.Normal,
		"the call ended at both ends", r.bob.ended.Reason.String())
}

// claimHeard compares what was said and heard. Where much of it came too late the claim fails for a
// reason that is likely not the program's, and says which.
func (r *Report) claimHeard(d Direction) {
	heard := d.Similarity >= similarEnough && d.Wrong <= d.Similarity-differentEnough
	detail := fmt.Sprintf("similarity %.3f, at least %.2f; the other's speech %.3f",
		d.Similarity, similarEnough, d.Wrong)
	if !heard && d.AudioConcealed*tooManyConcealed > d.AudioHeard {
		detail += fmt.Sprintf("; %d frames of sound came too late, next to %d that did not: this machine is "+
			"probably too busy for a call, try again with less beside it", d.AudioConcealed, d.AudioHeard)
	}
	r.claim(heard, fmt.Sprintf("%s heard what %s said", d.To, d.From), detail)
}

func total(found map[string]int) int {
	sum := 0
	for _, n := range found {
		sum += n
	}
	return sum
}

func found(in map[string]int) string {
	if n := total(in); n > 0 {
		return fmt.Sprintf("%d matches", n)
	}
	return "nothing found"
}
