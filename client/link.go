package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"sotto/internal/routable"
	"sotto/internal/visible"
	"sotto/wire"
)

// One link, from its opening to its end:
//
//  1. Dial the websocket, over TLS 1.3 unless the URL says http.
//  2. Hello brings a nonce. Authenticate signs it together with the server's name and the TLS channel (RFC 9266), so that nobody in
//     between can use the signature on a channel of its own.
//  3. Welcome brings the server's clock and how often it pings.
//  4. A reader hands replies to who asked and envelopes to Client.deliver, until the link breaks or a ping is overdue.
//
// The anonymous link (anonymous.go) goes without step 2: nobody says who they are, and nothing is delivered.

const (
	handshakeTimeout = 15 * time.Second
	anonymousTimeout = 8 * time.Second // less than what waits for the link does
	writeTimeout     = 10 * time.Second
	requestTimeout   = 20 * time.Second
	maxServerFrame   = 256 << 10 // bundles of several devices; an envelope has at most 64 KiB
	deliveryQueue    = 256       // more than a server hands out unacknowledged, so that replies are not stuck behind
	minPing          = 1         // seconds
	maxPing          = 600
)

// link is one websocket.
type link struct {
	conn       *websocket.Conn
	anonymous  bool
	local      bool // the server is at a private or local address
	welcome    *wire.Welcome
	number     uint64        // see copies.go
	deliveries chan delivery // nil if it is anonymous
	linkings   chan *wire.LinkRequest

	tokenTold, certified chan struct{} // closed once the first try is over: keepTold, keepCertified

	writing sync.Mutex // gorilla allows one writer

	mu      sync.Mutex
	lastID  uint64
	replied bool
	waiting map[uint64]chan *wire.ServerFrame
	err     error // set once the link is over
	over    chan struct{}
}

// A delivery is an envelope, or a mark behind those that came before (caughtUp).
type delivery struct {
	envelope *wire.Envelope
	reached  chan struct{}
}

// errNotFound says that the server has no such links.
var errNotFound = errors.New("the server does not open a link (HTTP status 404)")

// dial is steps 1 to 3 of the ordinary link.
func (c *Client) dial(ctx context.Context) (*link, error) {
	l := &link{
		deliveries: make(chan delivery, deliveryQueue), linkings: make(chan *wire.LinkRequest, 4),
		tokenTold: make(chan struct{}), certified: make(chan struct{}),
	}
	return l, c.open(ctx, l, "v1/link", tlsConfig(c.options.TLS), c.authenticate)
}

// dialAnonymous is steps 1 and 3 of the anonymous one.
func (c *Client) dialAnonymous(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, anonymousTimeout)
	defer cancel()
	config := tlsConfig(c.options.TLS)
	config.ClientSessionCache, config.Certificates, config.GetClientCertificate = nil, nil, nil // each would tell whose it is
	l := &link{anonymous: true}
	return l, c.open(ctx, l, "v1/anonymous", config, func(l *link, _ string) error { return l.welcomed() })
}

// longestRetry is the longest that an honest server asks to wait: for keys of one account by
// another (docs/protocol.md).
const longestRetry = time.Hour

// patienceFor bounds how long a server can make this device wait: 32 bits of seconds are 136 years.
func patienceFor(seconds uint32) time.Duration {
	return min(time.Duration(seconds)*time.Second, longestRetry)
}

func addressOf(a net.Addr) netip.Addr {
	at, _ := netip.ParseAddrPort(a.String())
	return at.Addr()
}

