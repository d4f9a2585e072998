// The architecture's rules as tests. Each failure prints the reason of the rule it broke: who wants to break one changes
// the reason here and in ARCHITECTURE.md first.

package archtest

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/balsamq/balsa"

// rule says what one package, and what lies below it in the tree unless that has a rule of its own, may import outside
// its tests. Paths of this module are given without the module's path. The standard library is always allowed, except
// where std lists what of it is.
type rule struct {
	pkg    string
	own    []string // packages of this module
	others []string // path prefixes of other modules' packages
	std    []string // if not nil: the only packages of the standard library
	reason string
}

var rules = []rule{
	{
		pkg: "raft",
		std: []string{"bytes", "cmp", "encoding/binary", "errors", "fmt", "iter", "math", "math/bits", "math/rand/v2", "slices", "maps", "strings", "strconv", "hash/crc32", "time"},
		reason: "the consensus core is pure: no clock, goroutine, lock, disk, socket or logger, so that a seed replays everything it does " +
			"(time is allowed for Duration; a reading of the clock is forbidden by TestCoreIsPure)",
	},
	{pkg: "protocol", others: []string{"github.com/twmb/franz-go/pkg/kmsg", "github.com/klauspost/compress", "github.com/pierrec/lz4"},
		reason: "the wire format knows nothing of what is built on it"},
	{pkg: "internal/vfs", others: []string{"golang.org/x/sys"}, reason: "the seam to the file system knows nothing of what is stored through it"},
	{pkg: "internal/sock", reason: "sockets know nothing of what is said through them"},
	{pkg: "segment", own: []string{"raft", "protocol", "internal/vfs"},
		reason: "the log knows raft's types, the batch it stores and the seam to the disk; who replicates it is not its business"},
	{pkg: "raft/multi", own: []string{"raft", "internal/vfs", "raft/multi"}, others: []string{"github.com/tidwall/wal", "golang.org/x/sys"},
		reason: "the runtime drives logs and state machines through interfaces that it declares: it must run on the simulator's as well"},
	{pkg: "raft/transport", own: []string{"raft", "raft/multi", "internal/sock"}, reason: "the transport carries messages and satisfies the runtime's interface; it knows no topic"},
	{pkg: "partition", own: []string{"raft", "raft/multi", "segment", "protocol", "internal/vfs"}, others: []string{"github.com/twmb/franz-go/pkg/kmsg"},
		reason: "a replica works on a group and its log; sockets, requests and other partitions are the broker's"},
	{pkg: "coordinator", own: []string{"raft", "raft/multi", "segment", "protocol", "internal/vfs"}, others: []string{"github.com/twmb/franz-go/pkg/kmsg", "github.com/twmb/franz-go/pkg/kbin"},
		reason: "the state machines fold over a log that they declare an interface for, in Kafka's records (kbin where kmsg lacks one); siblings on a floor do not import each other"},
	{pkg: "broker", own: []string{"raft", "raft/multi", "raft/transport", "protocol", "internal/vfs", "internal/sock", "segment", "partition", "coordinator"},
		others: []string{"github.com/twmb/franz-go/pkg/kmsg", "github.com/twmb/franz-go/pkg/kerr", "github.com/twmb/franz-go/pkg/kversion", "golang.org/x/", "github.com/prometheus/client_golang", "github.com/klauspost/compress", "github.com/go-jose/go-jose/v4"},
		reason: "the server is wiring: it may see every floor below, but no client, no CLI and no test tool"},
	{pkg: "cmd/broker", own: []string{"broker", "bridge", "client", "bench", "segment", "internal/vfs"},
		others: []string{"github.com/spf13/", "github.com/twmb/franz-go/", "go.yaml.in/yaml/v3", "golang.org/x/sys"},
		reason: "the CLI is a user of broker, bridge, client and bench; segment (with the file system it reads by) is for `log dump` only"},
	{pkg: "client", own: []string{"internal/sock"}, others: []string{"github.com/twmb/franz-go/"}, reason: "the SDK is for other people's programs: it must not pull the server in"},
	{pkg: "client/serde/avro", own: []string{"client"}, others: []string{"github.com/twmb/franz-go/", "github.com/twmb/avro"},
		reason: "a format is a package of its own: a program that does not use it does not link it"},
	{pkg: "client/serde/protobuf", own: []string{"client"}, others: []string{"github.com/twmb/franz-go/", "google.golang.org/protobuf"},
		reason: "a format is a package of its own: a program that does not use it does not link it"},
	{pkg: "client/telemetry", own: []string{"client"}, others: []string{"github.com/twmb/franz-go/", "go.opentelemetry.io/otel"},
		reason: "OpenTelemetry is for who asks for it"},
	{pkg: "bench", own: []string{"client", "bench", "internal/sock"},
		others: []string{"github.com/twmb/franz-go/", "github.com/nats-io/nats.go", "github.com/synadia-io/orbit.go", "github.com/HdrHistogram/", "golang.org/x/"},
		reason: "the load generator meets Balsa and its peers over the network, as users do"},
	{pkg: "bridge", own: []string{"client", "broker"}, others: []string{"github.com/nats-io/nats.go", "github.com/twmb/franz-go/"}, reason: "the bridge is a client"},
	{pkg: "brokertest", own: []string{"client", "broker", "internal/vfs", "raft", "raft/multi"}, others: []string{"github.com/twmb/franz-go/"},
		reason: "a real broker inside a Go test, whose disk, network, clock (raft.Time) and journal (raft/multi/journal) can be stopped"},
	{pkg: "examples", own: []string{"client", "brokertest", "broker", "bridge", "bench"},
		others: []string{"github.com/twmb/franz-go/", "github.com/nats-io/nats.go", "go.etcd.io/bbolt", "golang.org/x/sync"},
		reason: "an example is a program of a user's: it has the SDK and, where nobody gives it a cluster, one of brokertest's, configured as a broker is; bench knows how to get a nats-server"},
	{pkg: "sim", own: []string{"raft", "raft/multi", "raft/transport", "segment", "partition", "coordinator", "protocol", "internal/vfs", "sim"},
		reason: "the simulator runs the real floors 0 to 3 on fake time, network and disk: nothing of the broker, which owns sockets"},
	{pkg: "test", own: []string{"client", "broker"}, others: []string{"github.com/twmb/franz-go/"}, reason: "compatibility checks meet a broker over the network"},
	{pkg: "test/compat/clients", others: []string{"github.com/IBM/sarama", "github.com/segmentio/kafka-go", "github.com/xdg-go/scram"},
		reason: "other clients have a module of their own, so that the broker's requires none of them"},
	{pkg: "internal/testport", reason: "addresses for tests; no package but tests may have it"},
	{pkg: "internal/archtest", reason: "the rules depend on nothing"},
}

