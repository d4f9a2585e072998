// The broker's loggers: one for each of its larger parts, each with a level of its own that can be changed while the broker runs (the
// BROKER_LOGGER resource of Kafka's tools; until the next start). Without one a logger has root's, and root the level with which the broker was
// started.

package broker

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// rootLogger is the logger that the others inherit from.
const rootLogger = "root"

// loggerNames are the loggers, sorted. broker is what is none of the others'.
var loggerNames = []string{"bridge", "broker", "coordinator", "journal", "kafka", "partition", "raft", rootLogger, "transport"}

// loggerLevels are Kafka's names of levels, by slog's. slog has no TRACE, which is as DEBUG.
var loggerLevels = []struct {
	name  string
	level slog.Level
}{
	{"TRACE", slog.LevelDebug}, {"DEBUG", slog.LevelDebug}, {"INFO", slog.LevelInfo}, {"WARN", slog.LevelWarn}, {"ERROR", slog.LevelError},
	{"FATAL", slog.LevelError + 4}, {"OFF", slog.LevelError + 1000},
}

// loggers is the levels of a broker's loggers.
type loggers struct {
	base   slog.Handler
	levels []atomic.Pointer[string] // by loggerNames; nil: inherited
}

func newLoggers(base *slog.Logger) *loggers {
	return &loggers{base: base.Handler(), levels: make([]atomic.Pointer[string], len(loggerNames))}
}

// named is the logger of a part, with what from has been given to say with each line.
func (l *loggers) named(name string, from slog.Handler) *slog.Logger {
	if h, ok := from.(*levelHandler); ok {
		from = h.next
	}
	return slog.New(&levelHandler{next: from, all: l, index: slices.Index(loggerNames, name)})
}

// set gives a logger a level, or with nil takes it away.
func (l *loggers) set(name string, level *string) {
	l.levels[slices.Index(loggerNames, name)].Store(level)
}

// level is a logger's level in force, and whether it is its own.
func (l *loggers) level(name string) (level string, own bool) {
	if p := l.levels[slices.Index(loggerNames, name)].Load(); p != nil {
		return *p, true
	}
	if p := l.levels[slices.Index(loggerNames, rootLogger)].Load(); p != nil {
		return *p, false
	}
	return l.started(), false
}

// started is the level that the broker was started with: the lowest that its handler takes.
func (l *loggers) started() string {
	for _, n := range loggerLevels[1:] {
		if l.base.Enabled(context.Background(), n.level) {
			return n.name
		}
	}
	return "OFF"
}

func slogLevel(name string) slog.Level {
	for _, n := range loggerLevels {
		if n.name == name {
			return n.level
		}
	}
	return slog.LevelInfo
}

// levelHandler lets through what its logger's level says. A level that is set counts in place of the handler's own, below it and above.
type levelHandler struct {
	next  slog.Handler
	all   *loggers
	index int // of loggerNames
}

var _ slog.Handler = (*levelHandler)(nil)

// Enabled implements slog.Handler.
func (h *levelHandler) Enabled(ctx context.Context, level slog.Level) bool {
	p := h.all.levels[h.index].Load()
	if p == nil {
		p = h.all.levels[slices.Index(loggerNames, rootLogger)].Load()
	}
	if p == nil {
		return h.next.Enabled(ctx, level)
	}
	return level >= slogLevel(*p)
}

// Handle implements slog.Handler.
func (h *levelHandler) Handle(ctx context.Context, r slog.Record) error { return h.next.Handle(ctx, r) }

// WithAttrs implements slog.Handler.
func (h *levelHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.next = h.next.WithAttrs(attrs)
	return &c
}

// WithGroup implements slog.Handler.
func (h *levelHandler) WithGroup(name string) slog.Handler {
	c := *h
	c.next = h.next.WithGroup(name)
	return &c
}

// loggerDef is a logger as a config.
func loggerDef(name string) *configDef {
	d := &configDef{name: name, typ: kmsg.ConfigTypeString, does: obeyed, doc: "The level of what the broker logs about its part " + name + "."}
	if name == rootLogger {
		d.doc = "The level of all loggers that have none of their own."
	}
	for _, l := range loggerLevels {
		d.allowed = append(d.allowed, l.name)
	}
	return d
}

// loggerConfigs are the loggers with their levels.
func (s *server) loggerConfigs() []configValue {
	list := make([]configValue, len(loggerNames))
	for i, name := range loggerNames {
		list[i].def = loggerDef(name)
		level, own := s.b.Loggers().level(name)
		source := kmsg.ConfigSourceDefaultConfig
		if own {
			source = kmsg.ConfigSourceDynamicBrokerLoggerConfig
		}
		list[i].add(name, level, source)
	}
	return list
}

// alterLoggers does what a request wants of this broker's loggers: all of it or nothing.
func (s *server) alterLoggers(a *alteration, validateOnly bool) error {
	if err := s.isThisBroker(a.name); err != nil {
		return err
	}
	if a.replace {
		return errReplaceLoggers
	}
	named := make(map[string]bool, len(a.ops))
	for i := range a.ops {
		op := &a.ops[i]
		switch {
		case named[op.name]:
			return refuse(kerr.InvalidRequest, fmt.Sprintf("the request names %s more than once", op.name))
		case !slices.Contains(loggerNames, op.name):
			return refuse(kerr.InvalidConfig, fmt.Sprintf("there is no logger %q; there are %s", op.name, strings.Join(loggerNames, ", ")))
		case op.op == kmsg.IncrementalAlterConfigOpDelete && op.name == rootLogger:
			return refuse(kerr.InvalidRequest, "the root logger's level cannot be taken away, only set")
		case op.op == kmsg.IncrementalAlterConfigOpDelete:
		case op.op != kmsg.IncrementalAlterConfigOpSet:
			return refuse(kerr.InvalidRequest, "the level of a logger can be set or taken away, nothing else")
		case op.value == nil:
			return refuse(kerr.InvalidRequest, fmt.Sprintf("%s has no value", op.name))
		default:
			if err := loggerDef(op.name).check(*op.value); err != nil {
				return refuse(kerr.InvalidConfig, fmt.Sprintf("invalid level %q for %s: %v", *op.value, op.name, err))
			}
		}
		named[op.name] = true
	}
	if validateOnly {
		return nil
	}
	for i := range a.ops {
		op := &a.ops[i]
		var level *string
		if op.op == kmsg.IncrementalAlterConfigOpSet {
			v := *op.value
			level = &v
		}
		s.b.Loggers().set(op.name, level)
		to, _ := s.b.Loggers().level(op.name)
		s.log.Info("the level of a logger is set", "logger", op.name, "level", to)
	}
	return nil
}
