//go:build !race

package senderkey

// tamperStep is 1: tests flip every bit.
const tamperStep = 1
