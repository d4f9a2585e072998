// The null broker: it speaks the Kafka protocol, acknowledges what it is sent without looking at it, and hands out the same records over and over.
// What a load costs beside it is what the load generator costs with its connection, and no system can be had for less: package limit asks.
//
// It answers at once. A producer pays more for a byte where its acknowledgements take longer, as what it has in flight falls out of the caches
// meanwhile: tried with 2, 10 and 40 ms, a byte cost 1.1, 1.3 and 1.9 times as much.

package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	nullRequest  = 64 << 20 // bytes, the most of one
	nullBatch    = 1 << 20  // bytes of records in a batch that is handed out
	nullReadSize = 4 << 10  // what is larger is read past this buffer
	nullLimit    = time.Minute
	// warmWindows is how often all that may be in flight is sent before it is measured: what the first ones cost is new memory.
	warmWindows = 4
)

// nullVersions are the highest versions that it speaks: those in which topics have names, and Fetch is as null.fetch writes it.
var nullVersions = map[int16]int16{0: 9, 1: 11, 2: 6, 3: 8, 18: 5, 22: 4}

// null is it, as a System of nodes in this process, which share its partitions as those of a cluster would.
type null struct {
	kafkaNodes

	lns   []net.Listener
	wg    sync.WaitGroup
	batch []byte // what every fetch gets, but for its offset
	count int64  // records in it

	mu    sync.Mutex // guards conns, ids
	conns map[net.Conn]bool
	ids   int64
}

func newNull(client Client) *null {
	return &null{kafkaNodes: kafkaNodes{client: client}, conns: make(map[net.Conn]bool)}
}

// Name implements Cluster.
func (n *null) Name() string { return "null" }

// Mode implements System.
func (n *null) Mode() string { return "" }

// Start implements Cluster.
func (n *null) Start(_ context.Context, _ string, c Cell) (err error) {
	n.cell = c
	n.batch, n.count = nullRecords(c.RecordBytes)
	for range c.Nodes() {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return errors.Join(err, n.Stop())
		}
		n.lns, n.addrs = append(n.lns, ln), append(n.addrs, ln.Addr().String())
		n.wg.Go(func() { n.accept(ln) })
	}
	return n.connect()
}

func (n *null) accept(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return // it was closed
		}
		n.mu.Lock()
		n.conns[c] = true
		n.mu.Unlock()
		n.wg.Go(func() { n.serve(c) })
	}
}

// Create implements Cluster.
func (n *null) Create(_ context.Context, c Cell, made func(int)) error {
	made(c.Partitions)
	return nil
}

// Leaders implements Cluster.
func (n *null) Leaders(_ context.Context, count int) ([]int, error) { return make([]int, count), nil }

// StartNode implements System.
func (n *null) StartNode(context.Context, int) error { return ErrNotOffered }

// Opened implements System.
func (n *null) Opened(context.Context, int) (bool, string, error) { return false, "", ErrNotOffered }

// Member implements System: groups are not what is measured.
func (n *null) Member(ctx context.Context, _ int) (Consumer, error) { return n.Consumer(ctx) }

// Stop implements Cluster.
func (n *null) Stop() (err error) {
	for _, ln := range n.lns {
		err = errors.Join(err, ln.Close())
	}
	n.mu.Lock()
	for c := range n.conns {
		_ = c.Close() // its goroutines end by that
	}
	n.mu.Unlock()
	n.wg.Wait()
	n.lns = nil
	return err
}

// serve answers one connection, in order.
func (n *null) serve(c net.Conn) {
	defer func() {
		_ = c.Close()
		n.mu.Lock()
		delete(n.conns, c)
		n.mu.Unlock()
	}()
	r := bufio.NewReaderSize(c, nullReadSize)
	var size [4]byte
	var buf []byte
	for {
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return
		}
		length := int(binary.BigEndian.Uint32(size[:]))
		if length > nullRequest {
			return
		}
		if cap(buf) < length {
			buf = make([]byte, length)
		}
		buf = buf[:length]
		if _, err := io.ReadFull(r, buf); err != nil {
			return
		}
		reply, err := n.answer(buf)
		if err != nil {
			return
		}
		if _, err := reply.WriteTo(c); err != nil {
			return
		}
	}
}

var errNull = errors.New("the null broker does not understand")

