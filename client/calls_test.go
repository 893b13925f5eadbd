package client

import (
	"testing"
	"testing/synctest"
	"time"
)

// Close waits for a call from the moment it has its place, also before its loop runs.
func TestCloseWaitsForCallThatBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Client{calls: callTable{seen: map[CallID]time.Time{}}}
		call := c.newCall(&contact{})
		if !c.calls.begin(call) {
			t.Fatal("no place")
		}
		closed := make(chan struct{})
		go func() {
			c.calls.close()
			close(closed)
		}()
		synctest.Wait()
		select {
		case <-closed:
			t.Error("closed before the call's loop has run")
		default:
		}
		c.calls.run(func() {})
		<-closed
	})
}
