package vp8

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"
)

const patience = 100 * time.Millisecond

type sent struct {
	sequence  uint64
	timestamp uint32
	marker    bool
	payload   []byte
}

// stream makes n frames, every tenth a key frame, and their packets numbered from 1.
func stream(n int) (frames [][]byte, packets []sent) {
	random := rand.New(rand.NewPCG(3, 4))
	packetizer := NewPacketizer(100)
	for i := range n {
		frame := make([]byte, 1+random.IntN(400))
		for j := range frame {
			frame[j] = byte(random.Uint32())
		}
		frame[0] |= 1
		if i%10 == 0 {
			frame[0] &^= 1
		}
		frames = append(frames, frame)
		payloads := packetizer.Packetize(frame)
		for j, payload := range payloads {
			packets = append(packets, sent{uint64(len(packets)) + 1, uint32(i) * 3000, j == len(payloads)-1, payload})
		}
	}
	return frames, packets
}

func pop(a *Assembler, now time.Time) (frames []*Frame, asked bool) {
	for {
		frame, ask := a.Pop(now)
		asked = asked || ask
		if frame == nil {
			return frames, asked
		}
		frames = append(frames, frame)
	}
}

func TestFramesArriveAsTheyWere(t *testing.T) {
	frames, packets := stream(500) // picture ids of one byte and of two
	for name, shuffle := range map[string]int{"in order": 1, "reordered": 20} {
		t.Run(name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(5, 6))
			a, now := NewAssembler(patience), time.Unix(1000, 0)
			var got []*Frame
			for begin := 0; begin < len(packets); begin += shuffle {
				block := append([]sent(nil), packets[begin:min(begin+shuffle, len(packets))]...)
				random.Shuffle(len(block), func(i, j int) { block[i], block[j] = block[j], block[i] })
				for _, p := range block {
					a.Push(p.sequence, p.timestamp, p.marker, p.payload, now)
					more, asked := pop(a, now)
					if asked {
						t.Fatal("asked for a key frame without a loss")
					}
					got = append(got, more...)
				}
			}
			if len(got) != len(frames) || a.Lost() != 0 {
				t.Fatalf("%d of %d frames, %d lost", len(got), len(frames), a.Lost())
			}
			for i, frame := range got {
				if !bytes.Equal(frame.Data, frames[i]) || frame.Timestamp != uint32(i)*3000 || frame.Key != (i%10 == 0) {
					t.Fatalf("frame %d is not what was sent", i)
				}
			}
		})
	}
}

