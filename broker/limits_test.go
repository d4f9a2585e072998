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

// Who announces large requests and sends a byte now and then keeps the memory for them only until others want it.
func TestSlowArrivals(t *testing.T) {
	t.Parallel()
	h := newHarness(t, serverOptions{MaxRequestBytes: 1 << 20, RequestMemory: 2 << 20, ConnectionMemory: 2 << 20, StallTimeout: time.Hour})
	id := h.back.addTopic("t", 1, nil)
	var slow []*kafkaClient
	for range 2 {
		c := h.dial()
		c.nc.Write(append(binary.BigEndian.AppendUint32(nil, 1<<20), 0, 0, 0, 9, 0, 0, 0, 1))
		slow = append(slow, c)
	}
	becomes(t, "they hold all memory", func() bool { return h.memory.used.Load() == 2<<20 })
	c := h.dial()
	if p := ask[*kmsg.ProduceResponse](c, produceRequest(9, -1, "t", id, 0, testBatch(strings.Repeat("x", 100_000)))).Topics[0].Partitions[0]; p.ErrorCode != 0 {
		t.Fatalf("%+v", p)
	}
	for _, c := range slow {
		c.closed()
	}
	if !strings.Contains(h.logs.String(), errArrivesSlowly.Error()) {
		t.Errorf("log: %s", h.logs)
	}
	becomes(t, "all memory is back", func() bool { return h.memory.used.Load() == 0 })

	began := time.Unix(0, 0)
	for _, x := range []struct {
		after time.Duration
		got   int64
		late  bool
	}{{arrivalGrace, 0, false}, {arrivalGrace + time.Millisecond, 0, true}, {arrivalGrace + arrivalTime/2, 499, true}, {arrivalGrace + arrivalTime/2, 500, false}} {
		a := arrival{size: 1000, began: began}
		a.got.Store(x.got)
		if late := a.late(began.Add(x.after)); late != x.late {
			t.Errorf("%d of 1000 bytes after %v: late is %v", x.got, x.after, late)
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
