package xdp

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

//go:embed relay.bpf.o
var object []byte

// Config bounds what an Offload holds and carries.
type Config struct {
	Flows    int // two for each channel
	Accounts int

	// Rates are the limits of the accounts that a flow's packets are paid from, by their place in Flow.Payers.
	Rates [Payers]Rate

	// LongestDatagram: one of this length or more is left to the system.
	LongestDatagram int
}

// Payers is how many accounts pay for a flow's packets, all of them or none.
const Payers = 3

// Rate is the limit of an account's token buckets: a byte costs Byte, a packet Packet, and as much as the bursts may be spent in advance. 0: no limit.
type Rate struct{ Byte, ByteBurst, Packet, PacketBurst time.Duration }

// Offload is the program in the kernel, with its tables. Its methods may be called from any goroutine.
type Offload struct {
	program  *ebpf.Program
	flows    *ebpf.Map
	near     *ebpf.Map // neighbours
	carried  *ebpf.Map
	passed   *ebpf.Map
	offset   *ebpf.Variable
	accounts []Account

	refreshing sync.Mutex // held through a Refresh

	routing sync.Mutex
	routes  map[[2]netip.Addr]knownRoute // from, to

	mu       sync.Mutex
	attached map[int]*attachment
	changes  int                     // of attached
	known    map[neighbour]hardware  // what near holds
	used     map[neighbour]time.Time // when a flow last needed it
	looked   time.Time               // for neighbours
}

// Key says which packets belong to a flow. Channel is 0 for what comes from a peer. Inside: it comes from another allocation of this relay, between
// whose relayed addresses it passes, and never from outside.
type Key struct {
	Remote, Local netip.AddrPort
	Channel       uint16
	Inside        bool
}

// Flow says what becomes of them. Channel is 0 for what goes to a peer. Hairpin: the peer is an allocation of this relay, and the packet goes on as one
// of the flow from From to To inside; Route does not matter.
type Flow struct {
	From, To netip.AddrPort
	Channel  uint16
	Hairpin  bool
	Until    time.Time
	Payers   [Payers]uint32 // accounts; what has no Rate is not looked at
	Route    Route
}

// Account is two token buckets, of bytes and of packets, for what goes to peers and two for what comes from them, in memory that the program shares: each word
// is the Unix time, in ns, at which its bucket is full again.
type Account [2][2]atomic.Int64

// Tally counts what the program carried.
type Tally struct{ Packets, Bytes uint64 }

type address [16]byte
type port [2]byte // in network order

// keyBytes, flowBytes, neighbour and hardware are struct key, flow, neighbour and link of relay.bpf.c.
type keyBytes struct {
	Remote, Local         address
	RemotePort, LocalPort port
	Channel               port
	Inside                uint16
}

type flowBytes struct {
	From, To         address
	FromPort, ToPort port
	Channel          port
	Hairpin          uint16
	Until            int64
	Next             address
	Interface, MTU   uint32
	Leave            leave
	Payers           [Payers]uint32
}

type neighbour struct {
	IP        address
	Interface uint32
}

type hardware struct{ To, From [6]byte }

// Load puts the program into the kernel, on no interface yet.
func Load(cfg Config) (*Offload, error) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		return nil, errors.New("xdp: the program is built for little-endian processors only")
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return nil, fmt.Errorf("xdp: %w", err)
	}
	spec.Maps["flows"].MaxEntries = uint32(cfg.Flows)
	spec.Maps["accounts"].MaxEntries = uint32(cfg.Accounts)
	for name, value := range map[string]any{
		"rates": cfg.Rates, "longest_datagram": uint32(cfg.LongestDatagram),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("xdp: %w", err)
		}
	}
	c, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, explain(err)
	}
	defer c.Close() // what was detached from it stays
	accounts, err := mapAccounts(c.Maps["accounts"], cfg.Accounts)
	if err != nil {
		return nil, err
	}
	o := &Offload{
		program: c.DetachProgram("relay"), flows: c.DetachMap("flows"), near: c.DetachMap("neighbours"), carried: c.DetachMap("carried"),
		passed: c.DetachMap("passed"),
		offset: c.Variables["unix_offset"], accounts: accounts, routes: make(map[[2]netip.Addr]knownRoute), attached: make(map[int]*attachment), known: make(map[neighbour]hardware), used: make(map[neighbour]time.Time),
	}
	// Accounts may be looked at after Close, by a goroutine that carries a last packet: their memory goes with the Offload.
	runtime.AddCleanup(o, func(memory []byte) { _ = unix.Munmap(memory) }, unsafe.Slice((*byte)(unsafe.Pointer(&accounts[0])), mappedSize(cfg.Accounts)))
	return o, nil
}

