package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const recorded = `# by bench/micro.sh --record
pkg: github.com/balsamq/balsa/raft
goos: linux
BenchmarkCommit-2   	1000	 21000 ns/op	 4000 B/op	 35 allocs/op
BenchmarkCommit-2   	1000	 22000 ns/op	 4100 B/op	 36 allocs/op
pkg: github.com/balsamq/balsa/broker
BenchmarkProduceRequest/records=1-2   	1000	 300000 ns/op	 3.4 MB/s	 9000 B/op	 45 allocs/op
BenchmarkNothing-2   	1000	 3 ns/op	 0 B/op	 0 allocs/op
`

func TestMicro(t *testing.T) {
	for what, x := range map[string]struct {
		change [2]string // of what was recorded
		some   bool      // of the operations are run
		worse  bool
		told   string
	}{
		"the same":                     {},
		"on more processors":           {change: [2]string{"-2 ", "-16 "}},
		"slower":                       {change: [2]string{"21000 ns/op", "91000 ns/op"}},
		"one run of two with more":     {change: [2]string{"4100 B/op	 36 allocs/op", "9999 B/op	 99 allocs/op"}},
		"an allocation that is noise":  {change: [2]string{"45 allocs/op", "50 allocs/op"}},
		"six allocations more":         {change: [2]string{"45 allocs/op", "51 allocs/op"}, worse: true, told: "broker ProduceRequest/records=1 45 → 51 allocations"},
		"more bytes in as many":        {change: [2]string{"9000 B/op", "12000 B/op"}, worse: true, told: "9000 → 12000 bytes"},
		"where there was nothing":      {change: [2]string{"0 B/op	 0 allocs/op", "16 B/op	 1 allocs/op"}, worse: true, told: "0 → 1 allocations"},
		"one that is not run":          {change: [2]string{"BenchmarkNothing-2   	1000	 3 ns/op	 0 B/op	 0 allocs/op\n", ""}, worse: true, told: "broker Nothing was not run"},
		"one that need not be run":     {change: [2]string{"BenchmarkNothing-2   	1000	 3 ns/op	 0 B/op	 0 allocs/op\n", ""}, some: true},
		"fewer":                        {change: [2]string{"45 allocs/op", "30 allocs/op"}, told: "better: record it"},
		"one that nobody has recorded": {change: [2]string{"records=1-", "records=7-"}, worse: true, told: "nothing is recorded"},
		"of another package":           {change: [2]string{"balsa/raft", "balsa/segment"}, worse: true, told: "segment Commit"},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			old, now := filepath.Join(dir, "old"), filepath.Join(dir, "now")
			text := recorded
			if x.change[0] != "" {
				if !strings.Contains(recorded, x.change[0]) {
					t.Fatalf("%q is not there", x.change[0])
				}
				text = strings.ReplaceAll(recorded, x.change[0], x.change[1])
			}
			if err := errors.Join(os.WriteFile(old, []byte(recorded), 0o600), os.WriteFile(now, []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			err := run(&out, x.some, old, now)
			if errors.Is(err, errWorse) != x.worse || err != nil && !x.worse {
				t.Errorf("%v\n%s", err, out.String())
			}
			if got := strings.Join(strings.Fields(out.String()), " "); !strings.Contains(got, x.told) {
				t.Errorf("%q is not in %s", x.told, got)
			}
		})
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("PASS\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(&strings.Builder{}, false, empty, empty); err == nil {
		t.Error("nothing was taken for a baseline")
	}
}
