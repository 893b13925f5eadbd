package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"sotto/client"
	"sotto/internal/visible"
)

type messageLine struct {
	Event    string    `json:"event"` // "message"
	ID       string    `json:"id"`
	From     string    `json:"from"`
	Accepted bool      `json:"accepted"` // among the contacts
	Text     string    `json:"text"`
	Sent     time.Time `json:"sent"`
}

type retryLine struct {
	Event  string `json:"event"` // "undecryptable" or "session_reset"
	Peer   string `json:"peer"`
	Asked  bool   `json:"asked,omitempty"`  // for it to be sent again
	Resent int    `json:"resent,omitempty"` // what is sent again
}

type peerLine struct {
	Event string `json:"event"`
	Peer  string `json:"peer"`
}

type nameLine struct {
	Event string `json:"event"` // "name_disputed"
	Peer  string `json:"peer"`
	Name  string `json:"name"` // which they give themselves
}

type peerDevicesLine struct {
	Event   string `json:"event"`
	Peer    string `json:"peer"`
	Devices int    `json:"devices"`
}

type missedLine struct {
	Event string    `json:"event"` // "missed_call"
	Call  string    `json:"call"`
	Peer  string    `json:"peer"`
	At    time.Time `json:"at"`
	Video bool      `json:"video,omitempty"`
}

func listenCommand() *command {
	var f clientFlags
	var m mediaFlags
	l := listening{answering: answering{media: &m}}
	return &command{
		name:    "listen",
		summary: "Receive messages and calls",
		help: `
Prints messages as they come and says when somebody calls: press a to accept or d to decline, and the keys of "sotto call" in a call.
A second call waits: a puts the other on hold, e ends it. Of all calls one can be on hold. Missed calls are
kept until they were printed, as messages are.

On a terminal you can write as well: "@bob see you at eight" and Enter sends that to bob, Enter alone
begins another line to him, and Enter on an empty line stops. While you write keys do not steer calls.

While it runs your other commands work beside it, run by this process on their own terminals: send,
call, contacts, safety and devices. They come from you alone, by a socket in the account's directory.
They need no passphrase then, and end when this one does.

With --answer every call is accepted at once, also a stranger's, for machines without a person; with --answer=contacts only those of
people whom you have added, written to or called. Others are declined. Who calls while a call goes on hears that this device is busy,
and your others ring on. The caller hears a tone, unless --audio says something else. Calls that you
take with a key use the microphone, others only where you ask for it.
Whoever is answered may learn this machine's address, unless you say --relay-only. Without --answer and without a terminal calls ring
for your other devices, if there are any, and are told of as missed.

With --agent a program speaks in each call, and to your contacts only, unless --answer says otherwise: "sotto call --help" tells how.

Examples:
  sotto listen
  sotto listen --answer --audio tone --record calls/      answer with a tone, keep what is heard and seen
  sotto listen --answer --audio hello.wav --once          answer one call, then end
  sotto listen --agent cat                                let your contacts hear themselves
  sotto listen --agent ./receptionist --answer --record calls/      a program answers everybody
  sotto listen --json | jq -r 'select(.event=="message") | .from + ": " + .text'
`,
		flags: func(flags *pflag.FlagSet) {
			flags.StringVar(&l.answer, "answer", "", "accept calls at once: `all`, or =contacts for those of your contacts only")
			flags.Lookup("answer").NoOptDefVal = answerAll
			flags.BoolVar(&l.once, "once", false, "end after the first call, when no other is left")
			m.define(flags, "tone")
			f.define(flags)
		},
		run: func(ctx context.Context, out *output, args []string) error {
			if err := exactly(0, args, "no argument"); err != nil {
				return err
			}
			m.typed(out.from)
			if err := errors.Join(l.check(), m.check()); err != nil {
				return err
			}
			c, err := f.open(ctx, out, m)
			if err != nil {
				return err
			}
			defer c.Close()
			c.share(ctx, out, "listen")
			if err := m.openStdin(ctx); err != nil {
				return err
			}
			return l.listen(ctx, out, c)
		},
	}
}

// listening is how calls are answered, and how long.
type listening struct {
	answering
	once bool
}

