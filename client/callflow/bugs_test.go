package callflow

import (
	"strings"
	"testing"
	"time"

	"sotto/wire"
)

// mistakes are those that calling products shipped, and some that this design invites, each put into the real machine. before may turn
// one event into others; after may change what came of it.
var mistakes = []struct {
	name   string
	model  string // in which it shows
	before func(Endpoint, Event) []Event
	after  func(was, is Endpoint, event Event, effects []Effect) (Endpoint, []Effect)
}{
	{
		// Signal for Android, 2019 (CVE-2019-17191): the caller's own "connect" was handled as the callee's.
		name: "a caller's confirm counts as an accept", model: "an attacker calls",
		before: func(e Endpoint, event Event) []Event {
			if r, ok := event.(Received); ok && r.Message == (Confirm{}) {
				return []Event{AcceptCall{Call: r.Call}}
			}
			return []Event{event}
		},
	},
	{
		// Group FaceTime, 2019: one more participant, added by the caller while it rang, made the call active.
		name: "a second offer joins the call that rings", model: "an attacker calls",
		before: func(e Endpoint, event Event) []Event {
			if r, ok := event.(Received); ok {
				if _, offer := r.Message.(Offer); offer && (&step{Endpoint: &e}).find(r.Call) != nil {
					return []Event{AcceptCall{Call: r.Call}}
				}
			}
			return []Event{event}
		},
	},
	{
		// Facebook Messenger, 2020: an update of the media description, sent while it rang, set it in force.
		name: "a media update opens", model: "an attacker calls",
		after: func(was, is Endpoint, event Event, effects []Effect) (Endpoint, []Effect) {
			if r, ok := event.(Received); ok {
				if m, ok := r.Message.(MediaState); ok && (&step{Endpoint: &is}).find(r.Call) != nil {
					effects = append(effects, SetFlow{Leg{r.Call, r.From.Device}, flow(Media{}, m.Media)})
				}
			}
			return is, effects
		},
	},
	{
		// JioChat and Mocha, 2020: media began when the devices were connected; Duo, 2020, stopped it again after some packets.
		name: "being connected opens", model: "one call",
		after: func(was, is Endpoint, event Event, effects []Effect) (Endpoint, []Effect) {
			if c, ok := event.(Connected); ok {
				if call := (&step{Endpoint: &is}).find(c.Call); call != nil && !call.opened {
					effects = append(effects, Open{Leg(c), Flow{Microphone: true}})
				}
			}
			return is, effects
		},
	},
	{
		name: "every accept wins", model: "two devices ring",
		after: func(was, is Endpoint, event Event, effects []Effect) (Endpoint, []Effect) {
			if r, ok := event.(Received); ok {
				if _, accept := r.Message.(Accept); accept && was == is && (&step{Endpoint: &is}).find(r.Call) != nil {
					effects = append(effects, Open{Leg{r.Call, r.From.Device}, Flow{Microphone: true}})
				}
			}
			return is, effects
		},
	},
	{
		name: "the devices that lose are not told", model: "two devices ring",
		after: dropSends(func(m Message) bool { return m == Hangup{wire.Hangup_ACCEPTED_ELSEWHERE} }),
	},
	{
		name: "whoever loses the crossing goes on all the same", model: "both call at once",
		after: func(was, is Endpoint, event Event, effects []Effect) (Endpoint, []Effect) {
			for _, e := range effects {
				if _, ok := e.(Adopt); ok { // the offer is dropped, as if it had lost
					return was, nil
				}
			}
			return is, effects
		},
	},
	{
		name: "an offer of anybody wins over the own call", model: "both call at once",
		before: func(e Endpoint, event Event) []Event {
			if r, ok := event.(Received); ok {
				if _, offer := r.Message.(Offer); offer {
					if own := (&step{Endpoint: &e}).where(func(c *call) bool { return c.caller && c.pending() }); own != nil {
						return []Event{HangUp{own.id}, event, AcceptCall{Call: r.Call}}
					}
				}
			}
			return []Event{event}
		},
	},
	{
		name: "a hangup that overtakes its offer is forgotten", model: "one call",
		before: func(e Endpoint, event Event) []Event {
			if r, ok := event.(Received); ok {
				if _, hangup := r.Message.(Hangup); hangup && (&step{Endpoint: &e}).find(r.Call) == nil {
					return nil
				}
			}
			return []Event{event}
		},
	},
	{
		name: "the peer resumes what the user holds", model: "mute and hold",
		before: func(e Endpoint, event Event) []Event {
			if r, ok := event.(Received); ok {
				if m, ok := r.Message.(MediaState); ok && !m.Held {
					c := (&step{Endpoint: &e}).find(r.Call)
					if c != nil && c.local.Held {
						return []Event{event, Hold{r.Call, false}}
					}
				}
			}
			return []Event{event}
		},
	},
	{
		name: "the second call opens beside the first", model: "a second call",
		after: func(was, is Endpoint, event Event, effects []Effect) (Endpoint, []Effect) {
			for i := range is.calls {
				if _, ok := event.(AcceptCall); ok {
					is.calls[i].local.Held = false
				}
			}
			return is, effects
		},
	},
	{
		name: "nobody waits for a callee's device", model: "one call",
		after: func(was, is Endpoint, event Event, effects []Effect) (Endpoint, []Effect) {
			for i := range is.calls {
				is.calls[i].reachBy, is.calls[i].ringBy = 0, 0
			}
			return is, effects
		},
	},
	{
		name: "the callee does not wait for the confirm", model: "one call",
		after: func(was, is Endpoint, event Event, effects []Effect) (Endpoint, []Effect) {
			for i := range is.calls {
				if c := &is.calls[i]; !c.caller {
					c.legs[0].agreeBy = 0
				}
			}
			return is, effects
		},
	},
	{
		name: "nothing ends a call whose path is lost", model: "a path that breaks",
		after: func(was, is Endpoint, event Event, effects []Effect) (Endpoint, []Effect) {
			for i := range is.calls {
				for j := range is.calls[i].legs {
					is.calls[i].legs[j].lostBy = 0
				}
			}
			return is, effects
		},
	},
	{
		name: "who forgot a call cannot call again", model: "a device forgets the call and calls again",
		before: func(e Endpoint, event Event) []Event {
			if r, ok := event.(Received); ok {
				if _, offer := r.Message.(Offer); offer && (&step{Endpoint: &e}).where((*call).foreground) != nil {
					return nil
				}
			}
			return []Event{event}
		},
	},
	{
		name: "the call that was to end goes on beside the one in its place", model: "a second call",
		after: func(was, is Endpoint, event Event, effects []Effect) (Endpoint, []Effect) {
			if accept, ok := event.(AcceptCall); ok && accept.EndOther {
				for i := range is.calls {
					if is.calls[i].phase == free {
						is.calls[i] = was.calls[i]
					}
				}
			}
			return is, effects
		},
	},
	{
		name: "the camera is on after a hold", model: "pictures and a shared screen",
		after: func(was, is Endpoint, event Event, effects []Effect) (Endpoint, []Effect) {
			for i, e := range effects {
				if f, ok := e.(SetFlow); ok && f.Flow.Play {
					f.Flow.Camera = true
					effects[i] = f
				}
			}
			return is, effects
		},
	},
	{
		name: "a packet that nobody can decrypt ends what rings", model: "what is reported of a call",
		after: func(was, is Endpoint, event Event, effects []Effect) (Endpoint, []Effect) {
			for i := range is.calls {
				if l := &is.calls[i].legs[0]; l.garbled {
					l.decipherBy = time.Second
				}
			}
			return is, effects
		},
	},
	{
		name: "a missed call is shown twice", model: "one call",
		after: func(was, is Endpoint, event Event, effects []Effect) (Endpoint, []Effect) {
			for _, e := range effects {
				if end, ok := e.(End); ok && end.Reason == Cancelled {
					effects = append(effects, Missed{Call: end.Call}, Missed{Call: end.Call})
				}
			}
			return is, effects
		},
	},
}

