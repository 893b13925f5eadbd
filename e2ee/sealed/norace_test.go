//go:build !race

package sealed

// tamperStep is 1: tests flip every bit.
const tamperStep = 1