// listen handles what comes until the user has enough.
func (l *listening) listen(ctx context.Context, out *output, c *session) error {
	var restore func()
	l.board, restore = keyboard(ctx, out)
	defer restore()
	if err := c.Start(ctx); err != nil {
		return err
	}
	ctx, hangUp := context.WithCancel(ctx)
	defer l.write(ctx, out, c)()
	var calls sync.WaitGroup
	defer calls.Wait() // with ctx over they hang up, and say what was
	defer hangUp()
	over, going := make(chan error, 1), 0
	told := deliveries{out: out}
	defer told.flush()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-told.settled:
			told.flush()
		case err := <-over:
			if going--; l.once && going == 0 {
				return err
			}
			if err != nil {
				out.say(linkLine{"call_failed", err.Error()}, "%s", err)
			}
		case event, ok := <-c.Events():
			if !ok && ctx.Err() != nil {
				return nil
			}
			if !ok {
				return client.ErrClosed
			}
			if down, ok := event.(client.LinkDown); ok && down.Final {
				return down.Err
			}
			if incoming, ok := event.(client.IncomingCall); ok {
				going++
				calls.Go(func() {
					err := l.receive(ctx, out, incoming)
					select {
					case over <- err:
					case <-ctx.Done():
					}
				})
				continue
			}
			if told.take(event) {
				continue
			}
			if err := showEvent(out, event); err != nil {
				return err
			}
		}
	}
}

// deliveries are what was told in the last moment of messages to one person: several in a row, as
// when both have been away, are one line.
type deliveries struct {
	out     *output
	to      string
	n       int
	settled <-chan time.Time
}

// take tells whether the event is one, which flush prints. For scripts each is an object.
func (d *deliveries) take(event client.Event) bool {
	delivered, ok := event.(client.MessageDelivered)
	if !ok || d.out.json {
		return false
	}
	if d.to != delivered.To {
		d.flush()
	}
	if d.to, d.n = delivered.To, d.n+1; d.settled == nil {
		d.settled = time.After(300 * time.Millisecond)
	}
	return true
}

func (d *deliveries) flush() {
	switch {
	case d.n == 1:
		d.out.say(nil, "delivered to %s", d.to)
	case d.n > 1:
		d.out.say(nil, "%d messages delivered to %s", d.n, d.to)
	}
	d.n, d.settled = 0, nil
}

