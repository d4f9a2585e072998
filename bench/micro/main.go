// Command micro holds micro-benchmarks against recorded ones by what is the same on any machine: how many allocations an operation makes, and of
// how many bytes. Times are not looked at; bench/micro.sh, which runs this, compares those of two commits on one machine.
//
//	micro [-some] BASELINE NOW
//
// Both are what `go test -bench -benchmem` prints. It exits with 1 if an operation allocates more than it did, has no baseline, or (without -some) has
// a baseline and was not run.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/perf/benchfmt"
)

// What is more by as much as this is not noise: a broker that ticks meanwhile, a pool that was emptied.
const (
	moreAllocs, fewAllocs = 0.10, 1
	moreBytes, fewBytes   = 0.20, 256
)

// cost is what an operation allocates, the least of all runs: what comes on top of it is somebody else's.
type cost struct{ allocs, bytes float64 }

// key names a benchmark: its package and its name without the number of processors.
type key struct{ pkg, name string }

func (k key) String() string {
	return strings.TrimPrefix(k.pkg, "github.com/balsamq/balsa/") + " " + k.name
}

func read(r io.Reader, name string) (map[key]cost, error) {
	all := make(map[key]cost)
	in := benchfmt.NewReader(r, name)
	for in.Scan() {
		x, ok := in.Result().(*benchfmt.Result)
		if !ok {
			continue // a line of something else
		}
		allocs, ok := x.Value("allocs/op")
		bytes, also := x.Value("B/op")
		if !ok || !also {
			continue
		}
		_, parts := x.Name.Parts()
		if n := len(parts); n > 0 && parts[n-1][0] == '-' {
			parts = parts[:n-1]
		}
		k, now := key{pkg: x.GetConfig("pkg"), name: string(x.Name.Base())}, cost{allocs, bytes}
		for _, p := range parts {
			k.name += string(p)
		}
		if old, ok := all[k]; ok {
			now = cost{min(old.allocs, allocs), min(old.bytes, bytes)}
		}
		all[k] = now
	}
	return all, in.Err()
}

// compare prints what has changed, and says how many operations are worse, of how many nothing was recorded, and how many were not run.
func compare(w io.Writer, old, now map[key]cost) (worse, unknown, missing int, err error) {
	t := tabwriter.NewWriter(w, 2, 0, 2, ' ', 0)
	for _, k := range slices.SortedFunc(maps.Keys(now), func(a, b key) int { return cmp.Compare(a.String(), b.String()) }) {
		n := now[k]
		o, ok := old[k]
		if !ok {
			unknown++
			fmt.Fprintf(t, "%v\t%.0f allocations\t%.0f bytes\tnothing is recorded of it\t\n", k, n.allocs, n.bytes)
			continue
		}
		verdict := ""
		switch {
		case n.allocs > o.allocs*(1+moreAllocs)+min(fewAllocs, o.allocs), n.bytes > o.bytes*(1+moreBytes)+fewBytes: // where there was none, one is worse
			worse++
			verdict = "WORSE"
		case n.allocs < o.allocs*(1-moreAllocs)-fewAllocs, n.bytes < o.bytes*(1-moreBytes)-fewBytes:
			verdict = "better: record it"
		default:
			continue
		}
		fmt.Fprintf(t, "%v\t%.0f → %.0f allocations\t%.0f → %.0f bytes\t%s\t\n", k, o.allocs, n.allocs, o.bytes, n.bytes, verdict)
	}
	for _, k := range slices.SortedFunc(maps.Keys(old), func(a, b key) int { return cmp.Compare(a.String(), b.String()) }) {
		if _, ok := now[k]; !ok {
			missing++
			fmt.Fprintf(t, "%v\t\t\twas not run\t\n", k)
		}
	}
	return worse, unknown, missing, t.Flush()
}

var errWorse = errors.New("operations allocate more than they did, are not recorded, or were not run; if that is meant: bench/micro.sh --record")

func run(w io.Writer, some bool, baseline, results string) error {
	var sides [2]map[key]cost
	for i, name := range []string{baseline, results} {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		sides[i], err = read(f, name)
		_ = f.Close() // only read
		if err != nil {
			return err
		}
		if len(sides[i]) == 0 {
			return fmt.Errorf("%s: no benchmark with its allocations", name)
		}
	}
	if some {
		maps.DeleteFunc(sides[0], func(k key, _ cost) bool { _, ok := sides[1][k]; return !ok })
	}
	worse, unknown, missing, err := compare(w, sides[0], sides[1])
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%d operations, %d worse, %d without a baseline, %d not run\n", len(sides[1]), worse, unknown, missing)
	if worse+unknown+missing > 0 {
		return errWorse
	}
	return nil
}

func main() {
	some := flag.Bool("some", false, "not all operations were run")
	flag.Parse()
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: micro [-some] BASELINE NOW")
		os.Exit(2)
	}
	if err := run(os.Stdout, *some, flag.Arg(0), flag.Arg(1)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
