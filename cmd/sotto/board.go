package main

import (
	"context"
	"slices"
	"sync"

	"sotto/client"
	"sotto/internal/visible"
)

const keyHelp = "m mutes, h puts on hold or goes back, v shows video or not, l saves data or not, q hangs up, ? shows this"

// A board is the calls of one command, and the keys that steer them: a, d and e go to the call that rings, the others to the one that is
// being had.
type board struct {
	out *output

	mu      sync.Mutex
	calls   []*boardCall
	writing *writing // nil where nothing is written
	taught  bool     // how to write
}

// A boardCall is a call on it, as its events tell.
type boardCall struct {
	call   *client.Call
	peer   string
	answer chan byte // what is pressed while it rings; nil if that is not asked
	asked  string    // the question

	taking                                bool // the user has said a or e, and it is not accepted yet
	accepted, held, muted, video, lowData bool
}

// onBoard is a call with what the flags turn on.
func (m *mediaFlags) onBoard(call *client.Call, peer string) *boardCall {
	call.SetLowData(m.lowData)
	return &boardCall{call: call, peer: peer, video: m.video != "", lowData: m.lowData}
}

// keyboard reads keys until the context ends, if there is somebody to press any. The board is nil otherwise.
func keyboard(ctx context.Context, out *output) (b *board, restore func()) {
	if out.json || !out.from.asks() {
		return nil, func() {}
	}
	undo, err := singleKeys(out.from.stdin)
	if err != nil {
		return nil, func() {}
	}
	restore = sync.OnceFunc(undo)   // and not once more when the terminal is closed
	context.AfterFunc(ctx, restore) // a second Ctrl-C kills, and must not leave a terminal without echo
	b = &board{out: out}
	stdin := out.from.input(ctx)
	go func() {
		key := make([]byte, 1)
		for {
			if n, err := stdin.Read(key); err != nil || n == 0 || ctx.Err() != nil {
				return
			}
			b.press(key[0])
		}
	}()
	return b, restore
}

// add puts a call on the board, if there is one and the call is not on it.
func (b *board) add(c *boardCall) (remove func()) {
	if b == nil {
		return func() {}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if slices.Contains(b.calls, c) {
		return func() {}
	}
	b.calls = append(b.calls, c)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.calls = slices.DeleteFunc(b.calls, func(other *boardCall) bool { return other == c })
	}
}

// writes tells whether a person is writing, so that keys do not steer calls.
func (b *board) writes() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.writing != nil && b.writing.open
}

// note takes what happened to a call.
func (b *board) note(c *boardCall, event client.CallEvent) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch event := event.(type) {
	case client.Accepted:
		c.accepted, c.taking = true, false
	case client.Held:
		c.held = true
	case client.Resumed:
		c.held = false
	case client.DeviceFailed:
		if event.Device == "camera" {
			c.video = false
		}
	}
}

// press does what a key stands for.
func (b *board) press(key byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.writing.press(key) {
		return
	}
	if ring := b.ringing(); ring != nil && slices.Contains([]byte("ade"), key) {
		b.answer(ring, key)
		return
	}
	if key == '?' {
		b.help()
		return
	}
	c := b.current()
	if c == nil {
		b.teach(key)
		return
	}
	switch key {
	case 'q':
		c.call.Hangup()
	case 'm':
		b.turn(c, &c.muted, c.call.Mute, visible.Sprintf("muted in the call with %s", c.peer),
			visible.Sprintf("not muted any more in the call with %s", c.peer))
	case 'v':
		b.turn(c, &c.video, c.call.ShowVideo, visible.Sprintf("video is shown in the call with %s", c.peer),
			visible.Sprintf("no video is shown any more in the call with %s", c.peer))
	case 'l':
		low := func(on bool) error { c.call.SetLowData(on); return nil }
		b.turn(c, &c.lowData, low, visible.Sprintf("at most 300 kb/s are sent to %s", c.peer),
			visible.Sprintf("as much as is useful is sent to %s again", c.peer))
	case 'h':
		b.hold(c)
	}
}

// teach says once how to write, to a person who types where there is no call.
func (b *board) teach(key byte) {
	if b.taught || b.writing == nil || key < ' ' || b.ringing() != nil {
		return
	}
	b.taught = true
	b.out.say(nil, "there is no call that a key could steer; %s", writingHelp)
}

// ringing is the call of which it is asked whether it is taken. The client lets no more than one ring.
func (b *board) ringing() *boardCall {
	for _, c := range b.calls {
		if c.answer != nil {
			return c
		}
	}
	return nil
}

// answer hands on what was pressed, unless that cannot be: of all calls one at most is on hold. Then it is asked again.
func (b *board) answer(ring *boardCall, key byte) {
	active := b.current()
	if key == 'a' && active != nil && (active.taking || active.accepted && !active.held) {
		if held := b.otherHeld(active); held != nil {
			b.out.say(nil, "the call with %s cannot be put on hold, as that with %s is: press e to end it and take the call of %s, or d to decline",
				active.peer, held.peer, ring.peer)
			return
		}
	}
	ring.answer <- key
	ring.answer, ring.taking = nil, key != 'd'
}

// help says what may be pressed now.
func (b *board) help() {
	said := false
	if ring := b.ringing(); ring != nil {
		b.out.say(nil, "%s calls: %s", ring.peer, ring.asked)
		said = true
	}
	if c := b.current(); c != nil {
		b.out.say(nil, "%s", keyHelp)
		if other := b.otherHeld(c); other != nil {
			b.out.say(nil, "h goes over to the call with %s", other.peer)
		}
		said = true
	}
	if b.writing != nil {
		b.out.say(nil, "%s", writingHelp)
	}
	if !said {
		b.out.say(nil, "there is no call; Ctrl-C ends")
	}
}

// has tells whether the keys are for this call.
func (b *board) has(c *boardCall) bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.current() == c
}

// calling tells whether a call was accepted, be it on hold.
func (b *board) calling() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.calls, func(c *boardCall) bool { return c.accepted })
}

// own is what this end has turned on.
func (b *board) own(c *boardCall) (muted, video, lowData bool) {
	if b != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
	}
	return c.muted, c.video, c.lowData
}

// hint says how to go on.
func (b *board) hint() string {
	if b == nil {
		return "Ctrl-C hangs up"
	}
	return "? for keys"
}

// current is the call that is being taken or had, or else the last one that there is.
func (b *board) current() *boardCall {
	for _, c := range b.calls {
		if c.taking {
			return c
		}
	}
	for _, c := range b.calls {
		if c.accepted && !c.held {
			return c
		}
	}
	for _, c := range slices.Backward(b.calls) {
		if c.answer == nil {
			return c
		}
	}
	return nil
}

func (b *board) turn(c *boardCall, state *bool, set func(bool) error, on, off visible.Text) {
	if err := set(!*state); err != nil {
		b.out.say(nil, "%s", err)
		return
	}
	*state = !*state
	if *state {
		off = on
	}
	b.out.say(nil, "%s", off)
}

// hold puts the call on hold, or goes back to the one that is.
func (b *board) hold(c *boardCall) {
	on := !c.held
	if other := b.otherHeld(c); other != nil {
		c, on = other, false
	}
	if err := c.call.Hold(on); err != nil {
		b.out.say(nil, "%s", err)
	}
}

func (b *board) otherHeld(c *boardCall) *boardCall {
	for _, other := range b.calls {
		if other != c && other.held {
			return other
		}
	}
	return nil
}
