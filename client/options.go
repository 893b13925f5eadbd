package client

import (
	"crypto/tls"
	"log/slog"
)

// Options say how an account directory is opened and how its client behaves. The zero Options are usable.
type Options struct {
	// Key opens the directory: Passphrase or KeyFile. The zero Key is a file in the directory itself.
	Key Key

	// TLS is used towards the server, for instance with RootCAs of an operator's own. Nil means the system's roots. TLS 1.3 is
	// demanded whatever it says.
	TLS *tls.Config

	// AllowPlain permits http and ws towards a server that is not on this machine. Who is on the way then sees who talks to whom
	// and when, though nothing that is said. Towards loopback addresses plain is always allowed.
	AllowPlain bool

	// RelayOnly keeps this device's addresses from everybody it calls or is called by: media flows through the relay only.
	// Without it, that is so towards people who are not accepted contacts.
	RelayOnly bool

	// VariableRate lets packets of sound be as large as the sound needs. That sounds better for the same rate, and tells whoever watches
	// the network something of what is said (RFC 6562): by default all packets are of one size, in silence too.
	VariableRate bool

	// Loopback keeps calls on this machine: for tests and demonstrations with both ends on one.
	Loopback bool

	// Logger hears what an operator may know: no names, addresses, keys or contents. Nil discards it.
	Logger *slog.Logger
}

// RegisterOptions say what account to make.
type RegisterOptions struct {
	Options

	// Server is the server's URL, for instance https://sotto.example. Its host name is what the account signs, so that what
	// is signed for one server is worth nothing at another.
	Server string

	// Username is how others find the account: 2 to 32 of a-z 0-9 . _ -, unique on the server.
	Username string

	// Invitation is the token the server's operator handed out; empty if the server is open to all.
	Invitation string
}
