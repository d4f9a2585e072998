package broker

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// New connections of one address are bounded; of all together they wait.
func TestConnectionRate(t *testing.T) {
	h := newHarness(t, serverOptions{ConnectionRatePerIP: 0.001})
	for range burst(0.001) {
		ask[*kmsg.ApiVersionsResponse](h.dial(), apiVersionsRequest(0))
	}
	h.dial().closed()
	if !strings.Contains(h.logs.String(), "connection-rate-per-ip") {
		t.Errorf("log: %s", h.logs)
	}

	all := newHarness(t, serverOptions{ConnectionRate: 0.001})
	for range burst(0.001) {
		ask[*kmsg.ApiVersionsResponse](all.dial(), apiVersionsRequest(0))
	}
	late := all.dial() // the kernel takes it, and nobody else
	late.send(apiVersionsRequest(0))
	if n := all.connections(); n != burst(0.001) {
		t.Errorf("%d connections", n)
	}
	all.Close()
	late.closed()

	r := newConnectionRates(0, 1)
	for i := range 3 * maxRateSources {
		r.allow(sourceOf(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)))
		if len(r.sources) > maxRateSources {
			t.Fatalf("%d addresses are counted", len(r.sources))
		}
	}
	for ip, want := range map[string]string{"10.0.0.1": "10.0.0.1/32", "::ffff:10.0.0.1": "10.0.0.1/32", "2001:db8::1": "2001:db8::/64", "2001:db8::2": "2001:db8::/64", "fe80::1%eth0": "fe80::/64"} {
		if got := sourceOf(ip).String(); got != want {
			t.Errorf("%s counts as %s, not %s", ip, got, want)
		}
	}
}

// A connection whose requests are not answered uses up its own share, and others go on.
func TestConnectionMemory(t *testing.T) {
	h := newHarness(t, serverOptions{ConnectionMemory: 1 << 20})
	id := h.back.addTopic("t", 2, nil)
	slow := h.back.replica(id, 0)
	slow.manual = true
	greedy := h.dial()
	batch := testBatch(strings.Repeat("x", 300<<10))
	go func() { // it blocks once the broker reads no further
		for range 20 {
			if _, err := greedy.nc.Write(greedy.f.AppendRequest(nil, produceRequest(9, -1, "t", id, 0, batch), 1)); err != nil {
				return
			}
		}
	}()
	becomes(t, "its share is used up", func() bool { return slow.appended() == 3 })
	c := h.dial()
	for range 5 {
		if p := ask[*kmsg.ProduceResponse](c, produceRequest(9, 1, "t", id, 1, batch)).Topics[0].Partitions[0]; p.ErrorCode != 0 {
			t.Fatalf("%+v", p)
		}
	}
	if n := slow.appended(); n != 3 {
		t.Errorf("%d of its requests are held", n)
	}
	// More than the share in one request passes, alone.
	big := testBatch(strings.Repeat("x", 2<<20))
	if p := ask[*kmsg.ProduceResponse](h.dial(), produceRequest(9, 1, "t", id, 1, big)).Topics[0].Partitions[0]; p.ErrorCode != 0 {
		t.Errorf("%+v", p)
	}
	greedy.nc.Close()
	becomes(t, "all memory is back", func() bool {
		slow.commit() // also of what the broker had received before
		return h.memory.used.Load() == 0 && h.connections() <= 2
	})
}

// announce opens a connection and sends the first bytes of a produce request of size bytes.
func (h *kafkaHarness) announce(size, sent int) *kafkaClient {
	c := h.dial()
	b := append(binary.BigEndian.AppendUint32(nil, uint32(size)), 0, 0, 0, 9, 0, 0, 0, 1)
	go c.nc.Write(append(b, make([]byte, sent-8)...)) // it may be closed meanwhile
	return c
}

// produces says that a client who asks now gets an answer.
func (h *kafkaHarness) produces(id [16]byte, size int) {
	h.t.Helper()
	if p := ask[*kmsg.ProduceResponse](h.dial(), produceRequest(9, -1, "t", id, 0, testBatch(strings.Repeat("x", size)))).Topics[0].Partitions[0]; p.ErrorCode != 0 {
		h.t.Fatalf("%+v", p)
	}
}

// Who announces large requests, of which little comes, holds next to nothing and stands before nobody, however many do it and whatever they send.
func TestSlowArrivals(t *testing.T) {
	t.Parallel()
	const connections = 200
	for _, x := range []struct {
		name      string
		announced int
		sent      int
	}{
		{"a header", 100 << 20, 8},
		{"the first step", 100 << 20, firstStep},
		{"half a step beyond it", 100 << 20, firstStep * 3 / 2},
		{"much, but not all", 1 << 20, 1<<20 - 100<<10},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, serverOptions{StallTimeout: time.Hour})
			id := h.back.addTopic("t", 1, nil)
			for range connections {
				h.announce(x.announced, x.sent)
			}
			becomes(t, "all are there", func() bool {
				return h.connections() == connections || strings.Contains(h.logs.String(), errArrivesSlowly.Error())
			})
			for range 20 {
				h.produces(id, 900<<10)
			}
		})
	}
}

