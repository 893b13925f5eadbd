package interop

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"sotto/e2ee/ratchet"
	"sotto/e2ee/sealed"
)

// theirRequest is what the library makes of a message it could not decrypt, as plaintext content.
func (o *oracle) theirRequest(m message, timestamp uint64, device uint8) []byte {
	o.t.Helper()
	var made struct{ Content []byte }
	o.must("retry.make", args{"type": m.Type, "message": m.Message, "timestamp": timestamp, "device": device}, &made)
	return made.Content
}

// ourRequest is what we make of one.
func ourRequest(t testing.TB, m message, timestamp uint64, device uint8) []byte {
	t.Helper()
	key, err := ratchet.RatchetKey(m.Type, m.Message)
	if err != nil {
		t.Fatal(err)
	}
	return (&ratchet.DecryptionError{RatchetKey: key, Timestamp: timestamp, Device: uint32(device)}).PlaintextContent()
}

// request is what the library reads.
type request struct {
	RatchetKey []byte
	Timestamp  uint64
	Device     uint32
}

func (p *theirs) current(ratchetKey []byte) bool {
	p.t.Helper()
	var answer struct{ Current bool }
	p.must("session.current", p.with(args{"ratchetKey": ratchetKey}), &answer)
	return answer.Current
}

// A request to send a message anew, made of each kind of message from each side, is the same bytes whoever makes it, and is read alike.
func TestRetryFormat(t *testing.T) {
	o := startOracle(t)
	check := func(t *testing.T, m message, current func(*ratchet.DecryptionError) bool) {
		t.Helper()
		for timestamp, device := range map[uint64]uint8{0: 1, 1_700_000_000_000: 2, 1<<53 - 1: 127} {
			content := o.theirRequest(m, timestamp, device)
			if own := ourRequest(t, m, timestamp, device); !bytes.Equal(own, content) {
				t.Fatalf("type %d: we make %x, the library %x", m.Type, own, content)
			}
			e, err := ratchet.ParseDecryptionError(content)
			if err != nil || e.Timestamp != timestamp || e.Device != uint32(device) {
				t.Fatalf("type %d: %v", m.Type, err)
			}
			var read request
			o.must("retry.read", args{"content": content}, &read)
			if !bytes.Equal(read.RatchetKey, e.RatchetKey.Bytes()) || read.Timestamp != timestamp || read.Device != uint32(device) {
				t.Fatalf("the library reads %+v", read)
			}
			if !current(e) {
				t.Fatalf("type %d: not the sender's current ratchet key", m.Type)
			}
		}
	}
	ours := func(p *ours) func(*ratchet.DecryptionError) bool {
		return func(e *ratchet.DecryptionError) bool { return p.record.Current(e.RatchetKey) }
	}
	theirs := func(p *theirs) func(*ratchet.DecryptionError) bool {
		return func(e *ratchet.DecryptionError) bool { return p.current(e.RatchetKey.Bytes()) }
	}
	for range 5 {
		our, their := meet(t, o)
		if err := our.process(their.bundle(true)); err != nil {
			t.Fatal(err)
		}
		first := seal(t, our, "first")
		check(t, first, ours(our))
		expect(t, their, first, "first")
		reply := seal(t, their, "reply")
		check(t, reply, theirs(their))
		expect(t, our, reply, "reply")
		check(t, seal(t, our, "second"), ours(our))

		our, their = meet(t, o)
		if err := their.process(our.bundle(true)); err != nil {
			t.Fatal(err)
		}
		check(t, seal(t, their, "first"), theirs(their))
	}
	if _, err := ratchet.RatchetKey(sealed.TypePlaintext, nil); err == nil {
		t.Error("plaintext content has a ratchet key")
	}
}

