// Package limit measures what this machine gives, and says how fast each scenario of package bench could be on it at
// best: the figure beside which ours is to be set once the peers are behind. docs/design/0023-benchmarks.md has the
// formulas, and what they leave out.
package limit

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/balsamq/balsa/bench"
)

// Figure is what the rounds of one measurement gave.
type Figure struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// Stream is a bandwidth, and what a byte costs in CPU: of all threads of this process, in the kernel and out of it. What
// the kernel does in threads of its own is not in it.
type Stream struct {
	MBSec     Figure `json:"mb_per_second"` // 10^6 bytes
	NsPerByte Figure `json:"cpu_ns_per_byte"`
}

// Wait is a latency in microseconds.
type Wait struct {
	P50 Figure `json:"p50_us"`
	P99 Figure `json:"p99_us"`
}

// Syncs is what happens when several files are written and synced at once, 4 KiB each time, over and over.
type Syncs struct {
	Files  int    `json:"files"`
	PerSec Figure `json:"per_second"` // of all files together
	Wait          // of one
}

// Machine is what was measured. A figure of 0 could not be had here (no direct I/O on this file system, no CPU accounting
// on this system); the model does without it.
type Machine struct {
	Taken  time.Time     `json:"taken"`
	Go     string        `json:"go"`
	Host   bench.Machine `json:"machine"`
	Rounds int           `json:"rounds"`

	SyncGrowing Wait    `json:"sync_growing"`               // 4 KiB append + fdatasync to a file that grows
	SyncWritten Wait    `json:"sync_written"`               // the same over extents that were written before
	SyncDirect  Wait    `json:"sync_direct"`                // the same by O_DIRECT and O_DSYNC, one call
	SyncMany    []Syncs `json:"sync_many"`                  // over written extents, by number of files, ascending
	DirectMany  []Syncs `json:"sync_direct_many,omitempty"` // the same by O_DIRECT and O_DSYNC
	// A record of 1 KiB from its producer to the leader and one of two followers and back, all threads of one process that do nothing else:
	// synced by each replica, and only written.
	LeastSynced Wait `json:"least_log_synced"`
	LeastCached Wait `json:"least_log_cached"`

	AppendBuffered Stream `json:"append_buffered"` // 1 MiB writes to a file that grows
	AppendDirect   Stream `json:"append_direct"`   // 1 MiB O_DIRECT writes to a laid-out file, queue depth 4
	AppendSynced   Stream `json:"append_synced"`   // the same by O_DSYNC
	ReadCached     Stream `json:"read_cached"`     // 1 MiB reads from the page cache
	ReadDirect     Stream `json:"read_direct"`     // 1 MiB O_DIRECT reads, queue depth 4
	OpenFile       Figure `json:"open_us"`         // open, read 4 KiB at the end, close; in the cache

	CRC      Stream `json:"crc32c"`
	Copy     Stream `json:"memcpy"`   // of what is in no cache
	Loopback Stream `json:"loopback"` // one TCP connection; CPU of both ends
	SendFile Stream `json:"sendfile"` // the same from a cached file by sendfile
	PingPong Wait   `json:"ping_pong"`
	// Producers and Consumers are the load generator's, at the loads that scenarios have.
	Producers []Generator `json:"producers,omitempty"`
	Consumers []Generator `json:"consumers,omitempty"`
	HandOver  Figure      `json:"hand_over_us"`   // from a goroutine to another and back, through channels
	Wake      Figure      `json:"thread_wake_us"` // the same between goroutines bound to threads of their own
}

// Generator is what bytes of records cost the load generator of package bench beside a broker that costs nothing, with both ends of its
// connections.
type Generator struct {
	RecordBytes   int `json:"record_bytes"`
	Partitions    int `json:"partitions"`
	Clients       int `json:"clients"` // producers, or consumers
	InflightBytes int `json:"inflight_bytes,omitempty"`
	Stream
}

// Options say how to measure.
type Options struct {
	Rounds int           // default 5
	Each   time.Duration // of one measurement in one round; default 300 ms
	Bytes  int64         // the largest file; default 256 MiB. On the disk are never more than twice that
	Dir    string        // a directory is made below it and removed again; default: the system's temporary one
	Log    func(format string, args ...any)

	files []int // that are synced at once; default manyFiles. Tests have no time
	loads int   // of the load generator that are measured; default all
}

const (
	blockBytes  = 4096     // what a small append costs at least
	streamBytes = 1 << 20  // of a large write, read or send
	manyBytes   = 64 << 10 // of each of many files
	manyThreads = 256      // that sync at once, at most
)

// manyFiles are the numbers of files that are synced at once: one, the three replicas of one log here, and on.
var manyFiles = []int{1, 3, 5, 16, 48, 256, 1024}

// sample is one round of one measurement.
type sample struct {
	value, second float64 // what they are is the measurement's to say
	third         float64
}

// probe is one measurement; set stores the rounds.
type probe struct {
	name string
	run  func(ctx context.Context, e *env) (sample, error)
	set  func(m *Machine, rounds []sample)
}

// env is what the probes work in.
type env struct {
	dir   string
	each  time.Duration
	bytes int64
}

// errCannot is returned by a probe for what this system or file system does not offer.
var errCannot = errors.New("not offered here")

