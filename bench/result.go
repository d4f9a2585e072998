// The schema of what a run measured: what `broker bench run --json` writes, and what tables, plots and comparisons are made of.
//
// One document is one run. Results has one element for each system, cell and round of the scenarios that load something, in the
// order of running; Many those of M2, which loads nothing. Whatever is zero was not measured. Durations are in the unit that the
// name ends in, sizes in bytes, MB are 10^6 bytes of records without headers or framing. Latencies are whole histograms, not only
// percentiles, so that rounds can be merged and curves drawn.
//
// Fields are added without a new Schema; a change of meaning, or of a name, is a new one.

package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Schema is the version of Report.
const Schema = 1

// Report is a run.
type Report struct {
	Schema   int       `json:"schema"`
	Taken    time.Time `json:"taken"`
	Finished time.Time `json:"finished"`
	// Complete is false where the run was interrupted or failed: what is there was measured, the rest is missing.
	Complete bool     `json:"complete"`
	Command  []string `json:"command"` // as given, without the program

	Machine  Machine  `json:"machine"`
	Balsa    Build    `json:"balsa"`
	Peers    []Peer   `json:"peers"`
	Settings Settings `json:"settings"`

	Results []Result `json:"results"`
	Many    []Many   `json:"many,omitempty"` // M2

	Parts []Part `json:"parts,omitempty"` // of what Join made
}

// Machine is where it ran. All systems and the load generator share it.
type Machine struct {
	OS          string  `json:"os"`     // GOOS/GOARCH
	Kernel      string  `json:"kernel"` // uname -r
	CPU         string  `json:"cpu"`    // model
	CPUs        int     `json:"cpus"`
	MemoryBytes int64   `json:"memory_bytes"`
	MemoryLimit int64   `json:"memory_limit_bytes,omitempty"` // of the control group; 0: none
	FileSystem  string  `json:"file_system"`                  // that the data was on
	DiskFree    int64   `json:"disk_free_bytes"`
	Load        float64 `json:"load"` // of the machine over a minute, before the run
}

// Build is what was measured of ourselves.
type Build struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Dirty   bool   `json:"dirty"` // built from a tree with changes
	Go      string `json:"go"`
}

// Peer is another system that was measured.
type Peer struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Source  string `json:"source"` // where its program comes from
	Runtime string `json:"runtime,omitempty"`
	// Configs are its configuration files as in bench/peers, by name, before ports and directories are filled in.
	Configs map[string]string `json:"configs"`
}

// Settings are the run's. Those of a load are in its Cell.
type Settings struct {
	Rounds     int     `json:"rounds"`
	WarmupSec  float64 `json:"warmup_seconds"`
	MeasureSec float64 `json:"measure_seconds"`
	Verify     bool    `json:"verify"`
	BatchBytes int     `json:"batch_bytes"` // the most of one batch, of every client that batches
	LingerMs   float64 `json:"linger_ms"`   // likewise
}

// Class is a durability class. Figures of different classes never stand in one chart.
type Class string

const (
	// ClassA acknowledges from the page cache of a quorum.
	ClassA Class = "A"
	// ClassB acknowledges once a quorum has synced to disk.
	ClassB Class = "B"
)

// Cell is one load. All systems get the same. It is comparable: results with equal cells stand in one table.
type Cell struct {
	Scenario      string `json:"scenario"` // T1, T2, L1, L2, M1, F1, F2, C1, R1
	Class         Class  `json:"class"`
	Replicas      int    `json:"replicas"`   // of each partition; there are as many nodes, and three at least
	Partitions    int    `json:"partitions"` // streams, for JetStream
	Producers     int    `json:"producers"`  // each with a connection of its own
	Consumers     int    `json:"consumers,omitempty"`
	RecordBytes   int    `json:"record_bytes"`
	InflightBytes int    `json:"inflight_bytes"` // unacknowledged record bytes per producer; RecordBytes means one at a time
	// Rate is in records a second of all producers together. 0: as fast as InflightBytes allows (a closed loop).
	Rate int `json:"rate,omitempty"`
	// Backlog is in bytes of records, counted once however many replicas: what a broker missed (F2), what a group reads (C1), what
	// lies on the disk (R1).
	Backlog int64 `json:"backlog_bytes,omitempty"`
}

// Nodes is the size of the cluster.
func (c Cell) Nodes() int { return max(3, c.Replicas) }

