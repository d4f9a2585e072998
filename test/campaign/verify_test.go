//go:build linux

// What is checked when the faults are over: everything is read once more.

package campaign_test

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// readAll reads a topic from its start to its end; of transactions what is committed.
func (w *work) readAll(topic string) (out [parts][]*kgo.Record, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), settle)
	defer cancel()
	cl := w.client(kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.KeepControlRecords())
	defer cl.Close()
	adm := kadm.NewClient(cl)
	var ends kadm.ListedOffsets
	for { // on a crowded machine leaders come and go without any fault
		if ends, err = adm.ListCommittedOffsets(ctx, topic); err == nil {
			err = ends.Error()
		}
		if err == nil {
			break
		}
		if pause(ctx, 100*time.Millisecond); ctx.Err() != nil {
			return out, fmt.Errorf("the ends of %s cannot be learnt: %w", topic, err)
		}
	}
	next := make(map[int32]int64)
	for {
		missing := 0
		ends.Each(func(o kadm.ListedOffset) {
			if next[o.Partition] < o.Offset {
				missing++
			}
		})
		if missing == 0 {
			return out, nil
		}
		fs := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return out, fmt.Errorf("%d partitions of %s cannot be read to their ends", missing, topic)
		}
		fs.EachRecord(func(r *kgo.Record) {
			next[r.Partition] = r.Offset + 1
			if !r.Attrs.IsControl() {
				out[r.Partition] = append(out[r.Partition], r)
			}
		})
	}
}

// verify: what was acknowledged is where that was said, nothing is there twice, and all of it in the order in which it was sent.
func (w *work) verify(topic string) {
	got, err := w.readAll(topic)
	if err != nil {
		w.rep.violation("%v", err)
		return
	}
	for p := range got {
		at, last := make(map[int64]int), -1 // the number of the record at each offset
		for i, r := range got[p] {
			if r.Offset != int64(i) {
				w.rep.violation("%s/%d: %d is the offset of record %d", topic, p, r.Offset, i)
				return
			}
			w.see("the last reading", topic, int32(p), r.Offset, r.Value)
			var of, seq int
			if _, err := fmt.Sscanf(string(r.Value), "%d:%d:", &of, &seq); err != nil || of != p {
				w.rep.violation("%s/%d has %.50q at %d", topic, p, r.Value, r.Offset)
				continue
			}
			if seq <= last {
				w.rep.violation("%s/%d has record %d behind %d, at %d: twice, or not in order", topic, p, seq, last, r.Offset)
			}
			last = max(last, seq)
			at[r.Offset] = seq
		}
		known := &w.topics[topic][p]
		known.mu.Lock()
		for _, a := range known.acks {
			if seq, ok := at[a.offset]; !ok {
				w.rep.violation("%s/%d: record %d was acknowledged at %d, and is lost", topic, p, a.seq, a.offset)
			} else if seq != a.seq {
				w.rep.violation("%s/%d: record %d was acknowledged at %d, and %d is there", topic, p, a.seq, a.offset, seq)
			}
		}
		known.mu.Unlock()
	}
}

// verifyTransactions: each input has one output, in order; transactions are there whole or not at all; who followed them saw what is there now.
func (w *work) verifyTransactions() {
	inputs, err := w.readAll(inputTopic)
	if err != nil {
		w.rep.violation("%v", err)
		return
	}
	outputs, err := w.readAll(outputTopic)
	if err != nil {
		w.rep.violation("%v", err)
		return
	}
	x := &w.txns
	x.mu.Lock()
	defer x.mu.Unlock()
	visible := make(map[int64]int) // records of each transaction
	for p := range inputs {
		of, last := make(map[int64]bool), int64(-1)
		for _, r := range outputs[p] {
			var input string
			var offset, id int64
			if _, err := fmt.Sscanf(string(r.Value), "%s %d %d", &input, &offset, &id); err != nil {
				w.rep.violation("output %.50q: %v", r.Value, err)
				continue
			}
			if visible[id]++; offset <= last {
				w.rep.violation("input %d of partition %d came out behind %d: twice, or not in order", offset, p, last)
			}
			last, of[offset] = max(last, offset), true
			if t := x.of[id]; t == nil || t.outcome == aborted {
				w.rep.violation("output %.50q is of a transaction that was not committed", r.Value)
			}
		}
		for _, r := range inputs[p] {
			if !of[r.Offset] {
				w.rep.violation("input %d of partition %d has no output", r.Offset, p)
			}
		}
		for i, r := range x.seen[p] {
			if i >= len(outputs[p]) || outputs[p][i].Offset != r.Offset || string(outputs[p][i].Value) != string(r.Value) {
				w.rep.violation("output %.50q was seen at %d of partition %d, and is not there", r.Value, r.Offset, p)
				break
			}
		}
	}
	for id, t := range x.of {
		if n := visible[id]; n != t.records && (n != 0 || t.outcome == wasCommitted) {
			w.rep.violation("%d of %d outputs of transaction %d are there", n, t.records, id)
		}
	}
}