// Measure runs all measurements, in turns within every round, so that a disturbance hits one round of each.
func Measure(ctx context.Context, o Options) (m *Machine, err error) {
	o.Rounds = cmp.Or(o.Rounds, 5)
	o.Each = cmp.Or(o.Each, 300*time.Millisecond)
	o.Bytes = cmp.Or(o.Bytes, 256<<20)
	if o.files == nil {
		o.files = manyFiles
	}
	dir, err := os.MkdirTemp(o.Dir, "bench-limits-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	e := &env{dir: dir, each: o.Each, bytes: max(o.Bytes/streamBytes, 8) * streamBytes}
	if o.loads == 0 {
		o.loads = max(len(producerLoads), len(consumerLoads))
	}
	probes := slices.Concat(diskProbes(o.files), netProbes(), cpuProbes(), generatorProbes(o.loads))
	rounds := make([][]sample, len(probes))
	cannot := make([]bool, len(probes))
	for r := range o.Rounds {
		for i, p := range probes {
			if cannot[i] {
				continue
			}
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			runtime.GC() // not in the middle of what is measured
			s, err := p.run(ctx, e)
			if errors.Is(err, errCannot) {
				o.Log("%s: %v", p.name, err)
				cannot[i] = true
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("measure %s: %w", p.name, err)
			}
			rounds[i] = append(rounds[i], s)
		}
		o.Log("round %d of %d", r+1, o.Rounds)
	}
	host := bench.NewReport(o.Dir, nil)
	m = &Machine{Taken: host.Taken, Go: host.Balsa.Go, Host: host.Machine, Rounds: o.Rounds}
	for i, p := range probes {
		if !cannot[i] {
			p.set(m, rounds[i])
		}
	}
	return m, nil
}

// figure is the median and the spread of one value of each round.
func figure(rounds []sample, of func(sample) float64) Figure {
	v := make([]float64, len(rounds))
	for i, s := range rounds {
		v[i] = of(s)
	}
	slices.Sort(v)
	if len(v) == 0 {
		return Figure{}
	}
	return Figure{Median: (v[(len(v)-1)/2] + v[len(v)/2]) / 2, Min: v[0], Max: v[len(v)-1]}
}

func first(s sample) float64  { return s.value }
func second(s sample) float64 { return s.second }
func third(s sample) float64  { return s.third }

// stream is a probe whose samples are bytes a second and CPU nanoseconds a byte.
func stream(name string, at func(*Machine) *Stream, run func(context.Context, *env) (sample, error)) probe {
	return probe{name: name, run: run, set: func(m *Machine, r []sample) {
		*at(m) = Stream{MBSec: figure(r, func(s sample) float64 { return s.value / 1e6 }), NsPerByte: figure(r, second)}
	}}
}

// wait is a probe whose samples are the median and the 99th percentile in microseconds.
func wait(name string, at func(*Machine) *Wait, run func(context.Context, *env) (sample, error)) probe {
	return probe{name: name, run: run, set: func(m *Machine, r []sample) { *at(m) = Wait{P50: figure(r, first), P99: figure(r, second)} }}
}

// flow times fn, which moves bytes and says how many, as a sample of a stream.
func flow(fn func() (int64, error)) (sample, error) {
	cpu, begin := processCPU(), time.Now()
	n, err := fn()
	took, used := time.Since(begin), processCPU()-cpu
	if err != nil {
		return sample{}, err
	}
	if n == 0 {
		return sample{}, errors.New("nothing was moved")
	}
	return sample{value: float64(n) / took.Seconds(), second: float64(used.Nanoseconds()) / float64(n)}, nil
}

// latencies are the times of one thing done over and over.
type latencies struct{ took []time.Duration }

// maxLatencies bounds them, to an hour of syncs or a minute of round trips.
const maxLatencies = 4 << 20

// fill calls fn until the time is over.
func (l *latencies) fill(ctx context.Context, each time.Duration, fn func(i int) error) error {
	end := time.Now().Add(each)
	for i := 0; len(l.took) < maxLatencies; i++ {
		begin := time.Now()
		if err := fn(i); err != nil {
			return err
		}
		now := time.Now()
		l.took = append(l.took, now.Sub(begin))
		if now.After(end) || ctx.Err() != nil {
			break
		}
	}
	return ctx.Err()
}

// sample is the median and the 99th percentile, in microseconds.
func (l *latencies) sample() sample {
	slices.Sort(l.took)
	at := func(q float64) float64 {
		return float64(l.took[min(int(q*float64(len(l.took))), len(l.took)-1)].Nanoseconds()) / 1e3
	}
	return sample{value: at(0.5), second: at(0.99)}
}

// maxFile bounds a file of measurements that is read.
const maxFile = 1 << 20

// Read reads a Machine in JSON from a file.
func Read(file string) (*Machine, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	m := new(Machine)
	if err := json.NewDecoder(io.LimitReader(f, maxFile)).Decode(m); err != nil {
		return nil, fmt.Errorf("%s holds no limits: %w", file, err)
	}
	if m.PingPong.P50.Median <= 0 || len(m.SyncMany) == 0 || m.Host.CPUs <= 0 {
		return nil, fmt.Errorf("%s holds no limits: nothing was measured", file)
	}
	return m, nil
}
