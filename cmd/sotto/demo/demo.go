// Package demo shows the whole system at work in one process tree: a real server and relay on loopback, two accounts, a message
// each way, a call with speech and pictures, and a report of what each party saw. It measures everything it says, and says
// where a claim does not hold.
//
//  1. start the server and the relay, each behind a tap that writes down every byte
//  2. register alice and bob, with invitations
//  3. a message each way
//  4. alice calls, bob accepts, both speak and show a clip for a while, alice hangs up
//  5. compare what was heard and seen with what was said and shown; search what the taps wrote down for anything of it
//  6. write the sound, the pictures and the report to a folder
package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"sotto/client"
	"sotto/media"
)

// Config says how to run the demo.
type Config struct {
	Direct bool          // a direct path; otherwise the relay only
	For    time.Duration // how long they talk
	Folder string        // where the files go; it is made

	Speech [2][]int16            // what alice and bob say
	Clips  [2][]media.VideoFrame // what alice and bob show

	OnStep     func(Step)                                     // each step as it happens
	OnProgress func(elapsed time.Duration, stats media.Stats) // while they talk; alice's end
	OnReport   func(*Report)
	// Keep is called, if it is not nil, before the server and the relay are taken down, with the server's URL and an invitation.
	Keep func(url, invitation string)
	Log  *slog.Logger
}

const (
	tail     = 400 * time.Millisecond // what is said last is in the listener's buffer for so long
	patience = 15 * time.Second       // for cameras that a busy machine slows down, and pictures still missing when they have finished
)

// A run is one demo while it runs.
type run struct {
	Config
	start  time.Time
	mark   time.Time // when the step now running began
	report *Report
	system *system
	alice  *person
	bob    *person
}

// Run runs the demo and returns its report, whether the claims hold or not.
func Run(ctx context.Context, cfg Config) (_ *Report, err error) {
	r := &run{Config: cfg, start: time.Now(), mark: time.Now(), report: &Report{Event: "report", Started: time.Now(), Folder: cfg.Folder}}
	r.alice = newPerson("alice", cfg.Speech[0], cfg.Clips[0], cfg.For)
	r.bob = newPerson("bob", cfg.Speech[1], cfg.Clips[1], cfg.For)
	if err := os.MkdirAll(cfg.Folder, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the folder for the results; choose another with --out: %w", err)
	}
	directory, err := os.MkdirTemp("", "sotto-demo-")
	if err != nil {
		return nil, err
	}
	if r.system, err = startSystem(directory, cfg.Log); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.system.stop()) }()
	r.step("system", "server on %s and relay on %s, each behind a tap that writes down every byte", r.system.serverAddr, r.system.relayAddr)

	if err := r.perform(ctx); err != nil {
		return nil, err
	}
	if err := r.evaluate(); err != nil {
		return nil, err
	}
	if r.OnReport != nil {
		r.OnReport(r.report)
	}
	if r.Keep != nil {
		r.system.serverTap.forget()
		r.system.relayTap.forget()
		invitation, err := r.system.server.NewInvitation(24*time.Hour, 2)
		if err != nil {
			return nil, err
		}
		r.Keep(r.system.url(), invitation)
	}
	return r.report, nil
}

// perform is everything alice and bob do.
func (r *run) perform(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, r.alice.close(), r.bob.close()) }()
	for _, act := range []func(context.Context) error{r.register, r.write, r.call, r.talk, r.hangUp} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	for _, p := range []*person{r.alice, r.bob} {
		if p.safety, err = p.client.SafetyNumber(r.other(p).name); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) other(p *person) *person {
	if p == r.alice {
		return r.bob
	}
	return r.alice
}

func newPerson(name string, speech []int16, clip []media.VideoFrame, length time.Duration) *person {
	return &person{name: name, mouth: newMouth(speech, length), ear: &ear{}, camera: newCamera(clip, length), eye: &eye{}}
}

// step ends a step: what was done, and how long it took.
func (r *run) step(who, format string, args ...any) time.Duration {
	now := time.Now()
	s := Step{"step", seconds(now.Sub(r.start)), seconds(now.Sub(r.mark)), who, fmt.Sprintf(format, args...)}
	r.report.Steps = append(r.report.Steps, s)
	if r.OnStep != nil {
		r.OnStep(s)
	}
	took := now.Sub(r.mark)
	r.mark = now
	return took
}

