// README.md shows nothing that is not compiled and run: each of its snippets is a part of an example or test in these files.

package client_test

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

func TestReadmeIsTrue(t *testing.T) {
	// Lines count without their indentation, and without empty ones.
	lines := func(text string) string {
		var out []string
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); line != "" {
				out = append(out, line)
			}
		}
		return "\n" + strings.Join(out, "\n") + "\n"
	}
	var all string
	for _, file := range []string{"example_test.go", "readme_test.go", "telemetry/example_test.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all += lines(string(text))
	}
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	snippets := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(snippets) < 12 {
		t.Fatalf("README.md has %d snippets", len(snippets))
	}
	for _, s := range snippets {
		if !strings.Contains(all, lines(s[1])) {
			t.Errorf("no example or test has this snippet of README.md:\n%s", s[1])
		}
	}
}

func TestOrders(t *testing.T) {
	b := brokertest.Start(t, brokertest.Topic("orders", 6))
	p, err := client.NewProducer(t.Context(), client.ProducerConfig{Config: b.Config(), Topic: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(context.Background())
	if err := p.Produce(t.Context(), &kgo.Record{Value: []byte("two planks")}); err != nil {
		t.Fatal(err)
	}
}

func TestOrdersSurviveABroker(t *testing.T) {
	t.Parallel()
	c := brokertest.Cluster(t, 3, brokertest.Topic("orders", 1))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p, err := client.NewProducer(ctx, client.ProducerConfig{Config: c.Config(), Topic: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(context.Background())
	leader, err := c.Leader(ctx, "orders", 0)
	if err != nil {
		t.Fatal(err)
	}
	leader.Kill() // as kill -9 does; also Stop, Restart, Pause, Resume, Cut, Heal
	if err := p.Produce(ctx, &kgo.Record{Value: []byte("two planks")}); err != nil {
		t.Fatal(err)
	}
}

// The configuration that README.md begins with.
func TestReadmeConfig(t *testing.T) {
	cfg := client.Config{Brokers: []string{"localhost:9092"}}
	if cfg.Brokers[0] != client.DefaultBroker {
		t.Error("README.md begins with another broker than a Config does")
	}
}

// Every exported symbol of the SDK says what it is for.
func TestEverythingIsDocumented(t *testing.T) {
	seen := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		check := func(name *ast.Ident, docs ...*ast.CommentGroup) {
			if !name.IsExported() {
				return
			}
			seen++
			for _, doc := range docs {
				if doc != nil {
					return
				}
			}
			t.Errorf("%s: %s says nothing about itself", path, name.Name)
		}
		for _, decl := range f.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil || exportedReceiver(d.Recv.List[0].Type) {
					check(d.Name, d.Doc)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch s := spec.(type) {
					case *ast.TypeSpec:
						check(s.Name, d.Doc, s.Doc, s.Comment)
					case *ast.ValueSpec:
						for _, name := range s.Names {
							check(name, d.Doc, s.Doc, s.Comment)
						}
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 200 {
		t.Errorf("only %d exported symbols were found", seen)
	}
}

func exportedReceiver(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.StarExpr:
		return exportedReceiver(e.X)
	case *ast.IndexExpr:
		return exportedReceiver(e.X)
	case *ast.IndexListExpr:
		return exportedReceiver(e.X)
	case *ast.Ident:
		return e.IsExported()
	}
	return false
}
