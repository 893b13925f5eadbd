package signaling

import (
	"net"
	"sync"
)

// A door is a net.Listener that closes at once what is too much. Without it strangers could take every descriptor of the process, and
// the store cannot go on without one.
type door struct {
	net.Listener
	inside *crowd
}

func (d door) Accept() (net.Conn, error) {
	for {
		conn, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := sourceOf(conn.RemoteAddr().String())
		if d.inside.enter(from) {
			return &guest{Conn: conn, leave: sync.OnceFunc(func() { d.inside.leave(from) })}, nil
		}
		conn.Close()
	}
}

// A guest is a connection that has its place until it is closed, by whomever: the HTTP server, or the link it has become.
type guest struct {
	net.Conn
	leave func()
}

func (g *guest) Close() error {
	defer g.leave()
	return g.Conn.Close()
}
