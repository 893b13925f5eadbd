package main

import (
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestEveryMistakeApplies keeps the lists true: each mistake is about code that is there, once, is
// Go with it in place, and names tests that are there. Whether they notice it is not asked here,
// which would take minutes: go run ./test/mutants.
func TestEveryMistakeApplies(t *testing.T) {
	fresh, err := os.ReadFile("fresh.txt")
	if err != nil {
		t.Fatal(err)
	}
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, list := range []string{list, string(fresh)} {
		mutants, err := parse(list)
		if err != nil {
			t.Fatal(err)
		}
		if len(mutants) < 60 {
			t.Errorf("there are %d only", len(mutants))
		}
		for _, m := range mutants {
			if names[m.name] {
				t.Errorf("%s: there are two", m.name)
			}
			names[m.name] = true
			applies(t, root, m)
		}
	}
}

func applies(t *testing.T, root string, m *mutant) {
	t.Helper()
	mutated, err := m.apply(root)
	if err != nil {
		t.Error(err)
		return
	}
	files, mode := token.NewFileSet(), parser.SkipObjectResolution
	if _, err := parser.ParseFile(files, m.file, mutated, mode); err != nil {
		t.Errorf("%s: %v", m.name, err)
	}
	if m.same != "" {
		return
	}
	if info, err := os.Stat(filepath.Join(root, m.tests[0])); err != nil || !info.IsDir() {
		t.Errorf("%s: no package %s", m.name, m.tests[0])
	}
	if len(m.tests) == 3 && !named(t, filepath.Join(root, m.tests[0]), m.tests[2]) {
		t.Errorf("%s: no test in %s is chosen by %s", m.name, m.tests[0], m.tests[2])
	}
}

var testFunction = regexp.MustCompile(`(?m)^func (Test\w+)\(`)

// named says whether a package has a test that go test -run would choose.
func named(t *testing.T, dir, filter string) bool {
	t.Helper()
	top, _, _ := strings.Cut(filter, "/")
	chosen, err := regexp.Compile(top)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range testFunction.FindAllSubmatch(source, -1) {
			if chosen.Match(f[1]) {
				return true
			}
		}
	}
	return false
}

func TestParse(t *testing.T) {
	good := "# comment\n\nname a\nfile b.go\ntest ./b -run C\n-\told\n-\n-\tmore\n+\tnew\n\n" +
		"name d\nfile e.go\nsame as\nsame before\n-old"
	mutants, err := parse(good)
	if err != nil || len(mutants) != 2 {
		t.Fatal(mutants, err)
	}
	m := mutants[0]
	if m.name != "a" || m.file != "b.go" || m.old != "\told\n\n\tmore" || m.new != "\tnew" ||
		strings.Join(m.tests, " ") != "./b -run C" {
		t.Errorf("%+v", m)
	}
	if m := mutants[1]; m.same != "as before" || m.old != "old" || m.new != "" {
		t.Errorf("%+v", m)
	}
	for _, bad := range []string{
		"name a\nfile b.go\n-old", "name a\ntest ./b\n-old", "file b.go\ntest ./b\n-old",
		"name a\nfile b.go\ntest ./b", "name a\nfile b.go\ntest ./b\n-old\n+old",
		"name a\nfile b.go\ntest ./b\nsame as\n-old", "what is this",
	} {
		if mutants, err := parse(bad); err == nil {
			t.Errorf("%q: %+v", bad, mutants)
		}
	}
}

// TestVerdicts tries a module of its own: a rule that a test notices, one that none does, and a
// mistake that is no Go.
func TestVerdicts(t *testing.T) {
	root := t.TempDir()
	for name, content := range map[string]string{
		"go.mod": "module rules\n\ngo 1.26\n",
		"a.go": "package rules\n\nfunc Small(n int) bool { return n < 10 }\n\n" +
			"func Even(n int) bool { return n%2 == 0 }\n",
		"a_test.go": "package rules\n\nimport \"testing\"\n\nfunc TestSmall(t *testing.T) {\n" +
			"\tif Small(10) {\n\t\tt.Error(10)\n\t}\n}\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ old, new, want string }{
		{"n < 10", "n <= 10", noticed},
		{"n%2 == 0", "n%2 == 1", survives},
		{"n%2 == 0", "n%2 == nothing", unbuilt},
		{"n%3", "n%2", inapt},
		{"func ", "", inapt}, // twice
	} {
		m := &mutant{name: "m", file: "a.go", old: c.old, new: c.new, tests: []string{"."}}
		if verdict, said := m.try(root); verdict != c.want {
			t.Errorf("%s -> %s: %s, want %s\n%s", c.old, c.new, verdict, c.want, said)
		}
	}
}
