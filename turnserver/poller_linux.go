package turnserver

import (
	"encoding/binary"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poller is how a loop waits for packets. A system call that blocks for more than 20 µs costs more in Go than it seems: the runtime's monitor takes the
// processor (P) away from the goroutine, stays awake to do so every 20 µs, and the loop goes on on another thread. At 10,000 packets a second that
// was a third of a relay's time. So while packets come in quick succession a loop waits without telling the runtime, and keeps its P:
//
//   - Other goroutines need theirs. So only with Config.Dedicated, which adds one for each loop.
//   - The garbage collector stops the loop by a signal (EINTR), as it stops any goroutine.
//   - A timer among the descriptors ends such a wait after 10 ms. A loop to which nothing comes any more goes back to waiting as others do,
//     also where signals are switched off (GODEBUG=asyncpreemptoff=1).
type poller struct {
	epoll, wake, clock int

	events [128]unix.EpollEvent
	ready  []unix.EpollEvent // not yet looked at
	now    time.Time         // when they came

	mayKeep bool // the P
	keeps   atomic.Bool
	came    bool // something did, since the last lapse
	lapse   time.Duration
}

const (
	quick        = 2 * time.Millisecond // what comes within this of what came before it
	defaultLapse = 10 * time.Millisecond
)

// open watches a listener; what it opened before an error release closes.
func (p *poller) open(listener int) (err error) {
	p.epoll, p.wake, p.clock, p.lapse = -1, -1, -1, defaultLapse
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if p.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return err
	}
	if p.clock, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		return err
	}
	for _, fd := range []int{p.wake, p.clock, listener} {
		if err := p.watch(fd); err != nil {
			return err
		}
	}
	return nil
}

func (p *poller) watch(fd int) error {
	return unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func (p *poller) release() {
	for _, fd := range []int{p.wake, p.clock, p.epoll} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// wakeUp ends a wait, from any goroutine.
func (p *poller) wakeUp() { _, _ = unix.Write(p.wake, binary.NativeEndian.AppendUint64(nil, 1)) }

// awake takes back what wakeUp wrote.
func (p *poller) awake() {
	var times [8]byte
	_, _ = unix.Read(p.wake, times[:])
}

// wait puts into ready what has come; a signal ends it with nothing.
func (p *poller) wait(now func() time.Time) (err error) {
	n := 0
	if p.keeps.Load() {
		n, err = p.pollUntold()
	} else {
		n, err = unix.EpollWait(p.epoll, p.events[:], -1)
	}
	if err != nil && err != unix.EINTR {
		return err
	}
	p.ready = p.events[:max(n, 0)]
	before := p.now
	p.now = now()
	if n > 1 || n == 1 && int(p.ready[0].Fd) != p.clock {
		p.came = true
		if p.mayKeep && !p.keeps.Load() && p.now.Sub(before) < quick {
			p.keep(true)
		}
	}
	return nil
}

func (p *poller) pollUntold() (int, error) {
	const forever = ^uintptr(0)
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epoll), uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), forever, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// lapsed is the timer's event.
func (p *poller) lapsed() {
	var times [8]byte
	_, _ = unix.Read(p.clock, times[:]) // which starts it again
	if !p.came {
		p.keep(false)
	}
	p.came = false
}

func (p *poller) keep(on bool) {
	var every unix.ItimerSpec // disarmed
	if on {
		every.Interval = unix.NsecToTimespec(p.lapse.Nanoseconds())
		every.Value = every.Interval
	}
	p.keeps.Store(unix.TimerfdSettime(p.clock, 0, &every, nil) == nil && on)
}

// added is how many Ps the servers of this process have added for their loops.
var added struct {
	sync.Mutex
	processors int
}

// cores is how many loops an address gets.
func cores() int {
	added.Lock()
	defer added.Unlock()
	return runtime.GOMAXPROCS(0) - added.processors
}

// dedicate adds a P for each loop.
func (s *Server) dedicate() {
	loops := 0
	for _, u := range s.udp {
		if l, ok := u.(*loop); ok && s.cfg.Dedicated {
			l.mayKeep = true
			loops++
		}
	}
	s.addProcessors(loops)
}

// undedicate takes them away again.
func (s *Server) undedicate() { s.addProcessors(-s.dedicated) }

func (s *Server) addProcessors(n int) {
	added.Lock()
	defer added.Unlock()
	if n != 0 { // else Go would no longer follow the container's limits
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + n)
	}
	added.processors += n
	s.dedicated += n
}
