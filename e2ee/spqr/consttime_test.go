package spqr

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"testing"
)

// What these work on is public: the matrix, which the header determines, and the vector.
var public = map[string]bool{"sampleNTT": true, "polyByteDecode": true, "fieldCheckReduced": true}

// TestNothingDependsOnSecrets reads the encapsulation's sources. Secrets are bytes and field elements; lengths and loop counters are ints.
// So in all functions but those that work on public data, nothing but ints, constants and errors may be divided, be an index, or decide a
// branch or the length of a loop. BenchmarkTiming looks at the same from the outside.
func TestNothingDependsOnSecrets(t *testing.T) {
	found, _ := secretDependent(t, "encaps.go", "mlkem.go")
	for _, where := range found {
		t.Error(where)
	}
}

// The check finds what it is there for.
func TestSecretDependenceIsFound(t *testing.T) {
	found, checked := secretDependent(t, "testdata/leaks.go")
	if len(found) != checked || checked != 8 {
		t.Errorf("%d of %d leaks found: %q", len(found), checked, found)
	}
}

// secretDependent returns the places at fault, and how many functions there are.
func secretDependent(t *testing.T, names ...string) (found []string, functions int) {
	set := token.NewFileSet()
	var files []*ast.File
	for _, name := range names {
		f, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
	config := types.Config{Importer: stubs(declared)}
	if _, err := config.Check("spqr", set, files, info); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		for _, d := range f.Decls {
			function, ok := d.(*ast.FuncDecl)
			if !ok || public[function.Name.Name] {
				continue
			}
			functions++
			report := func(n ast.Node, what string) {
				found = append(found, set.Position(n.Pos()).String()+": "+function.Name.Name+": "+what)
			}
			ast.Inspect(function, func(n ast.Node) bool {
				inspect(info, n, report)
				return true
			})
		}
	}
	return found, functions
}

// declared is what the encapsulation may use of other packages, none of which branches on the contents of what it is given. (All of the
// standard library could be read instead, in ten times the time.)
var declared = map[string]string{
	"errors":        `package errors; func New(string) error`,
	"crypto/subtle": `package subtle; func ConstantTimeCompare(x, y []byte) int`,
	"crypto/sha3": `package sha3
		type SHA3 struct{}
		func (*SHA3) Write([]byte) (int, error)
		func (*SHA3) Sum([]byte) []byte
		func New256() *SHA3
		func New512() *SHA3
		type SHAKE struct{}
		func (*SHAKE) Write([]byte) (int, error)
		func (*SHAKE) Read([]byte) (int, error)
		func NewSHAKE128() *SHAKE
		func NewSHAKE256() *SHAKE`,
	"encoding/binary": `package binary
		type littleEndian struct{}
		func (littleEndian) Uint16([]byte) uint16
		var LittleEndian littleEndian`,
}

// stubs imports packages from declarations.
type stubs map[string]string

func (s stubs) Import(path string) (*types.Package, error) {
	source, ok := s[path]
	if !ok {
		return nil, fmt.Errorf("nothing is declared of %s", path)
	}
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, path, source, 0)
	if err != nil {
		return nil, err
	}
	config := types.Config{IgnoreFuncBodies: true}
	return config.Check(path, set, []*ast.File{f}, nil)
}

func inspect(info *types.Info, n ast.Node, report func(ast.Node, string)) {
	// An operand is harmless if it is a constant, an int or an error.
	harmless := func(e ast.Expr) bool {
		of := info.Types[e]
		return of.Value != nil || of.IsNil() || types.Identical(of.Type, types.Typ[types.Int]) ||
			types.Identical(of.Type, types.Universe.Lookup("error").Type())
	}
	var condition func(e ast.Expr)
	condition = func(e ast.Expr) {
		switch e := e.(type) {
		case nil:
			return
		case *ast.BinaryExpr:
			if e.Op == token.LAND || e.Op == token.LOR {
				condition(e.X)
				condition(e.Y)
				return
			}
			if harmless(e.X) && harmless(e.Y) {
				return
			}
		}
		report(e, "branches")
	}
	switch n := n.(type) {
	case *ast.BinaryExpr:
		if (n.Op == token.QUO || n.Op == token.REM) && (!harmless(n.X) || !harmless(n.Y)) {
			report(n, "divides")
		}
	case *ast.AssignStmt:
		if (n.Tok == token.QUO_ASSIGN || n.Tok == token.REM_ASSIGN) && !harmless(n.Lhs[0]) {
			report(n, "divides")
		}
	case *ast.CallExpr:
		if of := info.Types[n.Fun]; of.IsType() && types.Identical(of.Type, types.Typ[types.Int]) && !harmless(n.Args[0]) {
			report(n, "makes an int of something else")
		}
	case *ast.IndexExpr:
		if of := info.Types[n.Index]; !of.IsType() && !harmless(n.Index) {
			report(n, "indexes")
		}
	case *ast.IfStmt:
		condition(n.Cond)
	case *ast.ForStmt:
		condition(n.Cond)
	case *ast.SwitchStmt:
		report(n, "branches")
	case *ast.RangeStmt:
		of := info.Types[n.X]
		if b, ok := of.Type.Underlying().(*types.Basic); ok && of.Value == nil && !types.Identical(b, types.Typ[types.Int]) {
			report(n, "loops")
		}
	}
}