// sourceFile is a parsed non-test file.
type sourceFile struct {
	path    string // from the repository's root, with slashes
	pkg     string // its directory
	ast     *ast.File
	text    []byte
	lines   int
	comment bool // begins with a comment
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// sources parses every non-test Go file, whatever its build constraints.
func sources(t *testing.T) []sourceFile {
	t.Helper()
	top := root(t)
	var out []sourceFile
	err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && p != top && (strings.HasPrefix(name, ".") || name == "testdata" || name == "balsa-data" || name == "bin") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, p)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, text, parser.ParseComments)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		trimmed := bytes.TrimSpace(text)
		out = append(out, sourceFile{path: rel, pkg: path.Dir(rel), ast: f, text: text, lines: bytes.Count(text, []byte("\n")),
			comment: bytes.HasPrefix(trimmed, []byte("//")) || bytes.HasPrefix(trimmed, []byte("/*"))})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 5 {
		t.Fatalf("only %d source files were found below %s", len(out), top)
	}
	return out
}

// ruleFor is the rule of the longest matching package path.
func ruleFor(pkg string) *rule {
	var best *rule
	for i := range rules {
		r := &rules[i]
		if (pkg == r.pkg || strings.HasPrefix(pkg, r.pkg+"/")) && (best == nil || len(r.pkg) > len(best.pkg)) {
			best = r
		}
	}
	return best
}

// forbidden says whether a package under rule r may not import imp.
func forbidden(r *rule, pkg, imp string) bool {
	if own, ok := strings.CutPrefix(imp, module+"/"); ok {
		// Below its own path a package may have subpackages, except where those have a rule of their own.
		if sub := ruleFor(own); sub == r {
			return false
		}
		return !slices.Contains(r.own, own) && !slices.ContainsFunc(r.own, func(o string) bool {
			return strings.HasPrefix(own, o+"/") && ruleFor(own) != nil && ruleFor(own).pkg == o
		})
	}
	if first, _, _ := strings.Cut(imp, "/"); !strings.Contains(first, ".") { // the standard library
		return r.std != nil && !slices.Contains(r.std, imp)
	}
	return !slices.ContainsFunc(r.others, func(o string) bool {
		return imp == strings.TrimSuffix(o, "/") || strings.HasPrefix(imp, strings.TrimSuffix(o, "/")+"/")
	})
}

func TestImportTable(t *testing.T) {
	for _, f := range sources(t) {
		r := ruleFor(f.pkg)
		if r == nil {
			t.Errorf("%s: package %s stands on no floor\n  reason: every package has its place in ARCHITECTURE.md's table and a rule here", f.path, f.pkg)
			continue
		}
		for _, spec := range f.ast.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if forbidden(r, f.pkg, imp) {
				t.Errorf("%s imports %s\n  reason: %s", f.path, imp, r.reason)
			}
		}
	}
}

