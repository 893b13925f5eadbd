package callflow

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

const (
	explorerRuns = 200 // random runs for which an explorer remembers what it met
)

var (
	long = flag.Bool("long", false, "explore with larger budgets, one model after the other; takes gigabytes")
	runs = flag.Int("runs", 100_000, "random runs, over all models; a tenth of them under the race detector and with -short")
	seed = flag.Uint64("seed", 1, "of the first random run; the next one's is one more")

	alice, bob, carol = Account{'A'}, Account{'B'}, Account{'C'}
	a1, a2            = Address{alice, 1}, Address{alice, 2}
	b1, b2            = Address{bob, 1}, Address{bob, 2}
	c1                = Address{carol, 1}
)

// models are the situations that are walked through to their last state. short and long are what may go wrong in them.
func models() []model {
	one := []placed{{0, 1, bob}}
	all := []int{0, 1, 2}
	models := []model{
		{
			name: "one call", devices: []Address{a1, b1}, calls: one, answers: all, hangups: all,
			slow: true, budget: either(budget{lost: 1, twice: 1, ticks: 2}, budget{lost: 3, twice: 2, ticks: 3}),
		},
		{
			name: "a stranger's call without a relay", devices: []Address{a1, b1}, calls: one, answers: all, hangups: all,
			slow: true, noRelay: map[int]bool{1: true}, budget: either(budget{lost: 1, twice: 1, ticks: 1}, budget{lost: 3, twice: 2, ticks: 3}),
		},
		{
			name: "mute and hold", devices: []Address{a1, b1}, calls: one, answers: []int{1}, hangups: []int{0},
			inCall: []userEvent{{0, Mute{id(1), true}}, {0, Hold{id(1), true}}, {0, Hold{id(1), false}}, {1, Hold{id(1), true}}},
			budget: either(budget{}, budget{lost: 1, twice: 1, ticks: 1}),
		},
		{
			name: "a path that breaks", devices: []Address{a1, b1}, calls: one, answers: []int{1}, hangups: []int{1},
			budget: either(budget{cuts: 2}, budget{lost: 1, twice: 1, cuts: 3, ticks: 2}),
		},
		{
			name: "a path that breaks, messages are lost or come twice", devices: []Address{a1, b1}, calls: one, answers: []int{1},
			budget: either(budget{lost: 1, twice: 1, cuts: 1}, budget{lost: 2, twice: 2, cuts: 2, ticks: 1}),
		},
		{
			name: "two devices ring", devices: []Address{a1, b1, b2}, calls: one, answers: []int{1, 2}, hangups: append(sometimes(0), 1),
			budget: either(budget{}, budget{lost: 1, twice: 1, ticks: 1}),
		},
		{
			name: "two devices ring, messages are lost or come twice", devices: []Address{a1, b1, b2}, calls: one, answers: all,
			budget: either(budget{lost: 1, twice: 1}, budget{lost: 2, twice: 1}),
		},
		{
			name: "both call at once", devices: []Address{a1, b1}, calls: []placed{{0, 1, bob}, {1, 2, alice}}, answers: sometimes(0, 1), hangups: []int{0},
			budget: either(budget{}, budget{lost: 1, twice: 1, ticks: 1}),
		},
		{
			name: "both call at once, messages are lost or come twice", devices: []Address{a1, b1}, calls: []placed{{0, 1, bob}, {1, 2, alice}},
			budget: either(budget{lost: 1, twice: 1}, budget{lost: 2, twice: 2}),
		},
		{
			name: "both call at once, one has two devices", devices: []Address{a1, b1, b2}, calls: []placed{{0, 1, bob}, {1, 2, alice}},
			answers: []int{2}, budget: either(budget{lost: 1}, budget{lost: 1, twice: 1, ticks: 1}),
		},
		{
			name: "both call at once, the other has two devices", devices: []Address{a1, b1, b2}, calls: []placed{{0, 2, bob}, {1, 1, alice}},
			answers: sometimes(2), budget: either(budget{lost: 1}, budget{lost: 1, twice: 1, ticks: 1}),
		},
		{
			name: "a second call", devices: []Address{a1, b1, c1}, calls: []placed{{0, 1, bob}, {2, 2, bob}}, answers: []int{1}, hangups: sometimes(1), instead: true,
			budget: either(budget{lost: 1}, budget{lost: 1, ticks: 1}),
		},
		{
			name: "what is reported of a call", devices: []Address{a1, b1}, calls: one, answers: []int{1}, slow: true,
			budget: either(budget{cuts: 1, reports: 2}, budget{lost: 1, cuts: 1, reports: 2}),
		},
		{
			name: "what is reported while two devices ring", devices: []Address{a1, b1, b2}, calls: one, answers: []int{1, 2},
			budget: either(budget{reports: 1}, budget{lost: 1, reports: 1}),
		},
		{
			name: "what is reported while both call at once", devices: []Address{a1, b1}, calls: []placed{{0, 1, bob}, {1, 2, alice}},
			budget: either(budget{reports: 1}, budget{lost: 1, reports: 2}),
		},
		{
			name: "pictures and a shared screen", devices: []Address{a1, b1}, calls: one, answers: []int{1},
			inCall: []userEvent{{0, ShowVideo{id(1), false}}, {0, ShowVideo{id(1), true}}, {1, ShareScreen{id(1), true}}, {1, Hold{id(1), true}}, {1, Hold{id(1), false}}},
			budget: either(budget{}, budget{lost: 1, twice: 1, ticks: 1}),
		},
		{
			name: "a device forgets the call and calls again", devices: []Address{a1, b1}, calls: []placed{{0, 2, bob}, {0, 1, bob}}, answers: []int{1},
			budget: either(budget{crashes: 1}, budget{lost: 1, twice: 1, crashes: 1, ticks: 2}),
		},
	}
	if *long {
		models = append(models, model{
			name: "three calls cross", devices: []Address{a1, a2, b1}, calls: []placed{{0, 1, bob}, {2, 2, alice}, {1, 3, bob}},
		})
	}
	return models
}

