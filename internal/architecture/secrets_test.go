// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package architecture

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pg_liveness_exporter/internal/testservers"
)

// holders returns the types of config whose values hold a Secret.
func holders() []string {
	return []string{"Secret", "Variable", "Environment", "PasswordSource", "Login", "Target", "Check", "File"}
}

// TestUnexportedSecrets: no unexported field holds a secret by value, since package fmt would print it. A pointer inside a
// struct is printed as an address.
func TestUnexportedSecrets(t *testing.T) {
	t.Parallel()
	root, err := testservers.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{} // the types that the program does have
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains([]string{"node_modules", "tools", ".git", "e2e"}, entry.Name()):
			return filepath.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok && file.Name.Name == "config" {
				seen[spec.Name.Name] = true
			}
			s, ok := n.(*ast.StructType)
			if !ok {
				return true
			}
			for _, field := range s.Fields.List {
				for _, name := range field.Names {
					if !name.IsExported() && holdsSecret(field.Type, file.Name.Name == "config") {
						t.Errorf("%s: the field %s holds a secret by value", files.Position(name.Pos()), name)
					}
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range holders() {
		if !seen[name] {
			t.Errorf("config has no type %s", name)
		}
	}
}

// holdsSecret reports whether a type holds a secret that is not behind a pointer.
func holdsSecret(of ast.Expr, inConfig bool) bool {
	switch of := of.(type) {
	case *ast.Ident:
		return inConfig && slices.Contains(holders(), of.Name)
	case *ast.SelectorExpr:
		from, _ := of.X.(*ast.Ident)
		return from != nil && from.Name == "config" && slices.Contains(holders(), of.Sel.Name)
	case *ast.ArrayType:
		return holdsSecret(of.Elt, inConfig)
	case *ast.MapType:
		return holdsSecret(of.Key, inConfig) || holdsSecret(of.Value, inConfig)
	}
	return false
}
