package broker

// The server over real loopback sockets, with kmsg as the client: framing, order, limits and bad input.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/protocol"
)

// patience is how long a test waits for what must come.
const patience = 2 * time.Minute

// kafkaHarness is a server before a fake backend.
type kafkaHarness struct {
	*server
	t    testing.TB
	back *fakeBackend
	addr string
	logs *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newHarness(t testing.TB, o serverOptions) *kafkaHarness {
	t.Helper()
	return newHarnessOn(t, o, Listener{Name: ProtocolPlaintext, Protocol: ProtocolPlaintext}, nil)
}

// newHarnessOn is newHarness with another listener, and options that need the backend.
func newHarnessOn(t testing.TB, o serverOptions, l Listener, options func(*fakeBackend, *serverOptions)) *kafkaHarness {
	t.Helper()
	back := newFakeBackend(t)
	if options != nil {
		options(back, &o)
	}
	logs := new(lockedBuffer)
	s := newServer(back, o, slog.New(slog.NewTextHandler(logs, nil)))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Serve(ln, l)
	t.Cleanup(s.Close)
	return &kafkaHarness{server: s, t: t, back: back, addr: ln.Addr().String(), logs: logs}
}

func textLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

func discardLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

// kafkaClient is one connection.
type kafkaClient struct {
	t  testing.TB
	nc net.Conn
	br *bufio.Reader
	f  *kmsg.RequestFormatter
	id int32
}

func (h *kafkaHarness) dial() *kafkaClient {
	h.t.Helper()
	nc, err := net.Dial("tcp", h.addr)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { nc.Close() })
	return &kafkaClient{t: h.t, nc: nc, br: bufio.NewReader(nc), f: kmsg.NewRequestFormatter(kmsg.FormatterClientID("test"))}
}

// send writes a request and returns its correlation id.
func (c *kafkaClient) send(req kmsg.Request) int32 {
	c.t.Helper()
	c.id++
	if _, err := c.nc.Write(c.f.AppendRequest(nil, req, c.id)); err != nil {
		c.t.Fatal(err)
	}
	return c.id
}

// receive reads the next frame: its correlation id, and what follows.
func (c *kafkaClient) receive() (int32, []byte) {
	c.t.Helper()
	c.nc.SetReadDeadline(time.Now().Add(patience))
	var size [4]byte // not protocol.ReadFrame, which is for requests: the least answer is shorter than any of them
	if _, err := io.ReadFull(c.br, size[:]); err != nil {
		c.t.Fatalf("read an answer: %v", err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n < 4 || n > 1<<30 {
		c.t.Fatalf("read an answer: it has %d bytes", n)
	}
	frame := make([]byte, n)
	if _, err := io.ReadFull(c.br, frame); err != nil {
		c.t.Fatalf("read an answer: %v", err)
	}
	return int32(binary.BigEndian.Uint32(frame)), frame[4:]
}

func decodeAnswer[R kmsg.Response](t testing.TB, req kmsg.Request, body []byte) R {
	t.Helper()
	resp := req.ResponseKind()
	if resp.IsFlexible() && resp.Key() != keyApiVersions {
		if len(body) == 0 || body[0] != 0 {
			t.Fatalf("%T: no empty tag section", resp)
		}
		body = body[1:]
	}
	if err := resp.ReadFrom(body); err != nil {
		t.Fatalf("%T v%d: %v", resp, resp.GetVersion(), err)
	}
	// Nothing may be left over: the message encodes to what was received.
	if again := resp.AppendTo(nil); !bytes.Equal(again, body) {
		t.Fatalf("%T v%d: %d bytes came, %d make the same message", resp, resp.GetVersion(), len(body), len(again))
	}
	return resp.(R)
}

// ask sends a request and waits for its answer.
func ask[R kmsg.Response](c *kafkaClient, req kmsg.Request) R {
	c.t.Helper()
	id := c.send(req)
	got, body := c.receive()
	if got != id {
		c.t.Fatalf("answer to %d, want %d", got, id)
	}
	return decodeAnswer[R](c.t, req, body)
}

// closed waits for the server to close the connection, and fails if it answers first.
func (c *kafkaClient) closed() {
	c.t.Helper()
	c.nc.SetReadDeadline(time.Now().Add(patience))
	if b, err := c.br.ReadByte(); err == nil {
		c.t.Fatalf("an answer came, beginning with %#x", b)
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatal("the connection stays open")
	}
}

// becomes polls for what must come about.
func becomes(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("never happened: " + what)
		}
	}
}

