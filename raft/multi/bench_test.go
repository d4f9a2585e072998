package multi

import (
	"fmt"
	"testing"

	"github.com/balsamq/balsa/raft"
)

// BenchmarkPropose is one batch of proposals through a whole cluster of three in memory, in manual mode: what the
// runtime and the core cost without disk, network and scheduling.
func BenchmarkPropose(b *testing.B) {
	for _, batch := range []int{1, 64} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			s := newSim(b, 1, 3, 1, nil)
			g := s.group(s.waitLeader(1), 1)
			payload := make([]byte, 1024)
			left := 0
			done := func(o Outcome) {
				if left--; o.Err != nil {
					b.Fatal(o.Err)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				for range batch {
					left++
					g.Propose(&Proposal{Type: raft.EntryCommand, Payload: payload, Done: done})
				}
				for left > 0 {
					s.next(s.clock.now + raft.Time(simET))
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batch), "ns/proposal")
		})
	}
}

// BenchmarkLeaseRead is a read by lease on a leader: an event, a turn, no message.
func BenchmarkLeaseRead(b *testing.B) {
	s := newSim(b, 1, 3, 1, nil)
	l := s.waitLeader(1)
	s.run(simET/5, nil)
	g := s.group(l, 1)
	n := 0
	done := func(_ raft.Index, err error) {
		if n++; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		g.Read(done)
		s.nodes[l].host.Run()
	}
	if n != b.N {
		b.Fatalf("%d answers to %d reads", n, b.N)
	}
}
