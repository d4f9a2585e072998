// The model: from what the machine gives to the best figure that a scenario could have on it.
//
// It counts what cannot be avoided (each byte crosses each connection, is written by each replica and checked where it
// arrives; each acknowledgement waits for threads to be woken and for a quorum's syncs), prices it with what was measured,
// and takes the scarcest resource. All brokers and the load generator share the machine, and what the generator costs by
// itself is in the price. What a record or a request costs a broker beyond its bytes is not.

package limit

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
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

// write is the best way to append bytes: bandwidth in MB/s and CPU per byte. In class B the bytes are on the disk when it is done, where that
// could be measured: a page cache takes for a while more than any disk does.
func (m *Machine) write(class bench.Class) (mb, ns float64) {
	ways := []Stream{m.AppendBuffered, m.AppendDirect, m.AppendSynced}
	if class == bench.ClassB && m.AppendSynced.NsPerByte.Median > 0 {
		return max(m.AppendDirect.MBSec.Median, m.AppendSynced.MBSec.Median), m.AppendSynced.NsPerByte.Median
	}
	for _, w := range ways {
		mb = max(mb, w.MBSec.Median)
	}
	for _, w := range ways {
		if v := w.NsPerByte.Median; v > 0 && (ns == 0 || v < ns) {
			ns = v
		}
	}
	return mb, ns
}

// Part is something that each byte of records pays for, in CPU nanoseconds of all processes together: a second for a GB.
type Part struct {
	What string  `json:"what"`
	Ns   float64 `json:"cpu_ns_per_byte"`
}

// What the brokers' parts begin with.
const (
	toFollowers = "to the followers"
	checked     = "checked where it arrives"
)

// Parts are what a byte costs at the least. The producer builds a batch of it (one copy) with its checksum, and sends that to the leader; that checks
// it, and sends it to each follower; those check it, too; each replica writes it. Whatever else a system does comes on top.
func (m *Machine) Parts(l Load) []Part {
	_, written := m.write(l.Class)
	loopback, crc := m.Loopback.NsPerByte.Median, m.CRC.NsPerByte.Median
	var parts []Part
	if ns, ok := m.producing(l); ok {
		parts = append(parts, Part{"the load generator, its batches and checksums, both ends of its connection to the leader", ns})
	} else {
		parts = append(parts, Part{"to the leader, sent and received", loopback}, Part{"the client's copy into a batch", m.Copy.NsPerByte.Median}, Part{"the client's checksum", crc})
	}
	r := float64(l.Replicas)
	if l.Replicas > 1 {
		parts = append(parts, Part{fmt.Sprintf("%s, sent and received, %d times", toFollowers, l.Replicas-1), (r - 1) * loopback})
	}
	return append(parts, Part{fmt.Sprintf("%s, %d times", checked, l.Replicas), r * crc}, Part{fmt.Sprintf("written, %d times", l.Replicas), r * written})
}

// Price is their sum.
func (m *Machine) Price(l Load) (ns float64) { return sumOf(m.Parts(l)) }

func sumOf(parts []Part) (ns float64) {
	for _, p := range parts {
		ns += p.Ns
	}
	return ns
}

// serverParts are those that are the brokers': of the first connection the end that receives.
func (m *Machine) serverParts(l Load) []Part {
	parts := m.Parts(l)
	own := slices.IndexFunc(parts, func(p Part) bool { return strings.HasPrefix(p.What, toFollowers) || strings.HasPrefix(p.What, checked) })
	return append([]Part{{"received by the leader", m.Loopback.NsPerByte.Median / 2}}, parts[own:]...)
}

