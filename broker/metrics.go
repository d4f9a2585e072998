// Metrics: what is counted as it happens, and how all of it comes to Prometheus. What the floors below count in their own
// words is read at each scrape: metrics_table.go. What can be said of single groups is in metrics_groups.go. docs/metrics.md lists
// everything; a test holds it to what there is.
//
// Whatever is counted on the way of a record costs a few atomic additions, no lock and no memory.

package broker

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/twmb/franz-go/pkg/kerr"
	"golang.org/x/sync/semaphore"

	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

// maxScrapes bounds how many scrapes run at once; more are told to come again.
const maxScrapes = 4

// The buckets' upper bounds.
var (
	diskSeconds  = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}
	callSeconds  = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	electSeconds = []float64{.01, .05, .1, .25, .5, 1, 2, 3, 5, 10, 30, 60}
	batchBytes   = []float64{1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20}
)

// metrics is what one broker counts by itself.
type metrics struct {
	requests        requestSeconds
	bytesIn         prometheus.Counter
	bytesOut        prometheus.Counter
	accepted        prometheus.Counter
	refused         prometheus.Counter
	protocolErrors  prometheus.Counter
	authentications *prometheus.CounterVec

	producedBatches prometheus.Counter
	producedBytes   prometheus.Counter
	fetchedBytes    prometheus.Counter
	markers         prometheus.Counter
	verified        prometheus.Counter
	partitionErrors *prometheus.CounterVec

	throttled        *prometheus.CounterVec
	throttledSeconds *prometheus.CounterVec

	commitSeconds  *histogram
	fsyncSeconds   *histogram
	flushBytes     *histogram
	leaderSeconds  *histogram
	journalSeconds *histogram

	cleaner *cleanerMetrics
}

// requestSeconds is a histogram for each API, made at its first request.
type requestSeconds struct {
	desc  *prometheus.Desc
	byAPI [lastAPIKey]atomic.Pointer[histogram]
}

func (q *requestSeconds) observe(key int16, d time.Duration) {
	h := q.byAPI[key].Load()
	if h == nil {
		h = newHistogram(q.desc, nanoseconds, callSeconds, apiName(key))
		if !q.byAPI[key].CompareAndSwap(nil, h) {
			h = q.byAPI[key].Load()
		}
	}
	h.observe(int64(d))
}

func (q *requestSeconds) Describe(out chan<- *prometheus.Desc) { out <- q.desc }

func (q *requestSeconds) Collect(out chan<- prometheus.Metric) {
	for i := range q.byAPI {
		if h := q.byAPI[i].Load(); h != nil {
			h.Collect(out)
		}
	}
}

func newMetrics() *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	seconds := func(name, help string, buckets []float64) *histogram {
		return newHistogram(prometheus.NewDesc(name, help, nil, nil), nanoseconds, buckets)
	}
	return &metrics{
		requests: requestSeconds{desc: prometheus.NewDesc("balsa_kafka_request_seconds",
			"Time from a Kafka request's last byte to its answer's last byte, by API. Fetch and group requests wait for as long as the client allows.", []string{"api"}, nil)},
		bytesIn:        counter("balsa_kafka_received_bytes_total", "Bytes of Kafka requests read."),
		bytesOut:       counter("balsa_kafka_sent_bytes_total", "Bytes of Kafka answers written."),
		accepted:       counter("balsa_kafka_connections_accepted_total", "Connections of Kafka clients accepted."),
		refused:        counter("balsa_kafka_connections_refused_total", "Connections of Kafka clients closed at once because a limit was reached."),
		protocolErrors: counter("balsa_kafka_protocol_errors_total", "Connections closed because the client sent what is no Kafka request that this broker serves."),
		authentications: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "balsa_kafka_authentications_total",
			Help: "Authentications of Kafka clients by SASL, by mechanism and result (ok, failed)."}, []string{"mechanism", "result"}),

		producedBatches: counter("balsa_produce_batches_total", "Record batches of clients acknowledged by this broker as leader."),
		producedBytes:   counter("balsa_produce_bytes_total", "Bytes of the record batches in balsa_produce_batches_total, as compressed by the producers."),
		fetchedBytes:    counter("balsa_fetch_bytes_total", "Bytes of record batches handed to consumers."),
		markers:         counter("balsa_txn_markers_total", "Transaction markers that this broker wrote as a partition's leader."),
		verified:        counter("balsa_txn_verifications_total", "Batches that waited for their transaction's coordinator before this broker, as the partition's leader, took them: the first of a transaction."),
		partitionErrors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "balsa_partition_errors_total",
			Help: "Errors answered to produce and fetch for single partitions, by API and Kafka error. NOT_LEADER_OR_FOLLOWER is how clients learn of a new leader."}, []string{"api", "error"}),

		throttled: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "balsa_quota_throttled_total",
			Help: "Times that a client was told to wait because it had used up a quota, by quota."}, []string{"quota"}),
		throttledSeconds: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "balsa_quota_throttled_seconds_total",
			Help: "Seconds that clients were told to wait because they had used up a quota, by quota."}, []string{"quota"}),

		commitSeconds:  seconds("balsa_raft_commit_seconds", "Time from a proposal's place in the leader's log until it is committed by a quorum and applied: what acks=all waits for.", diskSeconds),
		fsyncSeconds:   seconds("balsa_log_fsync_seconds", "Time to write and sync what a log had pending; where balsa.durability=relaxed has it written first and synced later, of each.", diskSeconds),
		flushBytes:     newHistogram(prometheus.NewDesc("balsa_log_flush_bytes", "Bytes that one sync of a log made durable: more under load, which is what group commit is.", nil, nil), bytesEach, batchBytes),
		leaderSeconds:  seconds("balsa_raft_leaderless_seconds", "Time for which a replica knew no leader of its group, each time it learns of one; from the replica's opening on.", electSeconds),
		journalSeconds: seconds("balsa_journal_save_seconds", "Time until a term or vote was durable in the journal.", diskSeconds),

		cleaner: newCleanerMetrics(),
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return append([]prometheus.Collector{&m.requests, m.bytesIn, m.bytesOut, m.accepted, m.refused, m.protocolErrors, m.authentications, m.producedBatches, m.producedBytes, m.markers, m.verified,
		m.fetchedBytes, m.partitionErrors, m.throttled, m.throttledSeconds, m.commitSeconds, m.fsyncSeconds, m.flushBytes, m.leaderSeconds, m.journalSeconds}, m.cleaner.collectors()...)
}

