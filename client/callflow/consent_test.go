package callflow

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestConsentModel lets Spin check consent.pml, and find every mistake that can be compiled into it.
func TestConsentModel(t *testing.T) {
	spin, err := exec.LookPath("spin")
	if err != nil {
		t.Skip("spin is not installed (Debian package spin)")
	}
	model, err := os.ReadFile("consent.pml")
	if err != nil {
		t.Fatal(err)
	}
	states := regexp.MustCompile(`(\d+) states, stored`)
	for _, mistake := range []string{"", "CONNECT", "JOIN", "UPDATE", "CANDIDATES", "SECOND"} {
		t.Run("mistake "+mistake, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir() // spin leaves its verifier behind
			if err := os.WriteFile(filepath.Join(dir, "consent.pml"), model, 0o600); err != nil {
				t.Fatal(err)
			}
			args := []string{"-run", "-safety", "consent.pml"}
			if mistake != "" {
				args = append([]string{"-D" + mistake}, args...)
			}
			run := exec.Command(spin, args...)
			run.Dir = dir
			out, err := run.CombinedOutput()
			report := string(out)
			if err != nil || !strings.Contains(report, "State-vector") {
				t.Fatalf("%v\n%s", err, report)
			}
			if clean := strings.Contains(report, "errors: 0"); clean != (mistake == "") {
				t.Errorf("no mistake found: %v\n%s", clean, report)
			}
			if mistake != "" && !strings.Contains(report, "assertion violated") {
				t.Errorf("something else was found:\n%s", report)
			}
			t.Log(states.FindString(report))
		})
	}
}
