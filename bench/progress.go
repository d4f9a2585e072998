// What a run shows while it runs: lines that stay, and on a terminal one line at the end that says how it stands.

package bench

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
	"unicode/utf8"
)

// Progress writes to a terminal, or to anything else, where the line that changes is left out.
type Progress struct {
	mu     sync.Mutex // guards what follows
	w      io.Writer
	width  int // of the terminal; 0: it is none
	began  time.Time
	shown  bool
	closed bool
}

// NewProgress is for what w is.
func NewProgress(w io.Writer) *Progress {
	p := &Progress{w: w, began: time.Now()}
	if f, ok := w.(*os.File); ok {
		p.width = terminalWidth(f)
	}
	return p
}

const (
	clearLine = "\r\x1b[K"
	leastLine = 20 // a terminal that says that it is narrower does not know
)

// Log writes a line that stays.
func (p *Progress) Log(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintf(p.w, format+"\n", args...)
}

// Status replaces the line at the end.
func (p *Progress) Status(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.width < leastLine || p.closed {
		return
	}
	line := time.Since(p.began).Round(time.Second).String() + " · " + fmt.Sprintf(format, args...)
	if utf8.RuneCountInString(line) >= p.width {
		line = string([]rune(line)[:p.width-2]) + "…"
	}
	fmt.Fprint(p.w, clearLine, line)
	p.shown = true
}

// Close takes the line at the end away, for good.
func (p *Progress) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	p.closed = true
}

func (p *Progress) clear() {
	if p.shown {
		fmt.Fprint(p.w, clearLine)
		p.shown = false
	}
}