func apiVersionsRequest(version int16) *kmsg.ApiVersionsRequest {
	req := kmsg.NewPtrApiVersionsRequest()
	req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = version, "test-client", "1.0"
	return req
}

func testBatch(values ...string) []byte {
	recs := make([]protocol.Record, len(values))
	for i, v := range values {
		recs[i] = protocol.Record{Offset: int64(i), Timestamp: 1_700_000_000_000 + int64(i), Value: []byte(v)}
	}
	return protocol.BuildBatch(recs, protocol.NewBatchOptions())
}

func produceRequest(version int16, acks int16, topic string, id [16]byte, p int32, records []byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = version, acks, 30_000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID = topic, id
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = p, records
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

func TestApiVersions(t *testing.T) {
	h := newHarness(t, serverOptions{})
	for v := int16(0); v <= 5; v++ {
		resp := ask[*kmsg.ApiVersionsResponse](h.dial(), apiVersionsRequest(v))
		if resp.ErrorCode != 0 {
			t.Fatalf("v%d: error %d", v, resp.ErrorCode)
		}
		got := map[int16][2]int16{}
		for _, k := range resp.ApiKeys {
			got[k.ApiKey] = [2]int16{k.MinVersion, k.MaxVersion}
		}
		for key, want := range map[int16][2]int16{0: {0, 13}, 1: {4, 18}, 2: {1, 11}, 3: {0, 13}, 18: {0, 5}, 19: {0, 7}, 20: {0, 6},
			22: {0, 5}, 23: {0, 4}, 32: {0, 4}, 60: {0, 2}} {
			if got[key] != want {
				t.Errorf("v%d lists %s as %v, want %v", v, kmsg.NameForKey(key), got[key], want)
			}
		}
		for _, internal := range []int16{4, 5, 6, 7, 27, 52, 53, 54, 56, 58, 59, 62, 63, 67, 70, 71, 72, 73} {
			if r, ok := got[internal]; ok {
				t.Errorf("%s is advertised: %v", kmsg.NameForKey(internal), r)
			}
		}
	}
}

// KIP-511: a version to come is answered in version 0, with the list, whatever its body looks like.
func TestApiVersionsOfTheFuture(t *testing.T) {
	h := newHarness(t, serverOptions{})
	c := h.dial()
	frame := []byte{0, 18, 0, 99, 0, 0, 0, 42, 0, 1, 'x'}
	frame = append(frame, bytes.Repeat([]byte{0xff}, 50)...)
	c.nc.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...))
	id, body := c.receive()
	resp := kmsg.NewPtrApiVersionsResponse()
	if err := resp.ReadFrom(body); err != nil {
		t.Fatal(err)
	}
	if id != 42 || resp.ErrorCode != kerr.UnsupportedVersion.Code || len(resp.ApiKeys) < 10 || !bytes.Equal(resp.AppendTo(nil), body) {
		t.Fatalf("id %d: %+v", id, resp)
	}
	// The connection goes on with a version that we have.
	if resp := ask[*kmsg.ApiVersionsResponse](c, apiVersionsRequest(3)); resp.ErrorCode != 0 {
		t.Fatal(resp.ErrorCode)
	}
}

func TestApiVersionsValidates(t *testing.T) {
	h := newHarness(t, serverOptions{})
	for _, name := range []string{"", "-a", "a-", "a b", "a\x00", strings.Repeat("a", 300)} {
		req := apiVersionsRequest(3)
		req.ClientSoftwareName = name
		if resp := ask[*kmsg.ApiVersionsResponse](h.dial(), req); resp.ErrorCode != kerr.InvalidRequest.Code {
			t.Errorf("%q: error %d", name, resp.ErrorCode)
		}
	}
	ours, theirs := "test-cluster", "other"
	for _, c := range []struct {
		cluster *string
		node    int32
		want    int16
	}{
		{nil, -1, 0},
		{&ours, 1, 0},
		{&ours, 2, kerr.RebootstrapRequired.Code},
		{&theirs, 1, kerr.RebootstrapRequired.Code},
		{nil, 1, kerr.InvalidRequest.Code},
		{&ours, -1, kerr.InvalidRequest.Code},
	} {
		req := apiVersionsRequest(5)
		req.ClusterID, req.NodeID = c.cluster, c.node
		if resp := ask[*kmsg.ApiVersionsResponse](h.dial(), req); resp.ErrorCode != c.want {
			t.Errorf("cluster %v node %d: error %d, want %d", c.cluster, c.node, resp.ErrorCode, c.want)
		}
	}
}