// crowds are too large to be walked through: seven calls, placed in any order, and users who do all they can.
func crowds() []model {
	of := func(name string, devices [3]Address, calls ...placed) model {
		m := model{
			name: name, devices: devices[:], calls: calls, answers: []int{0, 1, 2}, hangups: []int{0, 1, 2}, slow: true, instead: true,
			budget: budget{lost: 6, twice: 8, ticks: 12, cuts: 4, reports: 6, crashes: 1},
		}
		for device := range devices {
			n := byte(device + 1)
			for _, event := range []Event{
				Hold{id(n), true}, Hold{id(n), false}, Mute{id(n), true}, ShowVideo{id(n), false}, ShowVideo{id(n), true}, ShareScreen{id(n), true},
			} {
				m.inCall = append(m.inCall, userEvent{device, event})
			}
		}
		return m
	}
	return []model{
		of("two of one, one of another", [3]Address{a1, b1, b2},
			placed{0, 1, bob}, placed{1, 2, alice}, placed{2, 3, alice}, placed{0, 4, bob}, placed{1, 5, alice}, placed{0, 6, bob}, placed{2, 7, alice}),
		of("three accounts", [3]Address{a1, b1, c1},
			placed{0, 1, bob}, placed{1, 2, carol}, placed{2, 3, alice}, placed{0, 4, carol}, placed{2, 5, bob}, placed{1, 6, alice}, placed{0, 7, bob}),
	}
}

func either(short, longer budget) budget {
	if *long {
		return longer
	}
	return short
}

// sometimes is in the long form only.
func sometimes(devices ...int) []int {
	if *long {
		return devices
	}
	return nil
}

// TestExplore walks through every state of every model, and lets each come to rest. In doing so it loses, repeats and reorders every message
// of which the flow's state makes something (Candidates pass through it).
func TestExplore(t *testing.T) {
	var mu sync.Mutex
	fates := map[string]fate{}
	t.Cleanup(func() {
		for _, message := range []Message{
			Offer{}, Ringing{}, Answer{}, Reveal{}, Accept{}, Confirm{}, MediaState{}, Path{}, Hangup{}, MissedCall{},
		} {
			f := fates[kind(message)]
			if f.arrived*f.lost*f.twice*f.reordered == 0 {
				t.Errorf("%s: %+v", kind(message), f)
			}
			t.Logf("%s: %+v", kind(message), f)
		}
	})
	for _, m := range models() {
		t.Run(m.name, func(t *testing.T) {
			if !*long {
				t.Parallel()
			}
			found := newExplorer(m).walk()
			if found.problem != "" {
				t.Fatalf("%s:\n%s", found.problem, strings.Join(found.trace, "\n"))
			}
			if found.depth < 12 {
				t.Errorf("only %d steps deep", found.depth)
			}
			t.Logf("%s: %d states, %d transitions, %d steps deep", m.name, found.states, found.transitions, found.depth)
			mu.Lock()
			defer mu.Unlock()
			for kind, f := range found.fates {
				sum := fates[kind]
				fates[kind] = fate{sum.arrived + f.arrived, sum.lost + f.lost, sum.twice + f.twice, sum.reordered + f.reordered}
			}
		})
	}
}

// A fate counts what became of messages of one kind.
type fate struct{ arrived, lost, twice, reordered int }

func kind(m Message) string { return strings.TrimPrefix(fmt.Sprintf("%T", m), "callflow.") }

// note counts what a move does to a message.
func (f *found) note(m move) {
	r, ok := m.event.(Received)
	if !ok {
		return
	}
	of := f.fates[kind(r.Message)]
	switch m.what {
	case "gets":
		of.arrived++
	case "does not get":
		of.lost++
	case "gets for the first time":
		of.twice++
	}
	if m.beside {
		of.reordered++
	}
	f.fates[kind(r.Message)] = of
}

// found is what a walk met.
type found struct {
	states, transitions, depth int
	fates                      map[string]fate
	problem                    string
	trace                      []string // how it came about, by the shortest way
}

