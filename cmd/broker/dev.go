// broker dev: a cluster on this machine, each broker a process of its own.
//
// The parent picks ports, starts `broker start` once per node, waits until a client could work with the cluster, and stops
// the children by their pids when it is told to end. What it has to remember lies in DIR/dev.json; the nodes' data in DIR/node-1 and so on.

package main

import (
	"bufio"
	"context"
	crand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/balsamq/balsa/broker"
	"github.com/balsamq/balsa/client"
)

const (
	devHost        = "127.0.0.1"
	devStateFile   = "dev.json"
	devLockFile    = "dev.lock"
	devMaxNodes    = 9
	devStopTimeout = 10 * time.Second // a child that has not stopped by then is killed
	// Free ports are looked for below the range from which systems take the local ports of outgoing connections, so that
	// they are still free when the cluster is started again.
	devPortMin, devPortMax = 20_000, 31_999
	// A port that was free when it was looked for may be taken by another program when a broker comes to listen there: devTries is how often
	// the cluster is started, by other ports, before that is an error.
	devTries = 4
)

type devOptions struct {
	nodes     int
	kafkaPort int
	dataDir   string
	racks     []string
	secure    bool
}

func newDevCommand(a *app) *cobra.Command {
	o := &devOptions{}
	cmd := &cobra.Command{
		Use:   "dev [-- FLAGS]",
		Short: "Run a cluster on this machine until interrupted",
		Long: `Run a cluster of brokers on this machine, each a process of its own, and stop them when interrupted. It prints a line
for each broker with its pid, addresses and log file, and then, when clients can work with it, one line

  ready: HOST:PORT,HOST:PORT,HOST:PORT

Started again on the same directory the cluster has the same data. A broker that ends meanwhile (try kill -9) is not
replaced: the command that starts it again is printed. What stands after -- goes to each broker: 'broker start --help'.`,
		Example: `  broker dev
  broker dev --nodes 5 --data-dir /tmp/five --kafka-port 0
  broker dev --racks a,b,c
  broker dev --secure --data-dir /tmp/secure
  broker dev -- --default-partitions 6 --log-level debug`,
		Args: func(cmd *cobra.Command, args []string) error {
			if n := cmd.ArgsLenAtDash(); n < 0 && len(args) > 0 || n > 0 {
				return usageError("flags for the brokers stand after --", "unknown argument %q", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.dev(cmd.Context(), cmd, o, args) },
	}
	f := cmd.Flags()
	f.IntVar(&o.nodes, "nodes", 3, "number of brokers, 1 to 9")
	f.StringVar(&o.dataDir, "data-dir", filepath.Join("balsa-data", "dev"), "where the cluster's data lives, `DIR`")
	f.IntVar(&o.kafkaPort, "kafka-port", 9092, "the first broker's port for clients, the others use the next ones; 0: free ones")
	f.StringSliceVar(&o.racks, "racks", nil, "the brokers' racks `NAME,...`, one for each; default: those of last time, or none")
	f.BoolVar(&o.secure, "secure", false, "TLS everywhere, users and ACLs: certificates, and the user admin with a password, are made in DIR/secure; default: as last time")
	settingsAll(f, "dev")
	return cmd
}

// devState is what the directory remembers.
type devState struct {
	Version int `json:"version"`
	// ClusterID is chosen here and given to every node, so that one with another cluster's data refuses to start.
	ClusterID  string `json:"clusterID"`
	Nodes      int    `json:"nodes"`
	KafkaPorts []int  `json:"kafkaPorts"`
	RPCPorts   []int  `json:"rpcPorts"`
	AdminPorts []int  `json:"adminPorts"` // a file of before there were any lacks them
	// Racks are the nodes' racks; a node beyond the list has none.
	Racks []string `json:"racks,omitempty"`
	// Secure: TLS everywhere, users and ACLs.
	Secure bool `json:"secure,omitempty"`
	// Founded: the cluster was ready once. Until then node 1 is told of no others, so that it founds it.
	Founded bool `json:"founded"`
}

// devNode is one child.
type devNode struct {
	number   int
	kafka    string
	rpc      string
	admin    string
	security client.Security // to connect with
	logPath  string
	logStart int64 // where this run's part of the log begins
	cmd      *exec.Cmd
	again    []string      // the command line that starts it once more
	ready    chan struct{} // closed when it serves clients
	voters   chan struct{} // closed when it has seen the metadata group complete
	exited   chan struct{} // closed when it has ended; err is set then
	err      error
}

func (n *devNode) running() bool {
	select {
	case <-n.exited:
		return false
	default:
		return true
	}
}

func (a *app) dev(ctx context.Context, cmd *cobra.Command, o *devOptions, extra []string) error {
	if o.nodes < 1 || o.nodes > devMaxNodes {
		return usageError(fmt.Sprintf("choose 1 to %d", devMaxNodes), "--nodes %d is out of range", o.nodes)
	}
	if o.kafkaPort < 0 || o.kafkaPort+o.nodes-1 > 65535 {
		return usageError("choose a port from 1 to "+strconv.Itoa(65536-o.nodes)+", or 0 for free ones", "--kafka-port %d is out of range", o.kafkaPort)
	}
	unlock, st, err := openDevDir(o, cmd.Flags().Changed("nodes"))
	if err != nil {
		return err
	}
	defer unlock()
	if len(o.racks) > 0 {
		if len(o.racks) != st.Nodes {
			return usageError(fmt.Sprintf("name %d, with commas between them; an empty one for a broker without", st.Nodes), "--racks names %d racks for %d nodes", len(o.racks), st.Nodes)
		}
		st.Racks = o.racks
	}
	if err := st.pickPorts(o); err != nil {
		return err
	}
	if cmd.Flags().Changed("secure") {
		st.Secure = o.secure
	}
	var secure *devSecure
	if st.Secure {
		if secure, err = openDevSecure(o.dataDir); err != nil {
			return &cliError{code: exitFailure, what: "the certificates cannot be made: " + err.Error(), where: filepath.Join(o.dataDir, devSecureDir), mend: "choose another --data-dir", err: err}
		}
	}
	if err := st.save(o.dataDir); err != nil {
		return err
	}
	// The kernel kills the children when the *thread* that started them ends (see procAttr): this goroutine keeps it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	endWithGoRun()
	var nodes []*devNode
	defer func() { stopNodes(nodes) }()
	for try := 1; ; try++ {
		nodes, err = a.startNodes(ctx, o, st, secure, extra)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil // interrupted before it was ready
		}
		n := portTaken(nodes)
		if n == nil || try == devTries {
			return err
		}
		stopNodes(nodes)
		before := slices.Concat(st.KafkaPorts, st.RPCPorts, st.AdminPorts)
		if again := st.pickPorts(o); again != nil || slices.Equal(before, slices.Concat(st.KafkaPorts, st.RPCPorts, st.AdminPorts)) {
			return err
		}
		fmt.Fprintf(a.err, "node %d: another program has taken a port of its meanwhile; the cluster is started again by other ones\n", n.number)
		if err := st.save(o.dataDir); err != nil {
			return err
		}
	}
	if !st.Founded {
		st.Founded = true
		if err := st.save(o.dataDir); err != nil {
			return err
		}
	}
	var addrs []string
	for _, n := range nodes {
		addrs = append(addrs, n.kafka)
	}
	if secure != nil {
		if err := secure.writeConfigs(addrs); err != nil {
			return err
		}
		fmt.Fprintf(a.out, "secure: connect as %s with --config %s; Kafka's tools with %s\n", devAdmin, secure.file("client.yaml"), secure.file("client.properties"))
	}
	fmt.Fprintf(a.out, "ready: %s\n", strings.Join(addrs, ","))
	return a.watch(ctx, nodes)
}

// startNodes starts the children and waits until a client could work with the cluster. Those that run are the caller's to stop.
func (a *app) startNodes(ctx context.Context, o *devOptions, st *devState, secure *devSecure, extra []string) (nodes []*devNode, err error) {
	for i := range st.Nodes {
		n, err := a.startNode(o.dataDir, st, i, secure, extra)
		if err != nil {
			return nodes, err
		}
		nodes = append(nodes, n)
		fmt.Fprintf(a.out, "node %d: pid %d, kafka %s, rpc %s, admin %s, log %s\n", n.number, n.cmd.Process.Pid, n.kafka, n.rpc, n.admin, n.logPath)
		if !st.Founded && i == 0 && st.Nodes > 1 { // there is nothing to join before it serves
			select {
			case <-n.ready:
			case <-n.exited:
				return nodes, nodeFailure(n)
			case <-ctx.Done():
				return nodes, ctx.Err()
			}
		}
	}
	return nodes, waitReady(ctx, nodes, askNode, a.err)
}

// watch reports nodes that end, until ctx ends or none is left.
func (a *app) watch(ctx context.Context, nodes []*devNode) error {
	ended := make(chan *devNode, len(nodes))
	for _, n := range nodes {
		go func() {
			<-n.exited
			ended <- n
		}()
	}
	for left := len(nodes); left > 0; left-- {
		select {
		case <-ctx.Done():
			return nil
		case n := <-ended:
			if ctx.Err() != nil {
				return nil
			}
			fmt.Fprintf(a.err, "node %d: pid %d has ended (%s), log %s\n  start it again: %s\n", n.number, n.cmd.Process.Pid, n.cmd.ProcessState, n.logPath, shellCommand(n.again))
		}
	}
	return &cliError{code: exitFailure, what: "all brokers have ended", where: filepath.Dir(nodes[0].logPath), mend: "read their logs; 'broker dev' starts them again"}
}

// shellCommand is a command line that can be pasted.
func shellCommand(args []string) string {
	out := make([]string, len(args))
	for i, s := range args {
		if s == "" || strings.ContainsAny(s, " \t\n'\"\\$&|;<>()*?[]{}~#`!") {
			s = "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
		}
		out[i] = s
	}
	return strings.Join(out, " ")
}

// openDevDir makes or opens the directory, alone in it.
func openDevDir(o *devOptions, nodesGiven bool) (unlock func(), st *devState, err error) {
	if err := os.MkdirAll(o.dataDir, 0o755); err != nil {
		return nil, nil, &cliError{code: exitFailure, what: "the data directory cannot be made: " + err.Error(), where: o.dataDir, mend: "choose another --data-dir", err: err}
	}
	if abs, err := filepath.Abs(o.dataDir); err == nil {
		o.dataDir = abs
	}
	entries, err := os.ReadDir(o.dataDir)
	if err != nil {
		return nil, nil, err
	}
	unlock, err = lockFile(filepath.Join(o.dataDir, devLockFile))
	if err != nil {
		return nil, nil, &cliError{code: exitFailure, what: "another 'broker dev' runs on this directory", where: o.dataDir,
			mend: "stop it first, or choose another --data-dir", err: err}
	}
	fail := func(e error) (func(), *devState, error) {
		unlock()
		return nil, nil, e
	}
	file := filepath.Join(o.dataDir, devStateFile)
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		for _, e := range entries {
			if e.Name() != devLockFile {
				return fail(&cliError{code: exitUsage, what: fmt.Sprintf("the directory is not one of 'broker dev': it holds %q and no %s", e.Name(), devStateFile),
					where: o.dataDir, mend: "choose an empty directory, or one that 'broker dev' made"})
			}
		}
		return unlock, &devState{Version: 1, Nodes: o.nodes, ClusterID: "dev-" + crand.Text()}, nil
	}
	if err != nil {
		return fail(err)
	}
	st = &devState{}
	if err := json.Unmarshal(raw, st); err != nil || st.Version != 1 || st.ClusterID == "" || st.Nodes < 1 || st.Nodes > devMaxNodes || len(st.KafkaPorts) != st.Nodes || len(st.RPCPorts) != st.Nodes {
		return fail(&cliError{code: exitFailure, what: "the cluster's description is damaged or of another version", where: file,
			mend: fmt.Sprintf("remove it to have it made anew with --nodes as before (the data in node-1 and so on must then be moved back by hand), or choose another --data-dir (%v)", err)})
	}
	if nodesGiven && o.nodes < st.Nodes {
		return fail(usageError(fmt.Sprintf("start it with --nodes %d, or choose another --data-dir", st.Nodes),
			"the cluster in %s has %d nodes; it cannot be started with %d", o.dataDir, st.Nodes, o.nodes))
	}
	if nodesGiven {
		st.Nodes = o.nodes
	}
	return unlock, st, nil
}