// asks sends a request as sealed sender carries it, from the side whose session broke to the other, and returns what that one reads.
func (a *authority) asks(our *ours, their *theirs, fromUs bool, content []byte) *ratchet.DecryptionError {
	t := a.o.t
	t.Helper()
	now := time.Now()
	if fromUs {
		b, err := sealed.Seal(our.local.Identity, their.identity, &sealed.Content{
			Type: sealed.TypePlaintext, Sender: a.ours(our, now.Add(time.Hour)), Message: content, Hint: sealed.HintImplicit,
		})
		if err != nil {
			t.Fatal(err)
		}
		got, err := a.openTheirs(their, b, now)
		if err != nil || !got.Valid || got.MsgType != sealed.TypePlaintext || got.Sender.UUID != our.name() ||
			!bytes.Equal(got.Contents, content) {
			t.Fatalf("the library finds %+v, %v", got, err)
		}
		var read request
		a.o.must("retry.read", args{"content": got.Contents}, &read)
		key, err := ratchet.ParsePublicKey(read.RatchetKey)
		if err != nil {
			t.Fatal(err)
		}
		return &ratchet.DecryptionError{RatchetKey: key, Timestamp: read.Timestamp, Device: read.Device}
	}
	var made struct{ Message []byte }
	certificate := a.theirs(their, now.Add(time.Hour))
	their.must("sealed.plaintext", their.with(args{"content": content, "certificate": certificate, "contentHint": 2}), &made)
	c, err := sealed.Open(our.local.Identity, a.root, made.Message, now)
	if err != nil || c.Type != sealed.TypePlaintext || c.Hint != sealed.HintImplicit || !bytes.Equal(c.Message, content) {
		t.Fatalf("we find %+v, %v", c, err)
	}
	e, err := ratchet.ParseDecryptionError(c.Message)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// A session that one side has lost steps of is mended: what failed arrives, and what follows.
func TestRetry(t *testing.T) {
	eachAuthority(t, func(t *testing.T, o *oracle, a *authority) {
		for _, initiator := range []string{"ours", "theirs"} {
			t.Run("started by "+initiator, func(t *testing.T) {
				our, their := meet(t, o)
				o.t = t
				if initiator == "ours" {
					start(t, our, their, true)
					say(t, their, our, "answer")
				} else {
					start(t, their, our, true)
					say(t, our, their, "answer")
				}
				for round := range 4 {
					theirLoss, fromUs := round%2 == 0, round%2 == 1
					text := fmt.Sprint("round ", round)

					// One side goes back to what it was some messages ago.
					their.must("party.save", args{"party": their.party, "as": "before"}, nil)
					before := our.record.Marshal()
					for range 3 {
						say(t, our, their, text)
						say(t, their, our, text)
					}
					if theirLoss {
						their.must("party.restore", args{"party": their.party, "as": "before"}, nil)
					} else {
						var err error
						if our.record, err = ratchet.UnmarshalRecord(before); err != nil {
							t.Fatal(err)
						}
					}

					// The other one's message then fails, and is asked for anew.
					if theirLoss {
						failed := seal(t, our, text)
						refuse(t, their, failed, false)
						e := a.asks(our, their, fromUs, o.theirRequest(failed, 1, our.local.Address.Device))
						if !our.record.Current(e.RatchetKey) || e.Device != uint32(our.local.Address.Device) {
							t.Fatal("the request does not name our session")
						}
						our.record.Archive()
						our.restart()
						if _, err := our.encrypt(text); !errors.Is(err, ratchet.ErrNoSession) {
							t.Fatal("an archived session sends:", err)
						}
						start(t, our, their, true)
						if our.record.Current(e.RatchetKey) {
							t.Fatal("the request would reset the new session as well")
						}
					} else {
						failed := seal(t, their, text)
						refuse(t, our, failed, false)
						e := a.asks(our, their, fromUs, ourRequest(t, failed, 1, their.device))
						if !their.current(e.RatchetKey.Bytes()) || e.Device != uint32(their.device) {
							t.Fatal("the request does not name their session")
						}
						their.must("session.archive", their.with(args{}), nil)
						start(t, their, our, true)
						if their.current(e.RatchetKey.Bytes()) {
							t.Fatal("the request would reset the new session as well")
						}
					}
					for range 3 {
						say(t, our, their, text)
						say(t, their, our, text)
					}
				}
			})
		}
	})
}
