package client

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sotto/client/callflow"
	"sotto/e2ee/ratchet"
	"sotto/signaling"
	"sotto/turnserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a server, perhaps a relay, and who registered there.
type world struct {
	t        testing.TB
	config   signaling.Config
	address  string
	front    string // what clients are told instead, if it is not empty
	server   *signaling.Server
	listener *signaling.Listener
	served   chan error
	log      *slog.Logger // of the clients; nil discards
}

var testSecret = []byte("a secret of the tests, 32 bytes.")

func newWorld(t testing.TB, change ...func(*signaling.Config)) *world {
	w := &world{t: t, address: "127.0.0.1:0", config: signaling.Config{
		DataDir: t.TempDir(), Names: []string{"127.0.0.1"}, OpenRegistration: true,
		Limits: signaling.Limits{Attempts: signaling.Rate{Burst: 1000, Every: time.Millisecond}},
	}}
	for _, f := range change {
		f(&w.config)
	}
	w.start()
	t.Cleanup(w.stop)
	return w
}

// startRelay starts a relay whose peers may be on this machine.
func startRelay(t testing.TB) *turnserver.Server {
	t.Helper()
	relay, err := turnserver.New(turnserver.Config{
		UDP: []string{"127.0.0.1:0"}, Secrets: [][]byte{testSecret},
		AllowPeers: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = relay.Shutdown(ctx) // allocations of calls that were killed are cut off
	})
	return relay
}

func withRelay(t testing.TB) func(*signaling.Config) {
	relay := startRelay(t)
	return func(cfg *signaling.Config) {
		cfg.Relay = &signaling.RelayConfig{URLs: relay.URLs(), Secret: testSecret}
	}
}

func (w *world) start() {
	w.t.Helper()
	var err error
	if w.server, err = signaling.New(w.config); err != nil {
		w.t.Fatal(err)
	}
	if w.listener, err = signaling.Listen(signaling.ListenConfig{Address: w.address}); err != nil {
		w.t.Fatal(err)
	}
	w.address = w.listener.Addr().String()
	w.served = make(chan error, 1)
	go func(l *signaling.Listener, handler *signaling.Server, served chan error) {
		served <- l.Serve(handler.Handler())
	}(w.listener, w.server, w.served)
}

func (w *world) stop() {
	if w.server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := w.listener.Shutdown(ctx); err != nil {
		w.t.Error(err)
	}
	if err := w.server.Shutdown(ctx); err != nil {
		w.t.Error(err)
	}
	if err := <-w.served; err != nil {
		w.t.Error(err)
	}
	w.server = nil
}

func (w *world) url() string {
	if w.front != "" {
		return w.front
	}
	return "http://" + w.address
}

// person is an account, what is known to happen to it, and where it lives.
type person struct {
	*Client
	dir string
}

func (w *world) register(name string) *person {
	w.t.Helper()
	p := &person{dir: w.t.TempDir()}
	var err error
	p.Client, err = Register(w.t.Context(), p.dir, RegisterOptions{Server: w.url(), Username: name, Options: w.options()})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { p.Close() })
	return p
}

func (w *world) options() Options { return Options{Loopback: true, Logger: w.log} }

// online registers and connects.
func (w *world) online(name string) *person {
	w.t.Helper()
	p := w.register(name)
	p.start(w.t)
	return p
}

func (p *person) start(t testing.TB) {
	t.Helper()
	if err := p.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := p.WaitConnected(patience(t)); err != nil {
		t.Fatal(err)
	}
}

// reopen closes and opens the account, as another process would.
func (p *person) reopen(t testing.TB, w *world) {
	t.Helper()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	if p.Client, err = Open(p.dir, w.options()); err != nil {
		t.Fatal(err)
	}
}

// send sends and waits for the server.
func (p *person) send(t testing.TB, to, text string) MessageID {
	t.Helper()
	id, err := p.Send(patience(t), to, text)
	if err == nil {
		err = p.WaitSent(patience(t), id)
	}
	if err != nil {
		t.Fatalf("%s to %s: %v", p.Username(), to, err)
	}
	return id
}

// expect returns the next event of a type, skipping others.
func expect[E Event](t testing.TB, p *person) E {
	t.Helper()
	ctx := patience(t)
	for {
		select {
		case e, ok := <-p.Events():
			if !ok {
				t.Fatal("the client was closed")
			}
			if e, ok := e.(E); ok {
				return e
			}
		case <-ctx.Done():
			var want E
			t.Fatalf("%s: no %T in time", p.Username(), want)
		}
	}
}

// hears expects a text and is done with it.
func (p *person) hears(t testing.TB, text string) Message {
	t.Helper()
	m := expect[Message](t, p)
	if m.Text != text {
		t.Fatalf("%s heard %q, want %q", p.Username(), m.Text, text)
	}
	if err := m.Done(); err != nil {
		t.Fatal(err)
	}
	return m
}

// first is the account's first device.
func (p *person) first() ratchet.Address {
	return ratchet.Address{Account: p.Account(), Device: firstDevice}
}

func sessionRecord(with *person) string { return addressRecord(recordSession, with.first()) }

func patience(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 45*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// quiet fails if an event of the type is there already.
func quiet[E Event](t testing.TB, p *person) {
	t.Helper()
	for {
		select {
		case e := <-p.Events():
			if e, ok := e.(E); ok {
				t.Fatalf("%s: unexpected %T", p.Username(), e)
			}
		default:
			return
		}
	}
}

// copyDir copies an account's directory, which may be in use: records come and go meanwhile, and
// then it begins again.
func copyDir(t testing.TB, from string) string {
	t.Helper()
	to := t.TempDir()
	for ctx := patience(t); ; to = t.TempDir() {
		err := os.CopyFS(to, os.DirFS(from))
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(to, "key"), 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

// wait changes how long things wait, before they do.
func (p *person) wait(change func(*timing)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.timing)
	times := p.timing.Timing
	p.calls.box.post(func() { p.calls.flow = callflow.New(times) })
}
