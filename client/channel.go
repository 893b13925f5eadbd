package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"

	"google.golang.org/protobuf/proto"

	"sotto/internal/visible"
	"sotto/wire"
)

// A device and its server must see one TLS channel, from end to end: the login is bound to it
// (link.go). Whoever registers or joins says which channel that is (RFC 9266), so that behind a
// proxy that ends TLS the server refuses before it has made anything.

// channelBinding is that of a connection: zeros for a plain one.
func channelBinding(conn net.Conn) ([wire.ChannelBindingSize]byte, error) {
	channel, ok := conn.(*tls.Conn)
	if !ok {
		return wire.ChannelBinding(nil)
	}
	state := channel.ConnectionState()
	return wire.ChannelBinding(&state)
}

// post sends a message with the binding of the channel it goes over. What bound makes of that comes
// behind body, which is one message with it then (Protocol Buffers, "Last One Wins"): the body was
// stored, and the channel is a new one each time. connected says that there was a channel.
func post(ctx context.Context, to *url.URL, config *tls.Config, body []byte,
	bound func(binding []byte) proto.Message) (_ *http.Response, connected bool, err error) {
	binding := make([]byte, wire.ChannelBindingSize)
	tail, err := proto.Marshal(bound(binding))
	if err != nil {
		return nil, false, err
	}
	all := append(bytes.Clone(body), tail...)
	var failed error
	trace := &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
		connected = true
		now, err := channelBinding(got.Conn)
		failed = err
		copy(all[len(all)-len(now):], now[:]) // nothing of it has been sent
	}}
	ctx = httptrace.WithClientTrace(ctx, trace)
	request, err := http.NewRequestWithContext(ctx, "POST", to.String(), bytes.NewReader(all))
	if err != nil {
		return nil, false, err
	}
	request.Header.Set("Content-Type", protobufType)
	response, err := httpClient(config).Do(request)
	if err == nil && failed != nil {
		response.Body.Close()
		err = failed
	}
	return response, connected, err
}

const protobufType = "application/x-protobuf"

func isProtobuf(r *http.Response) bool { return r.Header.Get("Content-Type") == protobufType }

// httpClient is for one request.
func httpClient(config *tls.Config) *http.Client {
	noRedirect := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:   tlsConfig(config),
			DisableKeepAlives: true,
			Proxy:             http.ProxyFromEnvironment,
		},
		CheckRedirect: noRedirect,
	}
}

// tlsConfig demands TLS 1.3, which channel binding needs (RFC 9266 section 4.2), and HTTP/1.1,
// which a websocket needs.
func tlsConfig(given *tls.Config) *tls.Config {
	config := &tls.Config{}
	if given != nil {
		config = given.Clone()
	}
	config.MinVersion, config.MaxVersion = tls.VersionTLS13, 0
	config.NextProtos = []string{"http/1.1"}
	return config
}

// unreachable says in one sentence what the network said.
func unreachable(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	if refusesTLS13(err) {
		err = fmt.Errorf("%w: it does not speak TLS 1.3, which Sotto needs; if that is a proxy in "+
			"front of the server, have it pass TCP through", err)
	}
	return visible.Error(fmt.Errorf("the server cannot be reached: %w", err))
}

// refusesTLS13 finds what a TLS 1.2 server answers to a ClientHello of ours: protocol_version, or,
// if it is older than that rule, handshake_failure for want of a common cipher suite (RFC 8446
// sections 4.1.3, 6.2), or a ServerHello of TLS 1.2. The alerts of crypto/tls have no exported
// type.
func refusesTLS13(err error) bool {
	said := err.Error()
	for _, sign := range []string{
		"tls: protocol version not supported",
		"tls: handshake failure",
		"tls: server selected unsupported protocol version",
	} {
		if strings.Contains(said, sign) {
			return true
		}
	}
	return false
}

// errInFront is about an answer that no Sotto server gives.
func errInFront(server *url.URL, status int) error {
	return fmt.Errorf("something in front of %s answers in its place (HTTP status %d): "+
		"it does not reach the server, or does not pass TCP through", server.Host, status)
}