func dropSends(drop func(Message) bool) func(was, is Endpoint, event Event, effects []Effect) (Endpoint, []Effect) {
	return func(was, is Endpoint, event Event, effects []Effect) (Endpoint, []Effect) {
		var kept []Effect
		for _, e := range effects {
			if s, ok := e.(Send); !ok || !drop(s.Message) {
				kept = append(kept, e)
			}
		}
		return is, kept
	}
}

// TestMistakesAreFound puts each mistake into the machine; the walk that finds nothing wrong with the machine finds it.
func TestMistakesAreFound(t *testing.T) {
	for _, mistake := range mistakes {
		t.Run(mistake.name, func(t *testing.T) {
			t.Parallel()
			mistaken := func(e Endpoint, event Event, now time.Duration) (Endpoint, []Effect) {
				events := []Event{event}
				if mistake.before != nil {
					events = mistake.before(e, event)
				}
				var all []Effect
				for _, event := range events {
					was := e
					var effects []Effect
					e, effects = e.Step(event, now)
					if mistake.after != nil {
						e, effects = mistake.after(was, e, event, effects)
					}
					all = append(all, effects...)
				}
				return e, all
			}
			if mistake.model == attackerModel {
				if _, problem := attack(mistaken); problem == "" {
					t.Error("not found")
				} else {
					t.Log(problem)
				}
				return
			}
			for _, m := range models() {
				if m.name != mistake.model {
					continue
				}
				m.machine = mistaken
				f := newExplorer(m).walk()
				if f.problem == "" {
					t.Fatal("not found")
				}
				t.Logf("%s, after %d states:\n%s", f.problem, f.states, strings.Join(f.trace, "\n"))
			}
		})
	}
}