func explain(err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("xdp: the system does not permit it: grant CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON: %w", err)
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("xdp: this kernel cannot do it; Linux 5.12 can: %w", err)
	}
	return fmt.Errorf("xdp: the kernel refuses the program: %w", err)
}

func mappedSize(accounts int) int {
	page := unix.Getpagesize()
	return (accounts*int(unsafe.Sizeof(Account{})) + page - 1) / page * page
}

func mapAccounts(m *ebpf.Map, count int) ([]Account, error) {
	memory, err := unix.Mmap(m.FD(), 0, mappedSize(count), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("xdp: cannot share memory with the program: %w", err)
	}
	return unsafe.Slice((*Account)(unsafe.Pointer(&memory[0])), count), nil
}

// Account is the account with a number below Config.Accounts. It stays valid as long as the Offload is referred to.
func (o *Offload) Account(number uint32) *Account { return &o.accounts[number] }

// SetClock tells the program what time it is. It is to be called again and again, since Unix time may be set.
func (o *Offload) SetClock(now time.Time) error {
	var monotonic unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &monotonic); err != nil {
		return err
	}
	return o.offset.Set(now.UnixNano() - monotonic.Nano())
}

// Put adds a flow, or replaces it. It is to be put again within a minute, so that its neighbour is asked whether it is still there, and by routes that may
// have changed.
func (o *Offload) Put(k Key, f Flow) error {
	value := flowBytes{
		From: f.From.Addr().As16(), To: f.To.Addr().As16(), FromPort: portOf(f.From.Port()), ToPort: portOf(f.To.Port()),
		Channel: portOf(f.Channel), Hairpin: bit(f.Hairpin), Until: f.Until.UnixNano(), Payers: f.Payers,
		Next: f.Route.next.As16(), Interface: uint32(f.Route.out), MTU: uint32(f.Route.mtu), Leave: f.Route.leave,
	}
	if !f.Hairpin {
		o.needs(neighbour{value.Next, value.Interface})
	}
	key := k.bytes()
	return o.flows.Put(&key, &value)
}

// Delete removes a flow, if it is there.
func (o *Offload) Delete(k Key) {
	key := k.bytes()
	_ = o.flows.Delete(&key)
}

// Flows counts the flows that exist.
func (o *Offload) Flows() (n int) {
	var k keyBytes
	var f flowBytes
	for all := o.flows.Iterate(); all.Next(&k, &f); {
		n++
	}
	return n
}

func (k Key) bytes() keyBytes {
	return keyBytes{
		Remote: k.Remote.Addr().As16(), Local: k.Local.Addr().As16(), RemotePort: portOf(k.Remote.Port()), LocalPort: portOf(k.Local.Port()),
		Channel: portOf(k.Channel), Inside: bit(k.Inside),
	}
}

func portOf(n uint16) (p port) {
	binary.BigEndian.PutUint16(p[:], n)
	return p
}

func bit(b bool) uint16 {
	if b {
		return 1
	}
	return 0
}

// Carried says what the program carried since it was loaded, to peers and from them.
func (o *Offload) Carried() (sum [2]Tally) {
	for direction := range sum {
		var each []Tally // by processor
		if o.carried.Lookup(uint32(direction), &each) == nil {
			for _, t := range each {
				sum[direction].Packets += t.Packets
				sum[direction].Bytes += t.Bytes
			}
		}
	}
	return sum
}

// Reasons are why the program leaves a packet to the system, in the order of relay.bpf.c:
//
//	not_udp          no whole datagram in one unfragmented packet without options, or to many
//	size             longer than it carries, or than the way out takes
//	checksum         left for the hardware to complete, or several datagrams that the kernel joined
//	no_flow          of no flow: requests, indications, what belongs to other programs
//	expired          the permission is over
//	other_end        the other allocation of a hairpin has no flow back
//	neighbour        the next hop's hardware address is not known
//	interface        it would leave by another interface, which does not take it
//	limit            bandwidth or packets are used up
//	headroom         the driver left no room for a header
var Reasons = [...]string{
	"not_udp", "size", "checksum", "no_flow", "expired", "other_end", "neighbour", "interface",
	"limit", "headroom",
}

// Passed counts the packets that the program left to the system, by their place in Reasons.
func (o *Offload) Passed() (sum [len(Reasons)]uint64) {
	for reason := range sum {
		var each []uint64 // by processor
		if o.passed.Lookup(uint32(reason), &each) == nil {
			for _, n := range each {
				sum[reason] += n
			}
		}
	}
	return sum
}

// Close takes the program off its interfaces, and out of the kernel.
func (o *Offload) Close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for index := range o.attached {
		o.detach(index)
	}
	_ = o.program.Close()
	for _, m := range []*ebpf.Map{o.flows, o.near, o.carried, o.passed} {
		_ = m.Close()
	}
}
