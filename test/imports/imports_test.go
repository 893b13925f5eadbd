// Package imports holds the architecture's import rules to the sources: which package may reach which.
package imports

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	module = "sotto"
	root   = "../.."
)

// A rule says what packages below its prefix may reach of this module, directly or through others.
type rule struct {
	prefix string   // a package and everything below it
	allow  []string // prefixes it may reach; its own is always allowed
}

// The server's side never reaches code that holds message or call keys: xeddsa has public signatures, sealedwire the certificates signed
// by them. protofield is how all of these write protobuf.
var rules = []rule{
	{"wire", nil},
	{"turncred", nil},
	{"internal/protofield", nil},
	{"internal/visible", nil},
	{"internal/routable", nil},
	{"internal/proxyproto", nil},
	{"sealedwire", []string{"internal/protofield", "e2ee/xeddsa"}},
	{"signaling", []string{
		"wire", "turncred", "e2ee/xeddsa", "sealedwire", "internal/protofield", "internal/proxyproto",
	}},
	{"turnserver", []string{"turncred", "internal/routable", "internal/proxyproto"}},
	{"e2ee", []string{"wire", "sealedwire", "internal/protofield"}},
	{"e2ee/xeddsa", []string{"wire"}},
	{"media", []string{"internal/routable"}},
	{"client/callflow", []string{"wire"}},
	{"client", []string{"wire", "e2ee", "media", "sealedwire", "internal/protofield", "internal/routable", "internal/visible"}},
}

// TestImportRules reads the sources themselves: a list made by the go command would stay cached after a violation.
func TestImportRules(t *testing.T) {
	imports := readImports(t, root)
	for _, r := range rules {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(imports)), func(p string) bool { return within(p, r.prefix) }) {
			t.Errorf("rule for %s, which does not exist", r.prefix)
		}
	}
	for _, v := range violations(imports, rules) {
		t.Error(v)
	}
}

// TestImportRulesBite shows that a forbidden path is found when it leads through another package.
func TestImportRulesBite(t *testing.T) {
	imports := map[string][]string{
		"signaling":       {"signaling/store", "e2ee/xeddsa"},
		"signaling/store": {"client"},
		"client":          {"e2ee/ratchet"},
	}
	got := violations(imports, rules)
	if len(got) != 4 { // signaling and its store each reach client, and through it the ratchet
		t.Fatalf("found %d violations, want 4: %q", len(got), got)
	}
}

func violations(imports map[string][]string, rules []rule) []string {
	var found []string
	for _, pkg := range slices.Sorted(maps.Keys(imports)) {
		for _, r := range rules {
			if !within(pkg, r.prefix) {
				continue
			}
			allowed := append([]string{r.prefix}, r.allow...)
			seen := map[string]bool{pkg: true}
			reach(imports, pkg, pkg, seen, func(dep, by string) {
				if !slices.ContainsFunc(allowed, func(a string) bool { return within(dep, a) }) {
					found = append(found, pkg+" reaches "+dep+" (through "+by+")")
				}
			})
		}
	}
	return slices.Compact(found)
}

func reach(imports map[string][]string, pkg, by string, seen map[string]bool, visit func(dep, by string)) {
	for _, dep := range imports[pkg] {
		if seen[dep] {
			continue
		}
		seen[dep] = true
		visit(dep, pkg)
		reach(imports, dep, pkg, seen, visit)
	}
}

func within(pkg, prefix string) bool {
	return pkg == prefix || strings.HasPrefix(pkg, prefix+"/")
}

// readImports maps each package of the module, named by its folder, to the packages of the module that it imports. Tests are
// left out: they are not shipped, and they may start both sides.
func readImports(t *testing.T, root string) map[string][]string {
	t.Helper()
	imports := map[string][]string{}
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && file != root && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata") {
			return fs.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		source, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, source, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return err
		}
		pkg := path.Clean(filepath.ToSlash(rel))
		imports[pkg] = append(imports[pkg], nil...)
		for _, spec := range parsed.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if dep, ok := strings.CutPrefix(name, module+"/"); ok {
				imports[pkg] = append(imports[pkg], dep)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return imports
}
