package client

import (
	"testing"
	"time"
)

func TestClockCorrection(t *testing.T) {
	local := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name              string
		local             time.Time
		ahead             time.Duration
		correction, doubt time.Duration
	}{
		{"the same", local, 0, 0, 0},
		{"some minutes", local, -3 * time.Minute, -3 * time.Minute, 0},
		{"three days back: a withheld offer would be fresh again", local, -72 * time.Hour, 0, -72 * time.Hour},
		{"a year ahead", local, 365 * 24 * time.Hour, 0, 365 * 24 * time.Hour},
		{"a device without a clock", time.Unix(0, 0), 56 * 365 * 24 * time.Hour, 56 * 365 * 24 * time.Hour, 0},
	} {
		correction, doubt := clockCorrection(test.local.Add(test.ahead), test.local)
		if correction != test.correction || doubt != test.doubt {
			t.Errorf("%s: corrected by %s, doubt %s", test.name, correction, doubt)
		}
	}
}
