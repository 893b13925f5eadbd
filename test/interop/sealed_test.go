package interop

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"sotto/e2ee/sealed"
	"sotto/e2ee/senderkey"
	"sotto/sealedwire"
)

// An authority makes the certificates that both sides trust: ours, or the library's.
type authority struct {
	o       *oracle
	root    sealedwire.PublicKey
	certify func(sender sealedwire.Sender, expires time.Time) []byte
}

func ourAuthority(o *oracle) *authority {
	root, server := sealedwire.GeneratePrivateKey(), sealedwire.GeneratePrivateKey()
	issuer, err := sealedwire.NewIssuer(server, root.Certify(1, server.Public()))
	if err != nil {
		o.t.Fatal(err)
	}
	return &authority{o, root.Public(), func(sender sealedwire.Sender, expires time.Time) []byte {
		c, err := issuer.Issue(sender, expires)
		if err != nil {
			o.t.Fatal(err)
		}
		return c.Bytes()
	}}
}

func theirAuthority(o *oracle) *authority {
	var made struct{ TrustRoot, ServerPrivate, ServerCertificate []byte }
	o.must("sealed.root", args{"serverKeyId": 9}, &made)
	return &authority{o, sealedwire.PublicKey(made.TrustRoot), func(sender sealedwire.Sender, expires time.Time) []byte {
		var cert struct{ Certificate []byte }
		o.must("sealed.cert", args{"uuid": uuid.UUID(sender.Account), "device": sender.Device, "identityKey": sender.Identity[:],
			"expires": expires.UnixMilli(), "serverCertificate": made.ServerCertificate, "serverPrivate": made.ServerPrivate}, &cert)
		return cert.Certificate
	}}
}

// ours certifies one of our devices, theirs one of the library's.
func (a *authority) ours(p *ours, expires time.Time) *sealedwire.SenderCertificate {
	identity := sealedwire.PublicKey(p.local.Identity.Public().Bytes())
	b := a.certify(sealedwire.Sender{Account: p.local.Address.Account, Device: p.local.Address.Device, Identity: identity}, expires)
	c, err := sealedwire.ParseSenderCertificate(b)
	if err != nil {
		a.o.t.Fatal(err)
	}
	return c
}

func (a *authority) theirs(p *theirs, expires time.Time) []byte {
	identity := sealedwire.PublicKey(p.identity.Bytes())
	return a.certify(sealedwire.Sender{Account: uuid.MustParse(p.name), Device: p.device, Identity: identity}, expires)
}

// opened is what the library finds in a sealed message.
type opened struct {
	MsgType     uint32
	ContentHint uint32
	GroupID     []byte
	Contents    []byte
	Sender      struct {
		UUID   string
		Device uint8
		Key    []byte
	}
	Valid bool
}

func (a *authority) openTheirs(p *theirs, message []byte, now time.Time) (result opened, err error) {
	err = p.call("sealed.open", args{"party": p.party, "message": message, "trustRoot": a.root[:], "time": now.UnixMilli()}, &result)
	return result, err
}

// eachAuthority runs a test with certificates of our making, and with the library's.
func eachAuthority(t *testing.T, run func(t *testing.T, o *oracle, a *authority)) {
	o := startOracle(t)
	t.Run("our certificates", func(t *testing.T) { run(t, o, ourAuthority(o)) })
	t.Run("library's certificates", func(t *testing.T) { run(t, o, theirAuthority(o)) })
}

// Version 1, one recipient: a whole conversation, sealed both ways from its first message.
func TestSealedOne(t *testing.T) {
	eachAuthority(t, func(t *testing.T, o *oracle, a *authority) {
		our, their := meet(t, o)
		now := time.Now()
		expires := now.Add(time.Hour)
		ourCertificate, theirCertificate := a.ours(our, expires), a.theirs(their, expires)
		if err := our.process(their.bundle(true)); err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			text := fmt.Sprint("sealed ", i)
			m := seal(t, our, text)
			content := &sealed.Content{Type: m.Type, Sender: ourCertificate, Message: m.Message, Hint: sealed.HintResendable, Group: []byte("group")}
			b, err := sealed.Seal(our.local.Identity, their.identity, content)
			if err != nil {
				t.Fatal(err)
			}
			got, err := a.openTheirs(their, b, now)
			if err != nil {
				t.Fatal(err)
			}
			if !got.Valid || got.Sender.UUID != our.name() || got.Sender.Device != our.local.Address.Device ||
				!bytes.Equal(got.Sender.Key, our.local.Identity.Public().Bytes()) || got.ContentHint != 1 || string(got.GroupID) != "group" {
				t.Fatalf("the library finds %+v", got)
			}
			if got.MsgType != m.Type {
				t.Fatalf("the library finds type %d, want %d", got.MsgType, m.Type)
			}
			expect(t, their, message{m.Type, got.Contents}, text)
			if late, err := a.openTheirs(their, b, expires.Add(time.Second)); err != nil || late.Valid {
				t.Fatal("the library finds an expired certificate valid: ", err)
			}
			b[len(b)/2] ^= 1
			if _, err := a.openTheirs(their, b, now); err == nil {
				t.Fatal("the library opens an altered message")
			}

			var made struct{ Message []byte }
			their.must("sealed.encrypt", their.with(args{"plaintext": []byte(text), "certificate": theirCertificate, "contentHint": 2}), &made)
			c, err := sealed.Open(our.local.Identity, a.root, made.Message, now)
			if err != nil {
				t.Fatal(err)
			}
			if c.Sender.Account != uuid.MustParse(their.name) || c.Sender.Device != their.device || c.Hint != sealed.HintImplicit ||
				c.Sender.Identity != sealedwire.PublicKey(their.identity.Bytes()) {
				t.Fatalf("we find hint %d and another sender", c.Hint)
			}
			expect(t, our, message{c.Type, c.Message}, text)
			if _, err := sealed.Open(our.local.Identity, a.root, made.Message, expires.Add(time.Second)); err == nil {
				t.Fatal("we take an expired certificate")
			}
		}
	})
}

