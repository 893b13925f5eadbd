package demo

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"sotto/client"
	"sotto/media"
)

// A person is one account with a mouth, an ear, a camera and an eye.
type person struct {
	name   string
	client *client.Client
	mouth  *mouth
	ear    *ear
	camera *camera
	eye    *eye

	// What came to pass in the call, at this end.
	call       *client.Call
	acceptedAt time.Time
	mediaAt    time.Time
	code       string
	ended      client.Ended
	stats      media.Stats
	safety     string // number shared with the other
	got        string // the message that arrived
}

func (p *person) register(ctx context.Context, s *system, relayOnly bool) error {
	token, err := s.server.NewInvitation(time.Minute, 1)
	if err != nil {
		return err
	}
	p.client, err = client.Register(ctx, filepath.Join(s.directory, p.name), client.RegisterOptions{
		Options: client.Options{RelayOnly: relayOnly, Loopback: true},
		Server:  s.url(), Username: p.name, Invitation: token,
	})
	if err != nil {
		return fmt.Errorf("%s cannot register: %w", p.name, err)
	}
	return nil
}

// connect brings the link up; it lasts until close.
func (p *person) connect(ctx context.Context) error {
	if err := p.client.Start(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	_, err := await(ctx, p, func(event client.Event) bool {
		_, up := event.(client.LinkUp)
		return up
	})
	return err
}

// media are the person's senses, opened by the call once it is accepted.
func (p *person) media() client.MediaOptions {
	return client.MediaOptions{
		Microphone: func(context.Context) (media.AudioSource, error) { return p.mouth, nil },
		Camera:     func(context.Context) (media.VideoSource, error) { return p.camera, nil },
		Speaker:    func(context.Context) (media.AudioSink, error) { return p.ear, nil },
		Screen:     func(context.Context) (media.VideoSink, error) { return p.eye, nil },
	}
}

// await takes events until one fits.
func await(ctx context.Context, p *person, fits func(client.Event) bool) (client.Event, error) {
	for {
		select {
		case event, ok := <-p.client.Events():
			if !ok {
				return nil, client.ErrClosed
			}
			if down, ok := event.(client.LinkDown); ok {
				return nil, fmt.Errorf("%s lost the server: %w", p.name, down.Err)
			}
			if fits(event) {
				return event, nil
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// message sends text to another person and waits until it is there.
func (p *person) message(ctx context.Context, to *person, text string) error {
	if _, err := p.client.Send(ctx, to.name, text); err != nil {
		return fmt.Errorf("%s cannot write to %s: %w", p.name, to.name, err)
	}
	event, err := await(ctx, to, func(event client.Event) bool {
		_, arrived := event.(client.Message)
		return arrived
	})
	if err != nil {
		return fmt.Errorf("%s's message does not arrive: %w", p.name, err)
	}
	message := event.(client.Message)
	to.got = message.Text
	return message.Done()
}

// follow notes what happens to the call at this end, and returns at the end of the call, or when until says so.
func (p *person) follow(ctx context.Context, until func() bool) error {
	for !until() {
		select {
		case event, ok := <-p.call.Events():
			if !ok {
				return fmt.Errorf("the call ended at %s", p.name)
			}
			switch event := event.(type) {
			case client.Accepted:
				p.acceptedAt = time.Now()
			case client.FirstMedia:
				p.mediaAt = time.Now()
			case client.Verified:
				p.code = event.Code
			case client.MediaUndecryptable:
				return fmt.Errorf("packets arrive at %s that the call's keys do not open", p.name)
			case client.Ended:
				p.ended = event
				if !until() {
					return fmt.Errorf("the call ended at %s: %s %w", p.name, event.Reason, event.Err)
				}
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (p *person) inCall() bool { return !p.mediaAt.IsZero() && p.code != "" }
func (p *person) over() bool   { return p.ended.Reason != client.NotEnded }

// sees reports whether everything the other showed has arrived.
// sees reports whether all that the other's camera will ever show has arrived.
func (p *person) sees(other *person) bool {
	count, finished := other.camera.count()
	return finished && len(p.eye.frames()) >= count
}

func (p *person) close() error {
	if p.client == nil {
		return nil
	}
	return p.client.Close()
}
