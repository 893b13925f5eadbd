package turnserver

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"github.com/pion/stun/v4"
)

// fromClients goes on with what clients sent: it forwards ChannelData, and copies the first message that is for pion.
func (l *loop) fromClients(b []byte) (n int, from tuple, ok bool) {
	c := &l.clients
	for {
		if !c.more {
			if c.slot == c.end {
				return 0, tuple{}, false
			}
			c.run = l.in.run(c.slot)
			c.slot++
		}
		message := c.run.next()
		c.more = len(c.run.data) > 0
		from := tuple{c.run.from, c.run.local}
		if len(message) > 0 && message[0]&0xC0 == 0x40 {
			l.toPeer(from, message, c.run.tos)
			continue
		}
		return copy(b, message), from, true
	}
}

// toPeer forwards a ChannelData message. pion never sees one, not even one that belongs to no channel: it would have dropped it too.
func (l *loop) toPeer(client tuple, message []byte, tos byte) {
	m := l.s.metrics
	number, data, ok := channelData(message)
	if len(message) >= maxDatagram {
		m.droppedSize.Inc()
		return
	}
	if !ok {
		m.droppedMalformed.Inc()
		return
	}
	w := &l.way
	if w.client != client || w.number != number || w.ch == nil {
		*w = way{client: client, number: number, r: l.f.relayOf(client)}
		if w.r == nil {
			m.droppedNoAllocation.Inc()
			return
		}
		if w.ch = w.r.channel(number); w.ch == nil {
			m.droppedNoChannel.Inc()
			return
		}
	}
	j, dropped := w.r.passes(toPeer, w.ch.peer, w.ch, len(data), l.now)
	if dropped != nil {
		dropped.Inc()
		return
	}
	if !j.own {
		l.out.post(&w.r.port.(*loopPort).outlet, datagram{tos: tos, data: data, to: w.ch.peer})
		return
	}
	if w.target == nil {
		w.target = l.s.table.byPublic(w.ch.peer)
	}
	if w.target == nil || !l.hairpin(w, message, data, tos) {
		m.droppedPeer.Inc()
		return
	}
	l.counted[toPeer].add(len(data))
}

// way is where the packets of a channel go. It is looked up once for those that follow one another in a batch.
type way struct {
	client tuple
	number uint16
	r      *relay
	ch     *channel

	target *relay   // if the peer is another allocation of this server
	back   *channel // from there
}

// hairpin hands a packet to another allocation of this server without a socket in between: its client gets it straight from here.
func (l *loop) hairpin(w *way, message, data []byte, tos byte) bool {
	target, from := w.target, w.r
	target.live.RLock()
	defer target.live.RUnlock()
	if target.closed || target.frontend == nil {
		return false
	}
	if _, ok := target.port.(*loopPort); !ok { // of a client that came by TCP or TLS
		return from.port.write(data, target.local) == nil
	}
	if w.back == nil {
		w.back = target.channelTo(from.public)
	}
	l.toClient(target, from.public, w.back, message, data, tos)
	return true
}

// fromPeers forwards what waits at a relayed port.
func (l *loop) fromPeers(fd int) {
	l.mu.Lock()
	p := l.ports[fd]
	l.mu.Unlock()
	if p == nil { // closed since
		return
	}
	l.room()
	p.mu.RLock()
	slot, end := 0, 0
	if !p.closed {
		slot, end = l.in.receive(fd)
	}
	p.mu.RUnlock()
	for ; slot < end; slot++ {
		run := l.in.run(slot)
		from, ch, ok := p.relay.sender(run.from)
		for more := true; more; more = len(run.data) > 0 {
			data := run.next()
			if !ok {
				l.s.metrics.droppedPeer.Inc()
				continue
			}
			l.toClient(p.relay, from, ch, nil, data, run.tos)
		}
	}
}

// toClient forwards a packet to the client of a relay. message is the ChannelData that data came in, if it did: it can be used again.
func (l *loop) toClient(r *relay, from netip.AddrPort, ch *channel, message, data []byte, tos byte) {
	if _, dropped := r.passes(fromPeer, from, ch, len(data), l.now); dropped != nil {
		dropped.Inc()
		return
	}
	l.counted[fromPeer].add(len(data))
	o := l.listener
	if home := r.frontend.local; home != l.local {
		o = l.others[home]
	}
	d := datagram{tos: tos, data: data, to: r.tuple.client, from: r.tuple.local}
	switch {
	case ch == nil:
		d.data = l.dataIndication(from, data)
	case message != nil:
		binary.BigEndian.PutUint16(message, ch.number)
		d.data = message[:channelHeader+len(data)]
	default:
		d.headed = true
		binary.BigEndian.PutUint16(d.head[:], ch.number)
		binary.BigEndian.PutUint16(d.head[2:], uint16(len(data)))
	}
	l.out.post(o, d)
}

// dataIndication writes RFC 8656 section 11.4 into the scratch memory of this batch.
func (l *loop) dataIndication(from netip.AddrPort, data []byte) []byte {
	const most = headerSize + 4 + 20 + 4 + 3
	if cap(l.scratch)-len(l.scratch) < most+len(data) {
		l.out.flush()
		l.scratch = l.scratch[:0]
	}
	begin := len(l.scratch)
	b := appendDataIndication(l.scratch, from, data)
	l.scratch = b
	return b[begin:]
}

func appendDataIndication(b []byte, from netip.AddrPort, data []byte) []byte {
	be := binary.BigEndian
	begin := len(b)
	b = be.AppendUint16(b, stun.NewType(stun.MethodData, stun.ClassIndication).Value())
	b = be.AppendUint16(b, 0)
	b = be.AppendUint32(b, magicCookie)
	b = be.AppendUint64(b, rand.Uint64())
	b = be.AppendUint32(b, rand.Uint32())
	mask := b[begin+4 : begin+headerSize]

	ip, family := from.Addr().AsSlice(), byte(1)
	if from.Addr().Is6() {
		family = 2
	}
	b = be.AppendUint16(b, uint16(stun.AttrXORPeerAddress))
	b = be.AppendUint16(b, uint16(4+len(ip)))
	b = append(b, 0, family)
	b = be.AppendUint16(b, from.Port()^magicCookie>>16)
	for i := range ip {
		b = append(b, ip[i]^mask[i])
	}
	b = be.AppendUint16(b, uint16(stun.AttrData))
	b = be.AppendUint16(b, uint16(len(data)))
	b = append(b, data...)
	for len(b)%4 != begin%4 {
		b = append(b, 0)
	}
	be.PutUint16(b[begin+2:], uint16(len(b)-begin-headerSize))
	return b
}
