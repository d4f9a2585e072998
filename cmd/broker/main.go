// Command broker is Balsa: the server, and the tools to work with it. `broker --help` is its manual; docs/cli.md says it
// with more words.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

// heapProfileRate is how many bytes are taken from the heap for each sample of the heap profile. At the runtime's own 512 KiB a broker under
// load, which takes hundreds of megabytes a second in large pieces, spent a hundredth of its time on samples.
const heapProfileRate = 4 << 20

func main() {
	runtime.MemProfileRate = heapProfileRate
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, lookupEnv: os.LookupEnv, environ: os.Environ}
	code := a.run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// app is what a run of the program works with; tests bring their own.
type app struct {
	in        io.Reader
	out, err  io.Writer
	lookupEnv func(string) (string, bool)
	environ   func() []string
	workDir   string // where balsa.yaml is looked for; empty: the current directory

	terminal func(stream any) bool // whether somebody looks at it; nil: isTerminal
	every    time.Duration         // between two lines of progress; 0: progressEvery

	typed  map[string]bool // flags that the command line has, as opposed to settings from elsewhere
	inFile string          // the file of settings, if it says anything of the connection
	ran    bool            // a command's own code has begun: what fails before is a mistake in the command line
}
