package demo

import (
	"time"
)

// A Report is what the demo saw. Every number in it was counted while it ran.
type Report struct {
	Event   string    `json:"event"` // "report"
	Started time.Time `json:"started"`
	Steps   []Step    `json:"steps"`

	Call       Call        `json:"call"`
	Directions []Direction `json:"directions"` // alice to bob, bob to alice
	Server     ServerView  `json:"server_saw"`
	Relay      RelayView   `json:"relay_saw"`
	Search     Search      `json:"search"`
	Claims     []Claim     `json:"claims"`
	Folder     string      `json:"folder"`
	Files      []File      `json:"files"`
}

// A Step is one line of what happened.
type Step struct {
	Event string  `json:"event"` // "step"
	At    Seconds `json:"at"`    // since the start
	Took  Seconds `json:"took"`
	Who   string  `json:"who"`
	What  string  `json:"what"`
}

// Seconds print as a number in JSON.
type Seconds float64

func seconds(d time.Duration) Seconds { return Seconds(d.Round(10 * time.Microsecond).Seconds()) }

// Call is what both ends agree on.
type Call struct {
	Cipher           string   `json:"cipher"`
	Path             []string `json:"path"`              // at alice, at bob
	VerificationCode []string `json:"verification_code"` // at alice, at bob
	SafetyNumber     []string `json:"safety_number"`     // at alice, at bob
	RingAfter        Seconds  `json:"ring_after"`        // from alice's call to bob's ring
	AcceptToMedia    Seconds  `json:"accept_to_media"`   // from bob's accept to the later of both ends' first media
	CallToMedia      Seconds  `json:"call_to_media"`
	RoundTrip        Seconds  `json:"round_trip"`
	Duration         Seconds  `json:"duration"`
}

// Direction is what one end sent and the other received.
type Direction struct {
	From           string  `json:"from"`
	To             string  `json:"to"`
	Message        string  `json:"message"`
	MessageTook    Seconds `json:"message_took"`
	AudioSent      int     `json:"audio_frames_sent"`
	AudioHeard     int     `json:"audio_frames_heard"`
	AudioConcealed int     `json:"audio_frames_concealed"`
	Similarity     float64 `json:"audio_similarity"`
	Wrong          float64 `json:"audio_similarity_to_other_speaker"` // the same measure where it must fail
	Loss           float64 `json:"loss"`                              // share of packets
	VideoSent      int     `json:"video_frames_sent"`
	VideoReceived  int     `json:"video_frames_received"`
	VideoIdentical int     `json:"video_frames_identical"`
	Undecryptable  int     `json:"undecryptable_packets"`

	messageRead string
}

// ServerView is counted on the bytes that passed the server.
type ServerView struct {
	Connections   int     `json:"connections"`
	Bytes         int     `json:"bytes"`
	Envelopes     int     `json:"envelopes"`
	Named         int     `json:"named_envelopes"` // of these, what came over a link that says whose it is
	SealedBytes   int     `json:"sealed_bytes"`
	SealedEntropy float64 `json:"sealed_bits_per_byte"`
}

// RelayView is counted on the bytes that passed the relay.
type RelayView struct {
	Datagrams     int     `json:"datagrams"`
	Bytes         int     `json:"bytes"`
	MediaPackets  int     `json:"media_packets"`
	Checks        int     `json:"connectivity_checks"`
	SealedBytes   int     `json:"sealed_bytes"`
	SealedEntropy float64 `json:"sealed_bits_per_byte"`
}

// Search is one search, run over the bytes of each.
type Search struct {
	Patterns int            `json:"patterns"`
	Server   map[string]int `json:"found_at_server"`
	Relay    map[string]int `json:"found_at_relay"`
	Ends     map[string]int `json:"found_at_ends"` // the control: here it must find
	Planted  map[string]int `json:"found_planted"` // the other control: the relay's and server's bytes with one of each kind slipped in
}

// A Claim is one sentence the demo makes, and whether the numbers bear it out.
type Claim struct {
	Holds  bool   `json:"holds"`
	Claim  string `json:"claim"`
	Detail string `json:"detail"`
}

// A File was written for the reader to listen to or look at.
type File struct {
	Name string `json:"name"`
	What string `json:"what"`
}

// Failed lists the claims that do not hold.
func (r *Report) Failed() []Claim {
	var failed []Claim
	for _, c := range r.Claims {
		if !c.Holds {
			failed = append(failed, c)
		}
	}
	return failed
}

func (r *Report) claim(holds bool, claim, detail string) {
	r.Claims = append(r.Claims, Claim{holds, claim, detail})
}