// Requests that came in half, and hold all that such ones may hold, all come to their end when their bytes come.
func TestHalfArrivals(t *testing.T) {
	t.Parallel()
	const requests = 12
	h := newHarness(t, serverOptions{MaxRequestBytes: 1 << 20, RequestMemory: 1 << 20, ConnectionMemory: 1 << 20, StallTimeout: time.Hour})
	id := h.back.addTopic("t", 1, nil)
	var cs []*kafkaClient
	var rest [][]byte
	for range requests {
		c := h.dial()
		b := c.f.AppendRequest(nil, produceRequest(9, -1, "t", id, 0, testBatch(strings.Repeat("x", 900<<10))), 1)
		if _, err := c.nc.Write(b[:4+firstStep]); err != nil {
			t.Fatal(err)
		}
		cs, rest = append(cs, c), append(rest, b[4+firstStep:])
	}
	r := h.arriving[h.memory]
	waiting := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.waiting
	}
	becomes(t, "some wait, and each has its parts", func() bool { return waiting() > 0 && h.connections() == requests })
	for i, c := range cs {
		go c.nc.Write(rest[i])
	}
	for _, c := range cs {
		c.receive()
	}
	becomes(t, "all memory is back", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return h.memory.used.Load() == 0 && r.partial == 0 && len(r.all)+len(r.queue) == 0 && r.last == nil && r.waiting == 0
	})
}

// A request that holds memory and does not get on costs its connection, but only where others wait.
func TestLateArrival(t *testing.T) {
	t.Parallel()
	h := newHarness(t, serverOptions{MaxRequestBytes: 1 << 20, RequestMemory: 5 << 18, ConnectionMemory: 1 << 20, StallTimeout: time.Hour})
	id := h.back.addTopic("t", 1, nil)
	slow := []*kafkaClient{h.announce(1<<20, 128<<10), h.announce(1<<20, 640<<10)}
	becomes(t, "one holds all that it lacks", func() bool { return h.memory.used.Load() > 1<<20 })
	h.produces(id, 500<<10)
	slow[1].closed()
	if !strings.Contains(h.logs.String(), errArrivesSlowly.Error()) {
		t.Errorf("log: %s", h.logs)
	}
	slow[0].nc.Close()
	becomes(t, "all memory is back", func() bool { return h.memory.used.Load() == 0 })

	began := time.Unix(0, 0)
	still := arrival{size: 1000, began: began, seen: 900, seenAt: began.Add(time.Second)}
	still.got.Store(900)
	if still.late(began.Add(arrivalGrace)) || !still.late(began.Add(arrivalGrace+time.Second+1)) {
		t.Error("who stands still is late after the grace, not before")
	}
	for _, x := range []struct {
		after time.Duration
		got   int64
		late  bool
	}{{arrivalGrace, 0, false}, {arrivalGrace + time.Millisecond, 0, true}, {arrivalGrace + arrivalTime/2, 499, true}, {arrivalGrace + arrivalTime/2, 500, false}} {
		a := arrival{size: 1000, began: began, seenAt: began}
		a.got.Store(x.got)
		if late := a.late(began.Add(x.after)); late != x.late {
			t.Errorf("%d of 1000 bytes after %v: late is %v", x.got, x.after, late)
		}
		if a.waits = true; a.late(began.Add(time.Hour)) {
			t.Error("who waits for memory is late")
		}
	}
}

// Half-sent hellos of one address hold that address's share, and keep nobody else from logging in.
func TestHellosOfOneAddress(t *testing.T) {
	h := newSASLHarness(t, 0)
	h.mu.Lock()
	h.hellos, h.o.Security.AuthTimeout = newBudget(helloShare+maxHelloSmall), time.Hour
	h.mu.Unlock()
	half := binary.BigEndian.AppendUint32(nil, maxHelloRequest)
	half = append(half, 0, keySaslAuthenticate, 0, 2)
	for range helloShare/maxHelloRequest + 20 {
		if _, err := h.dial().nc.Write(half); err != nil {
			t.Fatal(err)
		}
	}
	becomes(t, "its share is used up", func() bool { return h.hellos.used.Load() >= helloShare })
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	nc, err := d.DialContext(t.Context(), "tcp", h.addr)
	if err != nil {
		t.Skipf("this machine has no second address: %v", err)
	}
	defer nc.Close()
	c := &kafkaClient{t: t, nc: nc, br: bufio.NewReader(nc), f: kmsg.NewRequestFormatter(kmsg.FormatterClientID("test"))}
	ask[*kmsg.SASLHandshakeResponse](c, handshakeRequest(1, MechanismPlain))
	if resp := ask[*kmsg.SASLAuthenticateResponse](c, authenticateRequest(2, "\x00alice\x00wonder")); resp.ErrorCode != 0 {
		t.Errorf("%+v", resp)
	}
	becomes(t, "the share is all that is held", func() bool { return h.hellos.used.Load() == helloShare })
}
