// Progress: one line on the terminal that is written over as work goes on, and is gone when it is done. Where the standard error is no terminal, or
// with --quiet, there is none.

package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

// progressEvery is between two looks; what is done before the first one shows nothing.
const progressEvery = 500 * time.Millisecond

// isTerminal says whether somebody looks at a stream, or types it.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

func (a *app) isTerminal(stream any) bool {
	if a.terminal != nil {
		return a.terminal(stream)
	}
	return isTerminal(stream)
}

// quiet says whether progress, and remarks on it, are unwanted.
func quiet(cmd *cobra.Command) bool {
	q, _ := cmd.Flags().GetBool("quiet")
	return q
}

// showsProgress says whether there is somebody to see it.
func (a *app) showsProgress(cmd *cobra.Command) bool {
	term, _ := a.lookupEnv("TERM")
	return !quiet(cmd) && term != "dumb" && a.isTerminal(a.err)
}

// progress shows what text says now and then, until the returned function is called, which must be before anything else is printed. text is called
// on another goroutine.
func (a *app) progress(cmd *cobra.Command, text func() string) (stop func()) {
	if !a.showsProgress(cmd) {
		return func() {}
	}
	every := progressEvery
	if a.every > 0 {
		every = a.every
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		shown := false
		for {
			select {
			case <-done:
				if shown {
					_, _ = io.WriteString(a.err, "\r\x1b[K")
				}
				return
			case <-ticker.C:
				if line := text(); line != "" {
					_, _ = fmt.Fprintf(a.err, "\r%s\x1b[K", line)
					shown = true
				}
			}
		}
	})
	return sync.OnceFunc(func() {
		close(done)
		wg.Wait()
	})
}

// pace is how fast something goes, and how long the rest takes at that pace; total 0: not known.
func pace(started time.Time, done, total int64) string {
	took := time.Since(started)
	if done <= 0 || total <= 0 || done > total {
		return took.Round(time.Second).String()
	}
	left := time.Duration(float64(took) * float64(total-done) / float64(done))
	return fmt.Sprintf("%d %%, %v left", done*100/total, left.Round(time.Second))
}
