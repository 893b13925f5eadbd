package media

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestQualityHasHysteresis(t *testing.T) {
	type figures struct {
		loss              float64
		roundTrip, jitter time.Duration
	}
	good, poor, between := figures{0, 50 * time.Millisecond, 5 * time.Millisecond}, figures{0.2, 50 * time.Millisecond, 5 * time.Millisecond}, figures{0.04, 350 * time.Millisecond, 40 * time.Millisecond}
	for name, c := range map[string]struct {
		phases []figures // of 3 s each
		want   []Event
	}{
		"good":                  {[]figures{good, good, good}, nil},
		"poor by loss":          {[]figures{good, poor, poor}, []Event{EventQualityPoor}},
		"poor by delay":         {[]figures{good, {0, time.Second, 0}}, []Event{EventQualityPoor}},
		"poor by jitter":        {[]figures{good, {0, 0, 100 * time.Millisecond}}, []Event{EventQualityPoor}},
		"between stays good":    {[]figures{good, between, between, between}, nil},
		"between stays poor":    {[]figures{poor, between, between, between}, []Event{EventQualityPoor}},
		"good again":            {[]figures{poor, good, good, good}, []Event{EventQualityPoor, EventQualityGood}},
		"not so soon":           {[]figures{poor, good, between, good}, []Event{EventQualityPoor}},
		"the same in every way": {[]figures{poor, good, good, poor, good, good}, []Event{EventQualityPoor, EventQualityGood, EventQualityPoor, EventQualityGood}},
	} {
		var q qualityWatch
		var got []Event
		now := time.Unix(1000, 0)
		for _, f := range c.phases {
			for range 12 {
				now = now.Add(monitorInterval)
				if event := q.step(f.loss, f.roundTrip, f.jitter, now); event != 0 {
					got = append(got, event)
				}
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A gust of one second is not reported; ten seconds of heavy loss are, at both ends, and so is their end.
func TestQualityOfACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, 20*time.Millisecond)
		p := talking(t, n, Config{})
		time.Sleep(3 * time.Second)
		n.loseMedia(0.3, 5)
		time.Sleep(10 * time.Second)
		n.loseMedia(0, 5)
		time.Sleep(12 * time.Second)
		for _, s := range []*Session{p.caller, p.callee} {
			events := slices.DeleteFunc(p.eventsOf(s), func(e Event) bool { return e != EventQualityPoor && e != EventQualityGood })
			if !slices.Equal(events, []Event{EventQualityPoor, EventQualityGood}) {
				t.Errorf("events %v", events)
			}
			if q := s.Stats().Quality; q.Poor || q.RoundTrip < 30*time.Millisecond || q.RoundTrip > 100*time.Millisecond {
				t.Errorf("%+v", q)
			}
		}
	})
}
