package turnserver

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What is relayed is paid for from accounts: one of the allocation, one of its user and one of its client's address, as far as Config bounds them.
//
//  1. open: a new allocation gets its accounts. Those of user and address it shares with their other allocations.
//  2. spend: a packet costs itself and its bytes, in its direction. All accounts pay, or none does and the packet is lost.
//  3. release: the allocation is over. An account that nobody holds stays for the second in which its buckets become full
//     again; who allocates anew meanwhile gains nothing.
//
// With offload the memory of the accounts is shared with the driver's program, which pays from them for what it carries.

// The payers of a packet.
const (
	ofAllocation = iota
	ofUser
	ofAddress
	payers
)

// rate is how many bytes and packets a second an account gains, and as many are all it holds. 0: no bound.
type rate struct{ bytes, packets int }

func (c Config) rates() [payers]rate {
	return [payers]rate{
		ofAllocation: {bytes: c.Bandwidth},
		ofUser:       {c.UserBandwidth, c.UserPackets},
		ofAddress:    {c.AddressBandwidth, c.AddressPackets},
	}
}

func (r rate) bounded() bool { return r.bytes > 0 || r.packets > 0 }

// each is the time in which one of so many a second is gained; 0 for no bound.
func each(perSecond int) time.Duration {
	if perSecond <= 0 {
		return 0
	}
	return max(time.Second/time.Duration(perSecond), 1)
}

// tokens are the buckets of an account, by direction.
type tokens [2]struct{ bytes, packets bucket }

type account struct {
	*tokens
	rate    rate
	number  uint32 // in the driver
	shared  bool   // with the driver
	holders int    // allocations
}

// accounts are those of the allocations that live, and of the last second's.
type accounts struct {
	rates [payers]rate

	mu   sync.Mutex
	held map[any]*account // by *relay, user id or holder of the address

	memory func(number uint32) *tokens // shared with the driver; nil: there is none
	free   []uint32
}

func newAccounts(c Config) *accounts {
	return &accounts{rates: c.rates(), held: make(map[any]*account)}
}

// bounded is how many accounts an allocation has.
func (a *accounts) bounded() (n int) {
	for _, r := range a.rates {
		if r.bounded() {
			n++
		}
	}
	return n
}

// share has accounts from now on lie in the first count pieces of memory, as long as one is free.
func (a *accounts) share(memory func(uint32) *tokens, count int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.memory, a.free = memory, make([]uint32, count)
	for i := range a.free {
		a.free[i] = uint32(i)
	}
}

func (r *relay) payer(kind int) any {
	switch kind {
	case ofUser:
		return r.credential.id
	case ofAddress:
		return holder(r.tuple.client.Addr())
	}
	return r
}

func (a *accounts) open(r *relay) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for kind, rate := range a.rates {
		if !rate.bounded() {
			continue
		}
		key := r.payer(kind)
		if a.held[key] == nil {
			a.held[key] = a.fresh(rate)
		}
		r.accounts[kind] = a.held[key]
		r.accounts[kind].holders++
	}
}

func (a *accounts) fresh(r rate) *account {
	last := len(a.free) - 1
	if last < 0 {
		return &account{tokens: new(tokens), rate: r}
	}
	number := a.free[last]
	a.free = a.free[:last]
	t := a.memory(number)
	for direction := range t {
		t[direction].bytes.full.Store(0)
		t[direction].packets.full.Store(0)
	}
	return &account{tokens: t, rate: r, number: number, shared: true}
}

func (a *accounts) release(r *relay) {
	if a.bounded() == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, account := range r.accounts {
		if account != nil {
			account.holders--
		}
	}
	time.AfterFunc(time.Second, func() { a.forget(r) })
}

func (a *accounts) forget(r *relay) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for kind, account := range r.accounts {
		key := r.payer(kind)
		if account == nil || account.holders > 0 || a.held[key] != account {
			continue
		}
		delete(a.held, key)
		if account.shared {
			a.free = append(a.free, account.number)
		}
	}
}

// spend has every account pay for a packet of n bytes, or none, and says which bound it exceeds.
func (r *relay) spend(d direction, n int, now time.Time) (dropped prometheus.Counter) {
	for i, a := range r.accounts {
		if a == nil {
			continue
		}
		purse := &a.tokens[d]
		switch {
		case a.rate.bytes > 0 && !purse.bytes.take(now, n, a.rate.bytes, each(a.rate.bytes)):
			dropped = r.s.metrics.droppedBandwidth
		case a.rate.packets > 0 && !purse.packets.take(now, 1, a.rate.packets, each(a.rate.packets)):
			purse.bytes.give(n, each(a.rate.bytes))
			dropped = r.s.metrics.droppedPackets
		default:
			continue
		}
		for _, paid := range r.accounts[:i] {
			if paid != nil {
				paid.tokens[d].bytes.give(n, each(paid.rate.bytes))
				paid.tokens[d].packets.give(1, each(paid.rate.packets))
			}
		}
		return dropped
	}
	return nil
}

// numbers are the relay's accounts as the driver knows them; not ok: it does not know them all.
func (r *relay) numbers() (n [payers]uint32, ok bool) {
	for i, a := range r.accounts {
		if a != nil && !a.shared {
			return n, false
		}
		if a != nil {
			n[i] = a.number
		}
	}
	return n, true
}
