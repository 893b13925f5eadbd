package turnserver

import (
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"sotto/turncred"
)

// TestWebRTC calls through the relay with two ordinary peer connections that may use nothing else, over each transport.
func TestWebRTC(t *testing.T) { forEachDataPlane(t, testWebRTC) }

func testWebRTC(t *testing.T, plane string) {
	s := startRelay(t, plane, func(c *Config) { overStreams(t, c) })
	for _, url := range s.URLs() {
		if strings.HasPrefix(url, "turns:") && strings.HasSuffix(url, "udp") {
			continue // pion/webrtc has no way to trust a certificate of our own over DTLS: see TestDTLS and TestCoturnClient
		}
		t.Run(url[:5]+url[len(url)-3:], func(t *testing.T) {
			alice, bob := relayOnly(t, s, url, "alice"), relayOnly(t, s, url, "bob")
			heard := make(chan string, 1)
			bob.OnDataChannel(func(d *webrtc.DataChannel) {
				d.OnMessage(func(m webrtc.DataChannelMessage) { _ = d.SendText("heard " + string(m.Data)) })
			})
			d, err := alice.CreateDataChannel("test", nil)
			if err != nil {
				t.Fatal(err)
			}
			d.OnOpen(func() { _ = d.SendText("hello") })
			d.OnMessage(func(m webrtc.DataChannelMessage) { heard <- string(m.Data) })
			before := testutil.ToFloat64(s.metrics.toPeer)
			connect(t, alice, bob)
			select {
			case got := <-heard:
				if got != "heard hello" {
					t.Errorf("got %q", got)
				}
			case <-time.After(15 * time.Second):
				t.Fatal("no message came through the relay")
			}
			if testutil.ToFloat64(s.metrics.toPeer) < before+10 {
				t.Error("the relay carried nothing")
			}
		})
	}
}

func relayOnly(t *testing.T, s *Server, url, id string) *webrtc.PeerConnection {
	t.Helper()
	var e webrtc.SettingEngine
	e.SetRelayAcceptanceMinWait(0)
	e.SetIncludeLoopbackCandidate(true)
	e.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4, webrtc.NetworkTypeTCP4})
	e.LoggerFactory = silence{}
	if strings.HasPrefix(url, "turns:") {
		e.SetICEProxyDialer(tlsDialer{}) // the one way to have pion/ice trust a certificate of our own
	}
	username, password := turncred.Mint(testSecret, id, time.Minute, time.Now())
	pc, err := webrtc.NewAPI(webrtc.WithSettingEngine(e)).NewPeerConnection(webrtc.Configuration{
		ICETransportPolicy: webrtc.ICETransportPolicyRelay,
		ICEServers:         []webrtc.ICEServer{{URLs: []string{url}, Username: username, Credential: password}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.GracefulClose() })
	return pc
}

type tlsDialer struct{}

func (tlsDialer) Dial(network, address string) (net.Conn, error) {
	return tls.Dial(network, address, &tls.Config{InsecureSkipVerify: true})
}

func connect(t *testing.T, alice, bob *webrtc.PeerConnection) {
	t.Helper()
	describe := func(from, to *webrtc.PeerConnection, make func() (webrtc.SessionDescription, error)) {
		d, err := make()
		if err != nil {
			t.Fatal(err)
		}
		gathered := webrtc.GatheringCompletePromise(from)
		if err := from.SetLocalDescription(d); err != nil {
			t.Fatal(err)
		}
		<-gathered
		if err := to.SetRemoteDescription(*from.LocalDescription()); err != nil {
			t.Fatal(err)
		}
	}
	describe(alice, bob, func() (webrtc.SessionDescription, error) { return alice.CreateOffer(nil) })
	describe(bob, alice, func() (webrtc.SessionDescription, error) { return bob.CreateAnswer(nil) })
}
