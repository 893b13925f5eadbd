//go:build !race

package ratchet

const underRace = false
