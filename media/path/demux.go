package path

// A Kind is what a datagram carries, told by its first bytes.
type Kind int

const (
	Unknown Kind = iota
	STUN
	DTLS
	RTP
	RTCP
)

// Demultiplex tells the protocols apart that share one path (RFC 7983 section 7), and RTCP from RTP (RFC 5761 section 4).
func Demultiplex(datagram []byte) Kind {
	if len(datagram) == 0 {
		return Unknown
	}
	switch first := datagram[0]; {
	case first <= 3:
		return STUN
	case first >= 20 && first <= 63:
		return DTLS
	case first >= 128 && first <= 191:
		switch {
		case len(datagram) < 8: // neither header fits
			return Unknown
		case datagram[1] >= 192 && datagram[1] <= 223: // RTCP packet types; as RTP they would be payload types 64 to 95
			return RTCP
		case len(datagram) < 12:
			return Unknown
		}
		return RTP
	}
	return Unknown
}