// Each bad input costs its own connection, and nothing else.
func TestBadInput(t *testing.T) {
	h := newHarness(t, serverOptions{MaxRequestBytes: 1 << 20, StallTimeout: 200 * time.Millisecond})
	id := h.back.addTopic("t", 1, nil)
	bystander := h.dial()
	request := func(req kmsg.Request) []byte {
		return kmsg.NewRequestFormatter(kmsg.FormatterClientID("x")).AppendRequest(nil, req, 1)
	}
	frame := func(body ...byte) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	}
	version := func(req kmsg.Request, v int16) kmsg.Request { req.SetVersion(v); return req }
	good := request(produceRequest(9, 1, "t", id, 0, testBatch("v")))
	withBody := func(key, v int16, body ...byte) []byte {
		head := []byte{0, byte(key), 0, byte(v), 0, 0, 0, 1, 0, 0}
		if f, ok := headerVersion(key, v); ok && f == 2 {
			head = append(head, 0)
		}
		return frame(append(head, body...)...)
	}
	for name, in := range map[string][]byte{
		"a frame of 2 GB":                 {0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 1},
		"a negative length":               {0xff, 0xff, 0xff, 0xff, 0, 3, 0, 1},
		"an empty frame":                  {0, 0, 0, 0},
		"a frame above the limit":         {0, 0x20, 0, 0, 0, 0, 0, 9},
		"HTTP":                            []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		"TLS":                             {0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3},
		"an unknown key":                  frame(0, 120, 0, 0, 0, 0, 0, 1, 0, 0),
		"a key out of range":              frame(0x40, 0, 0, 0, 0, 0, 0, 1, 0, 0),
		"a negative key":                  frame(0xff, 0xff, 0, 0, 0, 0, 0, 1, 0, 0),
		"a broker's own key":              frame(0, 4, 0, 0, 0, 0, 0, 1, 0, 0),
		"a version to come":               request(version(kmsg.NewPtrMetadataRequest(), 99)),
		"a negative version":              request(version(kmsg.NewPtrMetadataRequest(), -1)),
		"Produce v2":                      request(produceRequest(2, 1, "t", id, 0, testBatch("v"))),
		"Fetch v3":                        request(version(kmsg.NewPtrFetchRequest(), 3)),
		"a truncated frame":               good[:len(good)-5],
		"a truncated body":                frame(good[4 : len(good)-5]...),
		"no client id":                    frame(0, 3, 0, 1, 0, 0, 0, 1),
		"Metadata with 2^31-1 topics":     withBody(3, 1, 0x7f, 0xff, 0xff, 0xff),
		"Metadata with too many topics":   withBody(3, 9, 0xff, 0xff, 0xff, 0xff, 0x07),
		"Produce with 2^31-1 topics":      withBody(0, 3, 0xff, 0xff, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff),
		"Produce with -2 topics":          withBody(0, 3, 0xff, 0xff, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xfe),
		"Produce with topics of no bytes": withBody(0, 9, append([]byte{0, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 3}, make([]byte, 65535)...)...),
		"records beyond the end":          withBody(0, 9, 0, 0, 1, 0, 0, 0, 1, 2, 2, 't', 2, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f),
		"a large request of a small kind": append(binary.BigEndian.AppendUint32(nil, maxSmallRequest+1), 0, 60, 0, 0, 0, 0, 0, 1),
		"random bytes":                    bytes.Repeat([]byte{0x9e, 0x37, 0x79, 0xb9}, 64),
	} {
		t.Run(name, func(t *testing.T) {
			c := h.dial()
			c.t = t
			if _, err := c.nc.Write(in); err != nil {
				t.Fatal(err)
			}
			c.closed()
		})
	}
	if resp := ask[*kmsg.ApiVersionsResponse](bystander, apiVersionsRequest(3)); resp.ErrorCode != 0 {
		t.Fatal(resp.ErrorCode)
	}
	if h.back.replica(id, 0).appended() != 0 {
		t.Fatal("something was appended")
	}
	becomes(t, "the bad connections are forgotten", func() bool { return h.connections() == 1 })
	if n := strings.Count(h.logs.String(), "\n"); n == 0 {
		t.Fatal("nothing was logged")
	}
}

