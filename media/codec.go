package media

import "time"

type audioEncoder interface {
	Encode(pcm []int16, packet []byte) (int, error)
}

type jitterBuffer interface {
	Push(sequence uint16, timestamp uint32, payload []byte, arrival time.Time)
	Pull(pcm []int16) (concealed bool)
}

type nothing struct{}

func (nothing) Encode(pcm []int16, packet []byte) (int, error) {
	return copy(packet, "opus is on its way"), nil
}
func (nothing) Push(uint16, uint32, []byte, time.Time) {}
func (nothing) Pull([]int16) bool                      { return true }
func newAudioEncoder() (audioEncoder, error)           { return nothing{}, nil }
func newJitterBuffer() (jitterBuffer, error)           { return nothing{}, nil }
