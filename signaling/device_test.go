package signaling

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"sotto/e2ee/xeddsa"
	"sotto/signaling/store"
	"sotto/wire"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("SOTTO_TEST_SERVE"); dir != "" {
		serveUntilKilled(dir)
	}
	goleak.VerifyTestMain(m)
}

// A testServer is a Server on a real socket.
type testServer struct {
	*Server
	http *httptest.Server
	cfg  Config
	t    timing
	log  *logBuffer
	wrap func(store.Store) store.Store // what the server sees of its store from the next open on; nil: all of it
	skew atomic.Int64                  // how far the server's clock is ahead
}

// later moves the server's clock.
func (s *testServer) later(d time.Duration) { s.skew.Add(int64(d)) }

// serve starts a server on 127.0.0.1 that ends with the test. tune may change its configuration and timing.
func serve(t testing.TB, tune ...func(*Config, *timing)) *testServer {
	t.Helper()
	s := &testServer{
		cfg: Config{DataDir: t.TempDir(), Names: []string{"127.0.0.1"}, OpenRegistration: true},
		t:   defaultTiming,
		log: &logBuffer{},
	}
	s.t.closing = 500 * time.Millisecond
	s.cfg.Limits.Registrations = Rate{10000, time.Second}
	s.cfg.Limits.Attempts = Rate{10000, time.Second}
	s.cfg.Logger = slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for _, f := range tune {
		f(&s.cfg, &s.t)
	}
	s.open(t)
	t.Cleanup(func() { s.close(t) })
	return s
}

func (s *testServer) open(t testing.TB) {
	t.Helper()
	cfg := s.cfg
	if err := cfg.check(); err != nil {
		t.Fatal(err)
	}
	db, err := store.OpenPebble(cfg.DataDir, cfg.Logger)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := openIssuer(filepath.Join(cfg.DataDir, "certificates"))
	if err != nil {
		t.Fatal(err)
	}
	var seen store.Store = db
	if s.wrap != nil {
		seen = s.wrap(db)
	}
	s.Server = newServer(cfg, seen, keys, s.t)
	s.Server.now = func() time.Time { return time.Now().Add(time.Duration(s.skew.Load())) }
	s.Server.start()
	s.http = httptest.NewServer(s.Handler())
}

func (s *testServer) close(t testing.TB) {
	if s.Server == nil {
		return
	}
	if err := s.Shutdown(t.Context()); err != nil && t.Context().Err() == nil {
		t.Error(err)
	}
	s.http.Close()
	s.Server = nil
}

// restart stops the server in order and starts it again on the same directory.
func (s *testServer) restart(t testing.TB) {
	t.Helper()
	s.close(t)
	s.open(t)
}

// A testDevice is what a client is to the server: a key, an address and a link.
type testDevice struct {
	server   *testServer
	username string
	private  [32]byte
	identity [33]byte
	account  []byte
	device   uint32
	lastID   uint32 // the highest in a list that it has signed
	conn     *websocket.Conn
	welcome  *wire.Welcome
	next     uint64
	nextKey  uint32
	events   []*wire.ServerFrame // frames that came while another was waited for
}

func newDevice(s *testServer, username string) *testDevice {
	d := &testDevice{server: s, username: username, device: 1, nextKey: 1}
	rand.Read(d.private[:])
	key, err := ecdh.X25519().NewPrivateKey(d.private[:])
	if err != nil {
		panic(err)
	}
	d.identity = curveKey(key.PublicKey().Bytes())
	return d
}

func curveKey(u []byte) [33]byte { return [33]byte(append([]byte{curveKeyType}, u...)) }

