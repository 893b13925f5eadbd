package path

import (
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/pion/ice/v4"
)

// subscribe turns the agent's events into ours. pion calls each handler from one goroutine of its own, in order.
func (p *Path) subscribe() error {
	err := p.agent.OnCandidate(func(c ice.Candidate) {
		if c == nil || p.cfg.OnCandidate == nil {
			return
		}
		if s := marshalCandidate(c); s != "" {
			address, _ := netip.ParseAddr(c.Address())
			p.announce(s, c.Type() == ice.CandidateTypeHost && p.atDeadEnd(address))
		}
	})
	if err != nil {
		return err
	}
	connected := false
	return p.agent.OnConnectionStateChange(func(state ice.ConnectionState) {
		switch state {
		case ice.ConnectionStateConnected:
			connected = true
			p.cfg.OnState(Connected, nil)
		case ice.ConnectionStateDisconnected:
			p.cfg.OnState(Interrupted, nil)
		case ice.ConnectionStateFailed:
			if connected {
				p.fail(ErrConsentExpired)
			} else {
				p.fail(ErrUnreachable)
			}
		}
	})
}

// fail stops sending, once.
func (p *Path) fail(reason error) {
	p.mu.Lock()
	already := p.failed || p.closing
	p.failed = true
	p.mu.Unlock()
	if !already {
		p.cfg.OnState(Failed, reason)
	}
}

// watch looks for the first valid pair, which pion does not announce, and then for consent. pion counts any packet as life; RFC 7675
// section 5.1 counts answers to our checks only, so that nobody is flooded whose answers do not arrive.
func (p *Path) watch(conn *ice.Conn) {
	defer p.done.Done()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	late := time.NewTimer(lateAfter)
	defer late.Stop()
	for started, ready := time.Now(), false; !ready; {
		select {
		case <-p.closed:
			return
		case <-late.C:
			p.announceHeld()
		case now := <-ticker.C:
			if now.Sub(started) > 2*time.Second {
				ticker.Reset(20 * time.Millisecond)
			}
		}
		for _, pair := range conn.GetCandidatePairsInfo() {
			ready = ready || pair.State == ice.CandidatePairStateSucceeded
		}
	}
	close(p.ready)

	ticker.Reset(min(500*time.Millisecond, p.cfg.ConsentTimeout/4))
	consent := time.Now()
	var answered answers
	for {
		select {
		case <-p.closed:
			return
		case now := <-ticker.C:
			p.refreshInfo()
			if stats, ok := p.agent.GetSelectedCandidatePairStats(); ok {
				latest := answers{stats.LocalCandidateID, stats.RemoteCandidateID, stats.ResponsesReceived}
				if latest != answered && latest.count > 0 {
					consent = now
				}
				answered = latest
			}
			if now.Sub(consent) > p.cfg.ConsentTimeout {
				p.fail(ErrConsentExpired)
				return
			}
		}
	}
}

// answers counts those to our checks on the selected pair: pion tells no time of the last one. Another pair that was selected has been
// answered too.
type answers struct {
	local, remote string
	count         uint64
}

// Info describes the selected pair.
type Info struct {
	LocalType, RemoteType       string // host, srflx, prflx or relay
	LocalAddress, RemoteAddress string
	RoundTrip                   time.Duration // of the last connectivity check
}

// Info is the zero value until a pair is selected, and what it was last after the path has failed or was closed.
func (p *Path) Info() Info {
	p.refreshInfo()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.info
}

// RoundTrip is what it was half a second ago; unlike Info it costs nothing.
func (p *Path) RoundTrip() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.info.RoundTrip
}

func (p *Path) refreshInfo() {
	pair, err := p.agent.GetSelectedCandidatePair()
	if err != nil || pair == nil {
		return
	}
	info := Info{
		LocalType:     pair.Local.Type().String(),
		RemoteType:    pair.Remote.Type().String(),
		LocalAddress:  hostPort(pair.Local),
		RemoteAddress: hostPort(pair.Remote),
	}
	if stats, ok := p.agent.GetSelectedCandidatePairStats(); ok {
		info.RoundTrip = time.Duration(stats.CurrentRoundTripTime * float64(time.Second))
	}
	p.mu.Lock()
	p.info = info
	p.mu.Unlock()
}

func hostPort(c ice.Candidate) string {
	return net.JoinHostPort(c.Address(), strconv.Itoa(c.Port()))
}