// Result is what one system did under one cell in one round.
type Result struct {
	Cell
	System string    `json:"system"`
	Mode   string    `json:"mode,omitempty"` // of the client, where a system has several
	Round  int       `json:"round"`          // from 1
	Began  time.Time `json:"began"`

	WarmupSec float64 `json:"warmup_seconds"` // Settings', or what the system needs

	// The measured phase. F1: from the kill on; F2: while the broker catches up; C1: while the group catches up; R1: nothing.
	Seconds    float64 `json:"seconds"`
	Records    int64   `json:"records"` // acknowledged while measuring
	RecordsSec float64 `json:"records_per_second"`
	MBSec      float64 `json:"mb_per_second"`
	// Latency is from when a record was due to its acknowledgement: due by the schedule where the cell has a rate, else when the
	// producer had it ready.
	Latency Latency `json:"latency"`
	// EndToEnd is from when a record was due until a consumer had it.
	EndToEnd *Latency `json:"end_to_end,omitempty"`

	CPUSec    float64 `json:"cpu_seconds"`        // of all server processes together, while measuring
	CPUSecGB  float64 `json:"cpu_seconds_per_gb"` // 10^9 bytes of acknowledged records (C1: of those and of the records read)
	RSSMax    float64 `json:"rss_max_mb"`         // the largest server process at any moment
	RSSSum    float64 `json:"rss_sum_mb"`         // all server processes together, at the worst moment
	ClientCPU float64 `json:"client_cpu_seconds"` // of the load generator, which shares the machine

	// Phases are the scenario's, in order, where it has several; one of them is the measured one above.
	Phases []Phase `json:"phases,omitempty"`
	// Series follows the load from the end of the warm-up, and Marks say what happened when.
	Series []Point `json:"series,omitempty"`
	Marks  []Mark  `json:"marks,omitempty"`

	// Wall is where the time of the turn went, whether it was measured or not.
	Wall []Spent `json:"wall,omitempty"`

	Failover *Failover `json:"failover,omitempty"` // F1
	Return   *Return   `json:"return,omitempty"`   // F2
	CatchUp  *CatchUp  `json:"catch_up,omitempty"` // C1
	Restart  *Restart  `json:"restart,omitempty"`  // R1

	Errors   int64         `json:"errors"` // records refused or timed out, after the client's own retries
	Verified *Verification `json:"verified,omitempty"`
	Skipped  string        `json:"skipped,omitempty"` // why there is no figure: the system does not offer it
	Failed   string        `json:"failed,omitempty"`  // what went wrong; figures of later steps are missing
	Notes    []string      `json:"notes,omitempty"`   // what a reader must know
}

// Spent is a step of a turn, in order, and how long it took.
type Spent struct {
	Step    string  `json:"step"`
	Seconds float64 `json:"seconds"`
}

// Phase is a part of a run under the same conditions.
type Phase struct {
	Name       string  `json:"name"`
	Seconds    float64 `json:"seconds"`
	Records    int64   `json:"records"` // acknowledged
	RecordsSec float64 `json:"records_per_second"`
	Consumed   int64   `json:"consumed,omitempty"` // records
	Latency    Latency `json:"latency"`            // as Result.Latency
}

// Point is a moment of the load, one for each SeriesStep.
type Point struct {
	Seconds    float64 `json:"seconds"` // since the warm-up ended: the end of the step
	Acked      int64   `json:"acked"`   // records within the step
	Consumed   int64   `json:"consumed,omitempty"`
	MaxLatency float64 `json:"max_latency_ms"` // of those acknowledged within the step
}

// SeriesStep is how far points are apart, and maxPoints how many are kept: what comes later is not drawn.
const (
	SeriesStep = 100 * time.Millisecond
	maxPoints  = 36_000
)

// Mark is an event on the axis of Series.
type Mark struct {
	Seconds float64 `json:"seconds"`
	What    string  `json:"what"`
}

// Failover is F1: a node that led was killed with -9.
type Failover struct {
	Node     int     `json:"node"`     // from 1
	Orphaned int     `json:"orphaned"` // partitions that it led
	GapSec   float64 `json:"gap_seconds"`
	// FirstAckSec is from the kill until some record of each orphaned partition that was due after the kill was acknowledged: the
	// slowest partition. GapSec is the longest time without any acknowledgement in one orphaned partition that began or ended after
	// the kill; OthersGapSec the same of the partitions that other nodes led.
	FirstAckSec  float64 `json:"first_ack_seconds"`
	OthersGapSec float64 `json:"others_gap_seconds"`
}

// Return is F2: a broker came back.
type Return struct {
	Node        int     `json:"node"`         // from 1
	MissedBytes int64   `json:"missed_bytes"` // of records, acknowledged while it was away
	InSyncSec   float64 `json:"in_sync_seconds"`
	// MissedMBSec is what it missed over InSyncSec; records that came meanwhile are not counted.
	MissedMBSec float64 `json:"missed_mb_per_second"`
	// P99Ratio is p99 while it caught up to p99 before, when it was away.
	P99Ratio float64 `json:"p99_ratio"`
}

