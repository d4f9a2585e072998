// The writes of a map: each is a produce request of its own with one record, which is sent until there is an answer.

package client

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// noProducer is a lane without a producer id.
const noProducer = -1

// kvLane is an idempotent producer with one write under way: brokers know a repeat of its last write for what it is.
type kvLane struct {
	producer int64
	epoch    int16
	next     map[int32]int32 // sequences, by partition
	time     int64           // of its last write: the next one's is later, as brokers take what has the very bytes of a refused one for a copy of that
}

// Put writes a value, whatever is there, and returns the key's new revision.
func (kv *KV) Put(ctx context.Context, key string, value []byte) (int64, error) {
	return kv.write(ctx, &kvWrite{op: "put", key: key, value: present(value)})
}

// Create writes a value if the key does not exist: [ErrExists] says that it does.
func (kv *KV) Create(ctx context.Context, key string, value []byte) (int64, error) {
	return kv.write(ctx, &kvWrite{op: "create", key: key, value: present(value), conditional: true, expect: NoRevision})
}

// Update writes a value if the key is at the given revision: [ErrConflict] says that it is not, and the [*ConflictError] what it is.
func (kv *KV) Update(ctx context.Context, key string, value []byte, revision int64) (int64, error) {
	return kv.write(ctx, &kvWrite{op: "update", key: key, value: present(value), conditional: true, expect: revision})
}

// Delete deletes a key, whether it exists or not.
func (kv *KV) Delete(ctx context.Context, key string) error {
	_, err := kv.write(ctx, &kvWrite{op: "delete", key: key})
	return err
}

// DeleteRevision deletes a key if it is at the given revision: [ErrConflict] says that it is not.
func (kv *KV) DeleteRevision(ctx context.Context, key string, revision int64) error {
	_, err := kv.write(ctx, &kvWrite{op: "delete", key: key, conditional: true, expect: revision})
	return err
}

// present makes an empty value of none, which would delete.
func present(v []byte) []byte {
	if v == nil {
		return []byte{}
	}
	return v
}

// kvWrite is one write.
type kvWrite struct {
	op          string
	key         string
	value       []byte // nil: a tombstone
	conditional bool
	expect      int64

	// sent: an attempt may have been written, or may be yet. open: one has had no answer at all, and may do so at any time: it may lie in the buffer
	// of a socket. answered: the last one has had its final answer.
	sent, open, answered bool
}

func (kv *KV) write(ctx context.Context, w *kvWrite) (revision int64, err error) {
	if err := kv.checkKey(w.op, w.key); err != nil {
		return 0, err
	}
	if w.conditional && w.expect < NoRevision {
		return 0, &Error{Op: w.op, Subject: strconv.Quote(w.key), Kind: ErrInvalid, Err: fmt.Errorf("there is no revision %d", w.expect)}
	}
	lane, err := kv.takeLane(ctx)
	if err != nil {
		return 0, wrapKV(w.op, strconv.Quote(w.key), err)
	}
	defer kv.leaveLane(lane)
	if err := kv.startLane(ctx, lane); err != nil {
		return 0, wrapKV(w.op, strconv.Quote(w.key), err)
	}
	p := kv.partitionOf(w.key)
	lane.time = max(time.Now().UnixMilli(), lane.time+1)
	batch := w.batch(lane, p)
	err = kv.attempts(ctx, p, func(ctx context.Context, node int32, id [16]byte, wait time.Duration) (bool, error) {
		var done bool
		revision, done, err = kv.produce(ctx, w, node, id, p, batch, wait)
		return done, err
	})
	switch {
	case err == nil:
		if lane.next[p]++; lane.next[p] < 0 {
			lane.producer = noProducer
		}
		return revision, nil
	case w.uncertain(err):
		// Nothing that this lane writes may be taken for the attempt that is still out, nor it for that.
		lane.producer = noProducer
		if w.answered { // not by its kind: who looks for a conflict must not find one
			err = fmt.Errorf("nobody knows of an attempt, and of the one after it: %v", err)
		}
		return 0, &Error{Op: w.op, Subject: strconv.Quote(w.key), Kind: ErrUncertain, Err: err}
	}
	if !errors.Is(err, ErrConflict) {
		lane.producer = noProducer // whatever it was, it is not going to be again
	}
	return 0, wrapKV(w.op, strconv.Quote(w.key), err)
}

// uncertain: err, by which the write has ended, does not say that nothing was or will be written. A conflict does, where no attempt is open: it is judged
// after all that earlier leaders have left. What else ends a write says nothing of the attempts before it.
func (w *kvWrite) uncertain(err error) bool {
	return w.open || w.sent && !errors.Is(err, ErrConflict)
}

