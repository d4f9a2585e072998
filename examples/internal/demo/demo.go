// Package demo is what every example has around the thing that it shows: a cluster, a name of its own for all that it makes there, a story on
// the terminal, and an end by itself. A program of yours needs none of it: it has a [client.Config] with the addresses of your brokers.
//
// Without -b an example starts a cluster within its own process, by package brokertest, and everything is gone when it ends. With -b it works on
// the cluster there, under names that end in a word of its own, and removes them in the end.
package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

// cleanTimeout bounds the removal of what an example has made.
const cleanTimeout = 15 * time.Second

// Example is a program.
type Example struct {
	// Name is that of its directory, and What it shows in one sentence.
	Name, What string
	// Brokers is how many its own cluster has, Options how they are.
	Brokers int
	Options []brokertest.Option
	// Run is the whole of it. It returns an error if what it sees is not what was promised.
	Run func(context.Context, *Demo) error
	// Parts are what it runs in processes of their own, so that they can be killed: see [Demo.Start].
	Parts map[string]func(context.Context, *Demo, []string) error
	// Flags adds flags.
	Flags func(*flag.FlagSet)
}

// Demo is an example that runs.
type Demo struct {
	// Config is how to reach the cluster.
	Config client.Config
	// Own is the cluster if the example has started it; nil: it is somebody else's.
	Own *brokertest.Brokers

	name, suffix string
	began        time.Time
	mu           sync.Mutex // one line at a time
}

// options are those of the command line.
type options struct {
	brokers string
	keep    bool
	timeout time.Duration
	config  client.Config
}

// Main runs an example, or a part of one, and ends the process: with 1 if it has failed, with 2 if it was called in a wrong way.
func Main(e Example) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	if handed := os.Getenv(partEnv); handed != "" {
		exit(e.Name, e.part(ctx, handed, os.Args[1:]))
	}
	var o options
	f := flag.NewFlagSet(e.Name, flag.ExitOnError)
	f.Usage = func() {
		fmt.Fprintf(f.Output(), "%s\n\nUsage: go run ./examples/%s [flags]\n\n", e.What, e.Name)
		f.PrintDefaults()
	}
	const brokers = "addresses `HOST:PORT,...` of the brokers of a cluster; default: a cluster of the example's own, within its process"
	f.StringVar(&o.brokers, "brokers", "", brokers)
	f.StringVar(&o.brokers, "b", "", "short for -brokers `HOST:PORT,...`")
	f.StringVar(&o.config.Security.CA, "tls-ca", "", "with -b: `FILE` with the authorities of the brokers' certificates (PEM); turns TLS on")
	f.StringVar(&o.config.Security.Cert, "tls-client-cert", "", "with -b: `FILE` with a certificate of one's own (PEM), which a secured cluster's admin listeners ask for")
	f.StringVar(&o.config.Security.Key, "tls-client-key", "", "with -b: `FILE` with its private key (PEM)")
	f.StringVar(&o.config.Security.User, "user", "", "with -b: the user `NAME` to be")
	f.StringVar(&o.config.Security.PasswordFile, "password-file", "", "with -b: `FILE` with the password on its first line")
	f.BoolVar(&o.keep, "keep", false, "with -b: leave the topics that the example makes, to look at")
	f.DurationVar(&o.timeout, "timeout", 2*time.Minute, "give up after this `TIME`")
	if e.Flags != nil {
		e.Flags(f)
	}
	_ = f.Parse(os.Args[1:]) // it exits
	if f.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "%s: %q is no flag; -h shows those that there are\n", e.Name, f.Arg(0))
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("it was not done within %v (-timeout)", o.timeout))
	defer cancel()
	exit(e.Name, e.run(ctx, &o))
}

func exit(name string, err error) {
	if err == nil {
		os.Exit(0)
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
	os.Exit(1)
}

func (e *Example) run(ctx context.Context, o *options) (err error) {
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}()
	d := &Demo{name: e.Name, began: time.Now(), Config: o.config}
	if o.brokers != "" {
		d.Config.Brokers = strings.Split(o.brokers, ",")
		d.suffix = "-" + strings.ToLower(rand.Text()[:6])
	} else if d.Own, err = brokertest.New(ctx, e.Brokers, e.Options...); err != nil {
		return fmt.Errorf("start a cluster: %w", err)
	} else {
		defer func() { err = errors.Join(err, d.Own.Close()) }()
		d.Config = d.Own.Config()
	}
	if err := d.greet(ctx); err != nil {
		return err
	}
	err = e.Run(ctx, d)
	if d.Own == nil {
		if o.keep {
			d.Say("Topics that end in %s are kept.", d.suffix)
		} else if cerr := d.clean(ctx); cerr != nil {
			err = errors.Join(err, fmt.Errorf("remove what the example has made: %w", cerr))
		}
	}
	return err
}

// greet says where everything is going to happen.
func (d *Demo) greet(ctx context.Context) error {
	if d.Own != nil {
		d.Say("A cluster of %s runs in this process: %s", brokersOf(len(d.Own.All())), strings.Join(d.Config.Brokers, ", "))
		return nil
	}
	adm, err := client.NewAdmin(ctx, d.Config)
	if errors.Is(err, client.ErrUnreachable) {
		return fmt.Errorf("%w\n'go run ./cmd/broker dev' starts a cluster on this machine; without -b the example brings its own; -h shows what a secured one needs", err)
	}
	if err != nil {
		return err
	}
	defer adm.Close()
	c, err := adm.ClusterStatus(ctx)
	if err != nil {
		return err
	}
	d.Say("Cluster %s has %s. What the example makes there ends in %s.", c.ID, brokersOf(len(c.Brokers)), d.suffix)
	return nil
}

func brokersOf(n int) string {
	if n == 1 {
		return "1 broker"
	}
	return fmt.Sprint(n, " brokers")
}

// Name is a name for a topic, a group or anything else that the cluster keeps: the one that is given, unless somebody else's cluster may have it.
func (d *Demo) Name(base string) string { return base + d.suffix }

// Say tells what happens.
func (d *Demo) Say(format string, a ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fmt.Printf("%5.1fs  %s\n", time.Since(d.began).Seconds(), fmt.Sprintf(format, a...))
}

// Create makes topics.
func (d *Demo) Create(ctx context.Context, topics ...client.TopicSpec) error {
	adm, err := client.NewAdmin(ctx, d.Config)
	if err != nil {
		return err
	}
	defer adm.Close()
	for _, t := range topics {
		if _, err := adm.CreateTopic(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// clean removes what the example has made in somebody else's cluster, also when it was interrupted.
func (d *Demo) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
	defer cancel()
	adm, err := client.NewAdmin(ctx, d.Config)
	if err != nil {
		return err
	}
	defer adm.Close()
	var errs []error
	groups, err := adm.ListGroups(ctx, nil, nil)
	errs = append(errs, err)
	for _, g := range groups {
		if strings.HasSuffix(g.Name, d.suffix) {
			errs = append(errs, adm.DeleteGroup(ctx, g.Name))
		}
	}
	topics, err := adm.ListTopics(ctx, false)
	errs = append(errs, err)
	for _, t := range topics {
		if strings.HasSuffix(t.Name, d.suffix) {
			errs = append(errs, adm.DeleteTopic(ctx, t.Name))
		}
	}
	return errors.Join(errs...)
}
