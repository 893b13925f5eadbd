package signaling

import (
	"crypto/subtle"
	"net/http"

	"sotto/wire"
)

var errOtherChannel = unauthenticated(wire.Error_OTHER_CHANNEL,
	"Something between the device and the server ends TLS. Pass TCP through.")

// sameChannel compares the channel binding that a device sends with that of the connection it came
// over. They differ if somebody in between ends TLS, and then the device can never log in
// (wire.AuthenticationToSign): it must hear so before it uses up a name and an invitation. Older
// clients send none and find out later.
//
// This finds honest proxies. One that forges the binding gains nothing: the login is signed.
func sameChannel(claimed []byte, binding [wire.ChannelBindingSize]byte) error {
	if len(claimed) > 0 && subtle.ConstantTimeCompare(claimed, binding[:]) != 1 {
		return errOtherChannel
	}
	return nil
}

// overSameChannel is sameChannel for a request that is no link's beginning.
func overSameChannel(claimed []byte, r *http.Request) error {
	binding, err := wire.ChannelBinding(r.TLS)
	if err != nil {
		return badRequest("This needs TLS 1.3.")
	}
	return sameChannel(claimed, binding)
}
