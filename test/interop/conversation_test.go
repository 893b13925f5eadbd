package interop

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

var messages = flag.Int("messages", 1000, "how many messages are sent in each conversation")

// A long conversation over a network that loses, delays, reorders and repeats. Every message that arrives must decrypt to what was
// sent, on both sides, and every repeated one must be known as such.
func TestConversation(t *testing.T) {
	o := startOracle(t)
	for i, role := range []string{"initiator", "recipient"} {
		for _, loss := range []int{0, 30, 70} {
			t.Run(fmt.Sprintf("%s, %d%% lost", role, loss), func(t *testing.T) {
				our, their := meet(t, o)
				n := network{t: t, random: rand.New(rand.NewPCG(uint64(i), uint64(loss))), loss: loss, peers: [2]peer{our, their}}
				if role == "recipient" {
					n.peers = [2]peer{their, our}
				}
				if err := n.peers[0].process(n.peers[1].bundle(true)); err != nil {
					t.Fatal(err)
				}
				for i := range *messages {
					n.send()
					if i%50 == 0 {
						our.restart()
					}
				}
				n.flush()
				epoch := o.epoch(n.last)
				t.Logf("%d sent, %d lost, %d arrived, %d of them late, %d repeated; %d failures; epoch %d",
					n.sent, n.lost, n.arrived, n.reordered, n.repeated, n.failed, epoch)
				if n.failed > 0 {
					t.Errorf("%d messages failed", n.failed)
				}
				// An epoch takes about 91 messages that arrive. With loss it takes the more sent ones: the erasure code has no use for
				// chunks that do not come, and the acknowledgements get lost as well.
				if least := uint64(n.arrived / 200); epoch < least {
					t.Errorf("only epoch %d after %d messages arrived, want %d", epoch, n.arrived, least)
				}
			})
		}
	}
}

// maxDelay is how many messages may overtake one. A turn of the Diffie-Hellman ratchet takes two messages at least, so that the five
// receiving chains kept are enough for every one.
const maxDelay = 8

// network carries messages between two peers. Its clock is the number of messages sent.
type network struct {
	t      *testing.T
	random *rand.Rand
	loss   int // percent
	peers  [2]peer
	from   int // who spoke last
	air    []flying
	heard  bool // the recipient has a session
	newest [2]int
	last   message

	sent, lost, arrived, reordered, repeated, failed int
}

type flying struct {
	message
	text      string
	to        int
	sent, due int
}

// send sends one message, mostly by who spoke last, and delivers what is due. The recipient cannot speak first.
func (n *network) send() {
	if n.random.IntN(10) < 4 {
		n.from = 1 - n.from
	}
	if !n.heard {
		n.from = 0
	}
	n.sent++
	text := fmt.Sprint(n.sent, strings.Repeat(".", n.random.IntN(200)))
	m, err := n.peers[n.from].encrypt(text)
	if err != nil {
		n.t.Fatal(err)
	}
	n.last = m
	if n.random.IntN(100) < n.loss {
		n.lost++
	} else {
		n.air = append(n.air, flying{m, text, 1 - n.from, n.sent, n.sent + n.random.IntN(maxDelay)})
	}
	n.deliver(n.sent)
}

func (n *network) flush() { n.deliver(n.sent + maxDelay) }

// deliver delivers what is due at a time, in random order.
func (n *network) deliver(time int) {
	var due []flying
	n.air = slices.DeleteFunc(n.air, func(f flying) bool {
		if f.due <= time {
			due = append(due, f)
		}
		return f.due <= time
	})
	n.random.Shuffle(len(due), func(i, j int) { due[i], due[j] = due[j], due[i] })
	for _, f := range due {
		n.arrive(f)
	}
}

func (n *network) arrive(f flying) {
	to := n.peers[f.to]
	n.arrived++
	if f.sent < n.newest[f.to] {
		n.reordered++
	}
	n.newest[f.to] = max(n.newest[f.to], f.sent)
	if got, err := to.decrypt(f.message); err != nil || got != f.text {
		n.failed++
		n.t.Errorf("%T: message %d arrived after %d: %d bytes, %v", to, f.sent, n.newest[f.to], len(got), err)
		return
	}
	n.heard = true
	if n.random.IntN(20) == 0 {
		n.repeated++
		if _, err := to.decrypt(f.message); !errors.Is(err, errDuplicate) {
			n.failed++
			n.t.Errorf("%T: message %d a second time: %v", to, f.sent, err)
		}
	}
}