// Version 2, many recipients: one of us and two of the library's send a group message to the others.
func TestSealedMany(t *testing.T) {
	eachAuthority(t, func(t *testing.T, o *oracle, a *authority) {
		now := time.Now()
		expires := now.Add(time.Hour)
		ourA, ourB := newOurMember(t), newOurMember(t)
		theirA, theirB := newTheirMember(o), newTheirMember(o)
		members := []member{ourA, ourB, theirA, theirB}
		for _, m := range members {
			for _, other := range members {
				if m != other {
					m.accept(other, other.distribution())
				}
			}
		}
		// The library looks up a recipient's identity key and registration id in its session.
		for _, our := range []*ourMember{ourA, ourB} {
			introduce(our.ours, theirA.theirs)
			start(t, theirA, our, true)
		}
		theirA.remote = theirB.address()
		if err := theirA.process(theirB.bundle(true)); err != nil {
			t.Fatal(err)
		}

		// deliver hands each member its part of a message, cut up by us, the server.
		deliver := func(from member, b []byte, text string) {
			t.Helper()
			multi, err := sealedwire.ParseMulti(b)
			if err != nil {
				t.Fatal(err)
			}
			parts := map[string][]byte{}
			for i := range multi.Recipients {
				r := &multi.Recipients[i]
				if len(r.Devices) != 1 || r.Devices[0].ID != 1 {
					t.Fatalf("devices %v", r.Devices)
				}
				parts[uuid.UUID(r.Account).String()] = multi.Received(r)
			}
			if len(parts) != 3 {
				t.Fatalf("%d recipients", len(parts))
			}
			for _, to := range members {
				name := to.address()["name"].(string)
				part := parts[name]
				if to == from {
					continue
				}
				var contents []byte
				switch to := to.(type) {
				case *ourMember:
					c, err := sealed.Open(to.local.Identity, a.root, part, now)
					if err != nil {
						t.Fatal(err)
					}
					if uuid.UUID(c.Sender.Account).String() != from.address()["name"] || c.Type != senderkey.TypeMessage {
						t.Fatal("another sender or type")
					}
					contents = c.Message
				case *theirMember:
					c, err := a.openTheirs(to.theirs, part, now)
					if err != nil {
						t.Fatal(err)
					}
					if !c.Valid || c.Sender.UUID != from.address()["name"] || c.MsgType != senderkey.TypeMessage {
						t.Fatalf("the library finds %+v", c)
					}
					contents = c.Contents
				}
				if got, err := to.open(from, contents); err != nil || got != text {
					t.Fatalf("%T to %T: %q: got %q, %v", from, to, text, got, err)
				}
				// Another member's part is not for this one.
				for other, part := range parts {
					if to, ok := to.(*theirMember); ok && other != name {
						if _, err := a.openTheirs(to.theirs, part, now); err == nil {
							t.Fatal("the library opens a part that is not its own")
						}
					}
				}
			}
		}

		ourCertificate, theirCertificate := a.ours(ourA.ours, expires), a.theirs(theirA.theirs, expires)
		one := []sealedwire.Device{{ID: 1, RegistrationID: 1234}}
		recipients := []sealed.Recipient{
			{Account: ourB.local.Address.Account, Identity: ourB.local.Identity.Public(), Devices: one},
			{Account: uuid.MustParse(theirA.name), Identity: theirA.identity, Devices: one},
			{Account: uuid.MustParse(theirB.name), Identity: theirB.identity, Devices: one},
		}
		for i := range 10 {
			text := fmt.Sprint("from us ", i)
			content := &sealed.Content{Type: senderkey.TypeMessage, Sender: ourCertificate, Message: ourA.seal(text), Group: []byte("group")}
			b, err := sealed.SealMany(ourA.local.Identity, recipients, content)
			if err != nil {
				t.Fatal(err)
			}
			deliver(ourA, b, text)

			text = fmt.Sprint("from the library ", i)
			var made struct{ Message []byte }
			theirA.must("sealed.group", args{"party": theirA.party, "distributionId": theirA.id, "plaintext": []byte(text),
				"recipients": []args{ourA.address(), ourB.address(), theirB.address()}, "certificate": theirCertificate}, &made)
			deliver(theirA, made.Message, text)
		}
	})
}
