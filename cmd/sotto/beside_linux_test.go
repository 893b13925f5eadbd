package main

import (
	"os"
	"os/exec"
	"testing"
)

// callers are processes that call somebody, one at a time for each name.
type callers struct {
	t    *testing.T
	home string
	last map[string]*exec.Cmd
}

func (c *callers) call(to, as string) *typescript {
	if c.last == nil {
		c.last = map[string]*exec.Cmd{}
	}
	if c.last[as] != nil {
		c.last[as].Wait() // one process at a time has an account
	}
	cmd, script := sotto(c.t, c.home, nil, "call", to, "--as", as, "--audio", "tone", "--json")
	c.last[as] = cmd
	return script
}

// befriend makes one account a contact of another: a stranger does not ring beside a call.
func befriend(t *testing.T, home, as, contact string) {
	t.Helper()
	if cmd, _ := sotto(t, home, nil, "contacts", "add", contact, "--as", as); cmd.Wait() != nil {
		t.Fatalf("%s is no contact of %s", contact, as)
	}
}

// Where no person answers, whoever calls beside a call hears that it is busy, and the call goes on as if nothing had happened.
func TestOneCallIsAnsweredAtATime(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string][]string{
		"by a tone":   {"--answer"},
		"by an agent": {"--answer", "--agent", "cat"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home := registered(t, "alice", "bob", "carol")
			people := callers{t: t, home: home}
			befriend(t, home, "bob", "carol")
			listen, bob := sotto(t, home, nil, append([]string{"listen", "--as", "bob", "--once", "--json"}, answer...)...)
			bob.find("link_up")
			alice := people.call("bob", "alice")
			bob.refuse(`"event":"held"`)
			alice.refuse(`"held":true`)
			alice.find("first_media")
			people.call("bob", "carol").find(`"summary".*"reason":"busy"`)
			bob.find(`"incoming","peer":"carol".*"waiting":true`)
			bob.find(`"summary","peer":"carol","reason":"busy"`)
			alice.find(`"progress"`)
			people.last["alice"].Process.Signal(os.Interrupt)
			bob.find(`"summary","peer":"alice","reason":"hung up"`)
			if err := listen.Wait(); err != nil { // --once
				t.Error(err)
			}
		})
	}
}

// A call from a script declines whoever calls meanwhile, and leaves messages to "sotto listen".
func TestCallWithoutATerminal(t *testing.T) {
	t.Parallel()
	home := registered(t, "alice", "bob", "carol")
	people := callers{t: t, home: home}
	befriend(t, home, "alice", "carol")
	_, bob := sotto(t, home, nil, "listen", "--as", "bob", "--answer", "--json")
	bob.find("link_up")
	alice := people.call("bob", "alice")
	alice.refuse(`"event":"message"|"event":"held"`)
	alice.find("first_media")
	if cmd, _ := sotto(t, home, nil, "send", "alice", "--as", "carol", "call me"); cmd.Wait() != nil {
		t.Fatal("carol cannot write")
	}
	people.call("alice", "carol").find(`"summary".*"reason":"busy"`)
	alice.find(`"incoming","peer":"carol".*"waiting":true`)
	alice.find(`"summary","peer":"carol","reason":"busy"`)
	people.last["alice"].Process.Signal(os.Interrupt)
	alice.find(`"summary","peer":"bob","reason":"hung up"`)
	if err := people.last["alice"].Wait(); err != nil {
		t.Error(err)
	}
	_, later := sotto(t, home, nil, "listen", "--as", "alice", "--json")
	later.find(`"event":"message".*"text":"call me"`)
}

// A call on a terminal shows what comes meanwhile, and keys answer who calls. Two calls at most are had, one of them on hold: the third is
// taken in the place of one, which is said when it cannot be otherwise.
func TestKeysOfACallBesideAnother(t *testing.T) {
	t.Parallel()
	ours, theirs := pseudoTerminal(t)
	home := registered(t, "alice", "bob", "carol", "dave")
	people := callers{t: t, home: home}
	befriend(t, home, "alice", "carol")
	befriend(t, home, "alice", "dave")
	_, bob := sotto(t, home, nil, "listen", "--as", "bob", "--answer", "--json")
	bob.find("link_up")
	call, _ := sotto(t, home, theirs, "call", "bob", "--as", "alice", "--audio", "tone")
	screen := read(t, "call", ours)
	press := func(key string) { ours.WriteString(key) }
	screen.find("bob can be heard")
	if cmd, _ := sotto(t, home, nil, "send", "alice", "--as", "carol", "pick up"); cmd.Wait() != nil {
		t.Fatal("carol cannot write")
	}
	screen.find("carol.*: pick up")

	carol := people.call("alice", "carol")
	screen.find("carol.* calls: a holds the other call and accepts")
	press("d")
	carol.find(`"summary".*"reason":"declined"`)
	carol = people.call("alice", "carol")
	screen.find("carol.* calls: a holds the other call and accepts")
	press("a")
	screen.find("the call with bob is on hold")
	screen.find("carol can be heard")

	dave := people.call("alice", "dave")
	screen.find("dave.* calls: a holds the other call and accepts")
	press("a")
	screen.find("the call with carol cannot be put on hold, as that with bob is: press e to end it and take the call of dave")
	press("e")
	screen.find("call with carol: hung up")
	carol.find(`"summary".*"reason":"hung up"`)
	screen.find("dave can be heard")
	dave.find(`"first_media"`)
	press("q")
	screen.find("call with dave: hung up")
	press("h")
	screen.find("back in the call with bob")
	bob.find(`"peer_state".*"held":false`)
	press("q")
	screen.find("call with bob: hung up")
	if err := call.Wait(); err != nil {
		t.Error(err)
	}
}
