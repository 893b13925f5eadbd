//go:build linux

package main

import (
	"fmt"
	"io"
	"math"
	"slices"
)

// results are figures by name and relay, one for each round: NaN if there was none.
type results struct {
	names []string // in the order of scenarios
	all   map[string]map[string][]float64
}

func (r *results) add(round int, relay string, figures []figure) {
	for _, f := range figures {
		if r.all[f.name] == nil {
			r.all[f.name] = make(map[string][]float64)
			r.names = append(r.names, f.name)
		}
		of := r.all[f.name]
		for len(of[relay]) < round {
			of[relay] = append(of[relay], math.NaN())
		}
		of[relay] = append(of[relay], f.value)
	}
}

// ratio is the median of the ratios within rounds; 0: there is none.
func (r *results) ratio(name, of, to string) float64 {
	var ratios []float64
	values, base := r.all[name][of], r.all[name][to]
	for i := range min(len(values), len(base)) {
		ratios = append(ratios, values[i]/base[i])
	}
	return median(ratios)
}

// print writes a line for each figure and a column for each relay, with ratios to the first coturn.
func (r *results) print(w io.Writer, relays []relay) {
	base := nameOf(relays, asCoturn)
	fmt.Fprintf(w, "\n| median (ratio to %s) |", base)
	for _, of := range relays {
		fmt.Fprintf(w, " %s |", of.name)
	}
	fmt.Fprint(w, "\n|---|")
	for range relays {
		fmt.Fprint(w, "---|")
	}
	fmt.Fprintln(w)
	for _, name := range r.names {
		fmt.Fprintf(w, "| %s |", name)
		for _, of := range relays {
			switch value, ratio := median(r.all[name][of.name]), r.ratio(name, of.name, base); {
			case value == 0:
				fmt.Fprint(w, " – |")
			case ratio == 0:
				fmt.Fprintf(w, " %s |", short(value))
			default:
				fmt.Fprintf(w, " %s (%.2f) |", short(value), ratio)
			}
		}
		fmt.Fprintln(w)
	}
}

func short(v float64) string {
	switch {
	case v >= 10_000:
		return fmt.Sprintf("%.0fk", v/1000)
	case v >= 1000:
		return fmt.Sprintf("%.1fk", v/1000)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

// goal is what a ratio shall be at least or, where less is better, at most.
type goal struct {
	figure string
	of, to role
	ratio  float64
	atMost bool
}

var goals = []goal{
	{audioPerCPU, asSotto, asCoturn, 1.45, false},
	{audioPerCPU, asSotto, asMultiplexed, 0.97, false},
	{audioPerCPU, asSotto, asBare, 0.9, false},
	{lossFreeRate, asSotto, asCoturn, 1.45, false},
	{lossFreeRate, asSotto, asPion, 2.3, false},
	{lossFreeRate, asSotto, asMultiplexed, 0.97, false},
	{lossFreeRate, asSotto, asBare, 0.9, false},
	{videoPerCPU, asSotto, asCoturn, 1.6, false},
	{coalescedPerCPU, asSotto, asCoturn, 3.6, false},
	{hairpinPerCPU, asSotto, asCoturn, 3.5, false},
	{latencyMedian, asSotto, asCoturn, 1, true},
	{latencyTail, asSotto, asCoturn, 1, true},
	{latencyCPU, asSotto, asCoturn, 1, true},
	{sessionsPerCPU, asSotto, asCoturn, 1.2, false},
	{sessionMemory, asSotto, asCoturn, 0.6, true},
	{sessionSlab, asSotto, asCoturn, 0.85, true},
	{wireCPU, asOffload, asCoturn, 1 / 3., true},
	{wireLossFree, asOffload, asCoturn, 3, false},
	{wirePerCPU, asOffload, asCoturn, 4.5, false},
	{wirePerCPU, asOffload, asPion, 5, false},
}

// judge holds the ratios to the goals.
func (r *results) judge(w io.Writer, relays []relay) {
	fmt.Fprint(w, "\n| goal | ratio | |\n|---|---|---|\n")
	for _, g := range goals {
		if r.all[g.figure] == nil {
			continue
		}
		of, to := nameOf(relays, g.of), nameOf(relays, g.to)
		bound, ratio := "at least", r.ratio(g.figure, of, to)
		met := ratio >= g.ratio
		if g.atMost {
			bound, met = "at most", ratio <= g.ratio
		}
		verdict := "met"
		switch {
		case ratio == 0:
			verdict = "not measured"
		case !met:
			verdict = "MISSED"
		}
		fmt.Fprintf(w, "| %s: %s, %s %.2f of %s | %.2f | %s |\n", g.figure, of, bound, g.ratio, to, ratio, verdict)
	}
}

// median leaves out what could not be measured.
func median(v []float64) float64 {
	v = slices.DeleteFunc(slices.Clone(v), func(f float64) bool { return math.IsNaN(f) || math.IsInf(f, 0) })
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
