package media

import (
	"crypto/x509"
	"log/slog"
	"time"

	"github.com/pion/transport/v4"

	"sotto/media/path"
)

// Relay is a TURN server with time-limited credentials.
type Relay = path.Relay

// ErrNoRelay says that a relay-only session was given no relay that anything can be done with.
var ErrNoRelay = path.ErrNoRelay

// ErrRelayCredentials says that a relay did not accept its credentials.
var ErrRelayCredentials = path.ErrRelayCredentials

// An Event tells what became of a session.
type Event int

const (
	EventConnected      Event = iota + 1 // a path is there; again after EventInterrupted
	EventInterrupted                     // nothing arrived for some seconds, on any path
	EventFirstMedia                      // the first authenticated packet of the peer's; again the first one after EventPeerKeyChanged
	EventUndecryptable                   // a packet could not be decrypted; reported once, Stats counts on
	EventFailed                          // for good; Failed says why
	EventPeerKeyChanged                  // media was heard, and since then nothing could be decrypted for two seconds
	EventPathChanged                     // another path was connected while one stood
	EventQualityPoor                     // by loss, delay or jitter; see Stats.Quality
	EventQualityGood                     // again
	EventStalled                         // media came, and none has for a second: time to open another path; again every 5 s while it lasts
)

// Config says how a session is to be made.
type Config struct {
	Controlling bool           // true at the caller's end, false at the callee's
	Relays      []Relay        // also asked for this device's public address, unless RelayOnly
	RelayOnly   bool           // the peer and the network learn the relay's address only
	Loopback    bool           // candidates on the loopback interface only: both ends on one machine
	RelayRoots  *x509.CertPool // who may sign for relays over TLS and DTLS; nil: the system's roots
	LocalRelays bool           // relays may be at private and local addresses
	Video       bool           // announce a video stream
	Screen      bool           // announce a second one
	// VariableRate lets packets of sound be as large as the sound needs. That sounds better for the same rate, and tells whoever watches
	// the network something of what is said (RFC 6562): by default all packets are of one size, in silence too.
	VariableRate bool

	OnCandidate     func(candidate string)                    // to be brought to the peer's AddRemoteCandidate
	OnPathCandidate func(generation uint32, candidate string) // to be brought to the peer's AddPathCandidate
	OnRelayFailed   func(url string, why error)               // a relay is of no use; may come again; must return soon; may be nil
	OnEvent         func(Event)                               // must return soon and not call Close; may be nil

	// OnSourceEnded hears of a source that has no more: a file that is over. It must return
	// soon and not call Close; may be nil.
	OnSourceEnded func(device string)

	// OnDeviceFailed hears of a source that failed (a "microphone", the "camera", the shared "screen"; not of one that has no more) and of a
	// sink ("speaker", "display"): the session goes on without. It must return soon and not call Close; may be nil.
	OnDeviceFailed func(device string, err error)

	InterruptedAfter time.Duration // 0: 5 s
	FailAfter        time.Duration // 0: 30 s (RFC 7675); also how long the first connection may take
	RekeyEvery       time.Duration // 0: a minute; for what this end sends, if Keys has a source

	Log *slog.Logger  // nil: discarded
	Net transport.Net // nil: the machine's; a test hands in another
}

// rekeyEvery is how long a key serves, unless Config says otherwise. A new one costs microseconds; what is stolen with one key is a
// minute of the call.
const rekeyEvery = time.Minute
