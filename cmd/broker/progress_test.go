// Tests of progress on a terminal.

package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// screen is a terminal's end: what was written, and a way to wait for something.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func newScreen() *screen { return &screen{more: make(chan struct{}, 1)} }

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
	return s.text.Write(b)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func (s *screen) await(t *testing.T, text string) {
	t.Helper()
	for deadline := time.After(patience); !strings.Contains(s.String(), text); {
		select {
		case <-s.more:
		case <-deadline:
			t.Fatalf("%q is not shown: %q", text, s.String())
		}
	}
}

// On a terminal a line says how far it is, and is gone in the end; elsewhere, and with --quiet, nothing is said.
func TestProgress(t *testing.T) {
	c, _ := fakeCluster(t, kfake.SeedTopics(1, "t"))
	run := func(terminal bool, in io.Reader, args ...string) (*screen, *screen, func() int) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		out, errs := newScreen(), newScreen()
		a := &app{in: in, out: out, err: errs, workDir: c.dir, every: time.Millisecond, terminal: func(s any) bool { return terminal && s == any(errs) },
			lookupEnv: func(k string) (string, bool) { v, ok := c.env[k]; return v, ok }}
		code := make(chan int, 1)
		go func() { code <- a.run(ctx, args) }()
		return out, errs, func() int { defer cancel(); return <-code }
	}
	const gone = "\r\x1b[K"
	in, w := io.Pipe()
	out, errs, wait := run(true, in, "produce", "t")
	if _, err := io.WriteString(w, "a\nb\n"); err != nil {
		t.Fatal(err)
	}
	errs.await(t, "\r2 records written, 2 B, ")
	_ = w.Close()
	if code := wait(); code != exitOK || !strings.HasSuffix(errs.String(), gone) || !strings.HasPrefix(out.String(), "2 records written") {
		t.Errorf("exit code %d, %q, %q", code, out, errs)
	}
	_, errs, wait = run(true, nil, "consume", "t", "-n", "3")
	errs.await(t, "\r2 of 3 records read, ")
	c.in = strings.NewReader("c\n")
	c.must("produce", "t")
	if code := wait(); code != exitOK || !strings.HasSuffix(errs.String(), gone) {
		t.Errorf("exit code %d, %q", code, errs)
	}
	for _, tc := range []struct {
		terminal bool
		args     []string
	}{{false, nil}, {true, []string{"--quiet"}}} {
		in, w := io.Pipe()
		_, errs, wait := run(tc.terminal, in, append([]string{"produce", "t"}, tc.args...)...)
		if _, err := io.WriteString(w, "x\n"); err != nil {
			t.Fatal(err)
		}
		if got := c.must("consume", "t", "--from", "-1", "-n", "1"); got == "" {
			t.Error("nothing is written")
		}
		_ = w.Close()
		if code := wait(); code != exitOK || errs.String() != "" {
			t.Errorf("%v: exit code %d, %q", tc, code, errs)
		}
	}
}
