package main

import (
	"context"
	"errors"
	"fmt"

	"sotto/client"
)

type incomingLine struct {
	Event    string `json:"event"` // "incoming"
	Peer     string `json:"peer"`
	Accepted bool   `json:"accepted"` // among the contacts
	Verified bool   `json:"verified"`
	Changed  bool   `json:"changed,omitempty"` // another identity key has appeared
	Waiting  bool   `json:"waiting,omitempty"` // beside another call
}

const (
	answerAll      = "all"
	answerContacts = "contacts"
)

// answering is how calls that come are answered.
type answering struct {
	answer string // answerAll, answerContacts, or empty: ask
	media  *mediaFlags
	board  *board // nil: there is nobody to ask
	beside bool   // a call of the user's own
}

func (a *answering) check() error {
	switch a.answer {
	case "", answerAll, answerContacts:
	default:
		return usageError{fmt.Errorf("--answer is all or contacts, not %q", a.answer)}
	}
	if a.media.agent != "" && a.answer == "" {
		a.answer = answerContacts
	}
	return nil
}

// during runs the user's own call, and takes what comes meanwhile, until no call is left. Others ring if there is somebody to ask; otherwise
// this device is busy. What becomes of them is told, and is nothing that this command fails of.
func (a *answering) during(ctx context.Context, out *output, c *session, own func() error) error {
	a.beside = true
	over, events := make(chan error), c.Events()
	var result error
	go func() {
		result = own()
		over <- nil
	}()
	for going := 1; going > 0; {
		select {
		case err := <-over:
			going--
			if err != nil {
				out.say(linkLine{"call_failed", err.Error()}, "%s", err)
			}
		case event, ok := <-events:
			if !ok {
				events = nil // closed
				continue
			}
			switch event := event.(type) {
			case client.IncomingCall:
				going++
				go func() { over <- a.receive(ctx, out, event) }()
			case client.LinkUp, client.LinkDown: // calls have events of their own for that
			default:
				if a.board != nil { // somebody reads; texts wait for "sotto listen" otherwise, as does what cannot be printed
					_ = showEvent(out, event)
				}
			}
		}
	}
	return result
}

// receive asks, or answers by itself, and follows the call to its end.
func (a *answering) receive(ctx context.Context, out *output, incoming client.IncomingCall) error {
	call := incoming.Call
	from := call.Peer()
	peer := from.String()
	entry := a.media.onBoard(call, peer)
	say := func(what string) {
		line := incomingLine{"incoming", peer, from.Accepted, from.Verified, from.Changed, incoming.Waiting}
		out.say(line, "%s%s", whoCalls(from), what)
	}
	accept, speaks := call.Accept, a.media
	beside := a.beside || incoming.Waiting || a.board.calling()
	switch {
	case beside && (a.answer != "" || a.board == nil):
		say("; this device says that it is busy, as there is a call already") // without a person no call is put on hold for another
		call.Busy()
		_, err := follow(ctx, out, a.board, entry, 0, nil)
		return err
	case a.answer == answerAll, a.answer == answerContacts && from.Accepted:
		say("")
	case a.answer == answerContacts:
		say("; declined, as only contacts are answered")
		return a.decline(ctx, out, entry)
	case a.board == nil:
		say("; it rings here, where nobody can answer (--answer accepts calls)")
		_, err := follow(ctx, out, nil, entry, 0, nil)
		return err
	default:
		defer a.board.add(entry)()
		entry.asked = "a accepts, d declines"
		if incoming.Waiting {
			entry.asked = "a holds the other call and accepts, e ends the other and accepts, d declines"
		}
		if a.board.writes() {
			entry.asked += " (first leave what you write: Ctrl-U, then Enter)"
		}
		key := a.ask(ctx, entry, func() {
			out.bell()
			say(": " + entry.asked)
		})
		if key == 'd' {
			return a.decline(ctx, out, entry)
		}
		if key == 'e' {
			accept = call.AcceptInstead
		}
		speaks = a.media.spoken(out)
	}
	tracks, err := speaks.open(peer)
	if err != nil {
		call.Decline()
		return err
	}
	if err := accept(ctx, tracks.options()); err != nil && !errors.Is(err, client.ErrCallEnded) {
		call.Decline()
		return errors.Join(fmt.Errorf("cannot accept the call of %s: %w", peer, err), tracks.Close())
	}
	ended, err := follow(ctx, out, a.board, entry, a.media.limit, tracks)
	return errors.Join(err, endError(ended, peer), tracks.Close())
}

func (a *answering) decline(ctx context.Context, out *output, entry *boardCall) error {
	entry.call.Decline()
	_, err := follow(ctx, out, a.board, entry, 0, nil)
	return err
}

// whoCalls says how well the caller is known.
func whoCalls(from client.Contact) string {
	switch peer := from.String(); {
	case from.Changed:
		return peer + ", WHOSE IDENTITY KEY HAS CHANGED, calls under the old one"
	case from.Verified:
		return peer + " (verified) calls"
	case !from.Accepted:
		return peer + ", who is not among your contacts, calls"
	default:
		return peer + " calls"
	}
}

// ask waits for a key of the user's, or the end of the call, which is on the board.
func (a *answering) ask(ctx context.Context, entry *boardCall, say func()) byte {
	answer := make(chan byte, 1)
	expect := func(c chan byte) {
		a.board.mu.Lock()
		defer a.board.mu.Unlock()
		entry.answer = c
	}
	expect(answer)
	defer expect(nil)
	say()
	select {
	case key := <-answer:
		return key
	case <-entry.call.Done():
	case <-ctx.Done():
	}
	return 'd'
}
