// Package vectors holds docs/vectors.json, which a client in another language was tested with, to
// the code.
package vectors

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/pion/srtp/v3"

	"sotto/e2ee/ratchet"
	"sotto/e2ee/safety"
	"sotto/wire"
)

// text is a byte string written in hexadecimal.
type text []byte

func (x *text) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	var err error
	*x, err = hex.DecodeString(s)
	return err
}

type vectors struct {
	Identity       text              `json:"identity_key"`
	RegistrationID uint32            `json:"registration_id"`
	ServerNames    map[string]string `json:"server_names"`
	Registration   struct {
		Server, Username string
		PreKeys          text `json:"pre_keys"`
		ToSign           text `json:"to_sign"`
	}
	Authenticate struct {
		Account text
		Device  uint8
		Nonce   text
		Binding text `json:"channel_binding"`
		ToSign  text `json:"to_sign"`
	}
	DeliveryToken struct{ Token, Hash text } `json:"delivery_token"`
	DeviceList    struct {
		List   text
		ToSign text `json:"to_sign"`
	} `json:"device_list"`
	Safety struct {
		A, B struct {
			Account  text
			Identity text `json:"identity_key"`
		}
		Number string
		Code   text `json:"code_shown_by_a"`
	}
	SRTP struct {
		Key        text `json:"master_key"`
		Salt       text `json:"master_salt"`
		RTP        text `json:"rtp"`
		Sealed     text `json:"sealed"`
		RTCP       text `json:"rtcp"`
		RTCPSealed text `json:"rtcp_sealed"`
	}
}

func read(t *testing.T) (v vectors) {
	t.Helper()
	b, err := os.ReadFile("../../docs/vectors.json")
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if len(want) == 0 || string(got) != string(want) {
		t.Errorf("%s: %x, want %x", what, got, want)
	}
}

func TestWhatDevicesSign(t *testing.T) {
	v := read(t)
	if id := wire.RegistrationID(v.Identity); id != v.RegistrationID {
		t.Errorf("registration id %d, want %d", id, v.RegistrationID)
	}
	for url, want := range v.ServerNames {
		if name, err := wire.ServerName(url); name != want {
			t.Errorf("%s: %q, %v, want %q", url, name, err, want)
		}
	}
	r := v.Registration
	same(t, "registration", wire.RegistrationToSign(r.Server, &wire.Registration{
		Username: r.Username, RegistrationId: v.RegistrationID, IdentityKey: v.Identity, PreKeys: r.PreKeys,
	}), r.ToSign)
	a := v.Authenticate
	same(t, "authentication", wire.AuthenticationToSign(r.Server, a.Nonce, a.Account, a.Device, [32]byte(a.Binding)), a.ToSign)
	hash := wire.DeliveryTokenHash(v.DeliveryToken.Token)
	same(t, "token", hash[:], v.DeliveryToken.Hash)
	same(t, "device list", wire.DeviceListToSign(r.Server, v.DeviceList.List), v.DeviceList.ToSign)
	if _, err := wire.ParseDeviceList(v.DeviceList.List); err != nil {
		t.Error(err)
	}
	if _, err := ratchet.ParsePublicKey(v.Identity); err != nil {
		t.Error(err)
	}
}

func TestSafetyNumber(t *testing.T) {
	a, b := read(t).Safety.A, read(t).Safety.B
	want := read(t).Safety
	if n := safety.Number([33]byte(a.Identity), [33]byte(b.Identity), a.Account, b.Account); n != want.Number {
		t.Errorf("%s, want %s", n, want.Number)
	}
	same(t, "code", safety.NewCode([33]byte(a.Identity), [33]byte(b.Identity), a.Account, b.Account).Bytes(), want.Code)
}

// The SRTP vectors have the one-byte MKI of the first key epoch.
func TestSRTP(t *testing.T) {
	v := read(t).SRTP
	c, err := srtp.CreateContext(v.Key, v.Salt, srtp.ProtectionProfileAeadAes256Gcm, srtp.MasterKeyIndicator([]byte{0}))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := c.EncryptRTP(nil, v.RTP, nil)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "RTP", sealed, v.Sealed)
	opened, err := c.DecryptRTCP(nil, v.RTCPSealed, nil)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "RTCP", opened, v.RTCP)
}
