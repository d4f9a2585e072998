// Mutants: deliberately broken variants of the code under test, one for each famous bug. Each is a file in testdata/mutants that
// says what to replace; it is built beside the real code with the Go tool's overlay, which touches nothing, and run on the seed
// that is known to see it. If none of the seeds from there on sees it, the checker or the schedule has gone blind.
//
//	go test ./sim -run TestMutants -mutants                    each on its pinned seed
//	go test ./sim -run TestMutants/lease -mutants -search 5000 search from seed 1 on, and say how many it took
//	go test ./sim -run TestMutants -mutants -search 5000 -pin  and write the seeds into the files

package sim

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var (
	mutants = flag.Bool("mutants", false, "TestMutants builds and runs the mutants")
	search  = flag.Int("search", 0, "TestMutants searches so many seeds from 1 on, instead of running the pinned one")
	pin     = flag.Bool("pin", false, "TestMutants writes the seeds that it finds into the files")
)

// mutantTries is how many seeds, from the pinned one on, may pass before a mutant counts as not seen. A change anywhere in the
// code under test shifts what a seed does; then another one close by has to do.
const mutantTries = 400

// mutant is one file of testdata/mutants:
//
//	# what is broken, and where it was seen
//	seed: 17
//	file: raft/leader.go
//	<<<<
//	text that stands there once
//	====
//	what stands there instead
//	>>>>
type mutant struct {
	path, about string
	seed        uint64
	edits       []edit
}

type edit struct{ file, old, new string }

func readMutant(path string) (m mutant, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return m, err
	}
	m.path = path
	var file string
	var e *edit
	var into *string
	for i, line := range strings.Split(strings.TrimRight(string(text), "\n"), "\n") {
		switch {
		case line == "<<<<":
			e = &edit{file: file}
			into = &e.old
		case line == "====" && e != nil:
			into = &e.new
		case line == ">>>>" && e != nil:
			m.edits = append(m.edits, *e)
			e, into = nil, nil
		case into != nil:
			*into += line + "\n"
		case strings.HasPrefix(line, "# "):
			m.about += strings.TrimPrefix(line, "# ") + " "
		case strings.HasPrefix(line, "seed: "):
			if m.seed, err = strconv.ParseUint(strings.TrimPrefix(line, "seed: "), 10, 64); err != nil {
				return m, err
			}
		case strings.HasPrefix(line, "file: "):
			file = strings.TrimPrefix(line, "file: ")
		case line != "":
			return m, fmt.Errorf("%s:%d: %q means nothing here", path, i+1, line)
		}
	}
	if m.about == "" || m.seed == 0 || len(m.edits) == 0 || into != nil {
		return m, fmt.Errorf("%s: incomplete", path)
	}
	return m, nil
}

// build makes a test binary of this package in which the mutant's files stand in for the real ones.
func (m *mutant) build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	texts := map[string]string{}
	for _, e := range m.edits {
		text, ok := texts[e.file]
		if !ok {
			b, err := os.ReadFile(filepath.Join("..", e.file))
			if err != nil {
				t.Fatal(err)
			}
			text = string(b)
		}
		if n := strings.Count(text, e.old); n != 1 {
			t.Fatalf("%s: what is to be replaced in %s stands there %d times:\n%s", m.path, e.file, n, e.old)
		}
		texts[e.file] = strings.Replace(text, e.old, e.new, 1)
	}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for file, text := range texts {
		real, err := filepath.Abs(filepath.Join("..", file))
		if err != nil {
			t.Fatal(err)
		}
		broken := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(broken, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay.Replace[real] = broken
	}
	b, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	list, out := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "sim.test")
	if err := os.WriteFile(list, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off", "-overlay", list, "-o", out, ".").CombinedOutput(); err != nil {
		t.Fatalf("%s does not build: %v\n%s", m.path, err, b)
	}
	return out
}

var seenLine = regexp.MustCompile(`SEEN with seed ([0-9]+): (.*)`)

// TestMutants requires that each mutant is seen.
func TestMutants(t *testing.T) {
	paths, err := filepath.Glob("testdata/mutants/*.mutant")
	if err != nil || len(paths) < 10 {
		t.Fatalf("%d mutants, %v", len(paths), err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".mutant"), func(t *testing.T) {
			m, err := readMutant(path)
			if err != nil {
				t.Fatal(err)
			}
			if !*mutants {
				t.Skip("-mutants builds and runs it")
			}
			t.Parallel()
			from, tries := m.seed, mutantTries
			if *search > 0 {
				from, tries = 1, *search
			}
			bin := m.build(t)
			out, _ := exec.CommandContext(t.Context(), bin, "-test.run", "^TestFirstSeen$", "-test.v", "-test.timeout", "30m",
				"-from", fmt.Sprint(from), "-first", fmt.Sprint(tries)).CombinedOutput()
			found := seenLine.FindStringSubmatch(string(out))
			if found == nil {
				t.Fatalf("%s\nnot seen by %d seeds from %d on:\n%.2000s", m.about, tries, from, out)
			}
			seed, err := strconv.ParseUint(found[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s\nseed %d: %s", m.about, seed, found[2])
			if *pin {
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				text = regexp.MustCompile(`(?m)^seed: .*$`).ReplaceAll(text, fmt.Appendf(nil, "seed: %d", seed))
				if err := os.WriteFile(path, text, 0o644); err != nil {
					t.Fatal(err)
				}
			} else if *search == 0 && seed != m.seed {
				t.Logf("the pinned seed %d no longer sees it: pin again with -search 5000 -pin", m.seed)
			}
		})
	}
}

var first = flag.Int("first", 0, "TestFirstSeen stops at the first violation, after at most so many seeds from -from on")

// TestFirstSeen is what TestMutants runs in a mutant.
func TestFirstSeen(t *testing.T) {
	if *first == 0 {
		t.Skip("-first N asks for the first violation")
	}
	for s := *from; s < *from+uint64(*first); s++ {
		if _, err := Run(Options{Seed: s, History: linearizable}); err != nil {
			t.Logf("SEEN with seed %d: %s", s, strings.SplitN(err.Error(), "\n", 2)[0])
			return
		}
	}
	t.Logf("not seen")
}