// CatchUp is C1: a group read what had piled up.
type CatchUp struct {
	BacklogRecords int64   `json:"backlog_records"`
	Seconds        float64 `json:"seconds"`            // from the group's start until it had read the backlog
	JoinSec        float64 `json:"join_seconds"`       // of that, until its first record came
	RecordsSec     float64 `json:"records_per_second"` // all that it read, over the time since its first record
	MBSec          float64 `json:"mb_per_second"`
	Read           int64   `json:"read"` // all records that it read meanwhile
	// Kept is the producers' rate meanwhile to that before: 0.9 is 90 %.
	Kept float64 `json:"producers_kept"`
	// Cache says what was done so that the backlog came from the disk.
	Cache string `json:"cache"`
}

// Restart is R1: all nodes were stopped and started again on what is on their disks.
type Restart struct {
	DiskBytes int64    `json:"disk_bytes"` // of all nodes together, measured
	Clean     Recovery `json:"clean"`
	Unclean   Recovery `json:"unclean"` // after kill -9 of all under load
	Cache     string   `json:"cache"`   // what was done about the page cache
}

// Recovery is the way back of all nodes, each time from when the processes were started, the slowest node or partition.
type Recovery struct {
	StopSec float64 `json:"stop_seconds"` // before: how long the nodes took to stop
	// OpenSec is until the nodes have their logs open; Opened says by what that was seen.
	OpenSec float64 `json:"open_seconds"`
	Opened  string  `json:"opened"`
	LedSec  float64 `json:"led_seconds"`   // until each partition has a leader
	AckSec  float64 `json:"acked_seconds"` // until a new record was acknowledged in each partition
}

// Verification is what reading everything back found.
type Verification struct {
	Acked      int64 `json:"acked"`
	Read       int64 `json:"read"`
	Lost       int64 `json:"lost"`
	Duplicated int64 `json:"duplicated"`
	OutOfOrder int64 `json:"out_of_order"`
}

// OK reports whether every acknowledged record came back once and in order.
func (v *Verification) OK() bool { return v.Lost == 0 && v.Duplicated == 0 && v.OutOfOrder == 0 }

// Latency is a histogram and what is read off it most.
type Latency struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean_ms"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p999_ms"`
	P9999 float64 `json:"p9999_ms"`
	Max   float64 `json:"max_ms"`
	// HDR is the histogram in nanoseconds, in HdrHistogram's own encoding (V2, compressed, base64), which its tools read.
	HDR string `json:"hdr,omitempty"`
}

const (
	maxLatency  = int64(10 * time.Minute)
	leastTold   = 1000 // ns
	digits      = 3
	maxHDRBytes = 1 << 20 // of one encoded histogram that is read
)

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(leastTold, maxLatency, digits) }

// latencyOf sums a histogram up.
func latencyOf(h *hdrhistogram.Histogram) Latency {
	if h == nil || h.TotalCount() == 0 {
		return Latency{}
	}
	ms := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1e6 }
	l := Latency{Count: h.TotalCount(), Mean: h.Mean() / 1e6, P50: ms(50), P90: ms(90), P99: ms(99), P999: ms(99.9), P9999: ms(99.99), Max: float64(h.Max()) / 1e6}
	if b, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase); err == nil {
		l.HDR = string(b)
	}
	return l
}

// Histogram is the whole of it; nil if there is none.
func (l Latency) Histogram() (*hdrhistogram.Histogram, error) {
	if l.HDR == "" {
		return nil, nil
	}
	if len(l.HDR) > maxHDRBytes {
		return nil, fmt.Errorf("a histogram of %d bytes, more than %d", len(l.HDR), maxHDRBytes)
	}
	h, err := hdrhistogram.Decode([]byte(l.HDR))
	if err != nil {
		return nil, fmt.Errorf("read a histogram: %w", err)
	}
	return h, nil
}

// WriteJSON writes the report.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// Save replaces a file as a whole, so that one that is read meanwhile is never half of one.
func (r *Report) Save(file string) error {
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".new-")
	if err != nil {
		return err
	}
	if err := errors.Join(r.WriteJSON(f), f.Chmod(0o644), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), file)
}

// maxReportBytes bounds a report that is read.
const maxReportBytes = 256 << 20

// ReadReport reads what WriteJSON wrote.
func ReadReport(file string) (*Report, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	b, err := io.ReadAll(io.LimitReader(f, maxReportBytes+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxReportBytes {
		return nil, fmt.Errorf("%s is larger than %d bytes", file, maxReportBytes)
	}
	r := new(Report)
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(r); err != nil {
		return nil, fmt.Errorf("%s is no report: %w", file, err)
	}
	if r.Schema != Schema {
		return nil, fmt.Errorf("%s: %w %d, this program knows %d", file, errSchema, r.Schema, Schema)
	}
	return r, nil
}

var errSchema = errors.New("it has the schema")
