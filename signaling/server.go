package signaling

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"sotto/signaling/store"
	"sotto/wire"
)

// Server answers devices. Make it with New, serve its Handler, end it with Shutdown.
//
// Goroutines: one reads each link; one writes it, and one fetches from its mailbox, only while there is something to do; one waits
// for each envelope accepted and not yet answered; one sweeps. All of them are counted in running.
type Server struct {
	cfg     Config
	log     *slog.Logger
	store   store.Store
	issuer  *issuer
	metrics *metrics
	hub     *hub
	now     func() time.Time
	started time.Time
	timing  timing

	registrations sourceLimiter
	attempts      sourceLimiter
	sends         *limiter[store.Address]
	uploads       *limiter[store.Address]
	lookUps       *limiter[store.UUID]
	bundleFetches *limiter[store.UUID]
	pairFetches   *limiter[[2]store.UUID]
	relays        *limiter[store.UUID]
	tokens        *limiter[store.UUID]
	certificates  *limiter[store.UUID]
	devices       *limiter[store.UUID]
	linkRequests  sourceLimiter
	sealedSends   sourceLimiter
	sealedTo      *limiter[store.Address]
	sealedFetches sourceLimiter
	fetchedFrom   *limiter[store.UUID]

	upgrader    websocket.Upgrader
	strangers   *lobby // links not yet authenticated
	anonymous   *crowd // links that never are
	meetings    *meetings
	health      health
	relaySecret atomic.Pointer[[]byte] // what relay credentials are made from now
	relayURLs   atomic.Pointer[[]string]
	erased      atomic.Bool // something was erased since the last scrub

	mu      sync.Mutex
	ended   bool            // no new work
	running sync.WaitGroup  // grows only while ended is false, or from inside
	stop    context.Context // ends when Shutdown begins
	halt    context.CancelFunc
	cutting context.Context // ends when Shutdown waits no longer
	cut     context.CancelFunc
}

// timing holds what tests shorten.
type timing struct {
	authenticate time.Duration // from Hello to Authenticate
	grace        time.Duration // from Hello, in which a link is not ended for want of room
	straight     time.Duration // for the recipient's acknowledgement, before the envelope is stored
	ping         time.Duration
	silence      time.Duration // after which a link is dead
	idle         time.Duration // after which an anonymous link that is not used ends
	write        time.Duration // for one frame
	closing      time.Duration // for the device to answer a close frame
	linking      time.Duration // for which a linking code is good
	confirm      time.Duration // for which a device that wants to be added waits for one answer
	sweep        time.Duration
}

var defaultTiming = timing{
	authenticate: 10 * time.Second,
	grace:        2 * time.Second,
	straight:     250 * time.Millisecond,
	ping:         30 * time.Second,
	silence:      75 * time.Second, // two pings and a half
	idle:         10 * time.Minute,
	write:        10 * time.Second,
	closing:      2 * time.Second,
	linking:      10 * time.Minute,
	confirm:      5 * time.Minute,
	sweep:        30 * time.Second,
}

// New opens the store in cfg.DataDir and returns a server that is ready.
func New(cfg Config) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	db, err := store.OpenPebble(filepath.Join(cfg.DataDir, "store"), cfg.Logger)
	if err != nil {
		return nil, err
	}
	keys, err := openIssuer(filepath.Join(cfg.DataDir, "certificates"))
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	s := newServer(cfg, db, keys, defaultTiming)
	s.start()
	return s, nil
}

func newServer(cfg Config, db store.Store, keys *issuer, t timing) *Server {
	m := newMetrics()
	s := &Server{
		cfg:           cfg,
		log:           cfg.Logger,
		store:         db,
		issuer:        keys,
		metrics:       m,
		hub:           newHub(cfg.Limits.Links, m.links),
		now:           time.Now,
		started:       time.Now(),
		timing:        t,
		registrations: newSourceLimiter(cfg.Limits.Registrations),
		attempts:      newSourceLimiter(cfg.Limits.Attempts),
		sends:         newLimiter[store.Address](cfg.Limits.Sends),
		uploads:       newLimiter[store.Address](cfg.Limits.Uploads),
		lookUps:       newLimiter[store.UUID](cfg.Limits.LookUps),
		bundleFetches: newLimiter[store.UUID](cfg.Limits.BundleFetches),
		pairFetches:   newLimiter[[2]store.UUID](cfg.Limits.PairFetches),
		relays:        newLimiter[store.UUID](cfg.Limits.Relays),
		tokens:        newLimiter[store.UUID](cfg.Limits.Tokens),
		certificates:  newLimiter[store.UUID](cfg.Limits.Certificates),
		devices:       newLimiter[store.UUID](cfg.Limits.Devices),
		linkRequests:  newSourceLimiter(cfg.Limits.LinkRequests),
		meetings:      newMeetings(cfg.Limits.Linkings),
		sealedSends:   newSourceLimiter(cfg.Limits.SealedSends),
		sealedTo:      newLimiter[store.Address](cfg.Limits.SealedTo),
		sealedFetches: newSourceLimiter(cfg.Limits.SealedFetches),
		fetchedFrom:   newLimiter[store.UUID](cfg.Limits.FetchedFrom),
		anonymous:     newCrowd(cfg.Limits.AnonymousPer, cfg.Limits.Anonymous),
		strangers:     &lobby{crowd: newCrowd(cfg.Limits.UnauthenticatedPer, cfg.Limits.Unauthenticated), grace: t.grace},
	}
	s.upgrader = websocket.Upgrader{
		HandshakeTimeout: t.write,
		// An idle link holds this read buffer and nothing for writing.
		ReadBufferSize:  512,
		WriteBufferSize: 2048,
		WriteBufferPool: &sync.Pool{},
		CheckOrigin:     s.originAllowed,
	}
	m.registry.MustRegister(&census{server: s})
	if cfg.Relay != nil {
		s.relaySecret.Store(&cfg.Relay.Secret)
		s.relayURLs.Store(&cfg.Relay.URLs)
	}
	s.stop, s.halt = context.WithCancel(context.Background())
	s.cutting, s.cut = context.WithCancel(context.Background())
	return s
}

