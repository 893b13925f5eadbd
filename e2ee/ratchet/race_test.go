//go:build race

package ratchet

// underRace thins out the longest test: the race detector makes it take minutes, and it is about one goroutine.
const underRace = true
