package turnserver

import (
	"testing"
	"time"
)

// TestARefusedPacketCostsNothing: what one account refuses the others have not paid for, neither in
// bytes nor in packets.
func TestARefusedPacketCostsNothing(t *testing.T) {
	now := time.Now()
	wide := rate{bytes: 100_000, packets: 100}
	for name, full := range map[string]rate{
		"its packets": {packets: 1}, "its bytes": {bytes: 1000}, "both": {bytes: 1000, packets: 1},
	} {
		s := &Server{cfg: Config{}, metrics: newMetrics()}
		r := &relay{s: s}
		r.accounts[ofAllocation] = &account{tokens: new(tokens), rate: wide}
		r.accounts[ofUser] = &account{tokens: new(tokens), rate: wide}
		r.accounts[ofAddress] = &account{tokens: new(tokens), rate: full}
		passed := 0
		for range 1000 {
			if r.spend(toPeer, 1000, now) == nil {
				passed++
			}
		}
		r.accounts[ofAddress] = nil
		for range 1000 {
			if r.spend(toPeer, 1000, now) == nil {
				passed++
			}
		}
		if passed < 99 || passed > 102 {
			t.Errorf("%s refuse: %d packets pass, want 100", name, passed)
		}
	}
}
