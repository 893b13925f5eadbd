// Package sample holds small media made for this project: what the two people of the demo say and show.
package sample

import "embed"

// Files are speech-alice.ogg, speech-bob.ogg, picture-alice.ivf and picture-bob.ivf.
//
//go:embed *.ogg *.ivf
var Files embed.FS
