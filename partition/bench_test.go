package partition

import (
	"bytes"
	"sync"
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

// BenchmarkAppend is the whole path of a produce on one replica, from the check to the commit, without network and with
// a file system in memory: what this package and the runtime cost a batch of 16 KiB, 64 in flight.
func BenchmarkAppend(b *testing.B) {
	var nodes [3]*liveNode
	n := &liveNode{id: 1, fs: vfs.NewMem(1), in: make(chan packet, 1), net: &nodes}
	nodes[0] = n
	hs := &liveStates{saved: map[raft.GroupID]raft.HardState{}, work: make(chan func(), 64)}
	self := raft.Member{ID: 1, Incarnation: 1}
	host, err := multi.NewHost(multi.Options{Self: self, Boot: 1, Workers: 2, Flushers: 2, Transport: n, HardStates: hs})
	if err != nil {
		b.Fatal(err)
	}
	host.Start()
	go func() {
		for f := range hs.work {
			f()
		}
	}()
	ready := make(chan struct{})
	var once sync.Once
	r, err := Open(Config{Group: testGroup, Topic: "bench", Host: host, FS: n.fs, Dir: "data", Campaign: true,
		Bootstrap: raft.ConfState{Voters: []raft.Member{self}},
		OnLeadership: func(_ *Replica, l Leadership) {
			if l.Serving() {
				once.Do(func() { close(ready) })
			}
		}})
	if err != nil {
		b.Fatal(err)
	}
	<-ready
	batch := plain(string(bytes.Repeat([]byte("x"), 16<<10)))
	slots := make(chan struct{}, 64)
	b.SetBytes(int64(len(batch)))
	b.ReportAllocs()
	for b.Loop() {
		slots <- struct{}{}
		r.Append(&AppendRequest{Batch: bytes.Clone(batch), Acks: -1, Done: func(res AppendResult) {
			if res.Err != nil {
				b.Error(res.Err)
			}
			<-slots
		}})
	}
	for range cap(slots) {
		slots <- struct{}{}
	}
	b.StopTimer()
	if err := host.Close(); err != nil {
		b.Fatal(err)
	}
	close(hs.work)
}
