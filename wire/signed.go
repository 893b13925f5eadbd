package wire

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// What a device signs with its identity key (XEdDSA). Each string begins with a label of its own and a zero byte, and holds
// the server's name, so that a signature made for one server, or for one purpose, is worth nothing elsewhere.
const (
	registrationLabel   = "Sotto registration v1"
	authenticationLabel = "Sotto authenticate v1"
	deviceListLabel     = "Sotto device list v1"
	newDeviceLabel      = "Sotto new device v1"
	linkedLabel         = "Sotto linked v1"
	deliveryTokenLabel  = "Sotto delivery token v1\x00"
)

// Sizes in bytes of what the signed strings hold.
const (
	NonceSize          = 32
	ChannelBindingSize = 32
	DeliveryTokenSize  = 16
	SlotSize           = 16
)

// RegistrationToSign returns the bytes that Registration.signature signs:
//
//	"Sotto registration v1" 00 || server name || 00 || username || 00 || registration_id [4, big endian]
//	|| identity_key [33] || SHA-256(pre_keys as sent) [32]
//
// server is a name in the form of ServerName. Names hold no zero byte, so no two registrations give the same string.
func RegistrationToSign(server string, r *Registration) []byte {
	preKeys := sha256.Sum256(r.GetPreKeys())
	b := labelled(registrationLabel, server)
	b = append(b, r.GetUsername()...)
	b = append(b, 0)
	b = binary.BigEndian.AppendUint32(b, r.GetRegistrationId())
	b = append(b, r.GetIdentityKey()...)
	return append(b, preKeys[:]...)
}

// AuthenticationToSign returns the bytes that Authenticate.signature signs:
//
//	"Sotto authenticate v1" 00 || server name || 00 || nonce [32] || account [16] || device [1] || channel binding [32]
//
// server is a name in the form of ServerName, nonce that of Hello, and binding comes from ChannelBinding.
func AuthenticationToSign(server string, nonce, account []byte, device uint8, binding [ChannelBindingSize]byte) []byte {
	b := labelled(authenticationLabel, server)
	b = append(b, nonce...)
	b = append(b, account...)
	b = append(b, device)
	return append(b, binding[:]...)
}

// DeviceListToSign returns the bytes that SignedDeviceList.signature signs:
//
//	"Sotto device list v1" 00 || server name || 00 || list as sent
//
// server is a name in the form of ServerName: that by which device 1 knows the server.
func DeviceListToSign(server string, list []byte) []byte {
	return append(labelled(deviceListLabel, server), list...)
}

// NewDeviceToSign returns the bytes that NewDevice.signature signs:
//
//	"Sotto new device v1" 00 || server name || 00 || slot [16] || registration_id [4, big endian] || identity_key [33]
//	|| SHA-256(pre_keys as sent) [32]
//
// The device knows neither its account nor its id yet: the slot stands for the account, and device 1 signs the rest in the list.
func NewDeviceToSign(server string, slot []byte, d *NewDevice) []byte {
	preKeys := sha256.Sum256(d.GetPreKeys())
	b := labelled(newDeviceLabel, server)
	b = append(b, slot...)
	b = binary.BigEndian.AppendUint32(b, d.GetRegistrationId())
	b = append(b, d.GetIdentityKey()...)
	return append(b, preKeys[:]...)
}

// LinkedToSign returns the bytes that device 1 signs when it answers a new device:
//
//	"Sotto linked v1" 00 || server name || 00 || slot [16] || SHA-256(request as sent) [32] || Linked as sent
func LinkedToSign(server string, slot, request, linked []byte) []byte {
	answered := sha256.Sum256(request)
	b := append(labelled(linkedLabel, server), slot...)
	b = append(b, answered[:]...)
	return append(b, linked...)
}

func labelled(label, server string) []byte {
	b := append([]byte(label), 0)
	b = append(b, server...)
	return append(b, 0)
}

// ChannelBinding returns the tls-exporter binding of a link (RFC 9266 section 2), or zeros for a plain one (nil). With it a
// signature made on one TLS channel cannot be relayed onto another by whoever ends TLS in between.
func ChannelBinding(state *tls.ConnectionState) (binding [ChannelBindingSize]byte, err error) {
	if state == nil {
		return binding, nil
	}
	// RFC 9266 section 4.2 leaves TLS 1.2 without extended master secret unsafe; we speak 1.3 only.
	if state.Version != tls.VersionTLS13 {
		return binding, errors.New("channel binding needs TLS 1.3")
	}
	exported, err := state.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, ChannelBindingSize)
	if err != nil {
		return binding, err
	}
	return [ChannelBindingSize]byte(exported), nil
}

// ServerName returns the one form of a server's name that goes under a signature, from a URL, a Host header (RFC 9110 section
// 7.2) or a bare name: no scheme, no port, no final dot, lower case; an IP address in its canonical text form without brackets.
func ServerName(s string) (string, error) {
	host := s
	if strings.Contains(s, "://") {
		u, err := url.Parse(s)
		if err != nil {
			return "", errServerName
		}
		host = u.Host
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Zone() == "" {
		return ip.Unmap().String(), nil
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "" || len(host) > 253 || strings.Trim(host, "abcdefghijklmnopqrstuvwxyz0123456789-._") != "" {
		return "", errServerName
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 {
			return "", errServerName
		}
	}
	return host, nil
}

var errServerName = errors.New("not a server name: want a host name or an IP address (international names in their xn-- form)")

// DeliveryTokenHash is what the server holds of a delivery token (SetDeliveryToken).
func DeliveryTokenHash(token []byte) [sha256.Size]byte {
	return sha256.Sum256(append([]byte(deliveryTokenLabel), token...))
}

// MaxRegistrationID is the highest registration id; the lowest is 1.
const MaxRegistrationID = 16380

// RegistrationID is the registration id of the device with an identity key (33 bytes, type byte
// included), from 1 to MaxRegistrationID. It tells a device from another one installed in its
// place, and a new installation has a new identity key. Deriving it lets whoever can check the key
// check the id.
func RegistrationID(identityKey []byte) uint32 {
	h := sha256.New()
	h.Write([]byte("Sotto registration id v1\x00"))
	h.Write(identityKey)
	return uint32(binary.BigEndian.Uint64(h.Sum(nil))%MaxRegistrationID) + 1
}
