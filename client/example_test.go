package client_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"sotto/client"
	"sotto/media"
	"sotto/signaling"
)

// exampleServer runs a server in this process, with accounts of these names. Yours runs by "sotto serve".
func exampleServer(names ...string) (people []*client.Client, stop func()) {
	dir, err := os.MkdirTemp("", "sotto")
	check(err)
	server, err := signaling.New(signaling.Config{DataDir: dir + "/server", Names: []string{"127.0.0.1"}, OpenRegistration: true})
	check(err)
	listener, err := signaling.Listen(signaling.ListenConfig{Address: "127.0.0.1:0"})
	check(err)
	go listener.Serve(server.Handler())

	ctx := context.Background()
	for _, name := range names {
		c, err := client.Register(ctx, dir+"/"+name, client.RegisterOptions{
			Server: listener.URL("127.0.0.1"), Username: name, Options: client.Options{Loopback: true},
		})
		check(err)
		check(c.Start(ctx))
		people = append(people, c)
	}
	return people, func() {
		for _, c := range people {
			c.Close()
		}
		listener.Shutdown(ctx)
		server.Shutdown(ctx)
		os.RemoveAll(dir)
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// A message, and the receipt for the next one.
func Example() {
	people, stop := exampleServer("alice", "bob")
	defer stop()
	alice, bob := people[0], people[1]
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()

	// Bob listens and answers.
	go func() {
		for event := range bob.Events() {
			if m, ok := event.(client.Message); ok {
				fmt.Printf("%s: %s\n", m.From, m.Text)
				check(m.Done())
				_, err := bob.Send(ctx, m.From.String(), "Hello, "+m.From.String()+"!")
				check(err)
			}
		}
	}()

	id, err := alice.Send(ctx, "bob", "Hello, bob!")
	check(err)
	check(alice.WaitSent(ctx, id))
	for event := range alice.Events() {
		if m, ok := event.(client.Message); ok {
			fmt.Printf("%s: %s\n", m.From, m.Text)
			check(m.Done())
			break
		}
	}
	// Output:
	// alice: Hello, bob!
	// bob: Hello, alice!
}

// silence is a microphone in a very quiet room.
type silence struct{}

func (silence) ReadFrame(pcm []int16) error { clear(pcm); return nil }

// counter is a speaker that only counts.
type counter struct{ heard chan int }

func (c counter) WriteFrame([]int16) error {
	select {
	case c.heard <- 1:
	default:
	}
	return nil
}

// A call, from the first ring to the last event.
func ExampleClient_Call() {
	people, stop := exampleServer("alice", "bob")
	defer stop()
	alice, bob := people[0], people[1]
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()

	heard := make(chan int, 1)
	devices := client.MediaOptions{
		Microphone: func(context.Context) (media.AudioSource, error) { return silence{}, nil },
		Speaker:    func(context.Context) (media.AudioSink, error) { return counter{heard}, nil },
	}

	// Bob's program accepts: only now his microphone is opened.
	go func() {
		for event := range bob.Events() {
			if incoming, ok := event.(client.IncomingCall); ok {
				check(incoming.Call.Accept(ctx, devices))
			}
		}
	}()

	call, err := alice.Call(ctx, "bob", client.CallOptions{MediaOptions: devices})
	check(err)
	for event := range call.Events() {
		switch e := event.(type) {
		case client.Ringing:
			fmt.Println("it rings")
		case client.Verified:
			fmt.Println("verification code of", len(e.Code)-1, "digits")
		case client.Accepted:
			fmt.Println("accepted")
			go func() {
				<-heard
				check(call.Hangup())
			}()
		case client.Ended:
			fmt.Println("ended:", e.Reason)
		}
	}
	// Output:
	// it rings
	// verification code of 6 digits
	// accepted
	// ended: hung up
}

// A passphrase protects the account's directory; a wrong one opens nothing.
func ExampleOpen() {
	_, err := client.Open("/nonexistent", client.Options{Key: client.Passphrase([]byte("correct horse"))})
	fmt.Println(err)
	// Output:
	// there is no account in /nonexistent: register one first
}
