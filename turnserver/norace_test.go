//go:build !race

package turnserver

const underRace = false