// open is step 1, and greets the server.
func (c *Client) open(ctx context.Context, l *link, path string, config *tls.Config, greet func(l *link, host string) error) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	u, err := url.Parse(c.account.Server)
	if err != nil {
		return err
	}
	u = u.JoinPath(path)
	u.Scheme = map[string]string{"https": "wss", "http": "ws"}[u.Scheme]
	stop := func() bool { return true }
	dialer := websocket.Dialer{Proxy: http.ProxyFromEnvironment, TLSClientConfig: config,
		NetDialContext: func(_ context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err == nil {
				host, _, _ := net.SplitHostPort(address) // of a proxy, perhaps
				l.local = host == u.Hostname() && !routable.Global(addressOf(conn.RemoteAddr()))
				stop = context.AfterFunc(ctx, func() { conn.Close() }) // of the context the websocket's handshake sees the deadline only
			}
			return conn, err
		},
	}
	conn, response, err := dialer.DialContext(ctx, u.String(), nil)
	switch {
	case err != nil && response != nil && response.StatusCode == http.StatusNotFound:
		return errNotFound
	case err != nil && response != nil:
		return fmt.Errorf("the server does not open a link (HTTP status %d)", response.StatusCode)
	case err != nil:
		return unreachable(err)
	}
	l.conn, l.waiting, l.over = conn, map[uint64]chan *wire.ServerFrame{}, make(chan struct{})
	conn.SetReadLimit(maxServerFrame)
	conn.SetReadDeadline(time.Now().Add(handshakeTimeout))
	err = greet(l, u.Host)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
	}
	return err
}

// authenticate is steps 2 and 3.
func (c *Client) authenticate(l *link, host string) error {
	frame, err := l.read()
	if err != nil {
		return unreachable(err)
	}
	nonce := frame.GetHello().GetNonce()
	if len(nonce) != wire.NonceSize {
		return errProtocol
	}
	binding, err := channelBinding(l.conn.NetConn())
	if err != nil {
		return err
	}
	server, err := wire.ServerName(host)
	if err != nil {
		return err
	}
	if l.number, err = c.countLink(0); err != nil { // the link is worth more than its number
		c.log.Error("the number of this link was not stored", "error", err)
		l.number = 0
	}
	id := c.account.Account
	signed := wire.AuthenticationToSign(server, nonce, id[:], c.account.Device, binding)
	err = l.write(&wire.ClientFrame{Body: &wire.ClientFrame_Authenticate{Authenticate: &wire.Authenticate{
		Account: id[:], Device: uint32(c.account.Device),
		Signature:      c.identity.Sign(signed),
		ChannelBinding: binding[:],
		LinkNumber:     l.number,
	}}})
	if err != nil {
		return unreachable(err)
	}
	return l.welcomed()
}

// welcomed is step 3.
func (l *link) welcomed() error {
	frame, err := l.read()
	if err != nil {
		return unreachable(err)
	}
	if refusal := frame.GetError(); refusal != nil {
		return refusalOf(refusal)
	}
	l.welcome = frame.GetWelcome()
	if l.welcome == nil || l.welcome.ServerTime > maxTimestamp || l.welcome.PingInterval < minPing || l.welcome.PingInterval > maxPing {
		return errProtocol
	}
	return nil
}

var errProtocol = errors.New("the server does not speak this protocol: check its URL and version")

// refusalOf makes an error of a server's refusal.
func refusalOf(e *wire.Error) error {
	switch e.Reason {
	case wire.Error_OTHER_CHANNEL:
		return ErrTLSEnded
	case wire.Error_ACCOUNT_DISABLED:
		return ErrAccountDisabled
	case wire.Error_ACCOUNT_DELETED:
		return ErrAccountDeleted
	}
	switch e.Code {
	case wire.Error_REPLACED:
		return ErrReplaced
	case wire.Error_UNAUTHENTICATED:
		return ErrUnauthenticated
	}
	return &ServerError{Code: e.Code, Message: visible.Line(e.Message).String(), RetryAfter: patienceFor(e.RetryAfter)}
}

// receive is step 4. It returns what ended the link.
func (l *link) receive(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { l.end(context.Cause(ctx)) })
	defer stop()
	patience := time.Duration(l.welcome.PingInterval)*time.Second*5/2 + 5*time.Second
	alive := func() { l.conn.SetReadDeadline(time.Now().Add(patience)) }
	alive()
	l.conn.SetPingHandler(func(data string) error {
		alive()
		err := l.conn.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(writeTimeout))
		if err == websocket.ErrCloseSent {
			return nil
		}
		return err
	})
	for {
		frame, err := l.read()
		if err != nil {
			return l.end(linkBroke(err))
		}
		alive()
		if err := l.dispatch(ctx, frame); err != nil {
			return l.end(err)
		}
	}
}