// takeLane waits for a lane.
func (kv *KV) takeLane(ctx context.Context) (*kvLane, error) {
	select {
	case kv.turns <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	kv.mu.Lock()
	defer kv.mu.Unlock()
	n := len(kv.idle)
	if n == 0 {
		return &kvLane{producer: noProducer}, nil
	}
	lane := kv.idle[n-1]
	kv.idle = kv.idle[:n-1]
	return lane, nil
}

func (kv *KV) leaveLane(lane *kvLane) {
	kv.mu.Lock()
	kv.idle = append(kv.idle, lane)
	kv.mu.Unlock()
	<-kv.turns
}

// startLane gives a lane an identity.
func (kv *KV) startLane(ctx context.Context, lane *kvLane) error {
	if lane.producer != noProducer {
		return nil
	}
	for pause := kvFirstPause; ; pause = min(pause*2, kvMaxPause) {
		req := kmsg.NewPtrInitProducerIDRequest() // a new one each time: franz-go may be at work still at one that was given up
		req.TransactionTimeoutMillis = 60_000     // there is no transaction; brokers check it all the same
		one, cancel := context.WithTimeout(ctx, kvFirstAttempt)
		resp, err := req.RequestWith(one, kv.cl)
		cancel()
		if err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
		switch {
		case err == nil:
			*lane = kvLane{producer: resp.ProducerID, epoch: resp.ProducerEpoch, next: make(map[int32]int32)}
			return nil
		case kindOf(err) == ErrDenied, kindOf(err) == ErrInvalid:
			return err
		}
		if err := kv.rest(ctx, pause); err != nil {
			return err
		}
	}
}

// produce is one attempt. done: there is no need for another.
func (kv *KV) produce(ctx context.Context, w *kvWrite, node int32, id [16]byte, p int32, batch []byte, wait time.Duration) (revision int64, done bool, err error) {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, milliseconds(wait)
	t, rp := kmsg.NewProduceRequestTopic(), kmsg.NewProduceRequestTopicPartition()
	t.Topic, t.TopicID = kv.cfg.Topic, id
	rp.Partition, rp.Records = p, batch
	t.Partitions = append(t.Partitions, rp)
	req.Topics = append(req.Topics, t)
	answer, err := kv.cl.Broker(int(node)).Request(ctx, req)
	if err != nil {
		if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "dial" {
			w.sent, w.open = true, true
		}
		return 0, false, err
	}
	resp, ok := answer.(*kmsg.ProduceResponse)
	if !ok || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		w.sent, w.open = true, true
		return 0, true, fmt.Errorf("an answer about something else: %T", answer)
	}
	place := &resp.Topics[0].Partitions[0]
	err = kerr.ErrorForCode(place.ErrorCode)
	w.answered = !kerr.IsRetriable(err)
	switch {
	case err == nil:
		return place.BaseOffset, true, nil
	case errors.Is(err, kerr.InvalidRecord):
		return 0, true, w.refused(place, err)
	case errors.Is(err, kerr.RequestTimedOut):
		w.sent, w.open = true, true
		return 0, false, err
	case noTopic(err): // so far it has looked for the topic only, and perhaps not heard of it yet
		return 0, false, err
	case kerr.IsRetriable(err):
		w.sent = true // the leader that has just lost its place may have written it
		return 0, false, err
	}
	if place.ErrorMessage != nil {
		err = &worded{*place.ErrorMessage, err}
	}
	return 0, true, err
}

// refused reads why a record was refused.
func (w *kvWrite) refused(place *kmsg.ProduceResponseTopicPartition, err error) error {
	for i := range place.ErrorRecords {
		if m := place.ErrorRecords[i].ErrorMessage; m != nil {
			if current, ok := parseConflict(*m); ok && w.conditional {
				return &ConflictError{Key: w.key, Expected: w.expect, Current: current}
			}
			return &worded{*m, err}
		}
	}
	if place.ErrorMessage != nil {
		return &worded{*place.ErrorMessage, err}
	}
	return err
}

// parseConflict reads what a broker says of a record whose condition failed.
func parseConflict(message string) (current int64, ok bool) {
	v := strings.Replace(message, "was refused when ", "", 1) // an earlier attempt was, and this is its answer
	if v, ok = strings.CutPrefix(v, ExpectHeader+": current="); !ok {
		return 0, false
	}
	if v == "none" {
		return NoRevision, true
	}
	n, err := strconv.ParseUint(v, 10, 63)
	return int64(n), err == nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// batch is the record as it goes to the broker.
func (w *kvWrite) batch(lane *kvLane, p int32) []byte {
	rec := kmsg.NewRecord()
	rec.Key, rec.Value = []byte(w.key), w.value
	if w.conditional {
		v := "none"
		if w.expect != NoRevision {
			v = strconv.FormatInt(w.expect, 10)
		}
		h := kmsg.NewHeader()
		h.Key, h.Value = ExpectHeader, []byte(v)
		rec.Headers = append(rec.Headers, h)
	}
	// The length is a varint of what follows it.
	body := rec.AppendTo(nil)[1:]
	rec.Length = int32(len(body))
	b := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, FirstTimestamp: lane.time, MaxTimestamp: lane.time,
		ProducerID: lane.producer, ProducerEpoch: lane.epoch, FirstSequence: lane.next[p], NumRecords: 1,
		Records: rec.AppendTo(nil),
	}
	b.Length = int32(len(b.AppendTo(nil)) - 12)
	raw := b.AppendTo(nil)
	b.CRC = int32(crc32.Checksum(raw[21:], castagnoli))
	return b.AppendTo(raw[:0])
}