// save replaces the file as a whole.
func (st *devState) save(dir string) error {
	raw, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	file := filepath.Join(dir, devStateFile)
	if err := os.WriteFile(file+".new", append(raw, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// pickPorts decides on every node's ports. Those for clients are the user's where given; the others are those of the last
// time if they are still free, else new ones: brokers find each other again by --join.
func (st *devState) pickPorts(o *devOptions) error {
	taken := make(map[int]bool)
	free := func(port int) error {
		if taken[port] {
			return errors.New("taken by another node")
		}
		l, err := net.Listen("tcp", net.JoinHostPort(devHost, strconv.Itoa(port)))
		if err != nil {
			return err
		}
		return l.Close()
	}
	block := func(n int) (int, error) { // the first of n free ports in a row
		for range 200 {
			first := devPortMin + rand.IntN(devPortMax-devPortMin-n)
			ok := true
			for p := first; p < first+n && ok; p++ {
				ok = free(p) == nil
			}
			if ok {
				return first, nil
			}
		}
		return 0, &cliError{code: exitFailure, what: fmt.Sprintf("no %d free ports were found", n), where: fmt.Sprintf("%d to %d", devPortMin, devPortMax), mend: "name one with --kafka-port"}
	}
	before := slices.Clone(st.KafkaPorts)
	st.KafkaPorts = st.KafkaPorts[:0]
	reuse := len(before) == st.Nodes && !slices.ContainsFunc(before, func(p int) bool { return free(p) != nil })
	switch {
	case o.kafkaPort == 0 && reuse:
		st.KafkaPorts = before
	case o.kafkaPort == 0:
		first, err := block(st.Nodes)
		if err != nil {
			return err
		}
		for i := range st.Nodes {
			st.KafkaPorts = append(st.KafkaPorts, first+i)
		}
	default:
		if o.kafkaPort+st.Nodes-1 > 65535 {
			return usageError("choose a lower --kafka-port", "the cluster has %d nodes: the last one's port would be above 65535", st.Nodes)
		}
		for i := range st.Nodes {
			p := o.kafkaPort + i
			if err := free(p); err != nil {
				return &cliError{code: exitFailure, what: fmt.Sprintf("port %d, which node %d needs for clients, cannot be used: %v", p, i+1, err),
					where: net.JoinHostPort(devHost, strconv.Itoa(p)), mend: "stop the program that listens there, or choose another --kafka-port (0: free ones)", err: err}
			}
			st.KafkaPorts = append(st.KafkaPorts, p)
		}
	}
	for _, p := range st.KafkaPorts {
		taken[p] = true
	}
	// others picks ports that lie above those for clients as the defaults of broker start do.
	others := func(before []int, above int) ([]int, error) {
		out := make([]int, st.Nodes)
		for i := range out {
			p := st.KafkaPorts[i] + above
			if i < len(before) {
				p = before[i]
			}
			if p > 65535 || free(p) != nil {
				var err error
				if p, err = block(1); err != nil {
					return nil, err
				}
			}
			out[i], taken[p] = p, true
		}
		return out, nil
	}
	var err error
	if st.RPCPorts, err = others(st.RPCPorts, 100); err != nil {
		return err
	}
	st.AdminPorts, err = others(st.AdminPorts, 200)
	return err
}

// startNode starts the child of index i.
func (a *app) startNode(dir string, st *devState, i int, secure *devSecure, extra []string) (*devNode, error) {
	n := &devNode{number: i + 1, ready: make(chan struct{}), voters: make(chan struct{}), exited: make(chan struct{}),
		kafka:   net.JoinHostPort(devHost, strconv.Itoa(st.KafkaPorts[i])),
		rpc:     net.JoinHostPort(devHost, strconv.Itoa(st.RPCPorts[i])),
		admin:   net.JoinHostPort(devHost, strconv.Itoa(st.AdminPorts[i])),
		logPath: filepath.Join(dir, fmt.Sprintf("node-%d.log", i+1)),
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{"start", "--config", noConfigFile, "--data-dir", filepath.Join(dir, fmt.Sprintf("node-%d", i+1)),
		"--rpc-listen", n.rpc, "--admin-listen", n.admin, "--node-id", strconv.Itoa(n.number), "--cluster-id", st.ClusterID}
	if secure != nil {
		args = append(args, secure.flags(n.kafka)...)
		n.security, n.admin = secure.client(), "https://"+n.admin
	} else {
		args = append(args, "--kafka-listen", n.kafka)
	}
	if i < len(st.Racks) && st.Racks[i] != "" {
		args = append(args, "--rack", st.Racks[i])
	}
	hidden := []string{"--report-voters", strconv.Itoa(broker.VotersOf(st.Nodes))}
	var others []string
	for j, p := range st.RPCPorts {
		if j != i {
			others = append(others, net.JoinHostPort(devHost, strconv.Itoa(p)))
		}
	}
	if (i > 0 || st.Founded) && len(others) > 0 {
		args = append(args, "--join", strings.Join(others, ","))
	}
	logFile, err := os.OpenFile(n.logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer logFile.Close() // the child has its own
	if info, err := logFile.Stat(); err == nil {
		n.logStart = info.Size()
	}
	n.again = append(append([]string{exe}, args...), extra...)
	n.cmd = exec.Command(exe, slices.Concat(args, hidden, extra)...)
	n.cmd.Stderr = logFile
	stdout, err := n.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	n.cmd.SysProcAttr = procAttr()
	// What is set for this process is not meant for each of its brokers: they get all they need as flags.
	n.cmd.Env = slices.DeleteFunc(a.environ(), func(kv string) bool { return strings.HasPrefix(kv, envPrefix+"_") })
	if err := n.cmd.Start(); err != nil {
		return nil, &cliError{code: exitFailure, what: fmt.Sprintf("node %d cannot be started: %v", n.number, err), where: exe, err: err}
	}
	go func() {
		lines := bufio.NewScanner(stdout)
		signals := map[string]chan struct{}{readyLine: n.ready, votersLine: n.voters}
		for lines.Scan() {
			word, _, _ := strings.Cut(lines.Text(), ": ")
			if c := signals[word]; c != nil {
				close(c)
				delete(signals, word)
			}
		}
		n.err = n.cmd.Wait() // only after the pipe has been read to its end
		close(n.exited)
	}()
	return n, nil
}

// stopNodes asks all children to end, kills those that do not, and returns when none is left.
func stopNodes(nodes []*devNode) {
	for _, n := range nodes {
		if n.running() {
			_ = n.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself meanwhile
		}
	}
	late := time.NewTimer(devStopTimeout)
	defer late.Stop()
	for _, n := range nodes {
		select {
		case <-n.exited:
		case <-late.C:
			late.Reset(0) // for the others too
			_ = n.cmd.Process.Kill()
			<-n.exited
		}
	}
}
