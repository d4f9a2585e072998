// Apache Kafka as a peer: KRaft, each node broker and controller in a process of its own, loaded through franz-go as Balsa is. It needs a
// Java runtime (17 or later), and mvn to fetch the jars once.

package bench

import (
	"context"
	crand "crypto/rand"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"

	"golang.org/x/sync/errgroup"
)

//go:embed peers/kafka-server.properties
var kafkaProperties string

//go:embed peers/kafka-jvm.options
var kafkaJVM string

//go:embed peers/kafka-log4j2.yaml
var kafkaLog4j string

//go:embed peers/kafka-pom.xml
var kafkaPom string

const (
	leastJava  = 17
	fetchLimit = 10 * time.Minute
	// formatLimit bounds the writing of a node's first metadata.
	formatLimit = 2 * time.Minute
)

// KafkaProgram is what runs Kafka: Java, and a directory with the jars and the files of peers/.
type KafkaProgram struct {
	Java    string
	Dir     string
	Version string
	Runtime string // Java's version
}

// kafkaVersion is the one that the pom names.
func kafkaVersion() string {
	m := regexp.MustCompile(`<artifactId>kafka_2\.13</artifactId><version>([^<]+)</version>`).FindStringSubmatch(kafkaPom)
	if m == nil {
		return "unknown"
	}
	return m[1]
}

var javaVersion = regexp.MustCompile(`version "(\d+)[^"]*"`)

