//go:build unix

package signaling

import (
	"io"
	"net/http"
	"syscall"
	"testing"
)

// TestHealthWithoutDescriptors: who can still ask, over a connection that exists, is not told that
// all is well.
func TestHealthWithoutDescriptors(t *testing.T) {
	s := serve(t)
	client := s.client()
	get := func() (int, error) {
		response, err := client.Get(s.http.URL + "/healthz")
		if err != nil {
			return 0, err
		}
		defer response.Body.Close()
		_, err = io.Copy(io.Discard, response.Body) // so that the connection is used again
		return response.StatusCode, err
	}
	if code, err := get(); code != http.StatusOK || err != nil {
		t.Fatal(code, err)
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
	code, err := get()
	if e := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); e != nil {
		t.Fatal(e)
	}
	if code != http.StatusServiceUnavailable || err != nil {
		t.Errorf("without descriptors: %d, %v", code, err)
	}
	if code, err := get(); code != http.StatusOK || err != nil {
		t.Errorf("with descriptors again: %d, %v", code, err)
	}
}
