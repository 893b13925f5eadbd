//go:build linux

// Command relaybench compares TURN relays on one machine: this repository's, coturn and pion's simple server.
//
//	go run ./test/relaybench [-rounds 3] [-coturn COMMAND,...] [-only audio,video,...] [-apart]
//
// It needs root (or the right to make a network namespace), iproute2, and coturn's turnserver. In a namespace of its own,
// without a way out, it gives 198.51.100.1 to the relay and 203.0.113.0/24 to clients and peers. The relay runs on processor 0 and
// the generator on processor 1. The relays take turns: each round measures all of them, so that ratios within a round mean something on a
// machine whose speed drifts. Every packet is checked at both ends: where it comes from (sockets are connected), its order, its
// content. With -apart the relay has a namespace to itself, at the end of a veth pair, where Sotto also runs with its offload (XDP); the relay's CPU then
// includes the kernel thread that receives for it. A figure is the median of its rounds; a ratio is the median of the ratios to the first coturn in the same round.
//
// What is measured:
//
//   - audio (172 bytes), video (1,200 bytes in bursts of 8), coalesced (such bursts as one UDP_SEGMENT send, received with UDP_GRO): ten
//     clients, each with a channel to a peer that echoes, and a window of packets under way. Packets forwarded (an echo is two) for each
//     CPU-second of the relay, and each second.
//   - hairpin: audio from client to client, both relayed here. One delivery counts as one.
//   - loss-free: the highest rate of audio packets, without a window, of which none is lost.
//   - latency: round trips of single packets, 5,000 a second in all, and the relay's CPU for each forward.
//   - sessions: Allocate and ChannelBind, one after another: by CPU-second, with resident memory of each.
package main

import (
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	relayCPU, generatorCPU = 0, 1

	relayIP  = "198.51.100.1" // documentation ranges: they lead nowhere from here
	othersIP = "203.0.113."

	generatorIP = "198.51.100.2" // apart
)

func main() {
	rounds := flag.Int("rounds", 3, "how often each relay is measured")
	coturn := flag.String("coturn", "turnserver", "coturns to measure, each a command or NAME=COMMAND, separated by commas; the first is what ratios are to")
	sotto := flag.String("sotto", "", "a sotto program to measure in place of this repository's")
	only := flag.String("only", "", "measure only these, separated by commas: "+strings.Join(names(), ", "))
	sessions := flag.Int("sessions", 2000, "allocations to make for memory and allocation rate, 10,000 at most")
	apart := flag.Bool("apart", false, "relays in a namespace of their own, at the end of a veth pair; Sotto's with its offload, too")
	serve := flag.Bool("serve-pion", false, "be pion's simple server (used internally)")
	flag.Parse()
	var err error
	switch {
	case *serve:
		err = servePion()
	case os.Getenv("RELAYBENCH_INSIDE") == "":
		err = isolate()
	default:
		err = run(*rounds, *coturn, *sotto, *only, *sessions, *apart)
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

func run(rounds int, coturn, sotto, only string, sessions int, apart bool) error {
	if err := ip("link set lo up", "route add local "+othersIP+"0/24 dev lo"); err != nil {
		return err
	}
	connect := func() error { return ip("addr add " + relayIP + "/32 dev lo") }
	if apart {
		connect = moveRelaysApart
	}
	if err := connect(); err != nil {
		return err
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < uint64(sessions)+100 {
		return fmt.Errorf("%d open files are allowed, too few for -sessions %d (%v)", limit.Cur, sessions, err)
	}
	relays, err := makeRelays(coturn, sotto)
	if err != nil {
		return err
	}
	defer os.RemoveAll(relays[0].dir)

	results := make(map[string]map[string][]float64) // by figure and relay, one each round: NaN if there was none
	for round := range rounds {
		for _, s := range scenarios(sessions) {
			if only != "" && !slices.Contains(strings.Split(only, ","), s.name) {
				continue
			}
			for i := range relays {
				r := relays[(i+round)%len(relays)]
				figures, err := measure(r, s)
				if err != nil {
					fmt.Printf("%s, %s: %v\n", r.name, s.name, err)
				}
				for name, value := range figures {
					if results[name] == nil {
						results[name] = make(map[string][]float64)
					}
					of := results[name]
					for len(of[r.name]) < round {
						of[r.name] = append(of[r.name], math.NaN())
					}
					of[r.name] = append(of[r.name], value)
				}
			}
		}
		fmt.Printf("round %d of %d done\n", round+1, rounds)
	}
	report(results, relays)
	return nil
}

// measure starts the relay anew, so that one measurement leaves nothing to the next.
func measure(r relay, s scenario) (map[string]float64, error) {
	p, err := r.start()
	if err != nil {
		return nil, err
	}
	defer p.stop()
	return s.run(p)
}

func report(results map[string]map[string][]float64, relays []relay) {
	base := ""
	for _, r := range relays {
		if base == "" && r.coturn {
			base = r.name
		}
	}
	fmt.Printf("\n%-44s", "median (ratio to "+base+")")
	for _, r := range relays {
		fmt.Printf("%22s", r.name)
	}
	fmt.Println()
	var order []string
	for name := range results {
		order = append(order, name)
	}
	slices.Sort(order)
	for _, name := range order {
		fmt.Printf("%-44s", name)
		for _, r := range relays {
			fmt.Printf("%22s", compare(results[name][r.name], results[name][base]))
		}
		fmt.Println()
	}
}

func compare(values, base []float64) string {
	var ratios []float64
	for i := range min(len(values), len(base)) {
		ratios = append(ratios, values[i]/base[i])
	}
	if v := median(values); v != 0 {
		return fmt.Sprintf("%.1f (%.2f)", v, median(ratios))
	}
	return "-"
}

// median leaves out what could not be measured.
func median(v []float64) float64 {
	v = slices.DeleteFunc(slices.Clone(v), math.IsNaN)
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
