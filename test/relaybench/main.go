//go:build linux

// Command relaybench compares TURN relays on one machine: this repository's, coturn's, pion's simple server, and a forwarder that asks no questions.
//
//	go run ./test/relaybench [-rounds 3] [-coturn NAME=COMMAND,...] [-only audio,video,...] [-relays sotto,...]
//
// It needs root, iproute2, and coturn's turnserver; newest-coturn.sh unpacks that of Debian unstable. In a network namespace of its own, without a
// way out, it gives 198.51.100.1 to the relay and 203.0.113.0/24 to clients and peers. The relay runs on processor 0 and the generator on processor 1. The
// relays take turns: each round measures all of them, so that ratios within a round mean something on a machine whose speed drifts. Every packet is
// checked at both ends: where it comes from (sockets are connected), its order, its content. A figure is the median of its rounds; a ratio is the median of the ratios
// to the first coturn in the same round.
//
// A generator has as much to do for a packet as a relay. On as much of a processor it would be the generator of the faster relays that is measured, and they would
// wait for it, in batches of a few packets. So where a relay shall be saturated, a program that goes before all others takes half of its processor (three quarters where
// the driver relays), in slices of 100 to 150 microseconds. -whole leaves the relay all of it, to see what that is about.
//
// What is measured on loopback:
//
//   - audio (172 bytes), video (1,200 bytes in bursts of 8), coalesced (such bursts as one UDP_SEGMENT send, received with UDP_GRO): ten clients, each with a
//     channel to a peer that echoes, and a window of packets under way. Packets forwarded (an echo is two) for each CPU-second of the relay. Half a processor.
//   - hairpin: ten clients, each with a channel to another client of the relay, and packets from the one to the other. Half a processor.
//   - loss-free: the highest rate of audio packets, without a window, of which none is lost, in one of two attempts at each rate. Half a processor.
//   - latency: round trips of single audio packets, 10,000 a second in all, and the relay's CPU for each forward.
//   - sessions: Allocate and ChannelBind, one after another, by CPU-second; and what each adds to the relay's resident memory, and to the kernel's slab too
//     (of the whole machine, so other programs disturb it).
//
// Loopback charges the relay's CPU with what the kernel does to deliver its packets. The wire scenarios put the relay into a namespace of its own, at the end of
// a veth pair, as does Sotto's offload (XDP), which loopback has not. A kernel thread on the relay's processor receives for it (NAPI), and counts as its
// CPU, whichever relay it is. Each end receives every 50 microseconds at most (-moderation), as network cards do; without, a driver's relay
// spends most of its time waking the generator's processor, and the others much of it.
//
//   - wire-load: audio packets, 40,000 a second in all: CPU for each forward.
//   - wire-loss-free: as loss-free, and forwards by CPU-second at that rate. A quarter of a processor.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	relayCPU, generatorCPU = 0, 1

	relayIP  = "198.51.100.1" // documentation ranges: they lead nowhere from here
	othersIP = "203.0.113."

	generatorIP = "198.51.100.2" // apart
)

type config struct {
	rounds, sessions            int
	coturn, sotto, only, relays string
	moderation                  time.Duration
	whole, brief                bool
}

func main() {
	var c config
	flag.IntVar(&c.rounds, "rounds", 3, "how often each relay is measured")
	flag.StringVar(&c.coturn, "coturn", "turnserver", "coturns to measure, each a command or NAME=COMMAND, separated by commas; the first is what ratios are to")
	flag.StringVar(&c.sotto, "sotto", "", "a sotto program to measure in place of this repository's")
	flag.StringVar(&c.only, "only", "", "measure only these, separated by commas: "+strings.Join(names(), ", "))
	flag.StringVar(&c.relays, "relays", "", "measure only relays of these names, separated by commas")
	flag.IntVar(&c.sessions, "sessions", 10_000, "allocations to make for memory and allocation rate, 10,000 at most")
	flag.DurationVar(&c.moderation, "moderation", 50*time.Microsecond, "between namespaces: how long packets wait for others at the receiving end; 0: not at all")
	flag.BoolVar(&c.whole, "whole", false, "relays have their processor to themselves also where they shall be saturated")
	flag.BoolVar(&c.brief, "brief", false, "a short run that shows that everything works; its figures mean nothing")
	serve := flag.String("serve", "", "be a relay, pion or bare, or what takes half of a processor, half (used internally)")
	flag.Parse()
	var err error
	switch {
	case *serve == "pion":
		err = servePion()
	case *serve == "bare":
		err = serveBare()
	case *serve == half:
		err = spin(100*time.Microsecond, 100*time.Microsecond)
	case *serve == quarter:
		err = spin(150*time.Microsecond, 50*time.Microsecond)
	case os.Getenv("RELAYBENCH_INSIDE") == "":
		err = isolate()
	default:
		err = run(c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "relaybench:", err)
		os.Exit(1)
	}
}

// isolate runs this program again on the generator's processor in a network namespace of its own.
func isolate() error {
	var set unix.CPUSet
	set.Set(generatorCPU)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("cannot use processor %d (two are needed): %w", generatorCPU, err)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "RELAYBENCH_INSIDE=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	return cmd.Run()
}

// run measures on loopback first, then between namespaces.
func run(c config) error {
	if err := ip("link set lo up", "route add local "+othersIP+"0/24 dev lo", "addr add "+relayIP+"/32 dev lo"); err != nil {
		return err
	}
	if err := allowFiles(c.sessions); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "relaybench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	relays, err := makeRelays(c, dir)
	if err != nil {
		return err
	}
	r := &results{all: make(map[string]map[string][]float64)}
	for _, wire := range []bool{false, true} {
		todo := slices.DeleteFunc(scenarios(c), func(s scenario) bool {
			return s.wire != wire || c.only != "" && !slices.Contains(strings.Split(c.only, ","), s.name)
		})
		if len(todo) == 0 {
			continue
		}
		if wire {
			if err := errors.Join(ip("addr del "+relayIP+"/32 dev lo"), moveRelaysApart(c.moderation)); err != nil {
				return err
			}
		}
		for round := range c.rounds {
			for _, s := range todo {
				for i := range relays {
					of := relays[(i+round)%len(relays)]
					if !s.suits(of) {
						continue
					}
					if c.whole || c.brief {
						s.share = ""
					}
					figures, err := measure(of, s)
					if err != nil {
						fmt.Fprintf(os.Stderr, "round %d, %s, %s: %v\n", round+1, of.name, s.name, err)
					}
					r.add(round, of.name, figures)
				}
			}
		}
	}
	r.print(os.Stdout, relays)
	r.judge(os.Stdout, relays)
	return nil
}

func allowFiles(sessions int) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < uint64(sessions)+100 {
		return fmt.Errorf("%d open files are allowed, too few for -sessions %d (%v)", limit.Cur, sessions, err)
	}
	return nil
}

// measure starts the relay anew, so that one measurement leaves nothing to the next.
func measure(r relay, s scenario) ([]figure, error) {
	p, err := r.start()
	if err != nil {
		return nil, err
	}
	defer p.stop()
	if s.share != "" {
		stop, err := leave(s.share)
		if err != nil {
			return nil, err
		}
		defer stop()
	}
	return s.run(p)
}
