package interop

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/uuid"

	"sotto/e2ee/senderkey"
)

// A member of a group is of our side or the library's.
type member interface {
	address() args
	rotate()              // makes a new sender key
	distribution() []byte // hands it over; here without the session it travels in
	accept(sender member, distribution []byte)
	seal(text string) []byte
	open(sender member, message []byte) (string, error)
}

// ourMember keeps one distribution id and makes new keys for it.
type ourMember struct {
	*ours
	sender    *senderkey.Sender
	receivers map[string]*senderkey.Receiver // by sender and distribution id
}

func newOurMember(t testing.TB) *ourMember {
	m := &ourMember{ours: newOurs(t), receivers: map[string]*senderkey.Receiver{}}
	m.sender = senderkey.NewSender(senderkey.DistributionID(uuid.New()))
	return m
}

func (m *ourMember) rotate()              { m.sender = senderkey.NewSender(m.sender.DistributionID()) }
func (m *ourMember) distribution() []byte { return m.sender.Distribution() }

func (m *ourMember) accept(sender member, distribution []byte) {
	m.t.Helper()
	id, err := senderkey.KeyDistribution(distribution)
	if err != nil {
		m.t.Fatal(err)
	}
	key := fmt.Sprint(sender.address(), id)
	if m.receivers[key] == nil {
		m.receivers[key] = senderkey.NewReceiver(id)
	}
	if err := m.receivers[key].Add(distribution); err != nil {
		m.t.Fatal(err)
	}
}

// seal stores the key and reads it back, as a client does.
func (m *ourMember) seal(text string) []byte {
	m.t.Helper()
	b, err := m.sender.Encrypt([]byte(text))
	if err != nil {
		m.t.Fatal(err)
	}
	if m.sender, err = senderkey.UnmarshalSender(m.sender.Marshal()); err != nil {
		m.t.Fatal(err)
	}
	return b
}

func (m *ourMember) open(sender member, message []byte) (string, error) {
	id, err := senderkey.MessageDistribution(message)
	if err != nil {
		return "", err
	}
	key := fmt.Sprint(sender.address(), id)
	receiver := m.receivers[key]
	if receiver == nil {
		return "", senderkey.ErrUndecryptable
	}
	plaintext, err := receiver.Decrypt(message)
	if errors.Is(err, senderkey.ErrDuplicate) {
		err = errDuplicate
	}
	stored, storeErr := senderkey.UnmarshalReceiver(receiver.Marshal())
	m.receivers[key] = stored
	return string(plaintext), errors.Join(err, storeErr)
}

// theirMember takes a new distribution id for every key.
type theirMember struct {
	*theirs
	id uuid.UUID
}

func newTheirMember(o *oracle) *theirMember {
	return &theirMember{newTheirs(o, uuid.NewString()), uuid.New()}
}

func (m *theirMember) rotate() { m.id = uuid.New() }

func (m *theirMember) distribution() []byte {
	var made struct{ Message []byte }
	m.must("group.create", args{"party": m.party, "distributionId": m.id}, &made)
	return made.Message
}

func (m *theirMember) accept(sender member, distribution []byte) {
	m.must("group.process", args{"party": m.party, "sender": sender.address(), "message": distribution}, nil)
}

func (m *theirMember) seal(text string) []byte {
	var made struct{ Message []byte }
	m.must("group.encrypt", args{"party": m.party, "distributionId": m.id, "plaintext": []byte(text)}, &made)
	return made.Message
}

func (m *theirMember) open(sender member, message []byte) (string, error) {
	var made struct{ Plaintext []byte }
	err := m.call("group.decrypt", args{"party": m.party, "sender": sender.address(), "message": message}, &made)
	return string(made.Plaintext), theirDuplicate(err)
}

// A group of eight, half of it the library's, with joins and leaves. Messages arrive late, twice and in any order. Everybody reads
// what was sent while they were a member, and nothing else.
func TestGroup(t *testing.T) {
	o := startOracle(t)
	g := group{t: t, random: rand.New(rand.NewPCG(8, 8))}
	for i := range 8 {
		g.join(g.newMember(o, i%2 == 0))
	}
	for i := range max(*messages/5, 100) {
		switch p := g.random.IntN(20); {
		case p == 0 && len(g.members) > 4:
			g.leave(g.random.IntN(len(g.members)))
		case p == 1 && len(g.members) < 8:
			g.join(g.newMember(o, g.random.IntN(2) == 0))
		default:
			g.send(g.members[g.random.IntN(len(g.members))], fmt.Sprint("message ", i))
		}
	}
	g.deliver()
	t.Logf("%d messages, opened %d times, %d repeated; %d joined, %d left; %d times refused who was not a member",
		g.sent, g.opened, g.repeated, g.joined, g.left, g.refused)
	if g.joined < 10 || g.left < 2 || g.refused < 10 {
		t.Error("too little happened")
	}
}

type group struct {
	t        *testing.T
	random   *rand.Rand
	members  []member
	outsider member // who left last
	air      []posted

	sent, opened, repeated, joined, left, refused int
}

type posted struct {
	from, to member
	message  []byte
	text     string
}

func (g *group) newMember(o *oracle, ours bool) member {
	if ours {
		return newOurMember(g.t)
	}
	return newTheirMember(o)
}

// join exchanges keys with everybody. The newcomer cannot read what was sent just before.
func (g *group) join(m member) {
	for _, other := range g.members {
		before := g.send(other, "before")
		m.accept(other, other.distribution())
		other.accept(m, m.distribution())
		g.refuse(other, m, before)
	}
	g.members = append(g.members, m)
	g.joined++
}

// leave makes all who stay take new keys.
func (g *group) leave(i int) {
	g.deliver()
	g.outsider = g.members[i]
	g.members = slices.Delete(g.members, i, i+1)
	for _, m := range g.members {
		m.rotate()
		for _, other := range g.members {
			if other != m {
				other.accept(m, m.distribution())
			}
		}
	}
	g.left++
}

// send sends one message to all others.
func (g *group) send(from member, text string) []byte {
	message := from.seal(text)
	g.sent++
	for _, to := range g.members {
		if to != from {
			g.air = append(g.air, posted{from, to, message, text})
		}
	}
	if g.outsider != nil {
		g.refuse(from, g.outsider, message)
	}
	g.random.Shuffle(len(g.air), func(i, j int) { g.air[i], g.air[j] = g.air[j], g.air[i] })
	for len(g.air) > 20 { // the rest is late
		g.arrive()
	}
	return message
}

func (g *group) deliver() {
	for len(g.air) > 0 {
		g.arrive()
	}
}

func (g *group) arrive() {
	g.t.Helper()
	p := g.air[0]
	g.air = g.air[1:]
	if got, err := p.to.open(p.from, p.message); err != nil || got != p.text {
		g.t.Fatalf("%T to %T: %q: got %q, %v", p.from, p.to, p.text, got, err)
	}
	g.opened++
	if g.random.IntN(10) == 0 {
		g.repeated++
		if _, err := p.to.open(p.from, p.message); !errors.Is(err, errDuplicate) {
			g.t.Fatalf("%T to %T a second time: %v", p.from, p.to, err)
		}
	}
}

func (g *group) refuse(from, to member, message []byte) {
	g.t.Helper()
	if got, err := to.open(from, message); err == nil {
		g.t.Fatalf("%T reads %q of %T without being a member", to, got, from)
	}
	g.refused++
}
