// Tests of the metrics: docs/metrics.md lists all there are, names and values are what they should be, and counting costs no memory.

package broker

import (
	"bytes"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/raft"
)

var updateDocs = flag.Bool("update", false, "write docs/metrics.md anew")

// metricRow is what is said of a metric in docs/metrics.md.
type metricRow struct{ name, kind, labels, help string }

// allMetrics are all metrics of our own, in the order of the code.
func allMetrics() (rows []metricRow) {
	kinds := map[prometheus.ValueType]string{counted: "counter", gauge: "gauge"}
	// A Desc does not let itself be asked; its text form does.
	form := regexp.MustCompile(`^Desc\{fqName: "(.*?)", help: "(.*?)", (?:unit: "", )?constLabels: \{\}, variableLabels: \{(.*?)\}\}$`)
	for _, c := range append(newMetrics().collectors(), newFlight(nil, "", nil, 0, 0).collectors()...) {
		descs := make(chan *prometheus.Desc, 1)
		c.Describe(descs)
		m := form.FindStringSubmatch((<-descs).String())
		kind := "counter"
		switch c.(type) {
		case *histogram, *requestSeconds:
			kind = "histogram"
		}
		rows = append(rows, metricRow{m[1], kind, m[3], m[2]})
	}
	for i := range scalars {
		rows = append(rows, metricRow{scalars[i].name, kinds[scalars[i].kind], scalars[i].label, scalars[i].help})
	}
	for i := range groupMetrics {
		rows = append(rows, metricRow{groupMetrics[i].name, kinds[groupMetrics[i].kind], "topic,partition", groupMetrics[i].help})
	}
	for i := range bridgeMetrics {
		rows = append(rows, metricRow{bridgeMetrics[i].name, kinds[bridgeMetrics[i].kind], "bridge", bridgeMetrics[i].help})
	}
	return rows
}

func TestMetricsAreDocumented(t *testing.T) {
	const begin, end = "<!-- the table: go test ./broker -run TestMetricsAreDocumented -update -->\n", "<!-- end -->\n"
	file := filepath.FromSlash("../docs/metrics.md")
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := bytes.Cut(page, []byte(begin))
	_, after, ok2 := bytes.Cut(rest, []byte(end))
	if !ok || !ok2 {
		t.Fatalf("%s lacks its marks", file)
	}
	var table strings.Builder
	table.WriteString("\n| metric | type | labels | meaning |\n|---|---|---|---|\n")
	for _, r := range allMetrics() {
		labels := "–"
		if r.labels != "" {
			labels = "`" + strings.ReplaceAll(r.labels, ",", "`, `") + "`"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", r.name, r.kind, labels, r.help)
	}
	table.WriteString("\n")
	want := string(before) + begin + table.String() + end + string(after)
	if *updateDocs {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want != string(page) {
		t.Errorf("%s is not what there is; run go test ./broker -run TestMetricsAreDocumented -update and read the difference", file)
	}
}

// Prometheus' conventions, and ours: base units, counters end in _total, a help that is a sentence.
func TestMetricNames(t *testing.T) {
	seen := make(map[string]bool)
	for _, r := range allMetrics() {
		if seen[r.name] {
			t.Errorf("%s is there twice", r.name)
		}
		seen[r.name] = true
		if !regexp.MustCompile(`^balsa_[a-z0-9_]+$`).MatchString(r.name) || (r.kind == "counter") != strings.HasSuffix(r.name, "_total") ||
			strings.Contains(r.name, "_ms") || strings.Contains(r.name, "_millis") {
			t.Errorf("%s, a %s, is not named as Prometheus would have it", r.name, r.kind)
		}
		if r.kind == "histogram" && !strings.HasSuffix(r.name, "_seconds") && !strings.HasSuffix(r.name, "_bytes") {
			t.Errorf("histogram %s does not name its unit", r.name)
		}
		if len(r.help) < 20 || !strings.HasSuffix(r.help, ".") || strings.ContainsAny(r.help, "|\"\n") {
			t.Errorf("%s is explained by %q", r.name, r.help)
		}
	}
}

// gathered is a broker's metrics by name, and by name{label=value,…}.
func gathered(t *testing.T, b *Broker) map[string]float64 {
	t.Helper()
	families, err := b.registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for i, l := range m.Label {
				name += map[bool]string{true: "{", false: ","}[i == 0] + l.GetName() + "=" + l.GetValue()
			}
			if len(m.Label) > 0 {
				name += "}"
			}
			switch f.GetType() {
			case dto.MetricType_HISTOGRAM:
				out[name] = float64(m.Histogram.GetSampleCount())
			case dto.MetricType_COUNTER:
				out[name] = m.Counter.GetValue()
			case dto.MetricType_GAUGE:
				out[name] = m.Gauge.GetValue()
			}
		}
	}
	return out
}

