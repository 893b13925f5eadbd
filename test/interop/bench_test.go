//go:build unix

package interop

import (
	"encoding/json"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"sotto/e2ee/ratchet"
	"sotto/e2ee/safety"
	"sotto/e2ee/sealed"
	"sotto/e2ee/senderkey"
)

// A contest is one operation on both sides. Each function does it n times and says how much CPU time that took.
type contest struct {
	n            int
	ours, theirs func(n int) time.Duration
}

// BenchmarkBesideLibrary does the same operations here and in Signal's library, turn by turn so that both see the same machine, and reports
// medians of the CPU time, which is what they take on one core. The library is measured inside node, without the pipe:
//
//	go test -run '^$' -bench BesideLibrary -benchtime 20x -cpu 1 ./test/interop
//
// It reads and stores the session's record with every message; ours is timed without that, and with it.
func BenchmarkBesideLibrary(b *testing.B) {
	o := startOracle(b)
	for _, c := range []struct {
		name  string
		begin func(testing.TB, *oracle) contest
	}{
		{"encrypt", func(t testing.TB, o *oracle) contest { return encrypting(t, o, false) }},
		{"encrypt-stored", func(t testing.TB, o *oracle) contest { return encrypting(t, o, true) }},
		{"decrypt", func(t testing.TB, o *oracle) contest { return decrypting(t, o, false) }},
		{"decrypt-stored", func(t testing.TB, o *oracle) contest { return decrypting(t, o, true) }},
		{"start-initiator", initiating},
		{"start-recipient", accepting},
		{"sealed-seal", sealing},
		{"sealed-open", opening},
		{"group-encrypt", groupEncrypting},
		{"group-decrypt", groupDecrypting},
		{"safety-number", comparing},
	} {
		b.Run(c.name, func(b *testing.B) {
			contest := c.begin(b, o)
			contest.ours(contest.n)
			contest.theirs(contest.n) // both are warm now
			var ours, theirs, ratios []float64
			for b.Loop() {
				our, their := contest.ours(contest.n).Seconds(), contest.theirs(contest.n).Seconds()
				ours, theirs, ratios = append(ours, our), append(theirs, their), append(ratios, our/their)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(1e6/float64(contest.n)*median(ours), "sotto-µs")
			b.ReportMetric(1e6/float64(contest.n)*median(theirs), "library-µs")
			b.ReportMetric(median(ratios), "ratio")
		})
	}
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

var benchText = make([]byte, 100)

// timed does f n times.
func timed(n int, f func()) time.Duration {
	begun := cpuTime()
	for range n {
		f()
	}
	return cpuTime() - begun
}

func cpuTime() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		panic(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// batch does the library's operations one after the other, and fills results, if it is not nil, with what they return.
func (o *oracle) batch(requests []args, results any) time.Duration {
	o.t.Helper()
	var done struct {
		Microseconds int64
		Results      json.RawMessage
	}
	o.must("batch", args{"requests": requests}, &done)
	if results != nil {
		if err := json.Unmarshal(done.Results, results); err != nil {
			o.t.Fatal(err)
		}
	}
	return time.Duration(done.Microseconds) * time.Microsecond
}

func repeat(n int, request args) []args { return slices.Repeat([]args{request}, n) }

// ourPair has a session that both sides have used; so has theirPair.
func ourPair(t testing.TB) (alice, bob *ours) {
	alice, bob = newOurs(t), newOurs(t)
	alice.remote = ratchet.Remote{Address: bob.local.Address, Identity: bob.local.Identity.Public()}
	bob.remote = ratchet.Remote{Address: alice.local.Address, Identity: alice.local.Identity.Public()}
	start(t, alice, bob, true)
	say(t, bob, alice, "answer")
	return alice, bob
}

func theirPair(t testing.TB, o *oracle) (alice, bob *theirs) {
	alice, bob = newTheirs(o, uuid.NewString()), newTheirs(o, uuid.NewString())
	alice.remote, bob.remote = bob.address(), alice.address()
	start(t, alice, bob, true)
	say(t, bob, alice, "answer")
	return alice, bob
}

func (p *theirs) encrypting() args {
	return p.with(args{"op": "encrypt", "plaintext": benchText})
}

func encrypting(t testing.TB, o *oracle, stored bool) contest {
	alice, _ := ourPair(t)
	theirAlice, _ := theirPair(t, o)
	return contest{1000, func(n int) time.Duration {
		return timed(n, func() {
			if stored {
				alice.restart()
			}
			if _, err := alice.record.Encrypt(alice.local, alice.remote, benchText, alice.now); err != nil {
				t.Fatal(err)
			}
		})
	}, func(n int) time.Duration { return o.batch(repeat(n, theirAlice.encrypting()), nil) }}
}

func decrypting(t testing.TB, o *oracle, stored bool) contest {
	alice, bob := ourPair(t)
	theirAlice, theirBob := theirPair(t, o)
	return contest{1000, func(n int) time.Duration {
		messages := make([]message, n)
		for i := range messages {
			messages[i] = seal(t, alice, string(benchText))
		}
		return timed(n, func() {
			if stored {
				bob.restart()
			}
			if _, err := bob.record.Decrypt(bob.local, bob.remote, messages[0].Type, messages[0].Message, bob.keys, bob.now); err != nil {
				t.Fatal(err)
			}
			messages = messages[1:]
		})
	}, func(n int) time.Duration {
		var messages []message
		o.batch(repeat(n, theirAlice.encrypting()), &messages)
		requests := make([]args, n)
		for i, m := range messages {
			requests[i] = theirBob.with(args{"op": "decrypt", "type": m.Type, "message": m.Message})
		}
		return o.batch(requests, nil)
	}}
}

// initiating is from the bundle to the first message.
func initiating(t testing.TB, o *oracle) contest {
	alice, bob := ourPair(t)
	bundle := bob.bundle(true)
	theirAlice, theirBob := theirPair(t, o)
	request := theirAlice.with(args{"bundle": theirBob.bundle(true)})
	step := func(op string) args {
		return args{"op": op, "party": request["party"], "remote": request["remote"], "bundle": request["bundle"], "plaintext": benchText}
	}
	return contest{50, func(n int) time.Duration {
		return timed(n, func() {
			alice.record = new(ratchet.Record)
			if err := alice.process(bundle); err != nil {
				t.Fatal(err)
			}
			if _, err := alice.record.Encrypt(alice.local, alice.remote, benchText, alice.now); err != nil {
				t.Fatal(err)
			}
		})
	}, func(n int) time.Duration {
		return o.batch(slices.Repeat([]args{step("session.delete"), step("bundle.process"), step("encrypt")}, n), nil)
	}}
}

// accepting is the first message's decryption.
func accepting(t testing.TB, o *oracle) contest {
	alice, bob := newOurs(t), newOurs(t)
	alice.remote = ratchet.Remote{Address: bob.local.Address, Identity: bob.local.Identity.Public()}
	bob.remote = ratchet.Remote{Address: alice.local.Address, Identity: alice.local.Identity.Public()}
	if err := alice.process(bob.bundle(true)); err != nil {
		t.Fatal(err)
	}
	first := seal(t, alice, string(benchText))
	theirBob := newTheirs(o, uuid.NewString())
	return contest{20, func(n int) time.Duration {
		return timed(n, func() {
			if _, err := new(ratchet.Record).Decrypt(bob.local, bob.remote, first.Type, first.Message, bob.keys, bob.now); err != nil {
				t.Fatal(err)
			}
		})
	}, func(n int) time.Duration {
		requests := make([]args, n)
		for i := range requests {
			from := newTheirs(o, uuid.NewString())
			from.remote = theirBob.address()
			if err := from.process(theirBob.bundle(true)); err != nil {
				t.Fatal(err)
			}
			m := seal(t, from, string(benchText))
			requests[i] = args{"op": "decrypt", "party": theirBob.party, "remote": from.address(), "type": m.Type, "message": m.Message}
		}
		return o.batch(requests, nil)
	}}
}

// sealing and opening are without the session's message inside. Opening checks the certificate.
func sealing(t testing.TB, o *oracle) contest {
	seal, requests, _, _ := sealedPair(t, o)
	return contest{100, func(n int) time.Duration { return timed(n, func() { seal() }) },
		func(n int) time.Duration { return o.batch(repeat(n, requests), nil) }}
}

func opening(t testing.TB, o *oracle) contest {
	seal, request, open, openRequest := sealedPair(t, o)
	ours := seal()
	var theirs []struct{ Message []byte }
	o.batch([]args{request}, &theirs)
	return contest{100, func(n int) time.Duration { return timed(n, func() { open(ours) }) },
		func(n int) time.Duration { return o.batch(repeat(n, openRequest(theirs[0].Message)), nil) }}
}

func sealedPair(t testing.TB, o *oracle) (seal func() []byte, sealRequest args, open func([]byte), openRequest func([]byte) args) {
	a := ourAuthority(o)
	alice, bob := ourPair(t)
	theirAlice, theirBob := theirPair(t, o)
	expires := time.Now().Add(time.Hour)
	inner := (&ratchet.DecryptionError{Timestamp: 1, Device: 1}).PlaintextContent()
	content := &sealed.Content{Type: sealed.TypePlaintext, Sender: a.ours(alice, expires), Message: inner}
	seal = func() []byte {
		b, err := sealed.Seal(alice.local.Identity, alice.remote.Identity, content)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	open = func(b []byte) {
		if _, err := sealed.Open(bob.local.Identity, a.root, b, bob.now); err != nil {
			t.Fatal(err)
		}
	}
	sealRequest = theirAlice.with(args{"op": "sealed.plaintext", "content": inner, "certificate": a.theirs(theirAlice, expires)})
	openRequest = func(b []byte) args {
		return args{"op": "sealed.open", "party": theirBob.party, "message": b, "trustRoot": a.root[:]}
	}
	return seal, sealRequest, open, openRequest
}

func groupEncrypting(t testing.TB, o *oracle) contest {
	sender := senderkey.NewSender(senderkey.DistributionID(uuid.New()))
	their := newTheirMember(o)
	their.distribution()
	return contest{200, func(n int) time.Duration {
		return timed(n, func() {
			if _, err := sender.Encrypt(benchText); err != nil {
				t.Fatal(err)
			}
		})
	}, func(n int) time.Duration { return o.batch(repeat(n, their.sealing()), nil) }}
}

func (m *theirMember) sealing() args {
	return args{"op": "group.encrypt", "party": m.party, "distributionId": m.id, "plaintext": benchText}
}

func groupDecrypting(t testing.TB, o *oracle) contest {
	sender := senderkey.NewSender(senderkey.DistributionID(uuid.New()))
	receiver := senderkey.NewReceiver(sender.DistributionID())
	if err := receiver.Add(sender.Distribution()); err != nil {
		t.Fatal(err)
	}
	theirSender, theirReceiver := newTheirMember(o), newTheirMember(o)
	theirReceiver.accept(theirSender, theirSender.distribution())
	return contest{200, func(n int) time.Duration {
		messages := make([][]byte, n)
		for i := range messages {
			messages[i], _ = sender.Encrypt(benchText)
		}
		return timed(n, func() {
			if _, err := receiver.Decrypt(messages[0]); err != nil {
				t.Fatal(err)
			}
			messages = messages[1:]
		})
	}, func(n int) time.Duration {
		var messages []struct{ Message []byte }
		o.batch(repeat(n, theirSender.sealing()), &messages)
		requests := make([]args, n)
		for i, m := range messages {
			requests[i] = args{"op": "group.decrypt", "party": theirReceiver.party, "sender": theirSender.address(), "message": m.Message}
		}
		return o.batch(requests, nil)
	}}
}

func comparing(_ testing.TB, o *oracle) contest {
	var keys [2][33]byte
	var ids [2][]byte
	for i := range keys {
		keys[i] = [33]byte(ratchet.GenerateKeyPair().Public().Bytes())
		id := uuid.New()
		ids[i] = id[:]
	}
	request := args{"op": "fingerprint", "localId": ids[0], "localKey": keys[0][:], "remoteId": ids[1], "remoteKey": keys[1][:]}
	return contest{20, func(n int) time.Duration { return timed(n, func() { safety.Number(keys[0], keys[1], ids[0], ids[1]) }) },
		func(n int) time.Duration { return o.batch(repeat(n, request), nil) }}
}
