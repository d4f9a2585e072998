// One life of a broker, from a start to the next stop, and the gate that stands between it and its disk, network, clock and log. A pause
// closes the gate, a kill breaks it: what comes to it then gets an error, whatever it was.
//
// What a kill leaves on the disk is what a killed process leaves: everything up to a moment, which differs from file to file by no more
// than what was under way. Nothing that the broker does while it goes down gets past the gate.

package brokertest

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/balsamq/balsa/broker"
	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/raft/multi/journal"
)

// errKilled is what a killed broker gets from everything.
var errKilled = errors.New("the broker was killed by its test")

type life struct {
	broker *broker.Broker
	cfg    broker.Config
	owner  *Broker
	states *journal.Journal

	shut  atomic.Bool // the gate is not open: the quick look
	mu    sync.Mutex  // guards what follows
	held  chan struct{}
	dead  bool
	died  chan struct{} // closed by kill
	frost [2]raft.Time  // the clock while paused: boot time and monotonic; 0: it runs
	conns map[*conn]struct{}
}

func newLife(b *Broker) (*life, error) {
	l := &life{owner: b, cfg: b.cfg, died: make(chan struct{}), conns: make(map[*conn]struct{})}
	handlers := []slog.Handler{slog.NewTextHandler(b.log, nil)}
	if l.cfg.Logger != nil {
		handlers = append(handlers, l.cfg.Logger.Handler())
	}
	l.cfg.Logger = slog.New(&logHandler{l, slog.NewMultiHandler(handlers...)})
	l.cfg.FS = vfs.Inject(vfs.OS(), func(op vfs.Op, _ string) error {
		if op == vfs.OpClose {
			return nil // descriptors are the test's own
		}
		return l.pass()
	})
	var err error
	if err := l.cfg.FS.MkdirAll(l.cfg.DataDir); err != nil {
		return nil, err
	}
	if l.states, err = journal.Open(filepath.Join(l.cfg.DataDir, "journal"), journal.Options{Logger: l.cfg.Logger}); err != nil {
		return nil, err
	}
	l.cfg.HardStates = hardStates{l.states, l}
	l.cfg.Clock = clock{l}
	l.cfg.Network = network{l}
	return l, nil
}

// pass waits while the gate is closed, and fails once it is broken.
func (l *life) pass() error {
	if !l.shut.Load() {
		return nil
	}
	for {
		l.mu.Lock()
		held, dead := l.held, l.dead
		l.mu.Unlock()
		switch {
		case dead:
			return errKilled
		case held == nil:
			return nil
		}
		select {
		case <-held:
		case <-l.died:
		}
	}
}

func (l *life) pause() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held != nil || l.dead {
		return
	}
	l.held = make(chan struct{})
	l.shut.Store(true)
	l.frost = [2]raft.Time{multi.BootClock{}.Now(), multi.BootClock{}.Monotonic()}
}

func (l *life) resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil || l.dead {
		return
	}
	l.frost = [2]raft.Time{} // first: what is let through next was decided by the clock that stood, as after a SIGCONT
	close(l.held)
	l.held = nil
	l.shut.Store(false)
}

func (l *life) paused() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held != nil
}

// kill breaks the gate and all connections.
func (l *life) kill() {
	l.mu.Lock()
	if l.dead {
		l.mu.Unlock()
		return
	}
	l.dead = true
	l.frost = [2]raft.Time{}
	l.shut.Store(true)
	close(l.died)
	l.mu.Unlock()
	l.closeConns(func(*conn) bool { return true })
}

// end is for when the broker is closed: it gives back what was opened for it.
func (l *life) end() error {
	l.kill()
	return l.states.Close()
}

// hardStates is the journal behind the gate.
type hardStates struct {
	*journal.Journal
	l *life
}

func (h hardStates) Save(g raft.GroupID, hs raft.HardState, done func(error)) {
	if err := h.l.pass(); err != nil {
		go done(err)
		return
	}
	h.Journal.Save(g, hs, done)
}

func (h hardStates) Delete(g raft.GroupID, done func(error)) {
	if err := h.l.pass(); err != nil {
		go done(err)
		return
	}
	h.Journal.Delete(g, done)
}

// clock is the machine's, which stands while the broker is paused.
type clock struct{ l *life }

func (c clock) read(i int, now func() raft.Time) raft.Time {
	if c.l.shut.Load() {
		c.l.mu.Lock()
		defer c.l.mu.Unlock()
		if t := c.l.frost[i]; t != 0 {
			return t
		}
	}
	return now()
}

func (c clock) Now() raft.Time       { return c.read(0, multi.BootClock{}.Now) }
func (c clock) Monotonic() raft.Time { return c.read(1, multi.BootClock{}.Monotonic) }

// logHandler is silent once the broker is dead: that everything fails then is no news.
type logHandler struct {
	l *life
	slog.Handler
}

func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	select {
	case <-h.l.died:
		return nil
	default:
		return h.Handler.Handle(ctx, r)
	}
}

func (h *logHandler) WithAttrs(a []slog.Attr) slog.Handler {
	return &logHandler{h.l, h.Handler.WithAttrs(a)}
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	return &logHandler{h.l, h.Handler.WithGroup(name)}
}