// The rules themselves can be wrong in the way that lets everything through: these must be refused, and these not.
func TestRulesRefuse(t *testing.T) {
	for _, tc := range []struct {
		pkg, imp string
		bad      bool
	}{
		{"raft", "sync", true},
		{"raft", "os", true},
		{"raft", "log/slog", true},
		{"raft", module + "/segment", true},
		{"raft", "slices", false},
		{"raft/multi", "sync", false},
		{"raft/multi/journal", "github.com/tidwall/wal", false},
		{"raft/multi", module + "/segment", true},
		{"raft/transport", module + "/raft/multi", false},
		{"segment", module + "/raft", false},
		{"segment", module + "/raft/multi", true},
		{"partition", module + "/coordinator", true},
		{"coordinator", module + "/partition", true},
		{"broker", module + "/client", true},
		{"broker", "github.com/spf13/cobra", true},
		{"broker", "github.com/nats-io/nats-server/v2/server", true},
		{"cmd/broker", module + "/raft", true},
		{"cmd/broker", module + "/broker", false},
		{"client", module + "/broker", true},
		{"client", "github.com/twmb/franz-go/pkg/kgo", false},
		{"client", module + "/client/serde", false},
		{"client", module + "/client/serde/avro", true},
		{"client/serde/registry", "github.com/twmb/avro", true},
		{"client/serde/avro", module + "/client/serde/registry", false},
		{"client", "github.com/twmb/franz-go-evil/kgo", true},
		{"bench", "github.com/nats-io/nats-server/v2/server", true},
		{"sim", module + "/broker", true},
		{"cmd/broker", "go.etcd.io/bbolt", true},
		{"client", module + "/examples/internal/demo", true},
		{"examples/edge", module + "/client/serde", false},
		{"examples/edge", module + "/coordinator", true},
		{"broker", module + "/internal/testport", true},
	} {
		if got := forbidden(ruleFor(tc.pkg), tc.pkg, tc.imp); got != tc.bad {
			t.Errorf("%s importing %s: forbidden is %v, want %v", tc.pkg, tc.imp, got, tc.bad)
		}
	}
}

// The core takes time.Duration from package time and nothing that looks at a clock; and it starts nothing.
func TestCoreIsPure(t *testing.T) {
	const reason = "a seed must replay everything that the core does (DESIGN: pure and deterministic)"
	for _, f := range sources(t) {
		if f.pkg != "raft" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt, *ast.SelectStmt, *ast.SendStmt, *ast.ChanType:
				t.Errorf("%s: a goroutine or channel\n  reason: %s", f.path, reason)
			case *ast.SelectorExpr:
				x, ok := n.X.(*ast.Ident)
				if !ok {
					return true
				}
				switch name := n.Sel.Name; {
				case x.Name == "time" && !slices.Contains([]string{"Duration", "Nanosecond", "Microsecond", "Millisecond", "Second", "Minute", "Hour"}, name):
					t.Errorf("%s: time.%s\n  reason: %s", f.path, name, reason)
				case x.Name == "rand" && !slices.Contains([]string{"Rand", "Source", "New", "NewPCG"}, name):
					t.Errorf("%s: rand.%s draws from the global source\n  reason: %s", f.path, name, reason)
				}
			}
			return true
		})
	}
}

func TestFileSizes(t *testing.T) {
	const most = 900
	for _, f := range sources(t) {
		if f.lines > most {
			t.Errorf("%s has %d lines, more than %d\n  reason: a file has one subject; past this size a second one lives there", f.path, f.lines, most)
		}
	}
}

func TestFilesBeginWithComment(t *testing.T) {
	for _, f := range sources(t) {
		if !f.comment || strings.HasPrefix(string(bytes.TrimSpace(f.text)), "//go:build") && !hasProse(f) {
			t.Errorf("%s does not begin with a comment that says what it is for\n  reason: a reader who opens it first must know where they are", f.path)
		}
	}
}

// hasProse: there is a comment above the package clause that is no directive.
func hasProse(f sourceFile) bool {
	for _, g := range f.ast.Comments {
		if g.Pos() < f.ast.Package && strings.TrimSpace(g.Text()) != "" { // Text leaves directives out
			return true
		}
	}
	return false
}

// TestNoGrabBags refuses the package names under which things gather that belong nowhere.
func TestNoGrabBags(t *testing.T) {
	for _, f := range sources(t) {
		if slices.Contains([]string{"util", "utils", "common", "helpers", "misc", "shared"}, path.Base(f.pkg)) {
			t.Errorf("%s: a package is named by what it does\n  reason: grab-bags grow until everything imports them", f.path)
		}
	}
}

