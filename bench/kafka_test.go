package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// fakeKafka is the Kafka side of a system on brokers in this process. They lead by their own numbers, so that it has to say who leads.
type fakeKafka struct {
	kafkaNodes
	cluster *kfake.Cluster
}

func (f *fakeKafka) Name() string { return "kfake" }
func (f *fakeKafka) Mode() string { return "" }
func (f *fakeKafka) Start(_ context.Context, _ string, c Cell) (err error) {
	f.cell = c
	if f.cluster, err = kfake.NewCluster(kfake.NumBrokers(3), kfake.DefaultNumPartitions(c.Partitions)); err != nil {
		return err
	}
	f.addrs = f.cluster.ListenAddrs()
	return f.connect()
}
func (f *fakeKafka) Create(ctx context.Context, c Cell, made func(int)) error {
	c.Replicas = 1
	return f.create(ctx, c, nil, made)
}
func (f *fakeKafka) Leaders(_ context.Context, n int) ([]int, error) { return make([]int, n), nil }
func (f *fakeKafka) StartNode(context.Context, int) error            { return ErrNotOffered }
func (f *fakeKafka) Opened(context.Context, int) (bool, string, error) {
	return false, "", ErrNotOffered
}
func (f *fakeKafka) Stop() error {
	if f.cluster != nil {
		f.cluster.Close()
	}
	return nil
}

func TestKafkaClients(t *testing.T) {
	for _, scenario := range []string{"T1", "L1", "L2", "C1"} {
		t.Run(scenario, func(t *testing.T) {
			got, err := runFakes(t, Options{}, cellOf(t, scenario), &fakeKafka{kafkaNodes: kafkaNodes{client: Client{BatchBytes: 1 << 20}}})
			if err != nil || got[0].Failed != "" || got[0].Verified == nil || !got[0].Verified.OK() || got[0].Verified.Acked == 0 {
				t.Fatalf("%v, %v, %+v", got, err, got[0].Verified)
			}
			if scenario == "C1" && got[0].CatchUp.Read < got[0].CatchUp.BacklogRecords {
				t.Fatalf("%+v", got[0].CatchUp)
			}
		})
	}
}

// A broker that is named as a leader and is not one yet costs a consumer another attempt, and no turn.
func TestConsumerWaitsForLeaders(t *testing.T) {
	f := &fakeKafka{kafkaNodes: kafkaNodes{client: Client{BatchBytes: 1 << 20}}}
	cell := cellOf(t, "L2")
	if err := f.Start(t.Context(), "", cell); err != nil {
		t.Fatal(err)
	}
	defer f.Stop()
	defer f.Disconnect()
	if err := f.Create(t.Context(), cell, func(int) {}); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	f.cluster.ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
		if asked.Add(1) > 6 { // two attempts of three brokers
			return nil, nil, false
		}
		f.cluster.KeepControl()
		resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
		for _, topic := range req.(*kmsg.ListOffsetsRequest).Topics {
			rt := kmsg.ListOffsetsResponseTopic{Topic: topic.Topic}
			for _, p := range topic.Partitions {
				rp := kmsg.NewListOffsetsResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, kerr.NotLeaderForPartition.Code
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	c, err := f.Consumer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if asked.Load() <= 6 {
		t.Errorf("asked %d times: nobody was told that it is no leader", asked.Load())
	}
}

// What is said of a peer is what is run: the version is the pom's, the configuration the file's.
func TestKafkaFiles(t *testing.T) {
	if v := kafkaVersion(); !strings.HasPrefix(v, "4.") {
		t.Errorf("version %q", v)
	}
	k := NewKafka(&KafkaProgram{Java: "/bin/true", Dir: t.TempDir()}, Client{}, 0)
	k.dir, k.cell = t.TempDir(), Cell{Replicas: 3, Class: ClassB}
	if err := k.format(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(k.config(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"node.id=2\n", "min.insync.replicas=2\n", "listeners=PLAINTEXT://" + k.addrs[1] + ",", "log.dirs=" + filepath.Dir(k.config(1))} {
		if !bytes.Contains(b, []byte(want)) {
			t.Errorf("server.properties lacks %q:\n%s", want, b)
		}
	}
	if got := strings.Count(string(b), "@127.0.0.1:"); got != 3 {
		t.Errorf("%d voters", got)
	}
}

func TestJetStreamFiles(t *testing.T) {
	for class, want := range map[Class]bool{ClassA: false, ClassB: true} {
		j := NewJetStream("/bin/true", JetStreamAsync)
		j.dir, j.cell, j.ports = t.TempDir(), Cell{Replicas: 3, Class: class}, []int{1, 2, 3, 4, 5, 6, 7, 8, 9}
		if err := j.configure(2); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(j.config(2))
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Contains(b, []byte("\n  sync_interval: always\n")); got != want {
			t.Errorf("class %s: sync_interval: always is %v:\n%s", class, got, b)
		}
		for _, s := range []string{"server_name: n3\n", "listen: 127.0.0.1:3\n", "listen: 127.0.0.1:6\n", "http: 127.0.0.1:9\n", `"nats://127.0.0.1:4", "nats://127.0.0.1:5"`} {
			if !bytes.Contains(b, []byte(s)) {
				t.Errorf("nats.conf lacks %q:\n%s", s, b)
			}
		}
	}
}

func TestJetStreamBehind(t *testing.T) {
	v := new(jsz)
	if err := json.Unmarshal([]byte(`{"account_details":[{"stream_detail":[
		{"name":"BENCH0","cluster":{"leader":"n1","replicas":[{"name":"n2","current":true},{"name":"n3","current":false}]}},
		{"name":"BENCH1","cluster":{"leader":"n1","replicas":[{"name":"n2","current":true},{"name":"n3","current":true,"offline":true}]}},
		{"name":"BENCH2","cluster":{"leader":"n2","replicas":[{"name":"n1","current":true},{"name":"n3","current":false}]}}]}]}`), v); err != nil {
		t.Fatal(err)
	}
	if v.behind("n1", "n3") != 2 || v.behind("n1", "n2") != 0 || v.behind("n2", "n3") != 1 || v.behind("n3", "n1") != 0 {
		t.Fatal(v.behind("n1", "n3"), v.behind("n1", "n2"), v.behind("n2", "n3"))
	}
}

// While a stream does not answer one message tries, and all get through when it does.
func TestGate(t *testing.T) {
	g := new(gate)
	if g.waiting() != nil || !g.shut() || g.shut() {
		t.Fatal("not one tries")
	}
	up := g.waiting()
	select {
	case <-up:
		t.Fatal("open too early")
	default:
	}
	g.open()
	<-up
	if g.waiting() != nil || !g.shut() {
		t.Fatal("it stays shut")
	}
}
