package callflow

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

var (
	long = flag.Bool("long", false, "explore with larger budgets, and 100,000 random runs")

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
			name: "two devices ring", devices: []Address{a1, b1, b2}, calls: one, answers: []int{1, 2}, hangups: append(sometimes(0), 1),
			budget: either(budget{}, budget{lost: 1, twice: 1, ticks: 1}),
		},
		{
			name: "two devices ring, messages are lost or come twice", devices: []Address{a1, b1, b2}, calls: one, answers: all,
			budget: either(budget{lost: 1}, budget{lost: 2, twice: 1}),
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
			answers: []int{2}, budget: either(budget{}, budget{lost: 1, ticks: 1}),
		},
		{
			name: "both call at once, the other has two devices", devices: []Address{a1, b1, b2}, calls: []placed{{0, 2, bob}, {1, 1, alice}},
			answers: sometimes(2), budget: either(budget{}, budget{lost: 1, ticks: 1}),
		},
		{
			name: "a second call", devices: []Address{a1, b1, c1}, calls: []placed{{0, 1, bob}, {2, 2, bob}}, answers: []int{1}, hangups: sometimes(1),
			budget: either(budget{}, budget{lost: 1, ticks: 1}),
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

// TestExplore walks through every state of every model, and lets each come to rest.
func TestExplore(t *testing.T) {
	for _, m := range models() {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			found := newExplorer(m).walk()
			if found.problem != "" {
				t.Fatalf("%s:\n%s", found.problem, strings.Join(found.trace, "\n"))
			}
			if found.depth < 12 {
				t.Errorf("only %d steps deep", found.depth)
			}
			t.Logf("%s: %d states, %d transitions, %d steps deep", m.name, found.states, found.transitions, found.depth)
		})
	}
}

// found is what a walk met.
type found struct {
	states, transitions, depth int
	problem                    string
	trace                      []string // how it came about, by the shortest way
}

// walk goes breadth first until there is nothing new, or a problem.
func (x *explorer) walk() (f found) {
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
		x.moves(nodes[at].world, func(m move, to world) {
			f.transitions++
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

// TestRandomRuns goes on longer than a walk to the last state could, with more of everything that goes wrong.
func TestRandomRuns(t *testing.T) {
	runs := 4000
	if *long {
		runs = 100_000
	}
	for n, m := range models() {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			m.budget = budget{lost: 4, twice: 6, ticks: 6, cuts: 3, crashes: m.budget.crashes * 2}
			random := rand.New(rand.NewPCG(4, uint64(n)))
			x := newExplorer(m)
			drained := map[world]bool{}
			steps := 0
			for range runs/len(models()) + 1 {
				w := x.start()
				var trace []string
				for {
					var to world
					by, choices := move{}, 0
					x.moves(w, func(m move, next world) { // each of n with the same chance
						if choices++; random.IntN(choices) == 0 {
							to, by = next, m
						}
					})
					if choices == 0 {
						break
					}
					w = to
					trace = append(trace, by.String())
					steps++
					if x.problem != "" {
						break
					}
				}
				x.drain(w, drained)
				if x.problem != "" {
					t.Fatalf("%s:\n%s", x.problem, strings.Join(trace, "\n"))
				}
			}
			t.Log(fmt.Sprint(steps, " steps"))
		})
	}
}