// FetchKafka has the jars of the pinned release below dir, and returns how to run them.
func FetchKafka(ctx context.Context, dir string) (*KafkaProgram, error) {
	java, err := exec.LookPath("java")
	if err != nil {
		return nil, fmt.Errorf("kafka needs Java %d or later (Debian: apt-get install openjdk-17-jre-headless): %w", leastJava, err)
	}
	out, err := exec.CommandContext(ctx, java, "-version").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("java -version: %w: %s", err, out)
	}
	m := javaVersion.FindSubmatch(out)
	if m == nil {
		return nil, fmt.Errorf("java -version says %q: no version", out)
	}
	if major, err := strconv.Atoi(string(m[1])); err != nil || major < leastJava {
		return nil, fmt.Errorf("java is of version %s, kafka needs %d or later", m[1], leastJava)
	}
	runtime, _, _ := strings.Cut(string(out), "\n")
	p := &KafkaProgram{Java: java, Dir: filepath.Join(dir, "kafka-"+kafkaVersion()), Version: kafkaVersion(), Runtime: strings.TrimSpace(runtime)}
	if err := os.MkdirAll(p.Dir, 0o755); err != nil {
		return nil, err
	}
	for name, text := range map[string]string{"pom.xml": kafkaPom, "jvm.options": kafkaJVM, "log4j2.yaml": kafkaLog4j} {
		if err := os.WriteFile(filepath.Join(p.Dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	whole := filepath.Join(p.Dir, "whole") // written once all jars are there
	if _, err := os.Stat(whole); err == nil {
		return p, nil
	}
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return nil, fmt.Errorf("mvn fetches kafka's jars (Debian: apt-get install maven): %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, fetchLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, mvn, "-q", "-B", "-Dstyle.color=never", "-f", filepath.Join(p.Dir, "pom.xml"), "dependency:copy-dependencies",
		"-DincludeScope=runtime", "-DoutputDirectory="+filepath.Join(p.Dir, "jars"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mvn cannot fetch kafka %s: %w\n%s", p.Version, err, out)
	}
	return p, os.WriteFile(whole, nil, 0o644)
}

// Peer is how a report names it.
func (p *KafkaProgram) Peer() Peer {
	return Peer{Name: "kafka", Version: p.Version, Source: "Maven Central: org.apache.kafka:kafka_2.13", Runtime: p.Runtime, Configs: map[string]string{
		"kafka-server.properties": kafkaProperties, "kafka-jvm.options": kafkaJVM, "kafka-log4j2.yaml": kafkaLog4j, "kafka-pom.xml": kafkaPom}}
}

// java is a command line of one of Kafka's programs.
func (p *KafkaProgram) java(class string, args ...string) []string {
	return append([]string{"@" + filepath.Join(p.Dir, "jvm.options"), "-cp", filepath.Join(p.Dir, "jars", "*"),
		"-Dlog4j2.configurationFile=file:" + filepath.Join(p.Dir, "log4j2.yaml"), class}, args...)
}

// Kafka is a cluster.
type Kafka struct {
	Program *KafkaProgram
	Warmup  time.Duration // of each turn at least

	kafkaNodes
	ports []int // clients', then controllers'
	dir   string
}

// NewKafka is a cluster that is yet to be started.
func NewKafka(p *KafkaProgram, client Client, warmup time.Duration) *Kafka {
	const sigterm = 128 + 15 // what a JVM ends with
	return &Kafka{Program: p, Warmup: warmup, kafkaNodes: kafkaNodes{client: client, nodes: nodes{stopSignal: syscall.SIGTERM, stopped: []int{sigterm}}}}
}

// Name implements Cluster.
func (k *Kafka) Name() string { return "kafka" }

// Mode implements System.
func (k *Kafka) Mode() string { return "" }

// LeastWarmup implements warmer: until the JVM has compiled what a load needs, Kafka is four times as slow as after it.
func (k *Kafka) LeastWarmup() time.Duration { return k.Warmup }

const (
	kafkaReady = "Kafka Server started"
	// kafkaOpened is logged once all logs are loaded, those that a crash left behind recovered.
	kafkaOpened = " logs in "
)

// kafkaNode is what the configuration's template is filled with.
type kafkaNode struct {
	ID, Port, ControllerPort, MinInSync int
	Voters                              []string // id@host:port
	DataDir                             string
}

// Start implements Cluster.
func (k *Kafka) Start(ctx context.Context, dir string, c Cell) (err error) {
	n := c.Nodes()
	k.cell, k.dir = c, dir
	if k.ports == nil {
		if err := k.format(ctx); err != nil {
			return err
		}
	}
	for i := range n {
		if err := k.StartNode(ctx, i); err != nil {
			return err
		}
	}
	return k.connect()
}

// format writes the nodes' configurations and their first metadata.
func (k *Kafka) format(ctx context.Context) (err error) {
	n := k.cell.Nodes()
	if k.ports, err = keepPorts(2 * n); err != nil {
		return err
	}
	var voters []string
	for i := range n {
		k.addrs = append(k.addrs, loopback(k.ports[i]))
		voters = append(voters, fmt.Sprintf("%d@%s", i+1, loopback(k.ports[n+i])))
	}
	tmpl, err := template.New("kafka-server.properties").Parse(kafkaProperties)
	if err != nil {
		return err
	}
	var id [16]byte
	_, _ = crand.Read(id[:]) // it does not fail
	cluster := base64.RawURLEncoding.EncodeToString(id[:])
	ctx, cancel := context.WithTimeout(ctx, formatLimit)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	for i := range n {
		conf := k.config(i)
		if err := os.MkdirAll(filepath.Dir(conf), 0o755); err != nil {
			return err
		}
		f, err := os.Create(conf)
		if err != nil {
			return err
		}
		node := kafkaNode{ID: i + 1, Port: k.ports[i], ControllerPort: k.ports[n+i], Voters: voters, DataDir: filepath.Join(filepath.Dir(conf), "data"),
			MinInSync: min(2, k.cell.Replicas)}
		if err := errors.Join(tmpl.Execute(f, node), f.Close()); err != nil {
			return err
		}
		g.Go(func() error {
			// A leading hyphen would be taken for a flag.
			out, err := exec.CommandContext(ctx, k.Program.Java, k.Program.java("kafka.tools.StorageTool", "format", "--cluster-id="+cluster, "-c", conf)...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("format node %d's storage: %w\n%s", i+1, err, out)
			}
			return nil
		})
	}
	return g.Wait()
}

func (k *Kafka) config(node int) string {
	return filepath.Join(k.dir, fmt.Sprintf("n%d", node+1), "server.properties")
}

// StartNode implements System.
func (k *Kafka) StartNode(_ context.Context, node int) error {
	return k.run(node, program{path: k.Program.Java, args: k.Program.java("kafka.Kafka", k.config(node)), log: filepath.Join(filepath.Dir(k.config(node)), "log"),
		seen: []string{kafkaReady, kafkaOpened}})
}

// Create implements Cluster. It waits for all brokers: a topic is placed on those that have registered.
func (k *Kafka) Create(ctx context.Context, c Cell, made func(int)) error {
	if err := retry(ctx, func() error { _, err := k.Leaders(ctx, 0); return err }); err != nil {
		return err
	}
	var configs map[string]*string
	if c.Class == ClassB {
		each := "1"
		configs = map[string]*string{"flush.messages": &each}
	}
	return k.create(ctx, c, configs, made)
}

// Leaders implements Cluster.
func (k *Kafka) Leaders(ctx context.Context, n int) ([]int, error) {
	for i := range k.addrs {
		x, err := k.node(i)
		if err != nil {
			return nil, err
		}
		if x == nil {
			continue
		}
		if _, ready := x.printed(kafkaReady); !ready {
			return nil, fmt.Errorf("node %d is not ready", i+1)
		}
	}
	if n == 0 {
		return nil, nil
	}
	return k.kafkaNodes.Leaders(ctx, n)
}

// Opened implements System.
func (k *Kafka) Opened(_ context.Context, node int) (bool, string, error) {
	const by = "its log: Loaded … logs in …"
	x, err := k.node(node)
	if err != nil || x == nil {
		return false, by, err
	}
	_, open := x.printed(kafkaOpened)
	return open, by, nil
}