// The binary must not contain a peer that it is compared with.
func TestNoPeerInBinary(t *testing.T) {
	if testing.Short() {
		t.Skip("runs go list")
	}
	cmd := exec.Command("go", "list", "-deps", "-f", "{{.ImportPath}}", "./cmd/broker")
	cmd.Dir = root(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	deps := strings.Fields(string(out))
	if len(deps) < 100 {
		t.Fatalf("go list names only %d packages", len(deps))
	}
	for _, d := range deps {
		if strings.HasPrefix(d, "github.com/nats-io/nats-server") || strings.HasPrefix(d, "github.com/twmb/franz-go/pkg/kfake") || d == "testing" {
			t.Errorf("cmd/broker contains %s\n  reason: peers run as processes of their own (DESIGN), and test tools are not shipped", d)
		}
	}
	mod, err := os.ReadFile(filepath.Join(root(t), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(mod, []byte("nats-io/nats-server")) {
		t.Error("go.mod requires nats-server\n  reason: peers run as processes of their own (DESIGN)")
	}
}

// ARCHITECTURE.md names the tests and transcripts that guard each invariant: they must be there, under these names.
func TestArchitectureNamesWhatExists(t *testing.T) {
	page := namesWhatExists(t, "ARCHITECTURE.md", 20)
	if n := strings.Count(page, "\n"); n >= 300 {
		t.Errorf("ARCHITECTURE.md has %d lines\n  reason: it is read in one sitting or not at all", n)
	}
}

// The pages that answer "what guards us against that?", too; and every transcript has a place among the scenarios.
func TestPagesNameWhatExists(t *testing.T) {
	namesWhatExists(t, "docs/design/raft-pitfalls.md", 60)
	namesWhatExists(t, "docs/design/sofajraft.md", 20)
	page := namesWhatExists(t, "docs/design/raft-scenarios.md", 60)
	files, err := filepath.Glob(filepath.Join(root(t), "raft/testdata/*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if !strings.Contains(page, "`"+filepath.Base(f)+"`") {
			t.Errorf("docs/design/raft-scenarios.md does not say what raft/testdata/%s is for", filepath.Base(f))
		}
	}
}

var (
	camelCase = regexp.MustCompile(`^[a-z]+([A-Z][a-z]+)+$`)
	kebabCase = regexp.MustCompile(`^[a-z]+(-[a-z]+)+$`)
)

// everything is the names of all files, and the text of all Go files, of the repository.
var everything = sync.OnceValues(func() (string, error) {
	var all strings.Builder
	err := filepath.WalkDir("../..", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && p != "../.." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "balsa-data") {
			return filepath.SkipDir
		}
		all.WriteString("\n" + d.Name() + "\n")
		if strings.HasSuffix(p, ".go") {
			text, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			all.Write(text)
		}
		return nil
	})
	return all.String(), err
})

// namesWhatExists checks the names in backquotes on a page, at least so many of them, and returns the page: tests, types of errors,
// files; in the design pages also rules (types in camel case) and mutants (strings in kebab case).
func namesWhatExists(t *testing.T, file string, atLeast int) string {
	t.Helper()
	top := root(t)
	page, err := os.ReadFile(filepath.Join(top, file))
	if err != nil {
		t.Fatal(err)
	}
	design := strings.HasPrefix(file, "docs/design/")
	all, err := everything()
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, name := range regexp.MustCompile("`([A-Za-z0-9_./-]+)`").FindAllStringSubmatch(string(page), -1) {
		var want []string
		switch n := name[1]; {
		case strings.HasPrefix(n, "Test") || strings.HasPrefix(n, "Fuzz"):
			fn, sub, ok := strings.Cut(n, "/")
			want = append(want, "\nfunc "+fn+"(")
			if ok {
				want = append(want, `"`+sub+`"`)
			}
		case strings.HasSuffix(n, "Error"):
			want = append(want, "\ntype "+n+" struct")
		case strings.HasSuffix(n, ".txt"):
			want = append(want, "\n"+n+"\n")
		case strings.Contains(n, "/") || strings.HasSuffix(n, ".go") || strings.HasSuffix(n, ".sh"):
			if _, err := os.Stat(filepath.Join(top, n)); err != nil && !strings.Contains(all, "\n"+path.Base(n)+"\n") {
				t.Errorf("%s names %s, which is not there", file, n)
			}
			continue
		case design && camelCase.MatchString(n):
			want = append(want, "\ntype "+n+" struct")
		case design && kebabCase.MatchString(n):
			want = append(want, `"`+n+`"`)
		}
		for _, w := range want {
			checked++
			if !strings.Contains(all, w) {
				t.Errorf("%s names %s, which is not there", file, name[1])
			}
		}
	}
	if checked < atLeast {
		t.Errorf("only %d names were found in %s", checked, file)
	}
	return string(page)
}
