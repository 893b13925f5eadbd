package demo

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
)

// A tap stands in front of a server and writes down every byte that passes, in both directions. It changes nothing: the
// clients talk to it as they would to the server, over real sockets. What it holds is exactly what the server could read.
//
//	alice ──┐                ┌─▶ server        TCP: one recording for each connection and direction
//	        ├─▶ tap ─────────┤
//	bob   ──┘                └─▶ relay         UDP: one recording for each datagram

// A passage is what crossed the tap in one piece: one direction of a connection, or one datagram.
type passage struct {
	fromClient bool
	data       []byte
}

type tap struct {
	mu       sync.Mutex
	passages []*passage
	closers  []io.Closer
	closed   bool
	deaf     bool
	wg       sync.WaitGroup
}

// own closes c with the tap, or at once when the tap is closed already.
func (t *tap) own(c io.Closer) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		c.Close()
		return false
	}
	t.closers = append(t.closers, c)
	return true
}

// forget erases what was written down and writes down nothing more; traffic goes on passing.
func (t *tap) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.passages, t.deaf = nil, true
}

func (t *tap) add(p *passage, data []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.deaf {
		return
	}
	if p.data == nil {
		t.passages = append(t.passages, p)
	}
	p.data = append(p.data, data...)
}

// Close stops the traffic and waits until nothing more is written down.
func (t *tap) Close() {
	t.mu.Lock()
	t.closed = true
	closers := t.closers
	t.mu.Unlock()
	for _, c := range closers {
		c.Close()
	}
	t.wg.Wait()
}

// seen returns copies of what passed so far.
func (t *tap) seen() []passage {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]passage, len(t.passages))
	for i, p := range t.passages {
		out[i] = passage{p.fromClient, bytes.Clone(p.data)}
	}
	return out
}

// tapTCP listens on loopback and passes connections on to the address.
func tapTCP(to string) (*tap, net.Addr, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	t := &tap{}
	t.own(listener)
	t.wg.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				client.Close()
				continue
			}
			if !t.own(client) || !t.own(server) {
				server.Close()
				return
			}
			t.wg.Go(func() { t.pass(server, client, true) })
			t.wg.Go(func() { t.pass(client, server, false) })
		}
	})
	return t, listener.Addr(), nil
}

func (t *tap) pass(to, from net.Conn, fromClient bool) {
	defer to.Close()
	p := &passage{fromClient: fromClient}
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			t.add(p, buffer[:n])
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// tapUDP listens on loopback and passes datagrams on to the address, from one socket of its own for each client.
func tapUDP(to net.Addr) (*tap, net.Addr, error) {
	front, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, nil, err
	}
	t := &tap{}
	t.own(front)
	t.wg.Go(func() {
		backs := map[string]*net.UDPConn{}
		buffer := make([]byte, 64<<10)
		for {
			n, client, err := front.ReadFromUDP(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // a client's closed port answers with an ICMP error, which ends up here
			}
			back := backs[client.String()]
			if back == nil {
				if back, err = net.DialUDP("udp", nil, to.(*net.UDPAddr)); err != nil || !t.own(back) {
					continue
				}
				backs[client.String()] = back
				t.wg.Go(func() { t.answers(front, client, back) })
			}
			t.add(&passage{fromClient: true}, buffer[:n])
			back.Write(buffer[:n])
		}
	})
	return t, front.LocalAddr(), nil
}

func (t *tap) answers(front *net.UDPConn, client *net.UDPAddr, back *net.UDPConn) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := back.Read(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		t.add(&passage{fromClient: false}, buffer[:n])
		front.WriteToUDP(buffer[:n], client)
	}
}

// websocketMessages takes one direction of a connection apart into the messages in it (RFC 6455 section 5.2), unmasked as
// the server reads them. It returns nothing for a connection that was not upgraded.
func websocketMessages(stream []byte) [][]byte {
	head, rest, ok := bytes.Cut(stream, []byte("\r\n\r\n"))
	if !ok || !bytes.Contains(bytes.ToLower(head), []byte("upgrade: websocket")) {
		return nil
	}
	var messages [][]byte
	var message []byte
	for len(rest) >= 2 {
		final, opcode, masked, length := rest[0]&0x80 != 0, rest[0]&0x0f, rest[1]&0x80 != 0, uint64(rest[1]&0x7f)
		rest = rest[2:]
		switch {
		case length == 126 && len(rest) >= 2:
			length, rest = uint64(binary.BigEndian.Uint16(rest)), rest[2:]
		case length == 127 && len(rest) >= 8:
			length, rest = binary.BigEndian.Uint64(rest), rest[8:]
		}
		var mask [4]byte
		if masked && len(rest) >= 4 {
			mask, rest = [4]byte(rest), rest[4:]
		}
		if uint64(len(rest)) < length {
			break // cut off in the middle of a frame
		}
		payload := bytes.Clone(rest[:length])
		rest = rest[length:]
		for i := range payload {
			payload[i] ^= mask[i%4]
		}
		if opcode >= 8 {
			continue // ping, pong, close
		}
		message = append(message, payload...)
		if final {
			messages = append(messages, message)
			message = nil
		}
	}
	return messages
}
