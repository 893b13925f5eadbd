package media

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/transport/v4"
	"github.com/pion/webrtc/v4"
)

// BenchmarkSetUp measures the time from the caller's first step until both ends have received media, beside a webrtc.PeerConnection
// with its defaults (DTLS-SRTP), on one simulated network.
//
// The model, the same for both: two hosts, one candidate each, a fixed delay of half the round trip on every datagram, no loss. The
// callee's end is made when the offer arrives and answers at once. Offer, answer and candidates (trickled) are function calls that
// take the time in the name: none, or half a round trip each, in order. Both ends send from the first moment they can.
func BenchmarkSetUp(b *testing.B) {
	for _, c := range []struct{ roundTrip, signaling int }{{0, 0}, {50, 0}, {50, 25}, {150, 0}, {150, 75}} {
		b.Run(fmt.Sprintf("rtt=%dms/signaling=%dms", c.roundTrip, c.signaling), func(b *testing.B) {
			compareSetUp(b, time.Duration(c.roundTrip)*time.Millisecond, time.Duration(c.signaling)*time.Millisecond)
		})
	}
}

func compareSetUp(b *testing.B, roundTrip, signaling time.Duration) {
	network := newNetwork(b, roundTrip/2)
	var ours, theirs []time.Duration
	for b.Loop() {
		ours = append(ours, setUpSession(b, network.hosts, signaling))
		theirs = append(theirs, setUpPeerConnection(b, network.hosts, signaling))
	}
	report := func(d time.Duration, unit string) { b.ReportMetric(float64(d.Microseconds())/1000, unit) }
	report(median(ours), "session-ms")
	report(median(theirs), "peerconnection-ms")
	b.ReportMetric(float64(median(ours))/float64(median(theirs)), "ratio")
	b.ReportMetric(0, "ns/op")
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// post delivers messages in order, each after a delay.
type post struct {
	delay time.Duration
	queue chan letter
	done  sync.WaitGroup
}

type letter struct {
	due     time.Time
	deliver func()
}

func newPost(delay time.Duration) *post {
	p := &post{delay: delay, queue: make(chan letter, 64)}
	p.done.Go(func() {
		for l := range p.queue {
			time.Sleep(time.Until(l.due))
			l.deliver()
		}
	})
	return p
}

func (p *post) send(deliver func()) { p.queue <- letter{time.Now().Add(p.delay), deliver} }

func (p *post) close() {
	close(p.queue)
	p.done.Wait()
}

func setUpSession(b *testing.B, hosts [2]transport.Net, signaling time.Duration) time.Duration {
	toCallee, toCaller := newPost(signaling), newPost(signaling)
	callerKeys, calleeKeys := testKeys()
	var caller, callee *Session
	ready := make(chan struct{})
	check := func(err error) {
		if err != nil {
			b.Error(err)
		}
	}

	begin := time.Now()
	caller, err := NewSession(Config{Controlling: true, Net: hosts[0], OnCandidate: func(candidate string) {
		toCallee.send(func() { check(callee.AddRemoteCandidate(candidate)) })
	}})
	check(err)
	offer := caller.Local()
	toCallee.send(func() {
		var err error
		callee, err = NewSession(Config{Net: hosts[1], OnCandidate: func(candidate string) {
			toCaller.send(func() { check(caller.AddRemoteCandidate(candidate)) })
		}})
		check(err)
		answer := callee.Local()
		toCaller.send(func() {
			check(caller.Connect(answer, callerKeys))
			check(caller.StartSending(&tone{n: 1000}, nil))
		})
		check(callee.Connect(offer, calleeKeys))
		check(callee.StartSending(&tone{n: 1000}, nil))
		check(callee.GatherCandidates())
		close(ready)
	})
	check(caller.GatherCandidates())
	<-ready
	<-caller.FirstMedia()
	<-callee.FirstMedia()
	took := time.Since(begin)

	caller.Close()
	callee.Close()
	toCallee.close()
	toCaller.close()
	return took
}

func setUpPeerConnection(b *testing.B, hosts [2]transport.Net, signaling time.Duration) time.Duration {
	toCallee, toCaller := newPost(signaling), newPost(signaling)
	check := func(err error) {
		if err != nil {
			b.Error(err)
		}
	}
	stop := make(chan struct{})
	var writers sync.WaitGroup
	var caller, callee *webrtc.PeerConnection
	ready := make(chan struct{})
	peer := func(host transport.Net, candidates func(webrtc.ICECandidateInit)) (*webrtc.PeerConnection, <-chan struct{}) {
		setting := webrtc.SettingEngine{LoggerFactory: quiet()}
		setting.SetNet(host)
		media := &webrtc.MediaEngine{}
		check(media.RegisterDefaultCodecs())
		pc, err := webrtc.NewAPI(webrtc.WithSettingEngine(setting), webrtc.WithMediaEngine(media)).NewPeerConnection(webrtc.Configuration{})
		check(err)
		pc.OnICECandidate(func(c *webrtc.ICECandidate) {
			if c != nil {
				candidates(c.ToJSON())
			}
		})
		first, once := make(chan struct{}), sync.Once{}
		pc.OnTrack(func(*webrtc.TrackRemote, *webrtc.RTPReceiver) { once.Do(func() { close(first) }) })
		track, err := webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus}, "audio", "audio")
		check(err)
		_, err = pc.AddTrack(track)
		check(err)
		writers.Go(func() {
			for sequence := uint16(1); ; sequence++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond): // so that no more than this is lost to waiting
					track.WriteRTP(&rtp.Packet{
						Header:  rtp.Header{Version: 2, SequenceNumber: sequence, Timestamp: uint32(sequence) * 960},
						Payload: make([]byte, 80),
					})
				}
			}
		})
		return pc, first
	}

	begin := time.Now()
	var calleeFirst <-chan struct{}
	caller, callerFirst := peer(hosts[0], func(c webrtc.ICECandidateInit) {
		toCallee.send(func() { check(callee.AddICECandidate(c)) })
	})
	offer, err := caller.CreateOffer(nil)
	check(err)
	toCallee.send(func() {
		callee, calleeFirst = peer(hosts[1], func(c webrtc.ICECandidateInit) {
			toCaller.send(func() { check(caller.AddICECandidate(c)) })
		})
		check(callee.SetRemoteDescription(offer))
		answer, err := callee.CreateAnswer(nil)
		check(err)
		toCaller.send(func() { check(caller.SetRemoteDescription(answer)) })
		check(callee.SetLocalDescription(answer))
		close(ready)
	})
	check(caller.SetLocalDescription(offer))
	<-ready
	<-callerFirst
	<-calleeFirst
	took := time.Since(begin)

	close(stop)
	writers.Wait()
	check(caller.GracefulClose())
	check(callee.GracefulClose())
	toCallee.close()
	toCaller.close()
	return took
}