// answer answers one request, which is not looked at afterwards.
func (n *null) answer(b []byte) (net.Buffers, error) {
	const fixed = 2 + 2 + 4 + 2
	if len(b) < fixed {
		return nil, errNull
	}
	key, version, correlation := int16(binary.BigEndian.Uint16(b)), int16(binary.BigEndian.Uint16(b[2:])), b[4:8]
	client := max(int(int16(binary.BigEndian.Uint16(b[8:]))), 0)
	req := kmsg.RequestForKey(key)
	if most, ok := nullVersions[key]; req == nil || !ok || version > most || len(b) < fixed+client+1 {
		return nil, errNull
	}
	req.SetVersion(version)
	body := b[fixed+client:]
	if req.IsFlexible() {
		body = body[1:] // no tags
	}
	if err := req.ReadFrom(body); err != nil {
		return nil, err
	}
	if fetch, ok := req.(*kmsg.FetchRequest); ok {
		return n.fetch(fetch, correlation), nil
	}
	resp := req.ResponseKind()
	switch req := req.(type) {
	case *kmsg.ApiVersionsRequest:
		for k, most := range nullVersions {
			resp.(*kmsg.ApiVersionsResponse).ApiKeys = append(resp.(*kmsg.ApiVersionsResponse).ApiKeys, kmsg.ApiVersionsResponseApiKey{ApiKey: k, MaxVersion: most})
		}
	case *kmsg.MetadataRequest:
		n.metadataTo(resp.(*kmsg.MetadataResponse))
	case *kmsg.InitProducerIDRequest:
		n.mu.Lock()
		n.ids++
		resp.(*kmsg.InitProducerIDResponse).ProducerID = n.ids
		n.mu.Unlock()
	case *kmsg.ProduceRequest:
		to := resp.(*kmsg.ProduceResponse)
		for _, t := range req.Topics {
			rt := kmsg.ProduceResponseTopic{Topic: t.Topic, Partitions: make([]kmsg.ProduceResponseTopicPartition, 0, len(t.Partitions))}
			for _, p := range t.Partitions {
				rt.Partitions = append(rt.Partitions, kmsg.ProduceResponseTopicPartition{Partition: p.Partition, LogAppendTime: -1})
			}
			to.Topics = append(to.Topics, rt)
		}
	case *kmsg.ListOffsetsRequest:
		to := resp.(*kmsg.ListOffsetsResponse)
		for _, t := range req.Topics {
			rt := kmsg.ListOffsetsResponseTopic{Topic: t.Topic}
			for _, p := range t.Partitions {
				rp := kmsg.NewListOffsetsResponseTopicPartition()
				rp.Partition, rp.Offset = p.Partition, 0
				rt.Partitions = append(rt.Partitions, rp)
			}
			to.Topics = append(to.Topics, rt)
		}
	}
	out := append(make([]byte, 4, 128), correlation...)
	if resp.IsFlexible() && key != int16(kmsg.ApiVersions) {
		out = append(out, 0) // no tags
	}
	out = resp.AppendTo(out)
	binary.BigEndian.PutUint32(out, uint32(len(out)-4))
	return net.Buffers{out}, nil
}

func (n *null) metadataTo(resp *kmsg.MetadataResponse) {
	for i, ln := range n.lns {
		at := ln.Addr().(*net.TCPAddr)
		resp.Brokers = append(resp.Brokers, kmsg.MetadataResponseBroker{NodeID: int32(i + 1), Host: at.IP.String(), Port: int32(at.Port)})
	}
	resp.ControllerID = 1
	t := kmsg.NewMetadataResponseTopic()
	t.Topic = kmsg.StringPtr(benchTopic)
	for i := range n.cell.Partitions {
		p, id := kmsg.NewMetadataResponseTopicPartition(), int32(i%len(n.lns)+1)
		p.Partition, p.Leader, p.Replicas, p.ISR = int32(i), id, []int32{id}, []int32{id}
		t.Partitions = append(t.Partitions, p)
	}
	resp.Topics = append(resp.Topics, t)
}

// fetch gives each partition a batch from the offset that is asked for on, up to the bytes that may be given. The batch's bytes are not copied.
func (n *null) fetch(req *kmsg.FetchRequest, correlation []byte) net.Buffers {
	const head = 8 + 4 // of the batch: what is not the same in all
	var parts net.Buffers
	length, given := 0, 0
	b := append(make([]byte, 4, 256), correlation...)
	flush := func() {
		length += len(b)
		parts = append(parts, b)
	}
	u16 := func(v int) { b = binary.BigEndian.AppendUint16(b, uint16(v)) }
	u32 := func(v int) { b = binary.BigEndian.AppendUint32(b, uint32(v)) }
	u64 := func(v int64) { b = binary.BigEndian.AppendUint64(b, uint64(v)) }
	u32(0) // throttled
	u16(0)
	u32(0) // no session
	u32(len(req.Topics))
	for _, t := range req.Topics {
		u16(len(t.Topic))
		b = append(b, t.Topic...)
		u32(len(t.Partitions))
		for _, p := range t.Partitions {
			u32(int(p.Partition))
			u16(0)
			end := p.FetchOffset + n.count
			u64(end) // high watermark
			u64(end) // last stable
			u64(0)   // where the log starts
			u32(-1)  // nothing was aborted
			u32(-1)  // read from here
			if given > 0 && given+len(n.batch) > int(req.MaxBytes) {
				u32(0)
				continue
			}
			given += len(n.batch)
			u32(len(n.batch))
			u64(p.FetchOffset)
			b = append(b, n.batch[8:head]...)
			flush()
			parts = append(parts, n.batch[head:])
			length += len(n.batch) - head
			b = make([]byte, 0, 64)
		}
	}
	flush()
	binary.BigEndian.PutUint32(parts[0], uint32(length-4))
	return parts
}

