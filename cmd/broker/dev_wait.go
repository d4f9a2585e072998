// broker dev, waiting: until clients can work with the cluster, and saying what is missing where that takes long.
//
// A cluster that does not come together is given up after a while. One that is together but has partitions without a leader
// is not: they may come (their logs are being repaired, somebody resets their peers), and meanwhile the brokers serve the rest.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/balsamq/balsa/broker"
	"github.com/balsamq/balsa/client"
)

const (
	devReadyTimeout = 90 * time.Second // for the cluster to come together
	devPollInterval = 25 * time.Millisecond
	devSlowInterval = 250 * time.Millisecond // once it has turned out to take long
	devPollShare    = 3                      // or so many times what the look took, …
	devSlowest      = time.Second            // … but no longer than this
	devSilence      = 7 * time.Second        // before the first word about what is missing, and between two; a node says after 5 s what it waits for
	devNamed        = 10                     // partitions without a leader that are named, at most
	devLogTail      = 64 << 10               // how much of a child's log is searched for what went wrong
	devLogLine      = 400                    // of a line from there, how much is shown
)

// devAsk asks a node for the state of the cluster of so many nodes; the error says what is missing.
type devAsk func(ctx context.Context, n *devNode, nodes int) (client.Cluster, error)

// leaderlessError is devAsk's where nothing is missing but leaders.
type leaderlessError struct {
	partitions []string // their names
	total      int      // of all partitions
}

func (e *leaderlessError) Error() string {
	names := e.partitions[:min(len(e.partitions), devNamed)]
	more := ""
	if n := len(e.partitions) - len(names); n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	return fmt.Sprintf("%d of %d partitions have no leader: %s%s", len(e.partitions), e.total, strings.Join(names, ", "), more)
}

func onlyLeaders(err error) bool {
	_, ok := errors.AsType[*leaderlessError](err)
	return ok
}

// missingOf names the node, if it is the node that is at fault.
func missingOf(n *devNode, err error) error {
	if onlyLeaders(err) {
		return err
	}
	return fmt.Errorf("node %d: %w", n.number, err)
}

// devWait is the waiting for one cluster.
type devWait struct {
	nodes []*devNode
	ask   devAsk
	out   io.Writer

	status []client.Cluster // by node: its last answer
	err    []error          // by node: what was missing then; nil for good once nothing was
	since  time.Time        // the limit counts from here
	told   time.Time        // when there was last something to say, if only the same again, or the waiting began
	said   string           // what was said last, without the words of the nodes' logs
}

