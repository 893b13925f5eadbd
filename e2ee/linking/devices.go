package linking

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"

	"google.golang.org/protobuf/proto"

	"sotto/e2ee/xeddsa"
	"sotto/wire"
)

const (
	accountSize       = 16
	identityKeySize   = 33
	identityKeyType   = 0x05
	signatureSize     = 64
	maxRegistrationID = 16380
)

var errTooLarge = errors.New("this is too much for one linking: send fewer pre-keys or contacts")

// SealRequest signs a new device's public keys with its identity key, into d.Signature, and seals d. The new device keeps the blob: it
// sends the very same again when an answer was lost, and OpenReply needs it.
func (c Code) SealRequest(d *wire.NewDevice, private *[32]byte) ([]byte, error) {
	slot := c.Slot()
	d.Signature = sign(private, wire.NewDeviceToSign(c.name, slot[:], d))
	plaintext, err := proto.Marshal(d)
	if err != nil {
		return nil, err
	}
	blob := c.seal(requestInfo, nil, plaintext, freshNonce())
	if len(blob) > wire.MaxLinkRequest {
		return nil, errTooLarge
	}
	return blob, nil
}

// OpenRequest returns the device that asks, its signature verified. Its pre-keys are looked at by the server, and by who uses them.
func (c Code) OpenRequest(blob []byte) (*wire.NewDevice, error) {
	if len(blob) > wire.MaxLinkRequest {
		return nil, ErrRefused
	}
	plaintext, err := c.open(requestInfo, nil, blob)
	if err != nil {
		return nil, err
	}
	d, slot := &wire.NewDevice{}, c.Slot()
	if proto.Unmarshal(plaintext, d) != nil || d.GetId() != 0 || d.GetRegistrationId() < 1 || d.GetRegistrationId() > maxRegistrationID ||
		!verify(d.GetIdentityKey(), wire.NewDeviceToSign(c.name, slot[:], d), d.GetSignature()) {
		return nil, ErrRefused
	}
	return d, nil
}

// SealReply answers a request, of which it takes the bytes as they came. private is the first device's, which signs the answer: the new
// device may rely on it even if somebody else knows the code.
func (c Code) SealReply(request []byte, l *wire.Linked, private *[32]byte) ([]byte, error) {
	linked, err := proto.Marshal(l)
	if err != nil {
		return nil, err
	}
	slot, to := c.Slot(), sha256.Sum256(request)
	plaintext := append(sign(private, wire.LinkedToSign(c.name, slot[:], request, linked)), linked...)
	blob := c.seal(replyInfo, to[:], plaintext, freshNonce())
	if len(blob) > wire.MaxLinkReply {
		return nil, errTooLarge
	}
	return blob, nil
}

// OpenReply returns the account that a new device has joined: it is that of the first device which showed the code, and which has signed
// all of it; its list has the new device, with its identity key, under the id that it was given. request is the blob that was sent.
func (c Code) OpenReply(request, reply []byte, identity [33]byte) (*wire.Linked, error) {
	if len(reply) > wire.MaxLinkReply {
		return nil, ErrRefused
	}
	slot, to := c.Slot(), sha256.Sum256(request)
	plaintext, err := c.open(replyInfo, to[:], reply)
	if err != nil || len(plaintext) < signatureSize {
		return nil, ErrRefused
	}
	signature, linked, l := plaintext[:signatureSize], plaintext[signatureSize:], &wire.Linked{}
	if proto.Unmarshal(linked, l) != nil || c.fingerprint(l.GetIdentityKey()) != c.first ||
		!verify(l.GetIdentityKey(), wire.LinkedToSign(c.name, slot[:], request, linked), signature) {
		return nil, ErrRefused
	}
	if len(l.GetUsername()) == 0 || !tokenOrNone(l.GetDeliveryToken()) || l.GetDevice() < 2 {
		return nil, ErrRefused
	}
	list, err := OpenList(c.server, l.GetAccount(), l.GetIdentityKey(), l.GetDeviceList())
	if err != nil || !bytes.Equal(list.IdentityOf(l.GetDevice()), identity[:]) {
		return nil, ErrRefused
	}
	seen := map[string]bool{}
	for _, contact := range l.GetContacts() {
		id := string(contact.GetAccount())
		if len(id) != accountSize || seen[id] || !validIdentityKey(contact.GetIdentityKey()) || !tokenOrNone(contact.GetDeliveryToken()) {
			return nil, ErrRefused
		}
		seen[id] = true
	}
	return l, nil
}

// SignList signs a list with the identity key of device 1. server is the URL or name by which it knows the server.
func SignList(server string, private *[32]byte, list *wire.DeviceList) (*wire.SignedDeviceList, error) {
	name, err := wire.ServerName(server)
	if err != nil {
		return nil, err
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(list)
	if err != nil {
		return nil, err
	}
	if _, err := wire.ParseDeviceList(raw); err != nil {
		return nil, err
	}
	return &wire.SignedDeviceList{List: raw, Signature: sign(private, wire.DeviceListToSign(name, raw))}, nil
}

// OpenList returns a list if it is the account's: of the right form, signed by the account's identity key, and with that key as device 1's.
// It does not say that it is the newest: a caller refuses an epoch below the highest that it has seen, and the same one with other bytes.
func OpenList(server string, account, identity []byte, signed *wire.SignedDeviceList) (*wire.DeviceList, error) {
	name, err := wire.ServerName(server)
	if err != nil {
		return nil, err
	}
	if !verify(identity, wire.DeviceListToSign(name, signed.GetList()), signed.GetSignature()) {
		return nil, ErrRefused
	}
	list, err := wire.ParseDeviceList(signed.GetList())
	if err != nil || !bytes.Equal(list.GetAccount(), account) || !bytes.Equal(list.IdentityOf(1), identity) {
		return nil, ErrRefused
	}
	return list, nil
}

func sign(private *[32]byte, message []byte) []byte {
	var random [64]byte
	rand.Read(random[:])
	return xeddsa.Sign(private, message, &random)
}

func verify(identity, message, signature []byte) bool {
	if !validIdentityKey(identity) {
		return false
	}
	public := [32]byte(identity[1:])
	return xeddsa.Verify(&public, message, signature)
}

func validIdentityKey(key []byte) bool {
	return len(key) == identityKeySize && key[0] == identityKeyType
}

func tokenOrNone(token []byte) bool { return len(token) == 0 || len(token) == wire.DeliveryTokenSize }
