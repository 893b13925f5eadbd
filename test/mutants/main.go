// Mutants puts known mistakes into the code, one at a time, and tells which no test notices:
//
//	go run ./test/mutants [-list FILE] [-run REGEXP] [-v]
//
// The mistakes are in mutants.txt, or in FILE, which has its form. They go in through the overlay of
// the go command: no file of the tree is changed. Its exit code is 1 if a mistake survives, does not
// apply any more or does not compile.
package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

//go:embed mutants.txt
var list string

// A mutant is one mistake: in a file, a piece of text that occurs there once becomes another.
type mutant struct {
	name, file string
	old, new   string
	tests      []string // arguments of go test
	same       string   // why it changes no behaviour, if it does not
}

func main() {
	only := flag.String("run", "", "try those whose names match `REGEXP`")
	file := flag.String("list", "", "read the mistakes from `FILE` instead of mutants.txt")
	verbose := flag.Bool("v", false, "show what the tests said")
	flag.Parse()
	if err := run(*file, *only, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(file, only string, verbose bool) error {
	pattern, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	list := list
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		list = string(b)
	}
	mutants, err := parse(list)
	if err != nil {
		return err
	}
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	bad := 0
	for _, m := range mutants {
		if m.same != "" || !pattern.MatchString(m.name) {
			continue
		}
		begin := time.Now()
		verdict, said := m.try(root)
		if verdict != noticed {
			bad++
		}
		fmt.Printf("%-16s %-40s %5.1fs\n", verdict, m.name, time.Since(begin).Seconds())
		if verbose || verdict != noticed && verdict != survives {
			fmt.Printf("%s\n", said)
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d of the mistakes are not noticed", bad)
	}
	return nil
}

const (
	noticed    = "noticed"
	survives   = "SURVIVES"
	unbuilt    = "does not compile"
	inapt      = "does not apply"
	failBefore = "fails without it"
)

// try runs the tests as they are, whose result the go command remembers, and then with the mistake.
func (m *mutant) try(root string) (verdict, said string) {
	mutated, err := m.apply(root)
	if err != nil {
		return inapt, err.Error()
	}
	if said, err := goTest(root, m.tests...); err != nil {
		return failBefore, said
	}
	dir, err := os.MkdirTemp("", "mutant-")
	if err != nil {
		return inapt, err.Error()
	}
	defer os.RemoveAll(dir)
	overlay, err := writeOverlay(dir, filepath.Join(root, m.file), mutated)
	if err != nil {
		return inapt, err.Error()
	}
	said, err = goTest(root, append([]string{"-overlay", overlay, "-failfast"}, m.tests...)...)
	switch {
	case err == nil:
		return survives, said
	case strings.Contains(said, "[build failed]") || strings.Contains(said, "[setup failed]"):
		return unbuilt, said
	}
	return noticed, said
}

// apply returns the file with the mistake in it.
func (m *mutant) apply(root string) ([]byte, error) {
	source, err := os.ReadFile(filepath.Join(root, m.file))
	if err != nil {
		return nil, err
	}
	if n := bytes.Count(source, []byte(m.old)); n != 1 {
		return nil, fmt.Errorf("%s: its old text is %d times in %s", m.name, n, m.file)
	}
	return bytes.Replace(source, []byte(m.old), []byte(m.new), 1), nil
}

func writeOverlay(dir, path string, content []byte) (name string, err error) {
	instead := filepath.Join(dir, filepath.Base(path))
	name = filepath.Join(dir, "overlay.json")
	b, err := json.Marshal(map[string]any{"Replace": map[string]string{path: instead}})
	return name, errors.Join(err,
		os.WriteFile(instead, content, 0o600), os.WriteFile(name, b, 0o600))
}

func goTest(root string, args ...string) (said string, err error) {
	// A mistake may leave a test waiting for what never comes.
	cmd := exec.Command("go", append([]string{"test", "-vet=off", "-ldflags=-s -w", "-timeout=4m"}, args...)...)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func moduleRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", err
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

// parse reads the list. A mutant is a block of lines: its name, "file", "test" or "same", and then
// the old lines after "-" and the new ones after "+". Blank lines part them, and "#" begins a
// comment.
func parse(list string) (mutants []*mutant, err error) {
	for block := range strings.SplitSeq(list, "\n\n") {
		m := new(mutant)
		var old, new []string
		for line := range strings.SplitSeq(block, "\n") {
			key, value, _ := strings.Cut(line, " ")
			switch {
			case line == "" || line[0] == '#':
			case line[0] == '-':
				old = append(old, line[1:])
			case line[0] == '+':
				new = append(new, line[1:])
			case key == "name":
				m.name = value
			case key == "file":
				m.file = value
			case key == "test":
				m.tests = strings.Fields(value)
			case key == "same":
				m.same = strings.TrimSpace(m.same + " " + value)
			default:
				return nil, fmt.Errorf("%q is not understood", line)
			}
		}
		m.old, m.new = strings.Join(old, "\n"), strings.Join(new, "\n")
		switch complete := m.name != "" && m.file != "" && m.old != m.new; {
		case m.name == "" && m.old == "":
			continue // a comment
		case !complete || (m.tests == nil) == (m.same == ""):
			return nil, fmt.Errorf("%q is not complete", block)
		}
		mutants = append(mutants, m)
	}
	return mutants, nil
}
