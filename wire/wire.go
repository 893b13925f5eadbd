// Package wire holds the protocol's messages: what the server reads (signaling.proto) and what only devices read
// (content.proto). docs/protocol.md says when each is sent and what every field must hold.
package wire

//go:generate protoc --go_out=. --go_opt=paths=source_relative signaling.proto content.proto