func (d *testDevice) sign(message []byte) []byte {
	var random [64]byte
	rand.Read(random[:])
	return xeddsa.Sign(&d.private, message, &random)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func (d *testDevice) preKeys(n int) *wire.PreKeys {
	curve := func() []byte { return append([]byte{curveKeyType}, randomBytes(32)...) }
	kyber := func(id uint32) *wire.KyberPreKey {
		public := append([]byte{kyberKeyType}, randomBytes(kyberKeySize-1)...)
		return &wire.KyberPreKey{Id: id, PublicKey: public, Signature: d.sign(public)}
	}
	signed := curve()
	keys := &wire.PreKeys{
		SignedPreKey:    &wire.SignedPreKey{Id: 1, PublicKey: signed, Signature: d.sign(signed)},
		LastResortKyber: kyber(1 << 20),
	}
	for range n {
		keys.OneTime = append(keys.OneTime, &wire.PreKey{Id: d.nextKey, PublicKey: curve()})
		keys.OneTimeKyber = append(keys.OneTimeKyber, kyber(d.nextKey))
		d.nextKey++
	}
	return keys
}

func (d *testDevice) registration(invitation string) *wire.Registration {
	preKeys, err := proto.Marshal(d.preKeys(2))
	if err != nil {
		panic(err)
	}
	r := &wire.Registration{
		Username:       d.username,
		Invitation:     invitation,
		RegistrationId: wire.RegistrationID(d.identity[:]),
		IdentityKey:    d.identity[:],
		PreKeys:        preKeys,
	}
	r.Signature = d.sign(wire.RegistrationToSign("127.0.0.1", r))
	return r
}

// client trusts the server's certificate, if it has one.
func (s *testServer) client() *http.Client {
	if c := s.http.Client(); c != nil {
		return c
	}
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
}

// post sends a registration and returns the status, and the account or the error.
func (s *testServer) post(t testing.TB, r *wire.Registration) (int, *wire.RegistrationResult, *wire.Error) {
	t.Helper()
	body, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return s.postBytes(t, body)
}

func (s *testServer) postBytes(t testing.TB, body []byte) (int, *wire.RegistrationResult, *wire.Error) {
	t.Helper()
	response, err := s.client().Post(s.http.URL+"/v1/accounts", "application/x-protobuf", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	result, failed := &wire.RegistrationResult{}, &wire.Error{}
	if response.StatusCode == http.StatusOK {
		err = proto.Unmarshal(answer, result)
	} else {
		err = proto.Unmarshal(answer, failed)
	}
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, result, failed
}

// register makes an account on an open server.
func (s *testServer) register(t testing.TB, username string) *testDevice {
	t.Helper()
	d := newDevice(s, username)
	status, result, failed := s.post(t, d.registration(""))
	if status != http.StatusOK {
		t.Fatalf("registration: %d %s", status, failed.GetMessage())
	}
	d.account = result.Account
	return d
}

// connected registers and opens the link.
func (s *testServer) connected(t testing.TB, username string) *testDevice {
	t.Helper()
	d := s.register(t, username)
	d.connect(t)
	return d
}

func (d *testDevice) connect(t testing.TB) {
	t.Helper()
	if err := d.dial(d.identityProof); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.conn.Close() })
}

// identityProof answers a nonce as the protocol says.
func (d *testDevice) identityProof(nonce []byte, binding [32]byte) *wire.Authenticate {
	return &wire.Authenticate{
		Account:   d.account,
		Device:    d.device,
		Signature: d.sign(wire.AuthenticationToSign("127.0.0.1", nonce, d.account, uint8(d.device), binding)),
	}
}

// dial opens a link and authenticates with what proof returns.
func (d *testDevice) dial(proof func(nonce []byte, binding [32]byte) *wire.Authenticate) error {
	s := d.server
	dialer := websocket.Dialer{}
	if transport, ok := s.client().Transport.(*http.Transport); ok {
		dialer.TLSClientConfig = transport.TLSClientConfig
	}
	conn, _, err := dialer.Dial("ws"+strings.TrimPrefix(s.http.URL, "http")+"/v1/link", nil)
	if err != nil {
		return err
	}
	d.conn, d.events = conn, nil
	var binding [32]byte
	if c, ok := conn.NetConn().(*tls.Conn); ok {
		state := c.ConnectionState()
		if binding, err = wire.ChannelBinding(&state); err != nil {
			return err
		}
	}
	hello, err := d.read()
	if err != nil {
		return err
	}
	d.write(&wire.ClientFrame{Body: &wire.ClientFrame_Authenticate{Authenticate: proof(hello.GetHello().GetNonce(), binding)}})
	welcome, err := d.read()
	if err != nil {
		return err
	}
	if e := welcome.GetError(); e != nil {
		conn.Close()
		return &codeError{e}
	}
	d.welcome = welcome.GetWelcome()
	return nil
}

type codeError struct{ frame *wire.Error }

func (e *codeError) Error() string { return fmt.Sprint(e.frame.GetCode(), ": ", e.frame.GetMessage()) }

// code is the code of a server's error, UNKNOWN for any other.
func code(err error) wire.Error_Code {
	var e *codeError
	if errors.As(err, &e) {
		return e.frame.GetCode()
	}
	return wire.Error_UNKNOWN
}