// waitReady returns when every node lists all nodes and a leader of each partition, a topic could be created and the metadata
// group has its voters, or when a node has ended.
func waitReady(ctx context.Context, nodes []*devNode, ask devAsk, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan *devNode, len(nodes))
	for _, n := range nodes {
		go func() {
			select {
			case <-n.exited:
				failed <- n
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	now := time.Now()
	w := &devWait{nodes: nodes, ask: ask, out: out, status: make([]client.Cluster, len(nodes)), err: make([]error, len(nodes)), since: now, told: now}
	for i := range w.err {
		w.err[i] = errors.New("it was not asked yet")
	}
	err := w.run(ctx)
	select {
	case n := <-failed:
		return nodeFailure(n)
	default:
		return err
	}
}

func (w *devWait) run(ctx context.Context) error {
	for {
		brief := time.Since(w.told) < devSilence
		begin := time.Now()
		missing := w.look(ctx, brief)
		if missing == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		now := time.Now()
		switch {
		case onlyLeaders(missing):
			if !brief { // no node misses anything else
				w.since = now
			}
		case now.Sub(w.since) >= devReadyTimeout:
			return &cliError{code: exitTimeout, what: fmt.Sprintf("the cluster was not ready within %v: %v", devReadyTimeout, missing),
				where: filepath.Dir(w.nodes[0].logPath), mend: "read the logs there", err: missing}
		}
		if !brief {
			w.tell(now, missing)
		}
		pause := devPollInterval
		if w.said != "" {
			pause = devSlowInterval
		}
		pause = max(pause, min(devPollShare*now.Sub(begin), devSlowest)) // the brokers have elections to hold, maybe ten thousand
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// look asks every node that was not content yet, and returns what is missing most: a node before a leader. In brief: one node
// that is not content is enough.
func (w *devWait) look(ctx context.Context, brief bool) (missing error) {
	for i, n := range w.nodes {
		if w.err[i] == nil {
			continue
		}
		var err error
		select {
		case <-n.ready:
			w.status[i], err = w.ask(ctx, n, len(w.nodes))
		default: // it may take connections already, and would leave us without an answer
			err = errors.New("it does not serve clients yet")
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		w.err[i] = err
		if err == nil {
			continue
		}
		if brief {
			return missingOf(n, err)
		}
		if missing == nil || !onlyLeaders(err) && onlyLeaders(missing) {
			missing = missingOf(n, err)
		}
	}
	if missing == nil {
		select {
		case <-w.nodes[0].voters:
		default:
			missing = fmt.Errorf("the metadata group does not have its %d voters", broker.VotersOf(len(w.nodes)))
		}
	}
	return missing
}

// tell says what is missing and how each node is, if that is not what it said last.
func (w *devWait) tell(now time.Time, missing error) {
	var key, text strings.Builder
	both := io.MultiWriter(&key, &text)
	fmt.Fprintf(both, "waiting: %v\n", missing)
	for i, n := range w.nodes {
		fmt.Fprintf(both, "  node %d: %s\n", n.number, w.state(i))
		if line := n.complaint(); line != "" {
			fmt.Fprintf(&text, "    its log: %s\n", line)
		}
	}
	if onlyLeaders(missing) {
		fmt.Fprintln(both, "  clients can use the others meanwhile; 'broker partition reset-peers' goes on without replicas that are gone for good")
	}
	w.told = now
	if key.String() != w.said {
		w.said = key.String()
		_, _ = io.WriteString(w.out, text.String()) // there is nobody else to tell
	}
}

func (w *devWait) state(i int) string {
	n := w.nodes[i]
	if w.err[i] == nil || onlyLeaders(w.err[i]) {
		for _, b := range w.status[i].Brokers {
			if b.ID == int32(n.number) {
				return fmt.Sprintf("serves clients, leads %d of the %d partitions that it has a replica of", b.Leaders, b.Replicas)
			}
		}
		return "serves clients"
	}
	return "runs, but: " + w.err[i].Error()
}

// askNode is the devAsk of a real node.
func askNode(ctx context.Context, n *devNode, nodes int) (client.Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	adm, err := client.NewAdmin(ctx, client.Config{Brokers: []string{n.kafka}, ClientID: "balsa-dev", ConnectTimeout: 3 * time.Second, Security: n.security})
	if err != nil {
		return client.Cluster{}, err
	}
	defer adm.Close()
	c, err := adm.ClusterStatus(ctx)
	if err != nil {
		return c, err
	}
	c.Brokers = slices.DeleteFunc(c.Brokers, func(b client.Broker) bool { return b.State == client.BrokerFenced })
	if len(c.Brokers) != nodes {
		return c, fmt.Errorf("it knows of %d of %d brokers", len(c.Brokers), nodes)
	}
	if c.Leaderless > 0 { // after a restart: elections wait out the leases of before
		topics, err := adm.ListTopics(ctx, true)
		if err != nil {
			return c, err
		}
		e := &leaderlessError{total: c.Partitions}
		for _, t := range topics {
			for _, p := range t.Partitions {
				if !slices.ContainsFunc(c.Brokers, func(b client.Broker) bool { return b.ID == p.Leader }) {
					e.partitions = append(e.partitions, fmt.Sprintf("%s/%d", t.Name, p.Partition))
				}
			}
		}
		if len(e.partitions) > 0 {
			return c, e
		}
	}
	_, err = adm.CreateTopic(ctx, client.TopicSpec{Name: "balsa-dev-ready", Partitions: 1, Replicas: int16(min(nodes, 3)), ValidateOnly: true})
	return c, err
}

// logTail is the end of what the child has logged in this run.
func (n *devNode) logTail() []byte {
	f, err := os.Open(n.logPath)
	if err != nil {
		return nil
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil
	}
	from := max(n.logStart, size-devLogTail)
	raw, err := io.ReadAll(io.NewSectionReader(f, from, max(0, size-from)))
	if err != nil {
		return nil
	}
	return raw
}

// complaint is the last error in the child's log, or else the last warning; empty if there is neither.
func (n *devNode) complaint() string {
	lines := bytes.Split(n.logTail(), []byte("\n"))
	for _, level := range []string{"ERROR", "WARN"} {
		for i := len(lines) - 1; i >= 0; i-- {
			line := string(lines[i])
			if !strings.Contains(line, "level="+level+" ") && !strings.Contains(line, `"level":"`+level+`"`) { // --log-format text, json
				continue
			}
			if time, rest, ok := strings.Cut(line, " "); ok && strings.HasPrefix(time, "time=") {
				line = rest
			}
			if len(line) > devLogLine {
				line = strings.ToValidUTF8(line[:devLogLine], "") + " …"
			}
			return line
		}
	}
	return ""
}

// portTaken is a child that has ended because it could not listen where it was to; nil: there is none.
func portTaken(nodes []*devNode) *devNode {
	for _, n := range nodes {
		raw := n.logTail()
		if i := bytes.LastIndex(raw, []byte("error: ")); i >= 0 && !n.running() && bytes.Contains(raw[i:], []byte(syscall.EADDRINUSE.Error())) {
			return n
		}
	}
	return nil
}

// nodeFailure is the error that a child printed before it ended, found in its log.
func nodeFailure(n *devNode) error {
	e := &cliError{code: exitFailure, what: fmt.Sprintf("node %d ended before the cluster was ready: %v", n.number, n.cmd.ProcessState), where: n.logPath, mend: "read its log", err: n.err}
	raw := n.logTail()
	i := bytes.LastIndex(raw, []byte("error: "))
	if i < 0 {
		return e
	}
	for line := range strings.Lines(string(raw[i:])) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "error: "):
			e.what = fmt.Sprintf("node %d: %s", n.number, strings.TrimPrefix(line, "error: "))
		case strings.HasPrefix(line, "where:"):
			e.where = strings.TrimSpace(strings.TrimPrefix(line, "where:")) + ", log " + n.logPath
		case strings.HasPrefix(line, "mend:"):
			e.mend = strings.TrimSpace(strings.TrimPrefix(line, "mend:"))
		}
	}
	return e
}
