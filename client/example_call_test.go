package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"sotto/client"
	"sotto/media"
	"sotto/media/file"
)

// An intercom takes calls of those who are listed, at once, and of nobody else.
func Example_intercom() {
	alice, bob, stop := exampleServer()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()

	listed := map[string]bool{"alice": true}
	heard := make(chan int, 1)
	devices := client.MediaOptions{
		Microphone: func(context.Context) (media.AudioSource, error) { return silence{}, nil },
		Speaker:    func(context.Context) (media.AudioSink, error) { return counter{heard}, nil },
	}
	go func() {
		for event := range bob.Events() {
			incoming, ok := event.(client.IncomingCall)
			if !ok {
				continue
			}
			// The name is the server's word until the safety number was compared (Contact.Verified).
			if from := incoming.Call.Peer(); !listed[from.Username] || from.Changed {
				incoming.Call.Decline()
				continue
			}
			if err := incoming.Call.Accept(ctx, devices); err != nil && !errors.Is(err, client.ErrCallEnded) {
				fmt.Println("the intercom:", err)
			}
		}
	}()

	call, err := alice.Call(ctx, "bob", client.CallOptions{MediaOptions: devices})
	check(err)
	<-heard
	fmt.Println("the intercom is open")
	check(call.Hangup())
	<-call.Done()
	// Output:
	// the intercom is open
}

// An echo says what it hears, half a second later.
type echo struct{ frames chan []int16 }

func newEcho() echo {
	e := echo{make(chan []int16, 100)}
	for range 25 {
		e.frames <- make([]int16, media.FrameSamples)
	}
	return e
}

func (e echo) WriteFrame(pcm []int16) error {
	select {
	case e.frames <- append([]int16(nil), pcm...):
	default: // what is sent does not keep up
	}
	return nil
}

// ReadFrame does not wait: without a frame there is silence, and the call goes on.
func (e echo) ReadFrame(pcm []int16) error {
	select {
	case frame := <-e.frames:
		copy(pcm, frame)
	default:
		clear(pcm)
	}
	return nil
}

// An echo bot answers every call, and each caller hears themselves.
func Example_echoBot() {
	alice, bot, stop := exampleServer()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()

	go func() {
		for event := range bot.Events() {
			if incoming, ok := event.(client.IncomingCall); ok {
				e := newEcho() // of this call
				go incoming.Call.Accept(ctx, client.MediaOptions{
					Microphone: func(context.Context) (media.AudioSource, error) { return e, nil },
					Speaker:    func(context.Context) (media.AudioSink, error) { return e, nil },
				})
			}
		}
	}()

	loud := make(chan bool, 1)
	call, err := alice.Call(ctx, "bob", client.CallOptions{MediaOptions: client.MediaOptions{
		Microphone: func(context.Context) (media.AudioSource, error) { return file.Tone(440), nil },
		Speaker:    func(context.Context) (media.AudioSink, error) { return meter{loud}, nil },
	}})
	check(err)
	<-loud
	fmt.Println("alice hears herself")
	check(call.Hangup())
	<-call.Done()
	// Output:
	// alice hears herself
}

// meter is a speaker that tells when it is loud.
type meter struct{ loud chan bool }

func (m meter) WriteFrame(pcm []int16) error {
	for _, sample := range pcm {
		if sample > 4000 {
			select {
			case m.loud <- true:
			default:
			}
			break
		}
	}
	return nil
}

// voiceAgent hears and speaks raw samples: 48 kHz, mono, signed 16 bit, little endian. hear and speak are pipes to what recognises speech
// and makes it. Should what arrives not be decryptable, hear ends with an error: an agent that was given silence in its place would take
// it for an answer.
type voiceAgent struct {
	hear  *io.PipeReader
	ears  *io.PipeWriter
	mouth io.Reader
}

func (a *voiceAgent) devices() client.MediaOptions {
	return client.MediaOptions{
		Microphone: func(context.Context) (media.AudioSource, error) { return file.NewPCMReader(a.mouth), nil },
		Speaker:    func(context.Context) (media.AudioSink, error) { return file.NewPCMWriter(a.ears), nil },
	}
}

// follow tells the agent how its call goes.
func (a *voiceAgent) follow(call *client.Call) {
	for event := range call.Events() {
		switch e := event.(type) {
		case client.MediaUndecryptable:
			a.ears.CloseWithError(e.Err)
			call.Hangup()
		case client.Ended:
			a.ears.CloseWithError(e.Err) // nil is io.EOF; it does nothing if there was an error before
		}
	}
}

// A voice agent reads and writes samples.
func Example_voiceAgent() {
	alice, bob, stop := exampleServer()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()

	ended := make(chan error)
	go func() {
		for event := range bob.Events() {
			incoming, ok := event.(client.IncomingCall)
			if !ok {
				continue
			}
			agent := &voiceAgent{}
			agent.hear, agent.ears = io.Pipe()
			agent.mouth = quiet{} // what makes speech
			go agent.follow(incoming.Call)
			go func() {
				second := make([]byte, 2*media.SampleRate)
				if _, err := io.ReadFull(agent.hear, second); err != nil {
					ended <- err
					return
				}
				fmt.Println("the agent has heard a second")
				check(incoming.Call.Hangup())
				_, err := io.Copy(io.Discard, agent.hear)
				ended <- err // nil: the end of the call
			}()
			check(incoming.Call.Accept(ctx, agent.devices()))
		}
	}()

	call, err := alice.Call(ctx, "bob", client.CallOptions{MediaOptions: client.MediaOptions{
		Microphone: func(context.Context) (media.AudioSource, error) { return file.Tone(440), nil },
	}})
	check(err)
	<-call.Done()
	fmt.Println("the agent's input ended:", <-ended)
	// Output:
	// the agent has heard a second
	// the agent's input ended: <nil>
}

// quiet is a program that writes zeros.
type quiet struct{}

func (quiet) Read(b []byte) (int, error) { clear(b); return len(b), nil }