func (r *run) register(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for _, p := range []*person{r.alice, r.bob} {
		if err := p.register(ctx, r.system, !r.Direct); err != nil {
			return err
		}
		if err := p.connect(ctx); err != nil {
			return err
		}
		r.step(p.name, "registered with an invitation; made keys that stay on %s's device", p.name)
	}
	return nil
}

func (r *run) write(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for i, m := range []struct {
		from, to *person
		text     string
	}{
		{r.alice, r.bob, "Shall we talk? I have something to show you."},
		{r.bob, r.alice, "Yes, call me now. Nobody else is listening."},
	} {
		if err := m.from.message(ctx, m.to, m.text); err != nil {
			return err
		}
		took := r.step(m.from.name, "→ %s: %q", m.to.name, m.text)
		r.report.Directions = append(r.report.Directions, Direction{
			From: m.from.name, To: m.to.name, Message: m.text, MessageTook: seconds(took),
		})
		r.report.Directions[i].messageRead = m.to.got
	}
	return nil
}

// call ends when sound has arrived at both ends and both show the verification code.
func (r *run) call(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var err error
	called := time.Now()
	options := client.CallOptions{MediaOptions: r.alice.media(), Video: true, RelayOnly: !r.Direct}
	if r.alice.call, err = r.alice.client.Call(ctx, "bob", options); err != nil {
		return fmt.Errorf("alice cannot call: %w", err)
	}
	event, err := await(ctx, r.bob, func(event client.Event) bool {
		_, incoming := event.(client.IncomingCall)
		return incoming
	})
	if err != nil {
		return fmt.Errorf("bob does not hear of the call: %w", err)
	}
	r.bob.call = event.(client.IncomingCall).Call
	r.report.Call.RingAfter = seconds(time.Since(called))
	r.step("alice", "calls; bob's device rings")

	accepted := time.Now()
	if err := r.bob.call.Accept(ctx, r.bob.media()); err != nil {
		return fmt.Errorf("bob cannot accept: %w", err)
	}
	if err := together(
		func() error { return r.alice.follow(ctx, r.alice.inCall) },
		func() error { return r.bob.follow(ctx, r.bob.inCall) },
	); err != nil {
		return err
	}
	both := later(r.alice.mediaAt, r.bob.mediaAt)
	r.report.Call.AcceptToMedia = seconds(both.Sub(accepted))
	r.report.Call.CallToMedia = seconds(both.Sub(called))
	r.step("bob", "accepts; both can hear each other, and both see the code %s", r.alice.code)
	return nil
}

// talk lets the mouths and cameras finish, and what they sent arrive.
func (r *run) talk(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.New("interrupted")
		}
		elapsed := time.Since(began)
		if r.OnProgress != nil {
			r.OnProgress(min(elapsed, r.For), r.alice.call.Stats())
		}
		arrived := r.alice.sees(r.bob) && r.bob.sees(r.alice)
		if elapsed > r.For+tail && (arrived || elapsed > r.For+patience) {
			r.report.Call.Duration = seconds(r.For)
			r.step("both", "talked and showed each other a clip for %s", r.For)
			return nil
		}
	}
}

func (r *run) hangUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r.alice.stats, r.bob.stats = r.alice.call.Stats(), r.bob.call.Stats()
	if err := r.alice.call.Hangup(); err != nil {
		return fmt.Errorf("alice cannot hang up: %w", err)
	}
	if err := together(
		func() error { return r.alice.follow(ctx, r.alice.over) },
		func() error { return r.bob.follow(ctx, r.bob.over) },
	); err != nil {
		return err
	}
	r.step("alice", "hangs up; the call ends at bob: %s", r.bob.ended.Reason)
	return nil
}

// together runs both at the same time and returns the first failure of either.
func together(one, other func() error) error {
	failed := make(chan error, 1)
	go func() { failed <- other() }()
	return errors.Join(one(), <-failed)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
