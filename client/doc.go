// Package client is the SDK of Sotto: one account on this device, its messages and its calls.
//
//	c, err := client.Register(ctx, dir, client.RegisterOptions{Server: "https://sotto.example", Username: "alice"})
//	err = c.Start(ctx)
//	id, err := c.Send(ctx, "bob", "hello")
//	call, err := c.Call(ctx, "bob", client.CallOptions{MediaOptions: client.MediaOptions{Microphone: microphone}})
//	for event := range c.Events() { ... }
//
// The examples are whole programs: a message and its answer, a call, an intercom, an echo bot, and a voice agent that reads and writes
// samples (example_test.go, example_call_test.go). A program calls Done on each Message and MissedCall, also where it has no use for
// them: they are kept until then, and beyond some thousands nothing more is received.
//
// How one message travels:
//
//  1. Send encrypts it in the session with each of the recipient's devices, and stores sessions and envelopes in one transaction
//     (outbox.go).
//  2. The link carries the envelope to the server, again after every reconnection, until the server says Sent (link.go, reconnect.go).
//  3. The recipient's client decrypts it, stores session, used pre-keys and text in one transaction, and acknowledges (inbox.go).
//  4. The program gets a Message, and gets it again after a restart until it called Done. So it is with a MissedCall.
//
// How one call is set up: package callflow draws and decides it, calls.go tells what runs it.
//
// Guarantees:
//
//   - Everything is end-to-end encrypted: sessions by e2ee/ratchet, media with keys of e2ee/callkey. The directory is encrypted too.
//   - Nothing leaves before the state that made it is on disk, and nothing is shown before the state it left is.
//   - A message, or a missed call, is shown once, however often the server brings it. A message that Send has taken survives a crash.
//   - What a contact's device cannot decrypt is sent anew, once, in a new session, and both programs hear of it (retry.go).
//   - Nothing is sent to, or taken from, another device than those that a contact's first device has signed (contactdevices.go).
//   - Identity keys and user names are pinned at first use. To another key nothing is sent, and what comes under it is held back, until
//     AcceptIdentity gets that key's safety number.
//   - A microphone or camera is opened when the callee has accepted and this end's user wanted the call, by Call or by Accept, and
//     never before. Who is no accepted contact learns no address of this device's before its user accepts their call.
//   - An error says what to do, and holds no key, token, address or content. Nothing of a user is logged.
//
// Goroutines: one keeps the link and, while it is up, one each reads it, takes what it delivers, sends the outbox and replenishes
// pre-keys; one each shows texts and missed calls, sends receipts, mends sessions and looks after lists of devices; one owns all calls,
// and one watches the network. Client.mu is held across every transaction on sessions, contacts, outbox and inbox. Close ends them all.
package client
