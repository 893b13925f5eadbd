package signaling

import (
	"errors"
	"net/http"
	"time"

	"sotto/signaling/store"
	"sotto/wire"
)

// failure is an error that goes to the device as it is: a code for programs and a sentence for people.
type failure struct {
	code       wire.Error_Code
	message    string
	retryAfter time.Duration
	reason     wire.Error_Reason
}

func (f *failure) Error() string { return f.message }

func (f *failure) wire() *wire.Error {
	seconds := (f.retryAfter + time.Second - 1) / time.Second
	return &wire.Error{
		Code: f.code, Message: f.message, RetryAfter: uint32(seconds), Reason: f.reason,
	}
}

func badRequest(message string) *failure {
	return &failure{code: wire.Error_BAD_REQUEST, message: message}
}

func rateLimited(wait time.Duration) *failure {
	const sentence = "Too many requests. Wait a moment."
	return &failure{code: wire.Error_RATE_LIMITED, message: sentence, retryAfter: wait}
}

func forbidden(message string) *failure {
	return &failure{code: wire.Error_FORBIDDEN, message: message}
}

func unavailable(message string, retryAfter time.Duration) *failure {
	return &failure{code: wire.Error_UNAVAILABLE, message: message, retryAfter: retryAfter}
}

func unauthenticated(reason wire.Error_Reason, message string) *failure {
	return &failure{code: wire.Error_UNAUTHENTICATED, message: message, reason: reason}
}

var (
	errMalformed     = badRequest("The message could not be read. Is the client up to date?")
	errSignature     = &failure{code: wire.Error_UNAUTHENTICATED, message: "The signature does not fit. Check the server's address and the account."}
	errForbidden     = &failure{code: wire.Error_FORBIDDEN, message: "The invitation is not valid: it may be mistyped, used up or expired."}
	errInvitation    = &failure{code: wire.Error_FORBIDDEN, message: "This server takes new accounts by invitation only."}
	errToken         = &failure{code: wire.Error_FORBIDDEN, message: "The delivery token is not valid: the recipient may have a new one."}
	errTaken         = &failure{code: wire.Error_USERNAME_TAKEN, message: "That user name is taken."}
	errNotFound      = &failure{code: wire.Error_NOT_FOUND, message: "There is no such user or device."}
	errTooLarge      = &failure{code: wire.Error_TOO_LARGE, message: "The message is too large."}
	errMailboxFull   = &failure{code: wire.Error_MAILBOX_FULL, message: "The recipient's mailbox is full. Try again when the device has been online.", retryAfter: time.Minute}
	errStopping      = unavailable("The server is stopping. Try again in a moment.", 2*time.Second)
	errStore         = unavailable("The server cannot reach its store. Try again later.", 10*time.Second)
	errRemoved       = &failure{code: wire.Error_UNAUTHENTICATED, message: "This device was removed from its account."}
	errPrimary       = &failure{code: wire.Error_FORBIDDEN, message: "Only the account's first device adds and removes devices."}
	errDevices       = &failure{code: wire.Error_FORBIDDEN, message: "The account has as many devices as it can. Remove one first."}
	errListChanged   = &failure{code: wire.Error_CONFLICT, message: "The account's devices have changed meanwhile. Try again."}
	errListSignature = &failure{code: wire.Error_UNAUTHENTICATED, message: "The device list is not signed by the account's first device for this server."}
	errSlot          = &failure{code: wire.Error_FORBIDDEN, message: "The linking code is not valid: it may be mistyped, used, declined or expired. Make a new one on the first device."}
	errNotYet        = unavailable("Nobody has confirmed on the first device yet.", time.Second)
	errLinkings      = unavailable("Too many devices are being linked. Try again later.", time.Minute)
	errReplaced      = &failure{code: wire.Error_REPLACED, message: "The device opened a newer link."}
	errNoRelay       = &failure{code: wire.Error_NOT_FOUND, message: "This server has no relay."}
	errAuthTimeout   = &failure{code: wire.Error_UNAUTHENTICATED, message: "The link was not authenticated in time."}
	errTooManyLinks  = unavailable("The server has too many links. Try again later.", 30*time.Second)
	errServerUnknown = &failure{code: wire.Error_BAD_REQUEST, message: "This server does not go by that name: its operator says which one to use (serve --name)."}
)

// asFailure finds what to tell the device. What is not meant for it is logged without its details and told as errStore.
func (s *Server) asFailure(err error) *failure {
	var f *failure
	switch {
	case errors.As(err, &f):
	case errors.Is(err, store.ErrNotFound):
		f = errNotFound
	case errors.Is(err, store.ErrMailboxFull):
		f = errMailboxFull
	case errors.Is(err, store.ErrUsernameTaken):
		f = errTaken
	case errors.Is(err, store.ErrListChanged):
		f = errListChanged
	case errors.Is(err, store.ErrBadInvitation):
		f = errForbidden
	default:
		s.log.Error("the store failed", "error", err)
		f = errStore
	}
	s.metrics.failed(f.code)
	return f
}

// httpStatus fits each code with what HTTP calls it (RFC 9110 section 15; 429: RFC 6585).
func httpStatus(code wire.Error_Code) int {
	switch code {
	case wire.Error_BAD_REQUEST:
		return http.StatusBadRequest
	case wire.Error_UNAUTHENTICATED:
		return http.StatusUnauthorized
	case wire.Error_FORBIDDEN:
		return http.StatusForbidden
	case wire.Error_NOT_FOUND:
		return http.StatusNotFound
	case wire.Error_USERNAME_TAKEN:
		return http.StatusConflict
	case wire.Error_RATE_LIMITED:
		return http.StatusTooManyRequests
	case wire.Error_TOO_LARGE:
		return http.StatusRequestEntityTooLarge
	case wire.Error_UNAVAILABLE:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
