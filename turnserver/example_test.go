package turnserver_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"time"

	"sotto/turncred"
	"sotto/turnserver"
)

// A relay for one machine, and what a WebRTC application is given to use it. On a server leave AllowPeers out and listen on ":3478".
func Example() {
	secret := []byte("from `openssl rand -base64 32`")
	relay, err := turnserver.New(turnserver.Config{
		UDP:        []string{"127.0.0.1:0"},
		TCP:        []string{"127.0.0.1:0"},
		Secrets:    [][]byte{secret},
		AllowPeers: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
	})
	if err != nil {
		log.Fatal(err)
	}
	username, password := turncred.Mint(secret, "alice", 5*time.Minute, time.Now())
	fmt.Println(len(relay.URLs()), "ICE server URLs,", len(username) > 0 && len(password) > 0)

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // time for the calls that are going on
	defer cancel()
	fmt.Println(relay.Shutdown(ctx))
	// Output:
	// 2 ICE server URLs, true
	// <nil>
}
