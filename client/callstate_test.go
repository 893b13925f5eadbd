package client

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"sotto/wire"
)

var t0 = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// describe names effects shortly: "SendAccept Emit(Accepted) Open End(hung up)".
func describe(effects []effect) string {
	var names []string
	for _, e := range effects {
		name := strings.TrimPrefix(reflect.TypeOf(e).Name(), "eff")
		switch e := e.(type) {
		case effEmit:
			name += "(" + reflect.TypeOf(e.event).Name() + ")"
		case effEnd:
			name += "(" + e.reason.String() + ")"
		case effSendHangup:
			name += "(" + e.reason.String() + ")"
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

// at is an input some time after the one before.
type at struct {
	after time.Duration
	in    input
}

func TestCallFlows(t *testing.T) {
	hangup := func(reason wire.Hangup_Reason) input { return inHangup{reason} }
	answer, broken := inAnswer{[]byte("answer")}, errors.New("broken")
	for _, test := range []struct {
		name   string
		caller bool
		inputs []any // input or at
		want   []string
	}{
		{"caller: the usual", true, []any{inRinging{}, answer, inAccept{}, inFirstMedia{}, inLocalHangup{}}, []string{
			"Emit(Ringing)", "Connect SendReveal", "Verify Emit(Accepted) Open", "Emit(FirstMedia)", "SendHangup(NORMAL) End(hung up)"}},
		{"callee: the usual", false, []any{inPrepared{}, inReveal{}, inLocalAccept{}, inConnected{}, hangup(wire.Hangup_NORMAL)}, []string{
			"SendAnswer Connect Gather", "Verify", "AllowAddresses SendAccept Emit(Accepted) Open", "Emit(Connected)", "End(hung up)"}},

		{"caller: answer overtakes ringing", true, []any{answer, inRinging{}}, []string{"Emit(Ringing) Connect SendReveal", ""}},
		{"caller: accept overtakes answer", true, []any{inAccept{}, answer}, []string{
			"Emit(Ringing)", "Connect SendReveal Verify Emit(Accepted) Open"}},
		{"caller: accept and never an answer", true, []any{inAccept{}, at{15 * time.Second, inTick{}}}, []string{
			"Emit(Ringing)", "SendHangup(FAILED) End(failed)"}},
		{"caller: everything twice", true, []any{inRinging{}, inRinging{}, answer, answer, inAccept{}, inAccept{}}, []string{
			"Emit(Ringing)", "", "Connect SendReveal", "", "Verify Emit(Accepted) Open", ""}},
		{"caller: its own accept means nothing", true, []any{answer, inLocalAccept{}}, []string{"Emit(Ringing) Connect SendReveal", ""}},
		{"caller: a reveal means nothing", true, []any{answer, inReveal{}}, []string{"Emit(Ringing) Connect SendReveal", ""}},

		{"callee: a caller's answer and accept mean nothing", false, []any{inPrepared{}, inAccept{}, answer, inRinging{}}, []string{
			"SendAnswer Connect Gather", "", "", ""}},
		{"callee: accepted before prepared", false, []any{inLocalAccept{}, inPrepared{}}, []string{
			"AllowAddresses", "SendAnswer Connect Gather SendAccept Emit(Accepted) Open"}},
		{"callee: a stranger's call without a relay", false, []any{inNoRelay{}, inLocalAccept{}, inPrepared{}}, []string{
			"", "AllowAddresses Prepare", "SendAnswer Connect Gather SendAccept Emit(Accepted) Open"}},
		{"callee: accepts twice", false, []any{inPrepared{}, inLocalAccept{}, inLocalAccept{}}, []string{
			"SendAnswer Connect Gather", "AllowAddresses SendAccept Emit(Accepted) Open", ""}},
		{"callee: reveal twice", false, []any{inPrepared{}, inReveal{}, inReveal{}}, []string{"SendAnswer Connect Gather", "Verify", ""}},
		{"callee: reveal before the answer", false, []any{inReveal{}}, []string{""}},
		{"callee: no reveal", false, []any{inPrepared{}, inLocalAccept{}, at{15 * time.Second, inTick{}}}, []string{
			"SendAnswer Connect Gather", "AllowAddresses SendAccept Emit(Accepted) Open", "SendHangup(FAILED) End(failed)"}},

		{"caller: declined", true, []any{inRinging{}, hangup(wire.Hangup_DECLINED)}, []string{"Emit(Ringing)", "End(declined)"}},
		{"caller: busy", true, []any{hangup(wire.Hangup_BUSY)}, []string{"End(busy)"}},
		{"caller: cancels", true, []any{inLocalHangup{}}, []string{"SendHangup(NORMAL) End(cancelled)"}},
		{"callee: cancelled", false, []any{hangup(wire.Hangup_NORMAL)}, []string{"End(cancelled)"}},
		{"callee: declines", false, []any{inPrepared{}, inLocalHangup{}}, []string{"SendAnswer Connect Gather", "SendHangup(DECLINED) End(declined)"}},
		{"callee: accepted elsewhere", false, []any{hangup(wire.Hangup_ACCEPTED_ELSEWHERE)}, []string{"End(accepted on another device)"}},
		{"caller: declined after accept is a hangup", true, []any{answer, inAccept{}, hangup(wire.Hangup_DECLINED)}, []string{
			"Emit(Ringing) Connect SendReveal", "Verify Emit(Accepted) Open", "End(hung up)"}},

		{"caller: nothing is heard", true, []any{at{14 * time.Second, inTick{}}, at{time.Second, inTick{}}}, []string{
			"", "SendHangup(NORMAL) End(not reachable)"}},
		{"caller: it rings a minute", true, []any{inRinging{}, at{59 * time.Second, inTick{}}, at{time.Second, inTick{}}}, []string{
			"Emit(Ringing)", "", "SendHangup(TIMEOUT) End(not answered)"}},
		{"callee: it rings a minute", false, []any{inPrepared{}, at{60 * time.Second, inTick{}}}, []string{
			"SendAnswer Connect Gather", "SendHangup(TIMEOUT) End(not answered)"}},
		{"accepted calls last", true, []any{answer, inAccept{}, at{time.Hour, inTick{}}}, []string{
			"Emit(Ringing) Connect SendReveal", "Verify Emit(Accepted) Open", ""}},

		{"the path fails", true, []any{answer, inAccept{}, inConnected{}, inInterrupted{}, inMediaFailed{broken}}, []string{
			"Emit(Ringing) Connect SendReveal", "Verify Emit(Accepted) Open", "Emit(Connected)", "Emit(Interrupted)", "SendHangup(FAILED) End(failed)"}},
		{"an effect fails", false, []any{inFault{broken}}, []string{"SendHangup(FAILED) End(failed)"}},
		{"wrong keys", false, []any{inPrepared{}, inReveal{}, inLocalAccept{}, inUndecryptable{}, at{5 * time.Second, inTick{}}}, []string{
			"SendAnswer Connect Gather", "Verify", "AllowAddresses SendAccept Emit(Accepted) Open", "Emit(MediaUndecryptable)",
			"SendHangup(FAILED) End(failed)"}},
		{"noise between good packets", false, []any{inPrepared{}, inReveal{}, inLocalAccept{}, inUndecryptable{}, inFirstMedia{}, inUndecryptable{},
			at{time.Hour, inTick{}}}, []string{
			"SendAnswer Connect Gather", "Verify", "AllowAddresses SendAccept Emit(Accepted) Open", "Emit(MediaUndecryptable)",
			"Emit(FirstMedia)", "Emit(MediaUndecryptable)", ""}},
		{"nothing after the end", true, []any{inLocalHangup{}, inAccept{}, answer, inLocalHangup{}, inFault{broken}, inTick{}}, []string{
			"SendHangup(NORMAL) End(cancelled)", "", "", "", "", ""}},
	} {
		t.Run(test.name, func(t *testing.T) {
			now := t0
			state, _ := newIncoming(realTiming, now)
			if test.caller {
				state, _ = newOutgoing(realTiming, now)
			}
			for i, in := range test.inputs {
				if later, ok := in.(at); ok {
					now, in = now.Add(later.after), later.in
				}
				var effects []effect
				state, effects = state.step(in, now)
				if got := describe(effects); got != test.want[i] {
					t.Errorf("step %d, %T: %q, want %q", i, in, got, test.want[i])
				}
			}
		})
	}
}

// inputs is one of each, in every variety that step tells apart.
func inputs() []input {
	all := []input{
		inRinging{}, inAnswer{[]byte("answer")}, inAccept{}, inCandidates{[]string{"c"}}, inReveal{[]byte("reveal")},
		inLocalAccept{}, inLocalHangup{}, inPrepared{}, inNoRelay{}, inLocalCandidates{[]string{"c"}}, inConnected{"direct"},
		inInterrupted{}, inFirstMedia{}, inUndecryptable{}, inMediaFailed{errUnreachable}, inFault{errUnreachable}, inTick{},
	}
	for reason := range wire.Hangup_Reason_name {
		all = append(all, inHangup{wire.Hangup_Reason(reason)})
	}
	return append(all, inHangup{99})
}

// From every state that any order of inputs leads to: what must never happen does not, and every state has a way out by itself.
func TestCallNeverBreaksItsPromises(t *testing.T) {
	for _, caller := range []bool{true, false} {
		start, first := newIncoming(realTiming, t0)
		if caller {
			start, first = newOutgoing(realTiming, t0)
		}
		checkEffects(t, start, start, nil, first)
		// A ghost remembers what the state may have forgotten.
		type node struct {
			callState
			userAccepted, opened bool
		}
		seen := map[node]bool{{callState: start}: true}
		queue := []node{{callState: start}}
		for len(queue) > 0 {
			from := queue[0]
			queue = queue[1:]
			for _, in := range inputs() {
				for _, elapsed := range []time.Duration{0, 15 * time.Second, time.Minute} {
					state, effects := from.step(in, t0.Add(elapsed))
					to := node{state, from.userAccepted, from.opened}
					if in == any(inLocalAccept{}) {
						to.userAccepted = true
					}
					checkEffects(t, from.callState, state, in, effects)
					for _, e := range effects {
						if _, opens := e.(effOpen); !opens {
							continue
						}
						if from.opened {
							t.Fatalf("caller %v: %T opens devices a second time", caller, in)
						}
						if !caller && !to.userAccepted {
							t.Fatalf("%T opens the callee's devices without its user's accept", in)
						}
						if !state.keyed || !state.accepted {
							t.Fatalf("caller %v: %T opens devices before keys and accept", caller, in)
						}
						to.opened = true
					}
					if !seen[to] {
						seen[to] = true
						queue = append(queue, to)
					}
				}
			}
		}
		t.Logf("caller %v: %d states", caller, len(seen))
	}
}

func checkEffects(t *testing.T, from, to callState, in input, effects []effect) {
	t.Helper()
	ends := 0
	for i, e := range effects {
		_, end := e.(effEnd)
		_, prepare := e.(effPrepare)
		if end {
			ends++
		}
		if (end || prepare) && i != len(effects)-1 {
			t.Fatalf("%T: effects after the last one: %s", in, describe(effects))
		}
	}
	if (ends == 1) != (from.phase != ended && to.phase == ended) {
		t.Fatalf("%T: phase %d to %d with %s", in, from.phase, to.phase, describe(effects))
	}
	if from.phase == ended && (len(effects) != 0 || to != from) {
		t.Fatalf("%T: an ended call did %s", in, describe(effects))
	}
	// Before the accept every state ends by itself; after it the media session watches over the call.
	if to.phase != ended && to.next().IsZero() && !(to.phase == active && to.keyed) {
		t.Fatalf("%T: stuck in %+v", in, to)
	}
}

func TestRandomCallsEndOnce(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	all := inputs()
	for run := range 2000 {
		now := t0
		state, _ := newIncoming(realTiming, now)
		if run%2 == 0 {
			state, _ = newOutgoing(realTiming, now)
		}
		var trace []string
		ends := 0
		for range 60 {
			now = now.Add(time.Duration(random.IntN(3000)) * time.Millisecond)
			in := all[random.IntN(len(all))]
			var effects []effect
			state, effects = state.step(in, now)
			trace = append(trace, fmt.Sprintf("%T: %s", in, describe(effects)))
			for _, e := range effects {
				if _, ok := e.(effEnd); ok {
					ends++
				}
			}
		}
		if ends > 1 {
			t.Fatalf("ended %d times:\n%s", ends, strings.Join(trace, "\n"))
		}
	}
}
