//go:build linux && (amd64 || arm64)

package sock_test

import (
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// A process was idle, and who is woken by a Read computes for long: others have their turn on the same processor, also where a Read has just been. Without sysmon,
// which sleeps in an idle process, they would wait for up to a minute. The other end is another process, so that this one is idle.
func TestOthersHaveTheirTurn(t *testing.T) {
	for what, c := range map[string]struct {
		says  string
		reads int
	}{
		"first":  {"sleep 0.3; echo; exec sleep 60", 1},
		"second": {"sleep 0.3; echo; i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; echo; exec sleep 60", 2},
	} {
		t.Run(what, func(t *testing.T) {
			a, b := pair(t)
			out, err := b.(interface{ File() (*os.File, error) }).File()
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
			cmd := exec.Command("sh", "-c", c.says)
			cmd.Stdout = out
			if err := cmd.Start(); err != nil {
				t.Skip(err)
			}
			defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
			for range c.reads {
				if _, err := a.Read(make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
			}
			var turn atomic.Bool
			go turn.Store(true)
			for start := time.Now(); !turn.Load(); {
				if time.Since(start) > 10*time.Second {
					t.Fatal("another goroutine has not had its turn")
				}
			}
		})
	}
}
