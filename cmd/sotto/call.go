package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"sotto/client"
	"sotto/wire"
)

func callCommand() *command {
	var f clientFlags
	var m mediaFlags
	return &command{
		name:    "call",
		handed:  true,
		args:    "USER",
		summary: "Call somebody",
		help: `
Calls USER and shows the call while it lasts: time, loss, round trip, path, and a code which both ends can read to each other
to know that nobody is in between. On a terminal single keys steer it: m mutes, h puts on hold or goes back, v shows video or not,
l saves data or not, q hangs up, as Ctrl-C does, and ? says so.

On a terminal who else calls meanwhile can be accepted, with this call on hold (a) or ended (e), or declined (d), and messages are
shown. Otherwise callers hear that this device is busy, your others ring on, and messages wait for "sotto listen".

With --agent a program speaks. The shell starts CMD when the call is accepted. Samples are 48 kHz, mono, signed 16 bit, little endian:

  standard input    what is heard. It ends with the call. What is not read within a second is lost
  standard output   what to say. Silence is sent while nothing is written; what is written faster than it is spoken waits
  descriptor 3      what happens, a JSON object a line as --json prints it, the last one with "event":"summary" (not on Windows)
  SOTTO_PEER        the user name of the other end
  standard error    goes where that of sotto does

When CMD ends, what it wrote is spoken, then the call is hung up; a status other than 0 is an error. At the first packet that cannot be
decrypted descriptor 3 says {"event":"undecryptable",...}. If no other comes for a second or two it says {"event":"deaf",...}, standard
input ends at once, the call is hung up, and sotto fails: silence is not given instead.

When the call has ended, also because sotto is interrupted, CMD gets 2 s to end by itself. Then its process group, with whatever
it has started, gets SIGTERM, and 2 s later SIGKILL; so does what CMD leaves behind when it ends.

Examples:
  sotto call bob                               speak with the microphone and speaker of this machine
  sotto call bob --audio tone --for 10s        a tone, for ten seconds
  sotto call bob --audio hello.wav --video clip.ivf --record calls/
      play files (WAV or Ogg/Opus, VP8 in IVF), keep what is heard and seen
  espeak -s 150 --stdout 'Hello, Bob' | sotto call bob --audio -      play standard input as it comes
  sotto call bob --video clip.ivf --screen slides.ivf --low-data
      share a screen as well, and send at most 300 kb/s
  sotto call bob --agent ./reminder            a program speaks
  sotto call bob --agent 'ffmpeg -nostdin -v error -i song.mp3 -ar 48000 -ac 1 -f s16le -'
  sotto call bob --relay-only                  do not let bob see this machine's address
`,
		flags: func(flags *pflag.FlagSet) {
			m.define(flags, "mic")
			f.define(flags)
		},
		run: func(ctx context.Context, out *output, args []string) error {
			if err := exactly(1, args, "a user name"); err != nil {
				return err
			}
			m.typed(out.from)
			if err := m.check(); err != nil {
				return err
			}
			c, err := f.open(ctx, out, m)
			if err != nil {
				return err
			}
			defer c.Close()
			c.share(ctx, out, "call")
			if err := m.openStdin(ctx); err != nil {
				return err
			}
			tracks, err := m.open(args[0])
			if err != nil {
				return err
			}
			defer tracks.Close()
			if err := connect(ctx, out, c); err != nil {
				return err
			}
			b, restore := keyboard(ctx, out)
			defer restore()
			call, err := c.Call(ctx, args[0], client.CallOptions{
				MediaOptions: tracks.options(), Video: true, RelayOnly: m.relayOnly,
				VariableRate: m.variableRate,
			})
			if err != nil {
				return err
			}
			out.say(callLine{Event: "calling", Peer: args[0]}, "calling %s", args[0])
			others := answering{media: &m, board: b}
			return others.during(ctx, out, c, func() error {
				ended, err := follow(ctx, out, b, m.onBoard(call, args[0]), m.limit, tracks)
				return errors.Join(err, endError(ended, args[0]), tracks.Close())
			})
		},
	}
}

// endError makes a sentence of a call that was not had. One that was had and hung up is none.
func endError(ended client.Ended, peer string) error {
	switch ended.Reason {
	case client.Normal, client.Cancelled, client.Elsewhere, client.DeclinedElsewhere:
		return nil
	case client.Declined:
		return fmt.Errorf("%s declined the call", peer)
	case client.Busy:
		return fmt.Errorf("%s is in another call; try again later", peer)
	case client.Timeout:
		return fmt.Errorf("%s did not answer within a minute", peer)
	case client.Unreachable:
		return fmt.Errorf("%s's device is not connected; send a message instead: sotto send %s", peer, peer)
	}
	if refusal := (*client.ServerError)(nil); errors.As(ended.Err, &refusal) &&
		refusal.Code == wire.Error_NOT_FOUND {
		return fmt.Errorf("%w: %s", client.ErrNoSuchUser, peer)
	}
	if ended.Err != nil {
		return fmt.Errorf("the call with %s failed: %w", peer, ended.Err)
	}
	return fmt.Errorf("the call with %s failed", peer)
}
