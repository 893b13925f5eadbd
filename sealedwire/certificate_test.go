package sealedwire

import (
	"testing"
	"time"
)

// certificateWith is a certificate of these parts, signed as they are.
func certificateWith(device uint8, telephone string, id uint32) *SenderCertificate {
	root, server := GeneratePrivateKey(), GeneratePrivateKey()
	c := &SenderCertificate{
		Sender:    Sender{Device: device, Identity: GeneratePrivateKey().Public()},
		Expires:   time.UnixMilli(time.Now().UnixMilli()),
		Server:    root.Certify(id, server.Public()),
		telephone: []byte(telephone),
	}
	c.signature = server.sign(c.content())
	c.encoded = envelop(c.content(), c.signature)
	return c
}

// Certificates of one length are uniform; a telephone number, or a longer id, makes them another's.
func TestUniformCertificates(t *testing.T) {
	usual := len(certificateWith(1, "", 1).Bytes())
	for name, test := range map[string]struct {
		certificate *SenderCertificate
		uniform     bool
	}{
		"usual":            {certificateWith(1, "", 1), true},
		"last device":      {certificateWith(127, "", 127), true},
		"telephone number": {certificateWith(1, "+1", 1), false},
		"long id":          {certificateWith(1, "", 128), false},
	} {
		c, err := ParseSenderCertificate(test.certificate.Bytes())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if c.Uniform() != test.uniform || (len(c.Bytes()) == usual) != test.uniform {
			t.Errorf("%s: uniform %v, %d bytes; usual %d", name, c.Uniform(), len(c.Bytes()), usual)
		}
	}
}

// A device has a number from 1 to 127.
func TestDevicesOfCertificates(t *testing.T) {
	for device, good := range map[uint8]bool{0: false, 1: true, 127: true, 128: false, 255: false} {
		_, err := ParseSenderCertificate(certificateWith(device, "", 1).Bytes())
		if (err == nil) != good {
			t.Errorf("device %d: %v", device, err)
		}
	}
}
