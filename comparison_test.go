package mailtrapwebhook_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What is compared byte by byte tells an attacker, by the time it takes, how much of a guess was right.
func TestSecretsAreComparedInConstantTimeOnly(t *testing.T) {
	checked := 0
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		checked++
		require.Empty(t, plainComparisons(t, path, nil))
		return nil
	})
	require.NoError(t, err)
	require.Greater(t, checked, 5)
}

func TestPlainComparisonsAreFound(t *testing.T) {
	const head = "package p\nfunc f(signature, secret, other string, d struct{ Token string }) bool { return "
	for _, expr := range []string{
		"signature == other",
		"other != secret",
		"d.Token == other",
		"bytes.Equal([]byte(signature), nil2)",
		"strings.EqualFold(other, password)",
		`Sign(nil, secret) == other`,
		"mac[:] == want",
	} {
		require.Len(t, plainComparisons(t, "a.go", head+expr+" }"), 1, expr)
	}
	for _, expr := range []string{
		`signature == ""`, "len(secrets) == 0", "len(signature) != hex.EncodedLen(sha256.Size)", "other == other",
		"verifier == nil", "sameDigest(token, other) != 1",
	} {
		require.Empty(t, plainComparisons(t, "a.go", head+expr+" }"), expr)
	}
}

var sensitive = regexp.MustCompile(`(?i)signature|secret|token|password|\bmac\b|\bSign\b`)

// plainComparisons returns where a Go file compares something that is named like a secret, other than with a constant.
func plainComparisons(t *testing.T, path string, src any) (found []string) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, src, 0)
	require.NoError(t, err)
	ast.Inspect(file, func(n ast.Node) bool {
		var operands []ast.Expr
		switch n := n.(type) {
		case *ast.BinaryExpr:
			if n.Op == token.EQL || n.Op == token.NEQ {
				operands = []ast.Expr{n.X, n.Y}
			}
		case *ast.CallExpr:
			if name := exprName(n.Fun); name == "bytes.Equal" || name == "strings.EqualFold" {
				operands = n.Args
			}
		}
		secret, constant := false, false
		for _, operand := range operands {
			secret = secret || sensitive.MatchString(exprName(operand))
			constant = constant || isConstant(operand)
		}
		if secret && !constant {
			found = append(found, files.Position(n.Pos()).String())
		}
		return true
	})
	return found
}

// exprName returns the names in an expression that is compared by its contents.
func exprName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return exprName(e.X) + "." + e.Sel.Name
	case *ast.IndexExpr:
		return exprName(e.X)
	case *ast.SliceExpr:
		return exprName(e.X)
	case *ast.StarExpr:
		return exprName(e.X)
	case *ast.CallExpr:
		if _, conversion := e.Fun.(*ast.ArrayType); conversion && len(e.Args) == 1 {
			return exprName(e.Args[0])
		}
		return exprName(e.Fun)
	}
	return ""
}

func isConstant(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.BasicLit:
		return true
	case *ast.Ident:
		return e.Name == "nil"
	case *ast.CallExpr: // a length is no secret
		return exprName(e.Fun) == "len"
	}
	return false
}
