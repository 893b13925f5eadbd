//go:build !race

package callflow

const raceDetector = false
