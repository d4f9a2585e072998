// The model: from what the machine gives to the best figure that a scenario could have on it.
//
// It counts what cannot be avoided (each byte crosses each connection, is written by each replica and checked where it
// must not be trusted; each acknowledgement waits for a quorum's syncs and the round trips to it), prices it with what
// was measured, and takes the scarcest resource. All brokers and the load generator share the machine. What a record or a
// request costs beyond its bytes is not in it, so that small records look further from their limit than large ones.

package limit

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/balsamq/balsa/bench"
)

// Bound is the best possible value of one figure.
type Bound struct {
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	By    string  `json:"by"` // what sets it
	// Parts are what By was compared with or is the sum of, in words.
	Parts []string `json:"parts,omitempty"`
}

// Units of bounds.
const (
	MBSec   = "MB/s"
	Millis  = "ms"
	Seconds = "s"
)

// Share is how near a value is to its bound: 1 is at it.
func (b Bound) Share(value float64) float64 {
	if b.Value == 0 || value == 0 {
		return 0
	}
	if b.Unit == MBSec {
		return value / b.Value
	}
	return b.Value / value
}

type named struct {
	name  string
	value float64
}

// least is the scarcest of several bounds of a rate.
func least(unit string, of ...named) Bound {
	of = slices.DeleteFunc(of, func(n named) bool { return n.value <= 0 || math.IsInf(n.value, 0) || math.IsNaN(n.value) })
	if len(of) == 0 {
		return Bound{Unit: unit, By: "nothing that was measured"}
	}
	slices.SortStableFunc(of, func(a, b named) int { return cmp.Compare(a.value, b.value) })
	b := Bound{Value: of[0].value, Unit: unit, By: of[0].name}
	for _, n := range of {
		if n.value < 10*b.Value { // what is further away does not matter
			b.Parts = append(b.Parts, fmt.Sprintf("%s %.4g", n.name, n.value))
		}
	}
	return b
}

// sum is what several steps take, one after the other.
func sum(unit, by string, of ...named) Bound {
	b := Bound{Unit: unit, By: by}
	for _, n := range of {
		b.Value += n.value
	}
	for _, n := range of {
		if n.value > b.Value/1000 {
			b.Parts = append(b.Parts, fmt.Sprintf("%s %.3g", n.name, n.value))
		}
	}
	return b
}

// write is the better way to append bytes: bandwidth in MB/s and CPU per byte.
func (m *Machine) write() (mb, ns float64) {
	mb, ns = m.AppendBuffered.MBSec.Median, m.AppendBuffered.NsPerByte.Median
	if d := m.AppendDirect; d.MBSec.Median > mb {
		mb = d.MBSec.Median
	}
	if d := m.AppendDirect; d.NsPerByte.Median > 0 && d.NsPerByte.Median < ns {
		ns = d.NsPerByte.Median
	}
	return mb, ns
}

// Price is what a byte costs in CPU nanoseconds at the least, over all processes: it crosses a connection to the leader
// and one to each follower, each replica writes it, the client builds it (one copy) and its checksum, the leader checks
// that and computes the frame's, each follower checks the frame's.
func (m *Machine) Price(replicas int) float64 {
	_, ns := m.write()
	r := float64(replicas)
	return r*m.Loopback.NsPerByte.Median + r*ns + (r+2)*m.CRC.NsPerByte.Median + m.Copy.NsPerByte.Median
}

// syncs are the measured syncs of n files at once, or of the nearest number below.
func (m *Machine) syncs(n int) Syncs {
	var s Syncs
	for _, x := range m.SyncMany {
		if x.Files <= n || s.Files == 0 {
			s = x
		}
	}
	return s
}

// ack is the time from sending to the acknowledgement, in ms: a round trip to the leader, one to the followers, and in
// class B the syncs of all replicas, side by side on this machine's disk. The leader's own runs meanwhile.
func (m *Machine) ack(class bench.Class, replicas, recordBytes int, of func(Wait) Figure) Bound {
	parts := []named{{"a round trip to the leader", of(m.PingPong).Median / 1e3}}
	if replicas > 1 {
		parts = append(parts, named{"one to the followers", of(m.PingPong).Median / 1e3})
	}
	hops := 1.0
	if replicas > 1 {
		hops = 2
	}
	parts = append(parts, named{"the record's bytes", hops * float64(recordBytes) * m.Loopback.NsPerByte.Median / 1e6})
	if class == bench.ClassB {
		parts = append(parts, named{fmt.Sprintf("%d syncs side by side", replicas), of(m.syncs(replicas).Wait).Median / 1e3})
	}
	return sum(Millis, "round trips and syncs, one after the other", parts...)
}