// walk goes breadth first until there is nothing new, or a problem.
func (x *explorer) walk() (f found) {
	f.fates = map[string]fate{}
	type node struct {
		world
		by     move
		parent int32
	}
	nodes := []node{{world: x.start(), parent: -1}}
	known := map[world]bool{nodes[0].world: true}
	drained := map[world]bool{}
	level := 1 // the first node of the next level
	for at := 0; at < len(nodes) && x.problem == ""; at++ {
		if at == level {
			level = len(nodes)
			f.depth++
		}
		x.moves(nodes[at].world, func(m move, result func() world) {
			f.transitions++
			f.note(m)
			to := result()
			if x.problem == "" {
				x.drain(to, drained)
			}
			switch {
			case f.problem != "":
			case x.problem != "":
				f.problem = x.problem
				f.trace = []string{m.String()}
				for n := at; nodes[n].parent >= 0; n = int(nodes[n].parent) {
					f.trace = append([]string{nodes[n].by.String()}, f.trace...)
				}
			case !known[to]:
				known[to] = true
				nodes = append(nodes, node{to, m, int32(at)})
			}
		})
	}
	f.states = len(nodes)
	return f
}

// TestRandomRuns goes on longer than a walk to the last state could, with more of everything that goes wrong. Each run has a seed of its
// own; one that fails says how to repeat it alone.
func TestRandomRuns(t *testing.T) {
	all, total := append(models(), crowds()...), *runs
	if raceDetector || testing.Short() {
		total = (total + 9) / 10
	}
	var mu sync.Mutex
	met := map[string]int{}
	t.Cleanup(func() {
		for _, event := range []Event{
			AcceptCall{EndOther: true}, ShowVideo{}, ShareScreen{}, Fault{}, Interrupted{}, Stalled{}, FirstMedia{}, Undecryptable{}, KeyChanged{},
			NetworkChanged{}, DirectAllowed{}, DeviceRemoved{}, BusyHere{},
		} {
			if met[eventKind(event)] < total/1000 {
				t.Errorf("%s happened %d times", eventKind(event), met[eventKind(event)])
			}
		}
		t.Log(met)
	})
	for _, m := range all {
		m.budget = budget{lost: 6, twice: 8, ticks: 12, cuts: 4, reports: 6, crashes: m.budget.crashes * 2}
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			var x *explorer
			steps, longest := 0, 0
			kinds := map[string]int{}
			for run := range (total + len(all) - 1) / len(all) {
				if run%explorerRuns == 0 {
					x = newExplorer(m)
				}
				trace := x.randomRun(rand.New(rand.NewPCG(*seed+uint64(run), 0)))
				if x.problem != "" {
					t.Fatalf("%s:\n%s\nThis run alone: go test ./client/callflow -run '%s' -runs 1 -seed %d", x.problem,
						strings.Join(told(trace), "\n"), strings.ReplaceAll(t.Name(), " ", "_"), *seed+uint64(run))
				}
				steps, longest = steps+len(trace), max(longest, len(trace))
				for _, m := range trace {
					kinds[eventKind(m.event)]++
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for kind, n := range kinds {
				met[kind] += n
			}
			t.Logf("%d steps, %d in the longest run", steps, longest)
		})
	}
}

func eventKind(e Event) string {
	if accept, ok := e.(AcceptCall); ok && accept.EndOther {
		return "AcceptCall instead"
	}
	return strings.TrimPrefix(fmt.Sprintf("%T", e), "callflow.")
}

// randomRun takes one of all possible moves until there is none. Users are slower than the network, and little fails, so that calls get
// anywhere.
func (x *explorer) randomRun(random *rand.Rand) (trace []move) {
	w := x.start()
	for x.problem == "" {
		var by move
		var to func() world
		weights := 0
		x.moves(w, func(m move, result func() world) {
			weight := 32
			switch m.event.(type) {
			case Fault, DeviceRemoved:
				weight = 1
			case HangUp, BusyHere, fire, crash:
				weight = 4
			case NetworkChanged, Stalled, Undecryptable, KeyChanged, DirectAllowed:
				weight = 8
			}
			if weights += weight; random.IntN(weights) < weight {
				by, to = m, result
			}
		})
		if weights == 0 {
			break
		}
		w, trace = to(), append(trace, by)
	}
	x.drain(w, map[world]bool{})
	return trace
}

func told(trace []move) (names []string) {
	for _, m := range trace {
		names = append(names, m.String())
	}
	return names
}

// A failed run's seed repeats it.
func TestRandomRunsRepeat(t *testing.T) {
	m := crowds()[0]
	once := told(newExplorer(m).randomRun(rand.New(rand.NewPCG(7, 0))))
	again := told(newExplorer(m).randomRun(rand.New(rand.NewPCG(7, 0))))
	if len(once) < 12 || !slices.Equal(once, again) {
		t.Errorf("%d steps, then %d", len(once), len(again))
	}
}
