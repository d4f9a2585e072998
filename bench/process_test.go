package bench

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// until waits for something that must come.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !is(); {
		if time.Now().After(end) {
			t.Fatalf("%s did not happen within two minutes", what)
		}
		pause(t.Context(), time.Millisecond)
	}
}

func shell(t *testing.T, script string) program {
	t.Helper()
	return program{path: "/bin/sh", args: []string{"-c", script}, log: filepath.Join(t.TempDir(), "deep", "log"), seen: []string{"ready: ", "never"}}
}

func TestProcessesAreWatched(t *testing.T) {
	t.Setenv("BALSA_NODE_ID", "77")
	n := &nodes{stopSignal: os.Interrupt, stopped: []int{3}}
	p := shell(t, `echo "starting $BALSA_NODE_ID"; trap 'echo bye; exit 3' INT; echo "all ready: 127.0.0.1"; while :; do sleep 0.01; done`)
	if err := n.run(1, p); err != nil {
		t.Fatal(err)
	}
	x, err := n.node(1)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "its line", func() bool { _, ok := x.printed("ready: "); return ok })
	if _, ok := x.printed("never"); ok {
		t.Error("it has printed what it has not")
	}
	if pids := n.Pids(); len(pids) != 2 || pids[0] != 0 || pids[1] != x.cmd.Process.Pid {
		t.Errorf("pids %v", pids)
	}
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	if x.running() || n.Pids()[1] != 0 {
		t.Error("it still runs")
	}
	log, err := os.ReadFile(p.log)
	if err != nil || string(log) != "starting \nall ready: 127.0.0.1\nbye\n" {
		t.Fatalf("%q, %v", log, err)
	}
}

func TestProcessThatEndsByItself(t *testing.T) {
	n := &nodes{stopSignal: os.Interrupt}
	if err := n.run(0, shell(t, "echo the disk is on fire; exit 5")); err != nil {
		t.Fatal(err)
	}
	until(t, "its end", func() bool { _, err := n.node(0); return err != nil })
	if _, err := n.node(0); !errors.Is(err, errEnded) || !strings.Contains(err.Error(), "the disk is on fire") {
		t.Fatal(err)
	}
	if err := n.Stop(); err == nil || !strings.Contains(err.Error(), "the disk is on fire") {
		t.Fatalf("an unasked end went unnoticed: %v", err)
	}
	if err := n.run(0, program{path: filepath.Join(t.TempDir(), "nothing"), log: filepath.Join(t.TempDir(), "log")}); err == nil {
		t.Fatal("a program that does not exist was started")
	}
}

// A node that was killed is started again only when the one before is gone: it may hold locks and ports.
func TestKilledProcessIsGoneBeforeTheNext(t *testing.T) {
	n := &nodes{stopSignal: syscall.SIGTERM}
	p := shell(t, "while :; do sleep 0.01; done")
	if err := n.run(0, p); err != nil {
		t.Fatal(err)
	}
	first, err := n.node(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Kill(0); err != nil {
		t.Fatal(err)
	}
	if err := n.Kill(0); err == nil {
		t.Error("a node that does not run was killed")
	}
	if err := n.run(0, p); err != nil {
		t.Fatal(err)
	}
	if first.running() {
		t.Error("the first one still runs")
	}
	if err := n.Stop(); err != nil { // the shell has no handler, and dies of the signal
		t.Fatal(err)
	}
}

func TestLongLinesDoNotBlock(t *testing.T) {
	n := &nodes{stopSignal: os.Interrupt}
	p := shell(t, `head -c 300000 /dev/zero | tr '\0' x; echo; echo "ready: at last"; trap 'exit 0' INT; while :; do sleep 0.01; done`)
	if err := n.run(0, p); err != nil {
		t.Fatal(err)
	}
	x, _ := n.node(0)
	until(t, "its line", func() bool { _, ok := x.printed("ready: "); return ok })
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
}

func TestDropCacheSaysWhatItDid(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "log"), make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	what, err := dropCache(dir)
	if err != nil || !strings.Contains(what, "page cache") {
		t.Fatalf("%q, %v", what, err)
	}
}

func TestProgress(t *testing.T) {
	var b strings.Builder
	p := NewProgress(&b) // no terminal
	p.Status("half of it")
	p.Log("a line, %d", 1)
	if b.String() != "a line, 1\n" {
		t.Fatalf("%q", b.String())
	}
	b.Reset()
	p.width = 40
	p.Status("%s", strings.Repeat("long ", 20))
	p.Log("stays")
	p.Close()
	p.Status("too late")
	got := b.String()
	first, rest, _ := strings.Cut(strings.TrimPrefix(got, clearLine), clearLine)
	if rest != "stays\n" || len([]rune(first)) >= 40 || !strings.HasSuffix(first, "…") {
		t.Fatalf("%q", got)
	}
}
