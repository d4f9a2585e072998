// How to reach a cluster: the part of the configuration that producer, consumer and admin share.

package client

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// DefaultBroker is where a client looks for a cluster when Config.Brokers is empty.
const DefaultBroker = "localhost:9092"

// DefaultConnectTimeout bounds a constructor's first contact with the cluster when Config.ConnectTimeout is zero.
const DefaultConnectTimeout = 10 * time.Second

// Pauses before a request is tried again. An election takes about a second: franz-go's own, of up to two and a half, would be longer than what is waited for.
const (
	minRetryPause = 50 * time.Millisecond
	maxRetryPause = 500 * time.Millisecond
)

// retryPause is the one after so many failures, give or take a fifth.
func retryPause(failures int) time.Duration {
	d := min(minRetryPause<<min(max(failures-1, 0), 8), maxRetryPause)
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// Config says how to reach a cluster. The zero value means a broker on this machine.
type Config struct {
	// Brokers are "host:port" addresses (the port may be left out: 9092) of some brokers of the cluster; the others are
	// learnt from them. Empty: [DefaultBroker].
	Brokers []string
	// ClientID is shown in brokers' logs and metrics. Empty: "balsa-go".
	ClientID string
	// ConnectTimeout bounds the constructor's first contact with the cluster, and each connection's dialling and TLS handshake. Of several
	// Brokers each one that is asked has its part of it to answer. Zero: [DefaultConnectTimeout].
	ConnectTimeout time.Duration
	// Security says how to connect: TLS, SASL.
	Security Security
	// Logger receives what a program's operator wants to know: retries, dead letters, rebalances, and what franz-go reports. Nil: nobody does.
	Logger *slog.Logger
	// Hooks are told of what happens: by franz-go's interfaces, and by [HookAttemptFailed], [HookPutAside] and [HookTransactionEnd]. Package
	// telemetry makes one for OpenTelemetry.
	Hooks []kgo.Hook
	// Options go to franz-go after this package's own and win over them.
	Options []kgo.Opt
}

// seeds returns the normalised addresses, or an error of kind [ErrInvalid] that names the bad one.
func (c *Config) seeds() ([]string, error) {
	if len(c.Brokers) == 0 {
		return []string{DefaultBroker}, nil
	}
	out := make([]string, 0, len(c.Brokers))
	for _, b := range c.Brokers {
		b = strings.TrimSpace(b)
		host, port, err := net.SplitHostPort(b)
		if err != nil && !strings.Contains(b, ":") {
			host, port, err = b, "9092", nil
		}
		if err != nil {
			return nil, &Error{Op: "read the broker address", Subject: strconv.Quote(b), Kind: ErrInvalid, Err: fmt.Errorf("%w; write host:port", err)}
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || host == "" {
			return nil, &Error{Op: "read the broker address", Subject: strconv.Quote(b), Kind: ErrInvalid,
				Err: fmt.Errorf("host and a port from 1 to 65535 are needed; write host:port")}
		}
		out = append(out, net.JoinHostPort(host, port))
	}
	return out, nil
}

// Check says what is wrong with the configuration, without connecting: an address, or a file that cannot be used. The error is of kind [ErrInvalid].
func (c *Config) Check() error {
	if _, err := c.seeds(); err != nil {
		return err
	}
	_, _, err := c.Security.options()
	return err
}

// connect makes the franz-go client and contacts the cluster once.
func (c *Config) connect(ctx context.Context, own ...kgo.Opt) (*kgo.Client, error) {
	return c.connectBy(ctx, kgo.NewClient, own...)
}

// connectBy is connect for a client that is made in some other way.
func (c *Config) connectBy(ctx context.Context, newClient func(...kgo.Opt) (*kgo.Client, error), own ...kgo.Opt) (*kgo.Client, error) {
	seeds, err := c.seeds()
	if err != nil {
		return nil, err
	}
	id := c.ClientID
	if id == "" {
		id = "balsa-go"
	}
	timeout := c.ConnectTimeout
	if timeout <= 0 {
		timeout = DefaultConnectTimeout
	}
	opts := []kgo.Opt{
		kgo.SeedBrokers(seeds...),
		kgo.ClientID(id),
		kgo.DialTimeout(timeout),
		kgo.RetryTimeout(30 * time.Second),
		kgo.RetryBackoffFn(retryPause),
		kgo.RequestRetries(int(30 * time.Second / maxRetryPause * 2)), // so that it is the time that bounds them
		// After a failover the new leader is known within an election; asking for it more often than franz-go's default
		// of 5 s is what makes a client notice.
		kgo.MetadataMinAge(250 * time.Millisecond),
	}
	if c.Logger != nil {
		opts = append(opts, kgo.WithLogger(kgoLogger{c.Logger}))
	}
	if theirs := hooks(c.Hooks).franzGo(); len(theirs) > 0 {
		opts = append(opts, kgo.WithHooks(theirs...))
	}
	dialer, secure, err := c.Security.options()
	if err != nil {
		return nil, err
	}
	dialer.limit.Store(int64(timeout))
	first := newContact(ctx, dialer.dial, seeds, timeout)
	defer first.cancel()
	opts = append(opts, secure...)
	opts = append(opts, own...)
	dialled := slices.Concat(opts, []kgo.Opt{kgo.Dialer(first.dial)}, c.Options)
	opts = append(opts, c.Options...)
	if kgo.ValidateOpts(dialled...) == nil || kgo.ValidateOpts(opts...) != nil { // their own TLS excludes our dialler, and nothing else may: TLS is in it
		opts = dialled
	}
	cl, err := newClient(opts...)
	if err != nil {
		return nil, &Error{Op: "set up the client", Kind: ErrInvalid, Err: err}
	}
	if limit, ok := cl.OptValue(kgo.DialTimeout).(time.Duration); ok { // theirs may be another one
		dialer.limit.Store(int64(limit))
	}
	if err := first.make(cl); err != nil {
		cl.Close()
		return nil, err
	}
	return cl, nil
}

// logger is Logger, or one that drops everything.
func (c *Config) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}

// kgoLogger is slog for franz-go, which reports its own routine at info: here that is debug.
type kgoLogger struct{ *slog.Logger }

// Level implements kgo.Logger.
func (l kgoLogger) Level() kgo.LogLevel {
	switch ctx := context.Background(); {
	case l.Enabled(ctx, slog.LevelDebug):
		return kgo.LogLevelInfo
	case l.Enabled(ctx, slog.LevelWarn):
		return kgo.LogLevelWarn
	case l.Enabled(ctx, slog.LevelError):
		return kgo.LogLevelError
	}
	return kgo.LogLevelNone
}

// Log implements kgo.Logger.
func (l kgoLogger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	at := slog.LevelDebug
	switch level {
	case kgo.LogLevelError:
		at = slog.LevelError
	case kgo.LogLevelWarn:
		at = slog.LevelWarn
	}
	l.Logger.Log(context.Background(), at, msg, keyvals...)
}
