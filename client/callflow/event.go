package callflow

// An Event is what happens to an Endpoint: one of the types below.
type Event any

// Received is a message of another device, authenticated by the session with it.
type Received struct {
	From    Address
	Call    CallID
	Sent    uint64 // by its sender's clock, Unix milliseconds: tells which of two messages of one device is the older
	Message Message
}

// What the local user does.
type (
	PlaceCall struct {
		Call  CallID // new
		Peer  Account
		Video bool // the call may show pictures
	}
	AcceptCall struct {
		Call     CallID
		Camera   bool // in a call with pictures, show this end's
		EndOther bool // end the call there is, instead of putting it on hold
	}
	HangUp   struct{ Call CallID } // also declines
	BusyHere struct{ Call CallID } // refuses for this device: those of the account's others ring on
	Mute     struct {
		Call CallID
		On   bool
	}
	Hold struct { // off: resume
		Call CallID
		On   bool
	}
	ShowVideo struct {
		Call CallID
		On   bool
	}
	ShareScreen struct {
		Call CallID
		On   bool
	}
)

// What comes of effects.
type (
	// Prepared says that media sessions and, at the caller's end, offers are there: one for each of the devices named.
	Prepared struct {
		Call    CallID
		Devices [MaxLegs]uint8 // at the caller's end; 0: none
	}
	// NoRelay says that preparing would show this device's address to somebody who is no contact.
	NoRelay struct{ Call CallID }
	// PathReady has the credentials of a path that RestartPath asked for.
	PathReady struct {
		Call   CallID
		Device uint8
		Path   Path
	}
	// Fault says that an effect failed, or that the server refused an envelope. Device 0: not of one leg only.
	Fault struct {
		Call   CallID
		Device uint8
		Err    error
	}
)

// What media sessions report.
type (
	LocalCandidates struct {
		Call       CallID
		Device     uint8
		Candidates Candidates
	}
	Connected     Leg // there is a path, for the first time or again
	Stalled       Leg // nothing has arrived for a moment: the path may be dead
	Interrupted   Leg // nothing has arrived for some seconds, or the path failed
	FirstMedia    Leg // something of the peer's was decrypted
	Undecryptable Leg // something of the peer's could not be
	KeyChanged    Leg // the peer was heard, and now nothing that comes can be decrypted; FirstMedia follows if that ends
)

// A Leg is a call with one device of the other end.
type Leg struct {
	Call   CallID
	Device uint8
}

type (
	// NetworkChanged says that this device has other addresses than before.
	NetworkChanged struct{}
	// DirectAllowed says that this device's address may show from now on, in a call that could only use relays.
	DirectAllowed Leg
	// DeviceRemoved says that a device is no longer on its account's list.
	DeviceRemoved struct{ Address Address }
	// Tick says that the time of Next has come.
	Tick struct{}
)