// start begins the work that no request causes.
func (s *Server) start() {
	s.erased.Store(true) // perhaps, before the last stop
	s.running.Go(s.sweeping)
}

// Handler serves devices: POST /v1/accounts, POST /v1/devices, GET /v1/link and GET /v1/anonymous; and GET /healthz.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/accounts", s.counted(s.handleRegistration))
	mux.HandleFunc("POST /v1/devices", s.counted(s.handleLinkRequest))
	mux.HandleFunc("GET /v1/link", s.counted(s.handleLink))
	mux.HandleFunc("GET /v1/anonymous", s.counted(s.handleAnonymous))
	mux.HandleFunc("GET /healthz", s.counted(s.handleHealth))
	return mux
}

// counted lets a request in unless the server stops, and keeps it from stopping under the request.
func (s *Server) counted(handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !s.enter() {
			w.Header().Set("Retry-After", "2")
			respond(w, http.StatusServiceUnavailable, errStopping.wire())
			return
		}
		defer s.running.Done()
		handle(w, r)
	}
}

func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.running.Add(1)
	return true
}

// Shutdown stops in order: nothing new begins; what was received is answered; every link is told and closed (1001, going away);
// what was erased is removed from the files; the store is made durable and closed. When ctx ends first, links are cut, which still loses nothing that was answered.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return errors.New("the server was stopped before")
	}
	s.ended = true
	s.mu.Unlock()

	s.halt()
	s.hub.end()
	done := make(chan struct{})
	go func() {
		s.running.Wait()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
		s.cut()
		<-done
	}
	s.cut()
	if s.erased.Load() {
		err = errors.Join(err, s.store.Scrub(ctx))
	}
	return errors.Join(err, s.store.Close())
}

// nameOf returns the one of our names by which the device calls us.
func (s *Server) nameOf(r *http.Request) (string, error) {
	name, err := wire.ServerName(r.Host)
	if err != nil || !slices.Contains(s.cfg.Names, name) {
		return "", errServerUnknown
	}
	return name, nil
}

func (s *Server) originAllowed(r *http.Request) bool {
	origin := r.Header.Values("Origin")
	return len(origin) == 0 || len(origin) == 1 && slices.Contains(s.cfg.AllowedOrigins, origin[0])
}

// sweeping erases what has expired, and now and then removes the bytes of what was erased from the disk: first at once, as the last
// run may have ended in a crash.
func (s *Server) sweeping() {
	sweep, scrub := time.NewTicker(s.timing.sweep), time.NewTicker(s.cfg.EraseEvery)
	defer sweep.Stop()
	defer scrub.Stop()
	s.sweep()
	s.scrub()
	for {
		select {
		case <-s.stop.Done():
			return
		case <-sweep.C:
			s.sweep()
		case <-scrub.C:
			s.scrub()
		}
	}
}

func (s *Server) sweep() {
	s.meetings.sweep(s.now())
	n, err := s.store.Sweep(s.stop, s.now())
	if err != nil && s.stop.Err() == nil {
		s.log.Error("expired envelopes could not be erased", "error", err)
	}
	if n > 0 {
		s.metrics.expired.Add(float64(n))
		s.erased.Store(true)
	}
}

func (s *Server) scrub() {
	if !s.erased.Swap(false) {
		return
	}
	start := time.Now()
	if err := s.store.Scrub(s.stop); err != nil {
		s.erased.Store(true)
		if s.stop.Err() == nil {
			s.log.Error("erased envelopes could not be removed from the files", "error", err)
		}
	}
	s.metrics.scrubSeconds.Observe(time.Since(start).Seconds())
}

// health remembers the last check of the store for a second, so that asking costs no disk.
type health struct {
	mu  sync.Mutex
	at  time.Time
	err error
}

func (s *Server) handleHealth(w http.ResponseWriter, _ *http.Request) {
	h := &s.health
	h.mu.Lock()
	if now := s.now(); now.Sub(h.at) > time.Second {
		h.at, h.err = now, s.store.Check()
	}
	err := h.err
	h.mu.Unlock()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if err != nil {
		http.Error(w, "the store does not take writes", http.StatusServiceUnavailable)
		return
	}
	if DescriptorsLeft() != nil {
		http.Error(w, "no descriptors are left", http.StatusServiceUnavailable)
		return
	}
	w.Write([]byte("ok\n"))
}
