//go:build !linux

package netchange

import (
	"context"
	"time"
)

// watchSystem has no news to subscribe to that all these systems share: a picture is taken every second.
func watchSystem(ctx context.Context) (<-chan struct{}, error) {
	hints := make(chan struct{})
	go func() {
		defer close(hints)
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			select {
			case <-ctx.Done():
				return
			case hints <- struct{}{}:
			}
		}
	}()
	return hints, nil
}