func (l *link) dispatch(ctx context.Context, frame *wire.ServerFrame) error {
	if frame.ReplyTo == 0 {
		switch body := frame.Body.(type) {
		case *wire.ServerFrame_Deliver:
			if l.deliveries == nil {
				return errProtocol
			}
			select {
			case l.deliveries <- delivery{envelope: body.Deliver}:
			case <-ctx.Done():
				return ctx.Err()
			}
		case *wire.ServerFrame_LinkingRequest:
			select {
			case l.linkings <- body.LinkingRequest:
			default: // nobody adds a device; the server hands it out again with the slot
			}
		case *wire.ServerFrame_Error:
			return refusalOf(body.Error)
		}
		return nil
	}
	l.mu.Lock()
	reply := l.waiting[frame.ReplyTo]
	delete(l.waiting, frame.ReplyTo)
	l.replied = true
	l.mu.Unlock()
	if reply != nil {
		reply <- frame // has room for it
	}
	return nil
}

// end closes the link for the first reason given, and returns that.
func (l *link) end(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
		close(l.over)
		l.conn.Close()
	}
	return l.err
}

func (l *link) ended() bool {
	select {
	case <-l.over:
		return true
	default:
		return false
	}
}

// requests is how many there were.
func (l *link) requests() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lastID
}

// wasAnswered tells whether any of them was.
func (l *link) wasAnswered() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.replied
}

// request sends a frame and waits for its reply. A reply that is an Error comes back as one.
func (l *link) request(ctx context.Context, frame *wire.ClientFrame) (*wire.ServerFrame, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	reply, err := l.start(frame)
	if err != nil {
		return nil, err
	}
	select {
	case answer := <-reply:
		if refusal := answer.GetError(); refusal != nil {
			return nil, refusalOf(refusal)
		}
		return answer, nil
	case <-l.over:
		return nil, errLinkDown
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// linkBroke says why, which the server may have said itself (RFC 6455 section 7.1.6).
func linkBroke(err error) error {
	return visible.Error(fmt.Errorf("the link to the server broke: %w", err))
}

var errLinkDown = errors.New("the link to the server broke before it answered")

// start sends a frame; its reply comes on the channel, unless the link is over first. Frames leave in the order of the calls, as far as
// those do not overlap.
func (l *link) start(frame *wire.ClientFrame) (<-chan *wire.ServerFrame, error) {
	reply := make(chan *wire.ServerFrame, 1)
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return nil, errLinkDown
	}
	l.lastID++
	frame.Id = l.lastID
	l.waiting[frame.Id] = reply
	l.mu.Unlock()
	if err := l.write(frame); err != nil {
		l.end(linkBroke(err))
		return nil, errLinkDown
	}
	return reply, nil
}

// ack tells the server that an envelope is safe here, or of no use.
func (l *link) ack(e *wire.Envelope) error {
	return l.write(&wire.ClientFrame{Body: &wire.ClientFrame_Ack{Ack: &wire.Ack{Sender: e.Sender, EnvelopeId: e.Id}}})
}

func (l *link) write(frame *wire.ClientFrame) error {
	b, err := proto.Marshal(frame)
	if err != nil {
		return err
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	l.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	return l.conn.WriteMessage(websocket.BinaryMessage, b)
}

func (l *link) read() (*wire.ServerFrame, error) {
	kind, b, err := l.conn.ReadMessage()
	if err != nil {
		return nil, err
	}
	frame := new(wire.ServerFrame)
	if kind != websocket.BinaryMessage || proto.Unmarshal(b, frame) != nil {
		return nil, errProtocol
	}
	return frame, nil
}
