package client

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"sotto/wire"
)

// What a program may want to tell apart. Each is wrapped at most once, in a sentence that says what to do.
var (
	// ErrReplaced ends the link: the account's device is connected from elsewhere, and two processes must not share one session state.
	ErrReplaced = errors.New("another process has connected with this account: stop one of them, then open the account again")
	// ErrUnauthenticated ends the link: the server does not accept this device's proof of its key.
	ErrUnauthenticated = errors.New("the server does not accept this device: the account's first device has removed it, " +
		"the server does not know the account or goes by another name, or somebody on the way ends the TLS connection")
	// ErrAccountDisabled and ErrAccountDeleted are kinds of ErrUnauthenticated, which they wrap.
	ErrAccountDisabled = tell(ErrUnauthenticated,
		"whoever runs the server has disabled this account: ask them")
	ErrAccountDeleted = tell(ErrUnauthenticated, "this account was deleted: "+
		"nobody can reach it any more, and what is left of it on this device is of no use")
	// ErrTLSEnded says that the server sees another TLS connection than this device.
	ErrTLSEnded = errors.New("something between this device and the server ends TLS " +
		"(a reverse proxy, a load balancer, a filter of this network), and nobody can log in " +
		"through it: have it pass TCP through, or go around it")
	// ErrServerKeyChanged says that the server vouches for senders with another key than before.
	// Until Client.AcceptServerKey nothing is sealed, and what others seal under that key waits at
	// the server.
	ErrServerKeyChanged = errors.New("the server vouches for senders with another key than before: " +
		"its operator has lost its file certificates, or somebody else answers in its place; " +
		"ask them, and accept the key if it is theirs")
	// ErrNoSuchUser says that the server knows no account of that name.
	ErrNoSuchUser = errors.New("no such user on this server")
	// ErrNoAccount says that a directory holds no account.
	ErrNoAccount = errors.New("there is no account here")
	// ErrAccountInUse says that another process has the account's directory open.
	ErrAccountInUse = errors.New("the account is in use by another process")
	// ErrNoContact says that somebody is no contact of this account's.
	ErrNoContact = errors.New("no such contact")
	// ErrNameDisputed says that a contact goes by another name than the one that was looked up:
	// Client.AcceptName.
	ErrNameDisputed = errors.New("they go by another name")
	// ErrBlocked says that somebody was blocked by Client.Block.
	ErrBlocked = errors.New("they are blocked; to write or call, unblock them first")
	// ErrPlain refuses a link without TLS, which Options.AllowPlain allows.
	ErrPlain = errors.New("is plain http, where others can see who talks to whom: use https")
	// ErrBusy says that this client is in a call already.
	ErrBusy = errors.New("already in a call: hang up first")
	// ErrCallEnded says that a call is over.
	ErrCallEnded = errors.New("the call has ended")
	// ErrClosed says that the client was closed.
	ErrClosed = errors.New("the client is closed")
)

// told is an error of a kind that programs tell apart, in a sentence of its own.
type told struct {
	sentence string
	kind     error
}

func (e *told) Error() string { return e.sentence }
func (e *told) Unwrap() error { return e.kind }

func tell(kind error, format string, args ...any) error {
	return &told{fmt.Sprintf(format, args...), kind}
}

// IdentityChangedError blocks sending to a contact whose identity key is not the one pinned. Either the contact set up the account
// anew, or somebody stands in between.
type IdentityChangedError struct {
	Username string
}

func (e *IdentityChangedError) Error() string {
	return fmt.Sprintf("the identity key of %s has changed: compare safety numbers with them, then accept the new key", e.Username)
}

// LogValue leaves the name out.
func (e *IdentityChangedError) LogValue() slog.Value {
	return slog.StringValue("the identity key of a contact has changed")
}

// ServerError is a refusal of the server's.
type ServerError struct {
	Code       wire.Error_Code
	Message    string // the server's sentence
	RetryAfter time.Duration
}

func (e *ServerError) Error() string {
	if e.Message == "" {
		return "the server refused: " + e.Code.String()
	}
	return "the server refused: " + e.Message
}

// refused tells whether err is the server's refusal with that code.
func refused(err error, code wire.Error_Code) bool {
	var refusal *ServerError
	return errors.As(err, &refusal) && refusal.Code == code
}
