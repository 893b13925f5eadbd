// Package signaling is the server that connects devices: it registers accounts, keeps public pre-keys, and carries encrypted
// envelopes from device to device, straight through when the recipient is there and by way of a durable mailbox when it is not.
//
// The protocol is wire/signaling.proto, spoken as docs/protocol.md says:
//
//	POST /v1/accounts   registration, protobuf in and out
//	POST /v1/devices    a new device asks to be added to an account, and waits; protobuf in and out
//	GET  /v1/link       the websocket of one device; everything else goes over it
//	GET  /v1/anonymous  the websocket of somebody who sends envelopes that name no sender
//	GET  /healthz       200 while the store takes writes
//
// What it guarantees:
//
//   - Sent means durable, or already acknowledged by the recipient's device. A crash, a power cut or a shutdown loses nothing that
//     was answered with Sent.
//   - Sending is idempotent by (sender, envelope id) for two days, also across a restart (after a crash: see store.MarkDelivered).
//   - Who sends over an anonymous link names no account and shows none; what is kept and delivered is the same whoever it was.
//   - A mailbox comes in the order in which the server accepted it, then what arrives live.
//   - An envelope is erased when the device acknowledges it or its time is up; the bytes leave the disk within Config.EraseEvery.
//   - A device is added to an account, or removed, by a list that device 1 has signed, and that changes nothing else: all of it, durable, or
//     nothing. What was a removed device's is erased, and nothing can be sent to it.
//   - Every one-time pre-key is handed out at most once.
//   - No log line and no metric holds a user name, an account, an address, a token or a ciphertext.
//
// It holds no secret of any conversation: of package e2ee it reaches only xeddsa, to verify public signatures.
package signaling