// nullRecords is a batch of records of a load's first producer and partition.
func nullRecords(size int) (batch []byte, count int64) {
	records := make([]byte, 0, nullBatch+2*size)
	value := make([]byte, max(size, recordHeader))
	for count = 0; count == 0 || len(records) < nullBatch; count++ {
		binary.BigEndian.PutUint64(value[8:], uint64(count)) // its sequence
		r := kmsg.Record{OffsetDelta: int32(count), Value: value}
		r.Length = int32(len(r.AppendTo(nil)) - 1) // it is itself not counted
		records = r.AppendTo(records)
	}
	const beforeRecords, lengthCounts, checked = 61, 12, 21 // of a batch: where its records, what its length counts, and what its checksum covers begin
	rb := kmsg.RecordBatch{Length: int32(beforeRecords - lengthCounts + len(records)), PartitionLeaderEpoch: -1, Magic: 2, LastOffsetDelta: int32(count - 1), ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1,
		NumRecords: int32(count), Records: records}
	batch = rb.AppendTo(nil)
	binary.BigEndian.PutUint32(batch[checked-4:], crc32.Checksum(batch[checked:], crc32.MakeTable(crc32.Castagnoli)))
	return batch, count
}

// GeneratorCost is what a byte of records costs the load generator beside a broker that costs nothing: its own CPU and that of both ends of its
// connections, with checksums and the copy into a batch (or out of it, decoded and accounted for).
type GeneratorCost struct {
	MBSec     float64 // that went through
	NsPerByte float64 // of CPU; 0 where it is not known
}

// ProducerCost measures what the cell's producers cost.
func ProducerCost(ctx context.Context, c Cell, client Client, lasts time.Duration) (GeneratorCost, error) {
	return generatorCost(ctx, c, client, lasts, func(ctx context.Context, t *turn) (func() error, error) {
		return t.load.failure, t.begin(ctx, 0)
	})
}

// ConsumerCost measures what the cell's consumers cost when they read a backlog as fast as they can.
func ConsumerCost(ctx context.Context, c Cell, client Client, lasts time.Duration) (GeneratorCost, error) {
	return generatorCost(ctx, c, client, lasts, func(ctx context.Context, t *turn) (func() error, error) {
		b := newBacklog(t.load)
		cs, err := t.members(ctx, func(rec []byte) {
			if slot, seq, ok := slotOf(t.cell, rec); ok {
				b.read(slot, seq)
			}
		})
		if err != nil {
			return nil, err
		}
		return cs.stop, nil
	})
}

// generatorCost loads the null broker; begin starts it, and what begin returns ends it.
func generatorCost(ctx context.Context, c Cell, client Client, lasts time.Duration, begin func(context.Context, *turn) (func() error, error)) (cost GeneratorCost, err error) {
	defer debug.SetGCPercent(debug.SetGCPercent(generatorGC))
	o := Options{}
	o.setDefaults()
	ctx, cancel := context.WithTimeout(ctx, nullLimit+2*lasts)
	defer cancel()
	sys := newNull(client)
	t := &turn{o: o, cell: c, sys: sys, load: newLoad(c, sys), res: &Result{}}
	if err := sys.Start(ctx, "", c); err != nil {
		return cost, err
	}
	defer func() { err = errors.Join(err, sys.Stop()) }()
	defer sys.Disconnect()
	defer t.load.end()
	end, err := begin(ctx, t)
	if err != nil {
		return cost, err
	}
	for window := int64(c.Producers * (c.InflightBytes / c.RecordBytes)); c.Consumers == 0 && t.load.totalAck() < warmWindows*window && ctx.Err() == nil; {
		pause(ctx, time.Millisecond)
	}
	pause(ctx, lasts/2) // until all buffers are there
	t.load.next("measuring")
	t.measure()
	pause(ctx, lasts)
	for ctx.Err() == nil {
		if sent, read := t.load.soFar(); sent+read > 0 {
			break
		}
		pause(ctx, time.Millisecond)
	}
	p, _ := t.load.next("ending")
	used := t.used.end()
	if err := errors.Join(end(), ctx.Err()); err != nil {
		return cost, err
	}
	moved := t.bytes(p.Records + p.Consumed)
	if moved == 0 {
		return cost, fmt.Errorf("%s: nothing was moved", c)
	}
	return GeneratorCost{MBSec: moved / 1e6 / p.Seconds, NsPerByte: used.client * 1e9 / moved}, nil
}
