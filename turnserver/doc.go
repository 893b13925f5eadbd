// Package turnserver is a TURN relay (RFC 8656) for any WebRTC application: where no direct path exists between two ends it carries their packets, which it
// cannot read. pion/turn speaks the protocol; this package decides who may relay what, where to, and for how much.
//
// Clients come by UDP, TCP, TLS or DTLS with time-limited credentials (package turncred), IPv4 and IPv6; peers are met by UDP. TCP towards peers
// (RFC 6062) is off.
//
// Control and data are apart. Requests go through pion, one at a time. Packets go through it only in the portable data plane; on Linux a loop for each
// core carries them in batches (loop_linux.go), by the same rules (channel.go).
//
// What it guarantees:
//
//   - Peers are globally routable unicast addresses, or inside the ranges that the operator opened, and never a service of this machine: see policy. Both
//     directions of every packet are held to that, not only the request that opens the path.
//   - A stranger gets at most 3.2 times the bytes that he sent, a burst of them, then silence. He makes the relay keep no state; over DTLS, where pion's
//     cookie needs some, that of 256 sessions for six seconds.
//   - A connection that does not speak is gone within ten seconds. Allocations are bounded in all, by user and by client address.
//   - A call outlives the credential that it began with; nothing new begins with it.
//   - No name and no address of a client or peer is logged or counted by.
//
// Server is a prometheus.Collector.
package turnserver