// A scanner of ports must not fill the disk with log lines.
// Who speaks something else to this port is told from those who speak Kafka badly.
func TestStrangersAreNamed(t *testing.T) {
	hello := append([]byte{52, 0, 0, 0, 1, 2, 3, 4, 1, 1, 0, 0}, "BALSAB2B"...) // raft/transport's first frame
	for want, in := range map[string][]byte{
		"speaks HTTP":           []byte("GET / HTTP/1.1\r\n\r\n"),
		"speaks TLS":            {0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3},
		"a broker calls here":   append(hello, make([]byte, 44)...),
		"cut short":             {0, 0, 0, 14, 0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff},
		"key 120 (Unknown) is ": {0, 0, 0, 10, 0, 120, 0, 0, 0, 0, 0, 1, 0, 0},
	} {
		h := newHarness(t, serverOptions{})
		c := h.dial()
		if _, err := c.nc.Write(in); err != nil {
			t.Fatal(err)
		}
		c.closed()
		becomes(t, "the log says: "+want, func() bool { return strings.Contains(h.logs.String(), want) })
	}
}

func TestComplaintsAreRateLimited(t *testing.T) {
	h := newHarness(t, serverOptions{})
	const bad = 300
	for range bad {
		c := h.dial()
		c.nc.Write([]byte{0xff, 0xff, 0xff, 0xff})
		c.closed()
	}
	if n := strings.Count(h.logs.String(), "\n"); n == 0 || n > bad/2 {
		t.Fatalf("%d lines for %d bad connections", n, bad)
	}
}

// A frame whose arrays claim one element per byte must not make us allocate a hundredfold.
func TestPrescanBoundsProduce(t *testing.T) {
	body := []byte{0, 0, 1, 0, 0, 0, 1}
	body = binary.AppendUvarint(body, 1<<20+1)
	body = append(body, make([]byte, 1<<20)...)
	if _, err := prescan(findAPI(keyProduce), 9, true, body); err == nil {
		t.Fatal("a topic per byte was accepted")
	}
	req := produceRequest(9, 1, "t", [16]byte{}, 0, nil)
	for i := range int32(maxProducePartitions) {
		p := kmsg.NewProduceRequestTopicPartition()
		p.Partition = i
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, p)
	}
	if _, err := prescan(findAPI(keyProduce), 9, true, req.AppendTo(nil)); err == nil {
		t.Fatal("too many partitions were accepted")
	}
	for v := int16(3); v <= 13; v++ {
		if _, err := prescan(findAPI(keyProduce), v, v >= 9, produceRequest(v, -1, "topic", [16]byte{1}, 3, testBatch("a", "b")).AppendTo(nil)); err != nil {
			t.Fatalf("v%d: %v", v, err)
		}
	}
}

func TestResponsesComeInOrder(t *testing.T) {
	h := newHarness(t, serverOptions{})
	id := h.back.addTopic("t", 2, nil)
	slow := h.back.replica(id, 0)
	slow.manual = true
	c := h.dial()
	var want []int32
	reqs := map[int32]kmsg.Request{}
	for i := range 20 {
		var req kmsg.Request = apiVersionsRequest(3)
		if i%4 == 0 {
			req = produceRequest(9, -1, "t", id, int32(i/4%2), testBatch(strconv.Itoa(i)))
		}
		n := c.send(req)
		want = append(want, n)
		reqs[n] = req
	}
	becomes(t, "all appends have come", func() bool { return slow.appended() == 3 && h.back.replica(id, 1).appended() == 2 })
	c.nc.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := c.br.ReadByte(); err == nil {
		t.Fatal("an answer overtook the first request's")
	}
	slow.commit()
	for _, n := range want {
		got, body := c.receive()
		if got != n {
			t.Fatalf("answer %d, want %d", got, n)
		}
		decodeAnswer[kmsg.Response](t, reqs[n], body)
	}
}

func TestInflightIsBounded(t *testing.T) {
	h := newHarness(t, serverOptions{MaxInflight: 3})
	id := h.back.addTopic("t", 1, nil)
	r := h.back.replica(id, 0)
	r.manual = true
	c := h.dial()
	const requests = 10
	for i := range requests {
		c.send(produceRequest(9, -1, "t", id, 0, testBatch(strconv.Itoa(i))))
	}
	for answered := 0; answered < requests; {
		becomes(t, "the next ones are in flight", func() bool { return r.appended() == min(answered+3, requests) })
		runtime.Gosched()
		n := r.appended()
		if n > answered+3 {
			t.Fatalf("%d in flight", n-answered)
		}
		r.commit()
		for ; answered < n; answered++ {
			c.receive()
		}
	}
}

