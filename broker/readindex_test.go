package broker

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/raft"
)

func TestReadIndexRoundTrip(t *testing.T) {
	groups := []raft.GroupID{2, 1 << 50, 3}
	ask := encodeReadAsk(groups)
	if got, err := decodeReadAsk(ask); err != nil || !reflect.DeepEqual(got, groups) {
		t.Fatalf("%v became %v, %v", groups, got, err)
	}
	points := []readPoint{{readConfirmed, 1 << 40, 9}, {code: readNotLeader}, {code: readUnconfirmed}}
	answer := encodeReadPoints(points)
	if got, err := decodeReadPoints(answer, 3); err != nil || !reflect.DeepEqual(got, points) {
		t.Fatalf("%v became %v, %v", points, got, err)
	}
	for _, want := range []int{0, 2, 4} {
		if _, err := decodeReadPoints(answer, want); !errors.Is(err, errRPC) {
			t.Fatalf("3 points for %d groups: %v", want, err)
		}
	}
	for i := range ask {
		if _, err := decodeReadAsk(ask[:i]); !errors.Is(err, errRPC) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	for i := range answer {
		if _, err := decodeReadPoints(answer[:i], 3); !errors.Is(err, errRPC) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	for _, b := range [][]byte{append(slices.Clone(ask), 0), {2, 0, 0}, {1, 1, 0}, encodeReadAsk(make([]raft.GroupID, maxReadGroups+1))} {
		if _, err := decodeReadAsk(b); !errors.Is(err, errRPC) {
			t.Fatalf("%d bytes that are none of ours: %v", len(b), err)
		}
	}
}

func FuzzDecodeReadIndex(f *testing.F) {
	f.Add(encodeReadAsk([]raft.GroupID{2, 3}))
	f.Add(encodeReadPoints([]readPoint{{readConfirmed, 7, 9}}))
	f.Add([]byte{1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if groups, err := decodeReadAsk(b); err == nil {
			again, err := decodeReadAsk(encodeReadAsk(groups))
			if err != nil || !slices.Equal(again, groups) {
				t.Fatalf("%v became %v, %v", groups, again, err)
			}
		} else if !errors.Is(err, errRPC) {
			t.Fatalf("unexpected kind of error: %v", err)
		}
		for n := range 3 {
			if points, err := decodeReadPoints(b, n); err != nil && !errors.Is(err, errRPC) {
				t.Fatalf("unexpected kind of error: %v", err)
			} else if err == nil && len(points) != n {
				t.Fatalf("%d points for %d groups", len(points), n)
			}
		}
	})
}

// heldCaller keeps calls until the test lets them go.
type heldCaller struct {
	calls chan heldCall
}

type heldCall struct {
	node   raft.NodeID
	groups []raft.GroupID
	answer chan<- []byte
}

func (c *heldCaller) Call(ctx context.Context, node raft.NodeID, _ uint16, body []byte) ([]byte, error) {
	groups, err := decodeReadAsk(body)
	if err != nil {
		return nil, err
	}
	answer := make(chan []byte, 1)
	c.calls <- heldCall{node, groups, answer}
	select {
	case b := <-answer:
		return b, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// What comes while a call is on its way shares the next one, once per group, and is not answered by the first.
func TestReadAskerBatches(t *testing.T) {
	caller := &heldCaller{calls: make(chan heldCall)}
	ctx, cancel := context.WithCancel(t.Context())
	a := newReadAsker(ctx, caller, time.Hour)
	type answer struct {
		index raft.Index
		epoch int32
		err   error
	}
	ask := func(node raft.NodeID, g raft.GroupID) <-chan answer {
		got := make(chan answer, 2)
		a.ask(node, g, func(i raft.Index, epoch int32, err error) { got <- answer{i, epoch, err} })
		return got
	}
	first := ask(2, 10)
	call := <-caller.calls
	var rest []<-chan answer
	for i := range 1000 {
		rest = append(rest, ask(2, raft.GroupID(10+i%3)))
	}
	other := ask(3, 10)
	toOther := <-caller.calls // another broker's call does not wait for this one's
	if call.node != 2 || !slices.Equal(call.groups, []raft.GroupID{10}) || toOther.node != 3 {
		t.Fatalf("calls %+v, %+v", call, toOther)
	}
	call.answer <- encodeReadPoints([]readPoint{{readConfirmed, 7, 9}})
	if got := <-first; got.err != nil || got.index != 7 || got.epoch != 9 {
		t.Fatalf("%+v", got)
	}
	second := <-caller.calls
	if !slices.Equal(second.groups, []raft.GroupID{10, 11, 12}) {
		t.Fatalf("the second call asks for %v", second.groups)
	}
	for i, c := range rest {
		select {
		case got := <-c:
			t.Fatalf("read %d was answered by the call before it: %+v", i, got)
		default:
		}
	}
	second.answer <- encodeReadPoints([]readPoint{{readConfirmed, 8, 9}, {code: readNotLeader}, {code: readUnconfirmed}})
	for i, c := range rest {
		got := <-c
		ok := got.err == nil && got.index == 8 && got.epoch == 9
		switch i % 3 {
		case 1:
			ok = errors.Is(got.err, partition.ErrNotLeader)
		case 2:
			ok = errors.Is(got.err, partition.ErrUnavailable)
		}
		if !ok {
			t.Fatalf("read %d: %+v", i, got)
		}
	}
	toOther.answer <- []byte{1, 0, 0} // answers nothing that was asked
	if got := <-other; !errors.Is(got.err, errRPC) {
		t.Fatalf("%+v", got)
	}
	// Bounded, and closed with whatever is on its way.
	last := ask(2, 10)
	<-caller.calls
	var wg sync.WaitGroup
	wg.Add(maxReadsWaiting)
	for range maxReadsWaiting {
		a.ask(2, 11, func(raft.Index, int32, error) { wg.Done() })
	}
	if got := <-ask(2, 12); !errors.Is(got.err, partition.ErrOverloaded) {
		t.Fatalf("beyond the bound: %+v", got)
	}
	cancel()
	go func() {
		for range caller.calls {
		}
	}()
	a.close()
	wg.Wait()
	if got := <-last; !errors.Is(got.err, context.Canceled) {
		t.Fatalf("on its way at the close: %+v", got)
	}
	if got := <-ask(2, 12); !errors.Is(got.err, partition.ErrClosed) {
		t.Fatalf("after the close: %+v", got)
	}
	close(caller.calls)
}
