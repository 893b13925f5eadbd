// Package device is the microphone and the speaker of this machine, by the sound server that Linux desktops run: PulseAudio, or
// PipeWire, which speaks the same protocol.
//
// OpenMicrophone is the moment the microphone is opened: nothing records before, and nothing after Close. Sound is 48 kHz mono in
// frames of 20 ms; the server converts. Neither end adds more than about 60 ms: what the speaker or the reader is too slow for is
// dropped rather than kept.
package device

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/jfreymuth/pulse/proto"

	"sotto/media"
)

const (
	frameBytes = 2 * media.FrameSamples
	patience   = 3 * time.Second // for an answer of the server
)

// ErrNoServer is returned where there is no sound server.
var ErrNoServer = errors.New("no PulseAudio or PipeWire here: use --audio FILE or --audio tone")

var errGone = errors.New("the sound server has gone")

// A server is the connection for one stream. The library's own client cannot be closed without races, so only its protocol is used.
type server struct {
	conn   net.Conn
	client *proto.Client

	mu   sync.Mutex
	gone bool // no sound any more, for whatever reason
	done chan struct{}
}

// Check returns ErrNoServer where neither microphone nor speaker could be opened. It opens neither.
func Check() error {
	conn, err := dial()
	if err != nil {
		return err
	}
	return conn.Close()
}

// connect logs on (the protocol has no specification but its source, src/pulsecore/protocol-native.c).
// handle is called for each message of the server, on a goroutine of the connection.
func connect(handle func(message any)) (*server, error) {
	conn, err := dial()
	if err != nil {
		return nil, err
	}
	s := &server{conn: conn, done: make(chan struct{})}
	s.client = &proto.Client{Callback: func(message any) {
		switch message.(type) {
		case *proto.ConnectionClosed, *proto.PlaybackStreamKilled, *proto.RecordStreamKilled:
			s.end()
		default:
			handle(message)
		}
	}}
	s.client.SetTimeout(patience)
	s.client.Open(ending{conn})

	cookie, err := cookie()
	if err == nil {
		var reply proto.AuthReply
		if err = s.client.Request(&proto.Auth{Version: s.client.Version(), Cookie: cookie}, &reply); err == nil {
			s.client.SetVersion(reply.Version)
			err = s.client.Request(&proto.SetClientName{Props: properties()}, &proto.SetClientNameReply{})
		}
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("sound server: %w", err)
	}
	return s, nil
}

func properties() proto.PropList {
	return proto.PropList{
		"application.name": proto.PropListString("Sotto"),
		"media.name":       proto.PropListString("call"),
		"media.role":       proto.PropListString("phone"),
	}
}

func (s *server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.gone {
		s.gone = true
		close(s.done)
	}
}

func (s *server) close() error {
	s.end()
	return s.conn.Close()
}

// ending makes an end of every error, since the library tells about nothing else.
type ending struct{ net.Conn }

func (e ending) Read(b []byte) (int, error) {
	n, err := e.Conn.Read(b)
	if err != nil {
		err = io.EOF
	}
	return n, err
}

// dial finds the server where all of its clients do.
func dial() (net.Conn, error) {
	where := os.Getenv("PULSE_SERVER")
	if where == "" {
		where = "unix:" + filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "pulse", "native")
	}
	for _, address := range strings.Fields(where) {
		if strings.HasPrefix(address, "{") { // of one machine, by its name
			_, address, _ = strings.Cut(address, "}")
		}
		network, rest, ok := strings.Cut(address, ":")
		switch {
		case strings.HasPrefix(address, "/"):
			network, rest = "unix", address
		case !ok || network != "unix" && network != "tcp" && network != "tcp4" && network != "tcp6":
			continue
		case network != "unix":
			if _, _, err := net.SplitHostPort(rest); err != nil {
				rest = net.JoinHostPort(rest, "4713")
			}
		}
		if conn, err := net.DialTimeout(network, rest, patience); err == nil {
			return conn, nil
		}
	}
	return nil, ErrNoServer
}

// cookie is the secret that the user's programs share with the server. A server that asks for none takes any.
func cookie() ([]byte, error) {
	path := os.Getenv("PULSE_COOKIE")
	if path == "" {
		home, err := os.UserConfigDir()
		if err != nil {
			return make([]byte, 256), nil
		}
		path = filepath.Join(home, "pulse", "cookie")
	}
	secret, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return make([]byte, 256), nil
	}
	return secret, err
}

func format() (proto.SampleSpec, proto.ChannelMap, proto.ChannelVolumes) {
	return proto.SampleSpec{Format: proto.FormatInt16LE, Channels: 1, Rate: media.SampleRate},
		proto.ChannelMap{proto.ChannelMono}, proto.ChannelVolumes{fullVolume}
}

const fullVolume = 0x10000
