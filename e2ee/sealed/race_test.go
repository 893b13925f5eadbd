//go:build race

package sealed

// tamperStep thins out the longest tests: the race detector makes them take minutes, and they are about one goroutine.
const tamperStep = 13