func TestALostPacketIsWaitedForThenGivenUp(t *testing.T) {
	frames, packets := stream(40)
	lost := -1 // the first packet of frame 12
	for i, p := range packets {
		if p.timestamp == 12*3000 && lost < 0 {
			lost = i
		}
	}
	start := time.Unix(1000, 0)

	t.Run("it comes late", func(t *testing.T) {
		a := NewAssembler(patience)
		for i, p := range packets {
			if i != lost {
				a.Push(p.sequence, p.timestamp, p.marker, p.payload, start)
			}
		}
		if got, asked := pop(a, start); len(got) != 12 || asked {
			t.Fatalf("%d frames, asked %v", len(got), asked)
		}
		p := packets[lost]
		a.Push(p.sequence, p.timestamp, p.marker, p.payload, start.Add(patience/2))
		if got, asked := pop(a, start.Add(patience/2)); len(got) != 28 || asked {
			t.Errorf("%d frames, asked %v", len(got), asked)
		}
	})
	t.Run("it comes when the process has stood still", func(t *testing.T) {
		a := NewAssembler(3 * patience)
		for i, p := range packets {
			if i != lost {
				a.Push(p.sequence, p.timestamp, p.marker, p.payload, start)
			}
		}
		pop(a, start)
		later := start.Add(time.Minute)
		if got, asked := pop(a, later); len(got) != 0 || asked {
			t.Fatalf("gave up without having waited: %d frames, asked %v", len(got), asked)
		}
		p := packets[lost]
		a.Push(p.sequence, p.timestamp, p.marker, p.payload, later)
		if got, _ := pop(a, later); len(got) != 28 {
			t.Errorf("%d frames", len(got))
		}
	})
	t.Run("the end of the last frame comes very late", func(t *testing.T) {
		a := NewAssembler(patience)
		last := packets[len(packets)-1]
		if last.timestamp != packets[len(packets)-2].timestamp {
			t.Fatal("the last frame has one packet only")
		}
		for _, p := range packets[:len(packets)-1] {
			a.Push(p.sequence, p.timestamp, p.marker, p.payload, start)
		}
		pop(a, start)
		for wait := patience / 2; wait < 5*patience; wait += patience / 2 {
			if got, asked := pop(a, start.Add(wait)); len(got) != 0 || asked {
				t.Fatalf("%d frames, asked %v", len(got), asked)
			}
		}
		a.Push(last.sequence, last.timestamp, last.marker, last.payload, start.Add(5*patience))
		if got, _ := pop(a, start.Add(5*patience)); len(got) != 1 {
			t.Errorf("%d frames", len(got))
		}
	})
	t.Run("it never comes, a key frame is here", func(t *testing.T) {
		a := NewAssembler(patience)
		for i, p := range packets {
			if i != lost {
				a.Push(p.sequence, p.timestamp, p.marker, p.payload, start)
			}
		}
		pop(a, start)
		got, _ := pop(a, start.Add(patience))
		if len(got) != 20 || !got[0].Key || !bytes.Equal(got[0].Data, frames[20]) || a.Lost() != 8 {
			t.Errorf("%d frames, %d lost", len(got), a.Lost())
		}
	})
	t.Run("it never comes, a key frame must be asked for", func(t *testing.T) {
		a := NewAssembler(patience)
		next := 0
		for ; packets[next].timestamp < 16*3000; next++ {
			if p := packets[next]; next != lost {
				a.Push(p.sequence, p.timestamp, p.marker, p.payload, start)
			}
		}
		pop(a, start)
		if got, asked := pop(a, start.Add(patience)); len(got) != 0 || !asked {
			t.Fatalf("%d frames, asked %v", len(got), asked)
		}
		if _, asked := pop(a, start.Add(patience+keyFrameRetry/2)); asked {
			t.Error("asked again too soon")
		}
		if _, asked := pop(a, start.Add(patience+keyFrameRetry)); !asked {
			t.Error("not asked again")
		}
		var got []*Frame
		for _, p := range packets[next:] {
			a.Push(p.sequence, p.timestamp, p.marker, p.payload, start.Add(2*time.Second))
			more, _ := pop(a, start.Add(2*time.Second))
			got = append(got, more...)
		}
		if len(got) != 20 || !got[0].Key || a.Lost() != 8 {
			t.Errorf("%d frames, %d lost", len(got), a.Lost())
		}
	})
}

// Whatever comes, nothing panics, memory is bounded, and nothing is delivered that builds on a frame that was not.
func FuzzAssembler(f *testing.F) {
	_, packets := stream(12)
	var script []byte
	for _, p := range packets {
		script = append(script, byte(p.sequence), byte(len(p.payload)))
		script = append(script, p.payload...)
	}
	f.Add(script, uint8(0))
	f.Add([]byte{1, 3, 0x90, 0x80, 0x01, 9, 2, 0x10, 0x00}, uint8(30))
	f.Fuzz(func(t *testing.T, script []byte, step uint8) {
		a, now := NewAssembler(patience), time.Unix(1000, 0)
		first := true
		var sequence uint64
		for len(script) >= 2 {
			n := min(int(script[1]), len(script)-2)
			sequence = sequence&^0xff | uint64(script[0])
			if script[0] == 255 {
				sequence += 0x100
			}
			a.Push(sequence, uint32(script[1]), script[1]%3 == 0, script[2:2+n], now)
			script = script[2+n:]
			now = now.Add(time.Duration(step) * time.Millisecond)
			frames, _ := pop(a, now)
			for _, frame := range frames {
				if first && !frame.Key {
					t.Error("the first frame delivered is not a key frame")
				}
				first = false
			}
			if len(a.packets) > window {
				t.Errorf("%d packets held", len(a.packets))
			}
		}
	})
}