func TestConnectionLimits(t *testing.T) {
	h := newHarness(t, serverOptions{MaxConnections: 2})
	a, b := h.dial(), h.dial()
	ask[*kmsg.ApiVersionsResponse](a, apiVersionsRequest(0))
	ask[*kmsg.ApiVersionsResponse](b, apiVersionsRequest(0))
	h.dial().closed()
	a.nc.Close()
	becomes(t, "the place is free again", func() bool { return h.connections() == 1 })
	ask[*kmsg.ApiVersionsResponse](h.dial(), apiVersionsRequest(0))

	perIP := newHarness(t, serverOptions{MaxConnectionsPerIP: 1})
	ask[*kmsg.ApiVersionsResponse](perIP.dial(), apiVersionsRequest(0))
	perIP.dial().closed()
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	h := newHarness(t, serverOptions{IdleTimeout: 3 * time.Second}) // by when a client has spoken, on any machine
	id := h.back.addTopic("t", 1, nil)
	r := h.back.replica(id, 0)
	r.manual = true
	busy, idle := h.dial(), h.dial()
	n := busy.send(produceRequest(9, -1, "t", id, 0, testBatch("x")))
	ask[*kmsg.ApiVersionsResponse](idle, apiVersionsRequest(3))
	idle.closed()
	r.commit()
	if got, _ := busy.receive(); got != n {
		t.Fatal("the one with a request in flight should have stayed")
	}
}

// A stalled peer must not keep the memory of the frame that it announced.
func TestRequestMemoryIsGivenBack(t *testing.T) {
	t.Parallel()
	h := newHarness(t, serverOptions{MaxRequestBytes: 1 << 20, RequestMemory: 1 << 20, StallTimeout: 2 * time.Second}) // to be seen while it lasts
	id := h.back.addTopic("t", 1, nil)
	h.announce(1<<20, 900<<10)
	becomes(t, "the stalled frame has its memory", func() bool { return h.memory.used.Load() == 1<<20 })
	c := h.dial()
	// What carries no records does not wait for those who do.
	if resp := ask[*kmsg.MetadataResponse](c, metadataRequest(9, "t")); resp.Topics[0].ErrorCode != 0 {
		t.Fatalf("%+v", resp)
	}
	for i := range 20 { // more than fits at once, and each more than fits beside the stalled one
		resp := ask[*kmsg.ProduceResponse](c, produceRequest(9, -1, "t", id, 0, testBatch(strings.Repeat("x", 300_000))))
		if p := resp.Topics[0].Partitions[0]; p.ErrorCode != 0 || p.BaseOffset != int64(i) {
			t.Fatalf("%+v", p)
		}
	}
	becomes(t, "all memory is back", func() bool {
		return h.memory.TryAcquire(h.o.RequestMemory) && h.control.TryAcquire(controlMemory) && h.polls.TryAcquire(pollMemory)
	})
}

func TestCloseEndsEverything(t *testing.T) {
	before := runtime.NumGoroutine()
	h := newHarness(t, serverOptions{})
	id := h.back.addTopic("t", 1, nil)
	var cs []*kafkaClient
	for range 10 {
		c := h.dial()
		c.send(fetchRequest(12, "t", id, 0, 0, time.Hour))
		cs = append(cs, c)
	}
	becomes(t, "all fetches wait", func() bool { return h.back.replica(id, 0).waiting() == 10 })
	h.Close()
	for _, c := range cs {
		c.closed()
	}
	becomes(t, "waiters are gone", func() bool { return h.back.replica(id, 0).waiting() == 0 })
	becomes(t, "goroutines are gone", func() bool { return runtime.NumGoroutine() <= before })
}

// franz-go as the client: what a user's program does.
func TestFranzGoAgainstTheServer(t *testing.T) {
	h := newHarness(t, serverOptions{})
	host, port, _ := net.SplitHostPort(h.addr)
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	h.back.advertise(host, int32(n))
	cl, err := kgo.NewClient(kgo.SeedBrokers(h.addr), kgo.AllowAutoTopicCreation(), kgo.ConsumeTopics("fresh"), kgo.DefaultProduceTopic("fresh"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.ProducerBatchCompression(kgo.ZstdCompression()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const records = 500
	for i := range records {
		cl.Produce(ctx, &kgo.Record{Value: []byte(strconv.Itoa(i))}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	for got := 0; got < records; {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			t.Fatal(err)
		}
		for r := range fs.RecordsAll() {
			if string(r.Value) != fmt.Sprint(got) {
				t.Fatalf("offset %d is %q, want %d", r.Offset, r.Value, got)
			}
			got++
		}
	}
}
