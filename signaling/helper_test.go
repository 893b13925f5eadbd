package signaling

import (
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"sotto/signaling/store"
)

func (d *testDevice) storeAddress() store.Address {
	return store.Address{Account: store.UUID(d.account), Device: uint8(d.device)}
}

// counterOf reads a metric as Prometheus would, summing the lines of name that hold label.
func counterOf(t testing.TB, s *testServer, name, label string) (sum float64) {
	t.Helper()
	w := httptest.NewRecorder()
	s.MetricsHandler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if !strings.HasPrefix(line, name) || !strings.Contains(line, label) {
			continue
		}
		fields := strings.Fields(line)
		v, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += v
	}
	return sum
}

// live waits until the device's mailbox has been handed out, so that what comes now goes straight.
func (d *testDevice) live(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if l := d.server.hub.get(d.storeAddress()); l != nil {
			l.mu.Lock()
			live := !l.pending && !l.pumping
			l.mu.Unlock()
			if live {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("the mailbox is still being handed out")
		}
	}
}
