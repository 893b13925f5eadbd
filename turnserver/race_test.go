//go:build race

package turnserver

// underRace keeps the soak test from judging resident memory: the race detector's own grows.
const underRace = true
