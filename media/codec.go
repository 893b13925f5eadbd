package media

import "time"

type jitterBuffer interface {
	Push(sequence uint16, timestamp uint32, payload []byte, arrival time.Time)
	Pull(pcm []int16) (concealed bool)
}

type nothing struct{}

func (nothing) Push(uint16, uint32, []byte, time.Time) {}
func (nothing) Pull([]int16) bool                      { return true }
func newJitterBuffer() (jitterBuffer, error)           { return nothing{}, nil }
