package client

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"sotto/wire"
)

// A spy sits where the server's operator does: it sees all frames, can answer instead of the server, and can close doors.
type spy struct {
	*httptest.Server
	upstream string
	plain    *httputil.ReverseProxy
	passing  sync.WaitGroup

	mu        sync.Mutex
	seen      []seenFrame
	delivered []*wire.Envelope
	opened    map[string]int
	refuse    func(path string, f *wire.ClientFrame) wire.Error_Code // UNKNOWN lets it pass
	shut      func(path string) int                                  // an HTTP status, 0 lets it pass, below 0 breaks the connection
	alter     func(f *wire.ServerFrame) *wire.ServerFrame            // of what the server says; nil holds it back
	conns     []*websocket.Conn
	over      bool // what comes now is closed
}

type seenFrame struct {
	path string
	raw  []byte
	*wire.ClientFrame
}

const (
	linkPath      = "/v1/link"
	anonymousPath = "/v1/anonymous"
)

// spied puts a spy in front of the world's server; who registers from now on goes through it.
func spied(t testing.TB, w *world) *spy {
	t.Helper()
	target, err := url.Parse(w.url())
	if err != nil {
		t.Fatal(err)
	}
	s := &spy{upstream: "ws://" + target.Host, plain: httputil.NewSingleHostReverseProxy(target), opened: map[string]int{}}
	s.Server = httptest.NewServer(s)
	w.front = s.URL
	t.Cleanup(func() {
		s.mu.Lock()
		s.over = true
		s.mu.Unlock()
		s.cut()
		s.Close()
		s.passing.Wait()
	})
	return s
}

func (s *spy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	status := 0
	if s.shut != nil {
		status = s.shut(r.URL.Path)
	}
	s.mu.Unlock()
	switch {
	case status > 0:
		w.WriteHeader(status)
		return
	case !websocket.IsWebSocketUpgrade(r):
		s.plain.ServeHTTP(w, r)
		return
	}
	up, _, err := websocket.DefaultDialer.DialContext(r.Context(), s.upstream+r.URL.Path, nil)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	down, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		up.Close()
		return
	}
	defer up.Close()
	defer down.Close()
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return
	}
	s.opened[r.URL.Path]++
	s.conns = append(s.conns, up, down)
	s.passing.Add(2)
	s.mu.Unlock()
	defer s.passing.Done()
	var writing sync.Mutex
	go func() {
		defer s.passing.Done()
		defer down.Close()
		for {
			kind, b, err := up.ReadMessage()
			if err != nil {
				return
			}
			if b = s.answered(b); b == nil {
				continue
			}
			writing.Lock()
			err = down.WriteMessage(kind, b)
			writing.Unlock()
			if err != nil {
				return
			}
		}
	}()
	for {
		kind, b, err := down.ReadMessage()
		if err != nil {
			return
		}
		frame, code := s.asked(r.URL.Path, b)
		if code == breaks {
			return
		}
		if code == wire.Error_UNKNOWN {
			if up.WriteMessage(kind, b) != nil {
				return
			}
			continue
		}
		refusal, _ := proto.Marshal(&wire.ServerFrame{ReplyTo: frame.Id, Body: &wire.ServerFrame_Error{Error: &wire.Error{Code: code}}})
		writing.Lock()
		err = down.WriteMessage(websocket.BinaryMessage, refusal)
		writing.Unlock()
		if err != nil {
			return
		}
	}
}

// breaks, as the answer of spy.refuse, breaks the connection.
const breaks wire.Error_Code = -1

func (s *spy) asked(path string, b []byte) (*wire.ClientFrame, wire.Error_Code) {
	frame := new(wire.ClientFrame)
	if proto.Unmarshal(b, frame) != nil {
		return frame, breaks
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, seenFrame{path, b, frame})
	if s.refuse == nil {
		return frame, wire.Error_UNKNOWN
	}
	return frame, s.refuse(path, frame)
}

// answered notes a frame of the server's, and returns what goes on instead.
func (s *spy) answered(b []byte) []byte {
	frame := new(wire.ServerFrame)
	if proto.Unmarshal(b, frame) != nil {
		return b
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.alter != nil {
		if frame = s.alter(frame); frame == nil {
			return nil
		}
		b, _ = proto.Marshal(frame)
	}
	if frame.GetDeliver() != nil {
		s.delivered = append(s.delivered, frame.GetDeliver())
	}
	return b
}

// do changes what the spy does.
func (s *spy) do(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// forget forgets what was seen.
func (s *spy) forget() { s.do(func() { s.seen, s.delivered = nil, nil }) }

// sends counts envelopes that came over links that say whose they are, and those over others.
func (s *spy) sends() (identified, sealed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.seen {
		if f.GetSend() != nil {
			identified++
		}
		if f.GetSendSealed() != nil {
			sealed++
		}
	}
	return identified, sealed
}

// identifiedTo counts identified envelopes to somebody, once each.
func (s *spy) identifiedTo(p *person) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := map[string]bool{}
	for _, f := range s.seen {
		if e := f.GetSend(); e != nil && bytes.Equal(e.GetRecipient(), p.account.Account[:]) {
			ids[string(e.Id)] = true
		}
	}
	return len(ids)
}

// cut breaks all connections.
func (s *spy) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.conns {
		conn.Close()
	}
	s.conns = nil
}