func p50(w Wait) Figure { return w.P50 }
func p99(w Wait) Figure { return w.P99 }

// Load is what the bounds of a loaded cell depend on.
type Load struct {
	Class         bench.Class
	Partitions    int
	Producers     int
	RecordBytes   int
	InflightBytes int
	Replicas      int // 3, where nothing else is said
}

// Latency is the best possible median and 99th percentile of one record in flight, in ms. From producer to consumer it is
// the same: what the answer to the producer takes, the consumer's takes instead.
func (m *Machine) Latency(l Load) (median, worst Bound) {
	return m.ack(l.Class, l.Replicas, l.RecordBytes, p50), m.ack(l.Class, l.Replicas, l.RecordBytes, p99)
}

// Throughput is the best possible rate in MB/s.
func (m *Machine) Throughput(l Load) Bound {
	mb, _ := m.write()
	ack := m.ack(l.Class, l.Replicas, l.RecordBytes, p50).Value
	bounds := []named{
		{"CPU", float64(m.Host.CPUs) / m.Price(l.Replicas) * 1e3},
		{"disk bandwidth", mb / float64(l.Replicas)},
		{"bytes in flight", float64(l.Producers) * float64(l.InflightBytes) / 1e3 / ack},
	}
	return least(MBSec, bounds...)
}

// SyncPerLog is what Throughput comes down to if each log is synced by itself: every partition's share of the bytes in
// flight needs one sync of each replica. One journal for many small appends is not bound by it.
func (m *Machine) SyncPerLog(l Load) Bound {
	all := float64(l.Producers) * float64(l.InflightBytes)
	s := m.syncs(l.Partitions * l.Replicas)
	return least(MBSec, named{"a sync per log", s.PerSec.Median / float64(l.Replicas) * all / float64(l.Partitions) / 1e6},
		named{"all else", m.Throughput(l).Value})
}

// Failover is the shortest possible time without a leader after its death, in s: the election timeout, the two rounds of
// an election with the vote's sync, the new leader's first entry on a quorum, and the client's next attempt.
func (m *Machine) Failover(election time.Duration, replicas int) Bound {
	trip, sync := m.PingPong.P50.Median/1e6, m.syncs(replicas-1).P50.Median/1e6
	return sum(Seconds, "the election timeout", named{"election timeout", election.Seconds()}, named{"two rounds and the vote's sync", 2*trip + sync},
		named{"the first entry", trip + sync}, named{"the client's attempt", trip})
}

// LeadAll is the shortest possible time until each of the orphans of a dead broker is led, in s: the election timeout, and
// the syncs of two survivors of each one's first entry (votes share a journal).
func (m *Machine) LeadAll(election time.Duration, orphans int) Bound {
	s := m.syncs(orphans * 2)
	return sum(Seconds, "the election timeout and the syncs", named{"election timeout", election.Seconds()},
		named{fmt.Sprintf("%d first entries, synced by two", orphans), float64(orphans) * 2 / max(s.PerSec.Median, 1)})
}

// CatchUp is the best possible rate of filling a replica that was away, in MB/s: read, sent, checked twice, written; the
// disk does both.
func (m *Machine) CatchUp() Bound {
	mb, ns := m.write()
	read, readNs := m.ReadDirect, m.ReadDirect.NsPerByte.Median
	bounds := []named{
		{"CPU", float64(m.Host.CPUs) * 1e3 / (readNs + m.Loopback.NsPerByte.Median + ns + 2*m.CRC.NsPerByte.Median)},
		{"one connection", m.Loopback.MBSec.Median},
	}
	if read.MBSec.Median > 0 {
		bounds = append(bounds, named{"the disk, read and written", 1 / (1/read.MBSec.Median + 1/mb)})
	}
	return least(MBSec, bounds...)
}

// Backlog is the best possible rate of reading what is in no cache, in MB/s: read, sent, checked by the consumer.
func (m *Machine) Backlog(consumers int) Bound {
	read, readNs := m.ReadDirect.MBSec.Median, m.ReadDirect.NsPerByte.Median
	return least(MBSec,
		named{"CPU", float64(m.Host.CPUs) * 1e3 / (readNs + m.Loopback.NsPerByte.Median + m.CRC.NsPerByte.Median)},
		named{"the connections", float64(max(consumers, 1)) * m.Loopback.MBSec.Median},
		named{"disk bandwidth", read})
}

// Open is the shortest possible time to open logs of so many files that need not be read, in s: each is opened and its last
// block read, on all processors.
func (m *Machine) Open(files int) Bound {
	return sum(Seconds, "opening files", named{fmt.Sprintf("%d files", files), float64(files) * m.OpenFile.Median / 1e6 / float64(max(m.Host.CPUs, 1))})
}