// Three brokers under a little load: the figures add up.
func TestMetrics(t *testing.T) {
	c := newCluster(t, 3, true)
	for _, n := range c.nodes {
		n.cfg.AdminListen, n.cfg.MetricsGroups = "127.0.0.1:0", 2
	}
	c.calm() // a batch that is sent again counts twice
	c.start(c.nodes...)
	c.awaitVoters(3)
	id := c.nodes[0].mustCreate(t, "t", 3, 3)
	soon(t, "the topic is served", func() bool { return c.served(id) })
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.nodes[0].KafkaAddr()), kgo.DefaultProduceTopic("t"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	const records = 30
	for i := range records {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Partition: int32(i % 3), Value: []byte("value")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	sum := func(name string) (v float64) {
		for _, n := range c.nodes {
			v += gathered(t, n.Broker)[name]
		}
		return v
	}
	for name, want := range map[string]float64{
		"balsa_produce_batches_total": records, "balsa_raft_groups{role=leader}": 4, "balsa_raft_groups{role=follower}": 8,
		"balsa_raft_groups{role=candidate}": 0, "balsa_raft_failed_groups": 0, "balsa_raft_full_groups": 0, "balsa_raft_bad_frames_total": 0,
		"balsa_cluster_controller": 1, "balsa_cluster_brokers{state=live}": 9, "balsa_cluster_topics": 3, "balsa_cluster_partitions": 9,
		"balsa_log_replicas": 9, "balsa_memory_used_bytes{budget=produce}": 0,
	} {
		soon(t, fmt.Sprintf("%s is %v", name, want), func() bool { return sum(name) == want })
	}
	for _, name := range []string{"balsa_kafka_request_seconds{api=Produce}", "balsa_kafka_request_seconds{api=Metadata}", "balsa_kafka_received_bytes_total",
		"balsa_kafka_sent_bytes_total", "balsa_kafka_connections", "balsa_produce_bytes_total", "balsa_raft_elections_won_total", "balsa_raft_leader_changes_total",
		"balsa_raft_proposals_total", "balsa_raft_committed_entries_total", "balsa_raft_appended_bytes_total", "balsa_raft_commit_seconds", "balsa_log_fsync_seconds",
		"balsa_log_flush_bytes", "balsa_journal_save_seconds", "balsa_raft_leaderless_seconds", "balsa_transport_sent_messages_total{lane=control}",
		"balsa_transport_sent_bytes_total{lane=bulk}", "balsa_log_bytes", "balsa_log_segments", "balsa_cache_used_bytes", "balsa_raft_turns_total"} {
		if v := sum(name); v <= 0 {
			t.Errorf("%s is %v", name, v)
		}
	}
	soon(t, "every leader has a lease", func() bool { return sum("balsa_raft_leases{state=held}") == 4 })
	soon(t, "idle groups are covered", func() bool { return sum("balsa_raft_heartbeat_groups{state=covered}") == 4 })
	groups := make(map[string]bool)
	for name := range gathered(t, c.nodes[0].Broker) {
		if rest, ok := strings.CutPrefix(name, "balsa_group_term{"); ok {
			groups[rest] = true
		}
	}
	if len(groups) != 2 {
		t.Errorf("two groups were asked for, and there are %v", groups)
	}
	resp, err := http.Get("http://" + c.nodes[0].AdminAddr() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("status %d", resp.StatusCode)
	}
	for _, n := range c.nodes {
		if n.log.contains("error gathering") {
			t.Error("gathering has failed")
		}
	}
}

// What is counted on a record's way takes no memory.
func TestCountingAllocatesNothing(t *testing.T) {
	m := newMetrics()
	o := observer{m, newFlight(nil, "", nil, time.Second, time.Second)}
	r := &request{start: time.Now()}
	batch := []*request{r}
	m.answered(batch)
	if n := testing.AllocsPerRun(100, func() {
		m.answered(batch)
		m.bytesIn.Add(100)
		m.producedBatches.Inc()
		m.producedBytes.Add(1000)
		o.Committed(time.Millisecond)
		o.Synced(raft.GroupID(1), time.Millisecond, 1000, nil)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCounting(b *testing.B) {
	m := newMetrics()
	o := observer{m, newFlight(nil, "", nil, time.Second, time.Second)}
	batch := []*request{{start: time.Now()}}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() { // what one produce request of one batch costs, its part of a sync included
			m.bytesIn.Add(100)
			m.producedBatches.Inc()
			m.producedBytes.Add(1000)
			o.Committed(time.Millisecond)
			o.Synced(raft.GroupID(1), time.Millisecond, 1000, nil)
			m.answered(batch)
			m.bytesOut.Add(100)
		}
	})
}

func TestHistogram(t *testing.T) {
	h := newHistogram(prometheus.NewDesc("balsa_x_seconds", "An example.", nil, nil), nanoseconds, []float64{.001, .01})
	for _, d := range []time.Duration{0, time.Millisecond, time.Millisecond + 1, 10 * time.Millisecond, time.Second} {
		h.observe(int64(d))
	}
	out := make(chan prometheus.Metric, 1)
	h.Collect(out)
	var m dto.Metric
	if err := (<-out).Write(&m); err != nil {
		t.Fatal(err)
	}
	b := m.Histogram.Bucket
	if m.Histogram.GetSampleCount() != 5 || m.Histogram.GetSampleSum() != 1.012000001 || len(b) != 2 ||
		b[0].GetUpperBound() != .001 || b[0].GetCumulativeCount() != 2 || b[1].GetUpperBound() != .01 || b[1].GetCumulativeCount() != 4 {
		t.Errorf("%v", m.Histogram)
	}
}

// Names of APIs are Kafka's, whatever the library calls them.
func TestAPINames(t *testing.T) {
	for key, want := range map[int16]string{0: "Produce", 45: "AlterPartitionReassignments", 46: "ListPartitionReassignments"} {
		if got := apiName(key); got != want {
			t.Errorf("key %d is %s, want %s", key, got, want)
		}
	}
}
