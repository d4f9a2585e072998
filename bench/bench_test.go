package bench

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake keeps records in memory, and can be told to misbehave.
type fake struct {
	mu     sync.Mutex
	parts  [][][]byte
	tamper func(parts [][][]byte)
	err    error
}

func (f *fake) Name() string { return "fake" }
func (f *fake) Mode() string { return "" }
func (f *fake) Start(_ context.Context, _ string, c Cell) error {
	f.parts = make([][][]byte, c.Partitions)
	return f.err
}
func (f *fake) Pids() []int                                     { return nil }
func (f *fake) Stop() error                                     { return nil }
func (f *fake) Producer(context.Context, int) (Producer, error) { return f, nil }
func (f *fake) Send(_ context.Context, p int, rec []byte, done func(error)) {
	f.mu.Lock()
	f.parts[p] = append(f.parts[p], rec)
	f.mu.Unlock()
	done(nil)
}
func (f *fake) Flush(context.Context) error { return nil }
func (f *fake) Close()                      {}
func (f *fake) ReadBack(_ context.Context, fn func(int, []byte)) error {
	if f.tamper != nil {
		f.tamper(f.parts)
	}
	for p, recs := range f.parts {
		for _, r := range recs {
			fn(p, r)
		}
	}
	return nil
}

var smallCell = Cell{Scenario: "T1", Class: ClassB, Replicas: 3, Partitions: 2, Producers: 2, RecordBytes: 64, InflightBytes: 1024}

func runFake(t *testing.T, f *fake) (Result, error) {
	t.Helper()
	var got Result
	err := Run(t.Context(), Options{Rounds: 1, Warmup: time.Millisecond, Measure: 20 * time.Millisecond, Verify: true, Dir: t.TempDir(), Log: t.Logf},
		[]Cell{smallCell}, func(Cell) []System { return []System{f} }, func(r Result) { got = r })
	return got, err
}

func TestVerifyAcceptsWhatIsWhole(t *testing.T) {
	r, err := runFake(t, &fake{})
	if err != nil || r.Records == 0 || r.Verified == nil || r.Verified.Read != r.Verified.Acked {
		t.Fatalf("%+v, %v", r, err)
	}
}

func TestVerifySees(t *testing.T) {
	for name, tamper := range map[string]func([][][]byte){
		"a lost record":       func(p [][][]byte) { p[0] = p[0][1:] },
		"a duplicate":         func(p [][][]byte) { p[1] = append(p[1], p[1][0]) },
		"a wrong order":       func(p [][][]byte) { p[0] = append(p[0][1:], p[0][0]) },
		"a foreign record":    func(p [][][]byte) { p[0] = append(p[0], p[1][0]) },
		"a truncated record":  func(p [][][]byte) { p[0][3] = p[0][3][:10] },
		"a record never sent": func(p [][][]byte) { p[0][2] = bytes.Repeat([]byte{0xff}, 64) },
	} {
		if _, err := runFake(t, &fake{tamper: tamper}); err == nil {
			t.Errorf("%s went unnoticed", name)
		}
	}
}

func TestACellThatIsNotOfferedIsSaidSo(t *testing.T) {
	r, err := runFake(t, &fake{err: ErrNotOffered})
	if err != nil || r.Skipped == "" {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := runFake(t, &fake{err: errors.New("broken")}); err == nil {
		t.Fatal("a system that does not start went unnoticed")
	}
}

func TestTableHasTheRatio(t *testing.T) {
	rep := NewReport("", nil)
	for i := range 3 {
		rep.Results = append(rep.Results, Result{Cell: smallCell, System: "balsa", Round: i + 1, RecordsSec: 300},
			Result{Cell: smallCell, System: "jetstream", Mode: "async", Round: i + 1, RecordsSec: 100})
	}
	var b strings.Builder
	if err := rep.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "3.00x") || !strings.Contains(b.String(), "median of 3 rounds") {
		t.Fatalf("table:\n%s", b.String())
	}
	if err := rep.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
}