// BesideClient is the best possible rate in MB/s if the load generator takes so much CPU for a byte, in nanoseconds, as it did in a run: what is
// left for the brokers, at their price. A system that made the generator cheaper could do more.
func (m *Machine) BesideClient(l Load, clientNs float64) Bound {
	mb, _ := m.write(l.Class)
	return least(MBSec, named{"CPU, the generator's as it was", float64(m.Host.CPUs) * 1e3 / (clientNs + sumOf(m.serverParts(l)))}, named{"disk bandwidth", mb / float64(l.Replicas)})
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

// sync is how long one of n replicas waits for its sync while the others do the same, the better of two ways, in µs.
func (m *Machine) sync(n int, of func(Wait) float64) float64 {
	best := of(m.syncs(n).Wait)
	for _, x := range m.DirectMany {
		if v := of(x.Wait); x.Files == n && v > 0 && (best == 0 || v < best) {
			best = v
		}
	}
	return best
}

// usual and rare are what a wait counts with in the median and in the 99th percentile of what it is a part of. The latter is the least of the
// rounds': what a disturbance adds is not the machine's.
func usual(w Wait) float64 { return w.P50.Median }
func rare(w Wait) float64  { return w.P99.Min }

// ack is the time from sending to the acknowledgement, in ms: on each of four ways (to the leader, to a follower, and back) a thread has to be woken,
// the record's bytes go two of them, and in class B a follower's sync stands between, side by side with those of the other replicas on this
// machine's disk. The leader's own runs meanwhile. In the worst case of a hundred one of them takes as long as it rarely does, and the others what
// they usually take: that all are slow at once is rarer. If the least log was faster than that sum, it is what is possible: which of two followers
// is first, for one, is not in the sum.
func (m *Machine) ack(class bench.Class, replicas, recordBytes int, worst bool) Bound {
	const kib = 1024
	type part struct {
		name        string
		ways        float64 // of a round trip
		sync        bool
		usual, rare float64
	}
	parts := []part{{name: "to the leader", ways: 0.5}}
	if replicas > 1 {
		parts = append(parts, part{name: "to a follower", ways: 0.5})
	}
	bytes := float64(recordBytes) * m.Loopback.NsPerByte.Median / 1e6
	for i := range parts {
		parts[i].usual = bytes
	}
	if class == bench.ClassB {
		parts = append(parts, part{name: fmt.Sprintf("its sync, %d side by side", replicas), sync: true})
	}
	if replicas > 1 {
		parts = append(parts, part{name: "its answer", ways: 0.5})
	}
	parts = append(parts, part{name: "the leader's answer", ways: 0.5})
	slowest := 0
	for i := range parts {
		p := &parts[i]
		p.rare = p.usual + p.ways*rare(m.PingPong)/1e3
		p.usual += p.ways * usual(m.PingPong) / 1e3
		if p.sync {
			p.usual, p.rare = m.sync(replicas, usual)/1e3, m.sync(replicas, rare)/1e3
		}
		if p.rare-p.usual > parts[slowest].rare-parts[slowest].usual {
			slowest = i
		}
	}
	steps := make([]named, 0, len(parts))
	for i, p := range parts {
		if v := p.usual; worst && i == slowest {
			steps = append(steps, named{p.name + ", as slow as one in a hundred", max(v, p.rare)})
		} else {
			steps = append(steps, named{p.name, v})
		}
	}
	b := sum(Millis, "threads that are woken, and a sync", steps...)
	least := m.LeastSynced
	if class == bench.ClassA {
		b.By, least = "threads that are woken", m.LeastCached
	}
	of := usual
	if worst {
		of = rare
	}
	if v := of(least) / 1e3; v > 0 && replicas == leastReplicas && recordBytes <= kib {
		b.Parts = append(b.Parts, fmt.Sprintf("all of it at once %.3g", v))
		if v < b.Value {
			b.Value, b.By = v, "what three replicas took that did nothing else"
		}
	}
	return b
}

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
	return m.ack(l.Class, l.Replicas, l.RecordBytes, false), m.ack(l.Class, l.Replicas, l.RecordBytes, true)
}

// Throughput is the best possible rate in MB/s.
func (m *Machine) Throughput(l Load) Bound {
	mb, _ := m.write(l.Class)
	ack := m.ack(l.Class, l.Replicas, l.RecordBytes, false).Value
	bounds := []named{
		{"CPU", float64(m.Host.CPUs) / m.Price(l) * 1e3},
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
	mb, ns := m.write(bench.ClassB)
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

// BacklogParts are what a byte of a backlog costs at the least: with the consumers, or without what they do beyond receiving.
func (m *Machine) BacklogParts(clients bool) []Part {
	read := Part{"read past the cache", m.ReadDirect.NsPerByte.Median}
	if ns, ok := m.consuming(); ok && clients {
		return []Part{read, {"both ends of the connection, the consumers' checksums, decoding and account", ns}}
	}
	return []Part{read, {"sent and received", m.Loopback.NsPerByte.Median}, {"the consumer's checksum", m.CRC.NsPerByte.Median}}
}

// Backlog is the best possible rate of reading what is in no cache, in MB/s: read, sent, and taken by consumers that share the processors; without
// clients, what is left if a consumer did no more than receive and check.
func (m *Machine) Backlog(consumers int, clients bool) Bound {
	return least(MBSec,
		named{"CPU", float64(m.Host.CPUs) * 1e3 / sumOf(m.BacklogParts(clients))},
		named{"the connections", float64(max(consumers, 1)) * m.Loopback.MBSec.Median},
		named{"disk bandwidth", m.ReadDirect.MBSec.Median})
}

// Open is the shortest possible time to open logs of so many files that need not be read, in s: each is opened and its last
// block read, on all processors.
func (m *Machine) Open(files int) Bound {
	return sum(Seconds, "opening files", named{fmt.Sprintf("%d files", files), float64(files) * m.OpenFile.Median / 1e6 / float64(max(m.Host.CPUs, 1))})
}