const patience = 10 * time.Second

func (d *testDevice) read() (*wire.ServerFrame, error) {
	d.conn.SetReadDeadline(time.Now().Add(patience))
	_, message, err := d.conn.ReadMessage()
	if err != nil {
		return nil, err
	}
	f := &wire.ServerFrame{}
	return f, proto.Unmarshal(message, f)
}

func (d *testDevice) write(f *wire.ClientFrame) error {
	message, err := proto.Marshal(f)
	if err != nil {
		return err
	}
	return d.conn.WriteMessage(websocket.BinaryMessage, message)
}

// ask sends a request and returns its answer; deliveries that come before are kept for receive.
func (d *testDevice) ask(f *wire.ClientFrame) (*wire.ServerFrame, error) {
	d.next++
	f.Id = d.next
	if err := d.write(f); err != nil {
		return nil, err
	}
	return d.answer(f.Id)
}

func (d *testDevice) answer(id uint64) (*wire.ServerFrame, error) {
	for i, f := range d.events {
		if f.ReplyTo == id {
			d.events = append(d.events[:i:i], d.events[i+1:]...)
			return checked(f)
		}
	}
	for {
		f, err := d.read()
		if err != nil {
			return nil, err
		}
		if f.ReplyTo == id {
			return checked(f)
		}
		d.events = append(d.events, f)
	}
}

func checked(f *wire.ServerFrame) (*wire.ServerFrame, error) {
	if e := f.GetError(); e != nil {
		return nil, &codeError{e}
	}
	return f, nil
}

// envelope makes one with random id and ciphertext.
func (d *testDevice) envelope(to *testDevice, size int) *wire.Envelope {
	return &wire.Envelope{
		Id:              randomBytes(16),
		Recipient:       to.account,
		RecipientDevice: to.device,
		Type:            typeSignalMessage,
		Ciphertext:      randomBytes(size),
	}
}

func (d *testDevice) send(e *wire.Envelope) error {
	_, err := d.ask(&wire.ClientFrame{Body: &wire.ClientFrame_Send{Send: e}})
	return err
}

func (d *testDevice) post(e *wire.Envelope) (id uint64, err error) {
	d.next++
	return d.next, d.write(&wire.ClientFrame{Id: d.next, Body: &wire.ClientFrame_Send{Send: e}})
}

// receive returns the next delivery.
func (d *testDevice) receive() (*wire.Envelope, error) {
	for i, f := range d.events {
		if e := f.GetDeliver(); e != nil {
			d.events = append(d.events[:i:i], d.events[i+1:]...)
			return e, nil
		}
	}
	for {
		f, err := d.read()
		if err != nil {
			return nil, err
		}
		if e := f.GetDeliver(); e != nil {
			return e, nil
		}
		d.events = append(d.events, f)
	}
}

func (d *testDevice) acknowledge(e *wire.Envelope) error {
	return d.write(&wire.ClientFrame{Body: &wire.ClientFrame_Ack{Ack: &wire.Ack{Sender: e.Sender, EnvelopeId: e.Id}}})
}

// settle makes sure that the server has handled all frames sent before.
func (d *testDevice) settle(t testing.TB) {
	t.Helper()
	if _, err := d.ask(&wire.ClientFrame{Body: &wire.ClientFrame_LookUp{LookUp: &wire.LookUp{Username: d.username}}}); err != nil && code(err) != wire.Error_RATE_LIMITED {
		t.Fatal(err)
	}
}

// logBuffer keeps the log of a server, to be searched.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serveUntilKilled is the process that TestKill kills.
func serveUntilKilled(dir string) {
	cfg := Config{DataDir: dir, Names: []string{"127.0.0.1"}, OpenRegistration: true}
	cfg.Limits.Sends = Rate{1 << 20, time.Millisecond}
	if err := cfg.check(); err != nil {
		panic(err)
	}
	db, err := store.OpenPebble(dir, cfg.Logger)
	if err != nil {
		panic(err)
	}
	s := newServer(cfg, db, nil, defaultTiming)
	s.start()
	fmt.Println(httptest.NewServer(s.Handler()).URL)
	select {}
}

// remote is a server in another process.
func remote(url string) *testServer {
	return &testServer{
		http: &httptest.Server{URL: url},
		cfg:  Config{Logger: slog.New(slog.DiscardHandler)},
	}
}
