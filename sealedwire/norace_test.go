//go:build !race

package sealedwire

// tamperStep is 1: tests flip every bit.
const tamperStep = 1