// write sends the lines that a person at the terminal types, until the returned function is called.
func (l *listening) write(ctx context.Context, out *output, c *session) (stop func()) {
	if l.board == nil {
		return func() {}
	}
	type line struct{ to, text string }
	lines := make(chan line, 16)
	send := func(to, text string) {
		select {
		case lines <- line{to, text}:
		default:
			out.say(nil, "not sent to %s, as others wait: %s", to, visible.Lines(text))
		}
	}
	l.board.mu.Lock()
	l.board.writing = &writing{out: out, send: send}
	l.board.mu.Unlock()
	out.say(nil, "%s", writingHelp)
	var sending sync.WaitGroup
	sending.Go(func() {
		for {
			select {
			case line := <-lines:
				if _, err := c.Send(ctx, line.to, line.text); err != nil {
					out.say(nil, "not sent to %s: %s", line.to, err)
				} else {
					out.say(nil, "%s  to %s: %s", when(time.Now()), line.to, visible.Lines(line.text))
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		sending.Wait()
		for len(lines) > 0 {
			line := <-lines
			out.say(nil, "not sent to %s: %s", line.to, visible.Lines(line.text))
		}
		out.typing("")
	}
}

// showEvent prints everything but calls. A message or missed call is erased from the account directory once it is printed.
func showEvent(out *output, event client.Event) error {
	switch event := event.(type) {
	case client.Message:
		from := event.From.String()
		line := messageLine{"message", event.ID.String(), from, event.From.Accepted, event.Text, event.SentAt}
		err := out.say(line, "%s  %s%s: %s", when(event.SentAt), from, stranger(event.From), visible.Lines(event.Text))
		return done(event, err)
	case client.LinkUp:
		warnOfClock(out, event)
		out.say(linkLine{Event: "link_up"}, "connected; waiting for messages and calls (Ctrl-C ends)")
	case client.LinkDown:
		reason := explain(event.Err)
		out.say(linkLine{"link_down", reason.Error()}, "the server is not reached, trying again in %s: %s",
			event.Retry.Round(100*time.Millisecond), reason)
	case client.MissedCall:
		peer := event.From.String()
		err := out.say(missedLine{"missed_call", event.ID.String(), peer, event.At, event.Video}, "%s  %s%s called, and nobody answered",
			when(event.At), peer, stranger(event.From))
		return done(event, err)
	case client.MessageDelivered:
		out.say(sentLine{Event: "delivered", ID: event.ID.String(), To: event.To}, "delivered to %s", event.To)
	case client.MessageFailed:
		out.say(linkLine{"message_failed", event.Err.Error()}, "a message to %s will not be sent: %s", event.To, event.Err)
	case client.ServerKeyChanged:
		out.say(linkLine{Event: "server_key_changed"},
			"THE SERVER VOUCHES FOR SENDERS WITH ANOTHER KEY THAN BEFORE. It learns who sends, and sealed "+
				"messages wait there, until you have asked its operator why, and then: "+
				"sotto contacts accept-server")
	case client.MailboxFull:
		out.say(sentLine{Event: "mailbox_full", ID: event.ID.String(), To: event.To},
			"%s's mailbox is full: a message waits here until their device has been online",
			event.To)
	case client.IdentityChanged:
		peer := event.Contact.String()
		out.say(peerLine{"identity_changed", peer},
			"THE IDENTITY KEY OF %s HAS CHANGED. Nothing is sent to them, and nothing of theirs shown, until: sotto contacts accept %s", peer, peer)
	case client.NameDisputed:
		peer, name := event.Contact.String(), event.Contact.Claims
		out.say(nameLine{"name_disputed", peer, name}, "YOU WROTE TO %s, AND WHO ANSWERS GOES BY THE NAME "+
			"OF %s. Nothing is sent to them, and nothing of theirs shown, until: sotto contacts rename "+
			"%[1]s %[2]s (or remove %[1]s)", peer, name)
	case client.DirectoryCopied:
		warnOfCopy(out)
	case client.DevicesChanged:
		peer := event.Contact.String()
		out.say(peerDevicesLine{"devices_changed", peer, event.Devices}, "%s has %d device(s) now", peer, event.Devices)
	case client.SenderShown:
		peer := event.Contact.String()
		out.say(peerLine{"sender_shown", peer}, "messages to %s go out under your name for now: the server learns that you write to them", peer)
	case client.Undecryptable, client.SessionReset:
		showRetry(out, event)
	}
	return nil
}

// stranger marks who is not among the contacts.
func stranger(from client.Contact) string {
	if from.Accepted {
		return ""
	}
	return " (not a contact)"
}

// done erases what was printed. What was not is kept, and printed next time.
func done(event interface{ Done() error }, printed error) error {
	if printed != nil {
		return printed
	}
	return event.Done()
}

// when is the time of day, and the date if it is another.
func when(t time.Time) string {
	t = t.Local()
	if t.Format(time.DateOnly) == time.Now().Format(time.DateOnly) {
		return t.Format("15:04")
	}
	return t.Format("2006-01-02 15:04")
}

// showRetry prints what becomes of messages that could not be decrypted, here or at a contact's.
func showRetry(out *output, event client.Event) {
	switch event := event.(type) {
	case client.Undecryptable:
		peer := event.From.String()
		line := retryLine{Event: "undecryptable", Peer: peer, Asked: event.Asked}
		if event.Asked {
			out.say(line, "something from %s could not be decrypted; their device was asked to send it again", peer)
		} else {
			out.say(line, "something from %s could not be decrypted; ask them to send it again", peer)
		}
	case client.SessionReset:
		peer := event.Contact.String()
		line := retryLine{Event: "session_reset", Peer: peer, Resent: event.Resent}
		if event.Resent > 0 {
			out.say(line, "%s could not decrypt something: a new session has begun, and it is sent again (%d)", peer, event.Resent)
		} else {
			out.say(line, "a new session with %s has begun, since something could not be decrypted", peer)
		}
	}
}
