//go:build race

package callflow

// raceDetector: it makes the longest tests take minutes, and they are about one goroutine.
const raceDetector = true