// BenchmarkAccept measures the time from the callee's accept to the first sound at each end, when the path was found while it rang.
// The accept message takes half a round trip.
func BenchmarkAccept(b *testing.B) {
	for _, roundTrip := range []time.Duration{0, 50 * time.Millisecond, 150 * time.Millisecond} {
		b.Run(fmt.Sprintf("rtt=%dms", roundTrip.Milliseconds()), func(b *testing.B) {
			network := newNetwork(b, roundTrip/2)
			var atCaller, atCallee []time.Duration
			for b.Loop() {
				p := newPair(b, Config{Net: network.hosts[0]}, Config{Net: network.hosts[1]})
				p.connect(b)
				<-p.caller.Connected()
				<-p.callee.Connected()
				toCaller := newPost(roundTrip / 2)
				begin := time.Now()
				toCaller.send(func() { p.caller.StartSending(&tone{n: 1000}, nil) })
				p.callee.StartSending(&tone{n: 1000}, nil)
				<-p.caller.FirstMedia()
				atCaller = append(atCaller, time.Since(begin))
				<-p.callee.FirstMedia()
				atCallee = append(atCallee, time.Since(begin))
				toCaller.close()
				p.caller.Close()
				p.callee.Close()
			}
			b.ReportMetric(float64(median(atCaller).Microseconds())/1000, "caller-ms")
			b.ReportMetric(float64(median(atCallee).Microseconds())/1000, "callee-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}
