// What is written without the lane's goroutine: at once, in order with what is queued, and whole even where the socket is full.

package transport

import (
	"net"
	"testing"
	"time"

	"github.com/balsamq/balsa/raft"
)

func TestSendNow(t *testing.T) {
	b := newBook()
	n1, n2 := start(t, b, 1, func(o *Options) { o.MaxBulkQueued, o.MaxControlQueued = 1<<20, 1<<20 }), start(t, b, 2, nil)
	n1.Send(2, []raft.Message{vote(1, 2, 0), app(1, 2, 0, 1)})
	eventually(t, "both lanes stand", func() bool { return n2.got(raft.MsgVote)+n2.got(raft.MsgApp) == 2 })

	votes, apps := 1, 1
	for _, c := range []struct {
		what string
		next func() raft.Message
	}{
		{"a vote", func() raft.Message { votes++; return vote(1, 2, uint64(votes-1)) }},
		{"entries", func() raft.Message { apps++; return app(1, 2, apps-1, 1000) }},
	} {
		eventually(t, c.what+" is on its way when SendNow returns", func() bool { // not while the lane pings
			before := n1.Stats().SentMessages
			n1.SendNow(2, []raft.Message{c.next()})
			return n1.Stats().SentMessages == before+1
		})
	}
	for i := range 5000 {
		send := n1.Send
		if i%3 > 0 {
			send = n1.SendNow
		}
		size := 1 + i%300
		if i%50 == 0 {
			size = 2 * promptBytes
		}
		msgs := []raft.Message{vote(1, 2, uint64(votes)), app(1, 2, apps, size)}
		votes, apps = votes+1, apps+1
		send(2, msgs)
		clear(msgs) // they are ours again
	}
	eventually(t, "all messages arrive", func() bool { return n2.got(raft.MsgVote) == votes && n2.got(raft.MsgApp) == apps })
	inOrder(t, n2)
}

// inOrder: votes and entries each came in the order of their numbers, from 0 on, and entries as they were.
func inOrder(t *testing.T, n *node) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	votes, apps := 0, 0
	for i := range n.msgs {
		switch m := &n.msgs[i]; m.Type {
		case raft.MsgVote:
			if m.Round != uint64(votes) {
				t.Fatalf("vote %d came as number %d", m.Round, votes)
			}
			votes++
		case raft.MsgApp:
			if m.Index != raft.Index(apps) {
				t.Fatalf("entries %d came as number %d", m.Index, apps)
			}
			for _, b := range m.Entries[0].Frame {
				if b != byte(apps) {
					t.Fatalf("entries %d came with a byte %d", apps, b)
				}
			}
			apps++
		}
	}
}

func TestSendNowIntoAFullSocket(t *testing.T) {
	b := newBook()
	gate := make(chan struct{})
	n1 := start(t, b, 1, func(o *Options) {
		o.MaxBulkQueued, o.MaxBulkBytes, o.PingTimeout, o.WriteTimeout = 1<<20, 1<<30, patience, patience
	})
	n2 := start(t, b, 2, func(o *Options) {
		deliver := o.Deliver
		o.Deliver = func(ms []raft.Message) { <-gate; deliver(ms) }
	})
	l := n1.peer(2).bulk
	count := 0
	send := func() {
		n1.SendNow(2, []raft.Message{app(1, 2, count, promptBytes-500+count%100)})
		count++
	}
	left := false // a part of a message
	eventually(t, "the socket is full", func() bool {
		send()
		l.mu.Lock()
		defer l.mu.Unlock()
		left = left || len(l.rest) > 0
		return len(l.items)-l.head > 10
	})
	if !left {
		t.Log("no message was cut: the lane's goroutine met the full socket first")
	}
	close(gate)
	for range 1000 {
		send()
	}
	eventually(t, "all messages arrive", func() bool { return n2.got(raft.MsgApp) == count })
	inOrder(t, n2)
}

// A connection that ends meanwhile loses messages, and nothing else: what comes afterwards is whole.
func TestSendNowWhileThePeerRestarts(t *testing.T) {
	b := newBook()
	n1 := start(t, b, 1, nil)
	for id := range 3 {
		n2 := start(t, b, 2, func(o *Options) { o.Boot = uint64(id + 1) })
		eventually(t, "messages arrive", func() bool {
			n1.SendNow(2, []raft.Message{vote(1, 2, 0), app(1, 2, 7, 3000)})
			return n2.got(raft.MsgVote) > 100 && n2.got(raft.MsgApp) > 100
		})
		if err := n2.Close(); err != nil {
			t.Fatal(err)
		}
		n2.mu.Lock()
		for i := range n2.msgs {
			if m := &n2.msgs[i]; m.Type == raft.MsgApp && (m.Index != 7 || len(m.Entries[0].Frame) != 3000) {
				t.Fatalf("message %d came as %+v", i, m)
			}
		}
		n2.mu.Unlock()
	}
}

// What a write that failed has left on the connection may be a part of a message. Nobody writes behind that, as the other side would take it for the rest.
func TestNothingFollowsAFailedWrite(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	other, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close() // and reads nothing
	l := start(t, newBook(), 1, nil).newLane(2, laneBulk)
	l.version = protocolEntries
	l.open(c)
	for err = nil; err == nil; err = l.write(c, 10*time.Millisecond) {
		l.push([]raft.Message{app(1, 2, 1, 4<<20)})
		if some, _ := l.take(); !some {
			t.Fatal("nothing to write")
		}
	}
	l.pushNow([]raft.Message{app(1, 2, 2, 10)})
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.items) - l.head; n != 1 || len(l.rest) > 0 {
		t.Fatalf("%d messages are queued after a write that failed, want 1; %d bytes are left of what was written behind it", n, len(l.rest))
	}
}

// A ping that was not written is not unanswered.
func TestPingWhileSomebodyWrites(t *testing.T) {
	l := start(t, newBook(), 1, nil).newLane(2, laneBulk)
	l.claim()
	var unanswered time.Time
	if err := l.ping(nil, nil, &unanswered, time.Second, time.Second); err != nil || !unanswered.IsZero() {
		t.Fatalf("%v, waited for since %v", err, unanswered)
	}
}
