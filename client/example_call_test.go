package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"sotto/client"
	"sotto/media"
	"sotto/media/file"
)

// An intercom takes calls of those who are listed, at once, and of nobody else; and one at a time.
func Example_intercom() {
	people, stop := exampleServer("alice", "bob", "carol")
	defer stop()
	alice, bob, carol := people[0], people[1], people[2]
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()

	listed := map[string]bool{"alice": true, "carol": true}
	for name := range listed { // strangers do not ring beside a call, and ever less often
		_, err := bob.AddContact(ctx, name)
		check(err)
	}
	heard := make(chan int, 1)
	devices := client.MediaOptions{
		Microphone: func(context.Context) (media.AudioSource, error) { return silence{}, nil },
		Speaker:    func(context.Context) (media.AudioSink, error) { return counter{heard}, nil },
	}
	go func() {
		for event := range bob.Events() {
			switch e := event.(type) {
			case client.IncomingCall:
				// The name is the server's word until the safety number was compared (Contact.Verified).
				if e.Waiting {
					e.Call.Busy() // to accept it would put the call that goes on on hold
					continue
				}
				if from := e.Call.Peer(); !listed[from.Username] || from.Changed {
					e.Call.Decline()
					continue
				}
				if err := e.Call.Accept(ctx, devices); err != nil && !errors.Is(err, client.ErrCallEnded) {
					fmt.Println("the intercom:", err)
				}
			case interface{ Done() error }:
				e.Done() // a text or a missed call, of no use to an intercom: it would be kept, and one day there were too many
			}
		}
	}()

	call, err := alice.Call(ctx, "bob", client.CallOptions{MediaOptions: devices})
	check(err)
	<-heard
	fmt.Println("the intercom is open")
	second, err := carol.Call(ctx, "bob", client.CallOptions{MediaOptions: devices})
	check(err)
	<-second.Done()
	fmt.Println("carol's call beside it:", second.End())
	check(call.Hangup())
	<-call.Done()
	// Output:
	// the intercom is open
	// carol's call beside it: busy
}

// A queue takes frames from one place and yields them in another, or else silence. It never waits: while a microphone does nothing is
// sent, and whoever watches the network sees the pauses of a conversation.
type queue chan []int16

func (q queue) WriteFrame(pcm []int16) error {
	select {
	case q <- slices.Clone(pcm):
	default: // what is sent does not keep up
	}
	return nil
}

func (q queue) ReadFrame(pcm []int16) error {
	select {
	case frame := <-q:
		copy(pcm, frame)
	default:
		clear(pcm)
	}
	return nil
}

// An echo bot answers every call, one at a time, and each caller hears themselves, half a second later.
func Example_echoBot() {
	people, stop := exampleServer("alice", "bob")
	defer stop()
	alice, bot := people[0], people[1]
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()

	go func() {
		for event := range bot.Events() {
			switch e := event.(type) {
			case client.IncomingCall:
				if e.Waiting {
					e.Call.Busy() // or the call that goes on would be put on hold
					continue
				}
				echo := make(queue, 100) // of this call
				for range 25 {
					echo.WriteFrame(make([]int16, media.FrameSamples))
				}
				go e.Call.Accept(ctx, client.MediaOptions{
					Microphone: func(context.Context) (media.AudioSource, error) { return echo, nil },
					Speaker:    func(context.Context) (media.AudioSink, error) { return echo, nil },
				})
			case interface{ Done() error }: // a text or a missed call
				e.Done()
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
	if slices.Max(pcm) > 4000 {
		select {
		case m.loud <- true:
		default:
		}
	}
	return nil
}

// converse lets an agent speak in a call until it returns. Both streams are raw samples: 48 kHz, mono, signed 16 bit, little endian. Should
// what arrives not be decryptable, hear ends with an error: an agent that was given silence in its place would take it for an answer. At
// the end of the call it ends with io.EOF.
func converse(ctx context.Context, call *client.Call, agent func(hear io.Reader, say io.Writer)) error {
	hear, ears := io.Pipe()
	said, say := io.Pipe()
	mouth := make(queue, 5)
	go func() { // what the agent says, at the pace of the call
		for source := file.NewPCMReader(said); ; {
			frame := make([]int16, media.FrameSamples)
			if source.ReadFrame(frame) != nil {
				return
			}
			select {
			case mouth <- frame:
			case <-call.Done():
				said.Close()
				return
			}
		}
	}()
	go func() { // how the call goes
		for event := range call.Events() {
			switch e := event.(type) {
			case client.MediaUndecryptable:
				if e.Deaf {
					ears.CloseWithError(e.Err)
					call.Hangup()
				}
			case client.Ended:
				ears.CloseWithError(e.Err) // nil is io.EOF; it does nothing if there was an error before
			}
		}
	}()
	go func() {
		agent(hear, say)
		hear.Close()
		say.Close()
		call.Hangup()
	}()
	return call.Accept(ctx, client.MediaOptions{
		Microphone: func(context.Context) (media.AudioSource, error) { return mouth, nil },
		Speaker:    func(context.Context) (media.AudioSink, error) { return file.NewPCMWriter(ears), nil },
	})
}

// A voice agent reads and writes samples. This one listens for a second, and repeats it until the other end hangs up.
func Example_voiceAgent() {
	people, stop := exampleServer("alice", "bob")
	defer stop()
	alice, bob := people[0], people[1]
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()

	ended := make(chan error, 1)
	agent := func(hear io.Reader, say io.Writer) {
		second := make([]byte, 2*media.SampleRate)
		_, err := io.ReadFull(hear, second)
		if err == nil {
			fmt.Println("the agent has heard a second")
			go func() {
				for err := error(nil); err == nil; {
					_, err = say.Write(second)
				}
			}()
			_, err = io.Copy(io.Discard, hear)
		}
		ended <- err // nil: with the call
	}
	go func() {
		for event := range bob.Events() {
			switch e := event.(type) {
			case client.IncomingCall:
				if e.Waiting {
					e.Call.Busy() // one conversation at a time
					continue
				}
				if err := converse(ctx, e.Call, agent); err != nil && !errors.Is(err, client.ErrCallEnded) {
					fmt.Println("the agent:", err)
				}
			case interface{ Done() error }: // a text or a missed call
				e.Done()
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
	fmt.Println("alice hears the agent")
	check(call.Hangup())
	<-call.Done()
	fmt.Println("the agent's input ended:", <-ended)
	// Output:
	// the agent has heard a second
	// alice hears the agent
	// the agent's input ended: <nil>
}
