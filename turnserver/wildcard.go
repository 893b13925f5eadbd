package turnserver

import "net"

// A wildcardConn is a UDP socket that is perhaps bound to every address of this machine. Then it
// says which one a datagram was sent to, and sends from the one that it is told: a client refuses
// answers from another address than it asked. Where the system cannot tell, the system chooses.
type wildcardConn struct {
	*net.UDPConn
	tells bool // the socket tells
	v6    bool
	told  []byte // control messages, of the goroutine that receives
}

func newWildcardConn(conn *net.UDPConn) *wildcardConn {
	w := &wildcardConn{UDPConn: conn}
	if addrPort(conn.LocalAddr()).Addr().IsUnspecified() {
		w.tells, w.v6 = askLocal(conn)
		w.told = make([]byte, 256)
	}
	return w
}

func (w *wildcardConn) receive(b []byte) (int, tuple, error) {
	if !w.tells {
		n, client, err := w.ReadFromUDPAddrPort(b)
		return n, tuple{client: plain(client)}, err
	}
	n, told, _, client, err := w.ReadMsgUDPAddrPort(b, w.told)
	return n, tuple{plain(client), localOf(w.told[:told])}, err
}

func (w *wildcardConn) send(b []byte, to tuple) (int, error) {
	if !to.local.IsValid() {
		return w.WriteToUDPAddrPort(b, to.client)
	}
	n, _, err := w.WriteMsgUDPAddrPort(b, fromLocal(to.local, w.v6), to.client)
	return n, err
}
