//go:build unix

package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
)

// TestRelayHealth: a relay that cannot open a port for anybody does not say that all is well.
func TestRelayHealth(t *testing.T) {
	health := func() (int, string) {
		answer := httptest.NewRecorder()
		relayHealth(answer, nil)
		return answer.Code, answer.Body.String()
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	few := limit
	few.Cur = 3
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	code, text := health()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if code != http.StatusServiceUnavailable || !strings.Contains(text, "LimitNOFILE") {
		t.Errorf("without descriptors: %d %q", code, text)
	}
	if code, text := health(); code != http.StatusOK || text != "ok\n" {
		t.Errorf("with descriptors again: %d %q", code, text)
	}
}