// registry is one of the broker's own, so that two brokers in one process do not meet in it.
func (b *Broker) registry() *prometheus.Registry {
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	reg.MustRegister(b.met.collectors()...)
	reg.MustRegister(b.flight.collectors()...)
	reg.MustRegister(&scrape{b})
	return reg
}

func newMetricsHandler(b *Broker) http.Handler {
	return promhttp.HandlerFor(b.registry(), promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes, ErrorHandling: promhttp.ContinueOnError})
}

// answered notes requests whose answers were written.
func (m *metrics) answered(batch []*request) {
	now := time.Now()
	for _, r := range batch {
		m.requests.observe(r.header.Key, now.Sub(r.start))
	}
}

// refusedPartition counts an error that a partition of a produce or fetch got.
func (m *metrics) refusedPartition(key int16, code int16) {
	name := "UNKNOWN_SERVER_ERROR"
	if e := kerr.TypedErrorForCode(code); e != nil {
		name = e.Message
	}
	m.partitionErrors.WithLabelValues(apiName(key), name).Inc()
}

// observer is the multi.Observer of a broker.
type observer struct {
	m *metrics
	f *flight
}

var _ multi.Observer = observer{}

func (o observer) Committed(d time.Duration) { o.m.commitSeconds.observe(int64(d)) }

func (o observer) Synced(g raft.GroupID, d time.Duration, bytes int64, _ error) {
	o.m.fsyncSeconds.observe(int64(d))
	if bytes > 0 {
		o.m.flushBytes.observe(bytes)
	}
	o.f.synced(g, d)
}

func (o observer) LeaderFound(g raft.GroupID, _ raft.NodeID, _ raft.Term, d time.Duration) {
	o.m.leaderSeconds.observe(int64(d))
	o.f.leaderFound(g, d)
}

// timedStore measures how long terms and votes take to become durable.
type timedStore struct {
	multi.HardStateStore
	m *metrics
}

func (s timedStore) Save(g raft.GroupID, hs raft.HardState, done func(error)) {
	began := time.Now()
	s.HardStateStore.Save(g, hs, func(err error) {
		s.m.journalSeconds.observe(int64(time.Since(began)))
		done(err)
	})
}

// budget is a semaphore over bytes that says how much of it is in use.
type budget struct {
	sem  *semaphore.Weighted
	size int64
	used atomic.Int64
}

func newBudget(size int64) *budget { return &budget{sem: semaphore.NewWeighted(size), size: size} }

func (b *budget) Acquire(ctx context.Context, n int64) error {
	err := b.sem.Acquire(ctx, n)
	if err == nil {
		b.used.Add(n)
	}
	return err
}

func (b *budget) TryAcquire(n int64) bool {
	ok := b.sem.TryAcquire(n)
	if ok {
		b.used.Add(n)
	}
	return ok
}

func (b *budget) Release(n int64) {
	b.used.Add(-n)
	b.sem.Release(n)
}
