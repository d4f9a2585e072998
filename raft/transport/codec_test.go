// The encoding: what goes in comes out, whatever comes in does no harm, and no claim takes memory.

package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"testing"

	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

func randomMessage(r *rand.Rand, t raft.MessageType) raft.Message {
	wide := func() uint64 { return r.Uint64() >> r.UintN(64) }
	m := raft.Message{
		Type: t, Group: raft.GroupID(wide()), From: raft.NodeID(r.Uint32() >> 1), To: raft.NodeID(r.Uint32() >> 1),
		FromIncarnation: raft.Incarnation(r.Uint64()), ToIncarnation: raft.Incarnation(r.Uint64()), FromBoot: wide(), Epoch: raft.GroupEpoch(r.Uint32()),
		Term: raft.Term(r.Uint32() >> 1), LogTerm: raft.Term(r.Uint32() >> 1), Index: raft.Index(wide()), Commit: raft.Index(wide()),
		RejectHint: raft.Index(wide()), Lost: wide(), Round: wide(), SentAt: raft.Time(r.Int64()), Reject: r.IntN(2) == 0, Force: r.IntN(2) == 0,
	}
	if r.IntN(2) == 0 {
		m.SentAt = -m.SentAt
	}
	return m
}

func randomMembers(r *rand.Rand) []raft.Member {
	var ms []raft.Member
	for range r.IntN(4) {
		ms = append(ms, raft.Member{ID: raft.NodeID(r.Uint32() >> 1), Incarnation: raft.Incarnation(r.Uint64())})
	}
	return ms
}

// encodeApp is what lane.app sends, in one piece.
func encodeApp(m *raft.Message) []byte {
	b := appendMessage(nil, m)
	for i := range m.Entries {
		b = append(b, m.Entries[i].Frame...)
	}
	return b
}

// Every field survives; a field that is added to raft.Message and forgotten here fails this test, since all fields are
// compared and all are random.
func TestMessageRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for v, i := reflect.ValueOf(randomMessage(r, raft.MsgVote)), 0; i < v.NumField(); i++ {
		switch name := v.Type().Field(i).Name; name {
		case "Entries", "Snapshot", "Reject", "Force":
		default:
			if v.Field(i).IsZero() {
				t.Fatalf("field %s is not covered by this test", name)
			}
		}
	}
	for range 100 {
		var msgs []raft.Message
		for range r.IntN(20) {
			typ := raft.MessageType(1 + r.IntN(int(raft.MsgTimeoutNow)))
			m := randomMessage(r, typ)
			if typ == raft.MsgSnap {
				m.Snapshot = &raft.Snapshot{Size: r.Int64(), Sum: r.Uint32(), Meta: raft.SnapshotMeta{Index: raft.Index(r.Uint64()), Term: raft.Term(r.Uint32() >> 1),
					Conf: raft.ConfState{Voters: randomMembers(r), Outgoing: randomMembers(r), Learners: randomMembers(r)}}}
			}
			msgs = append(msgs, m)
		}
		b := appendMessages(nil, msgs)
		got, err := decodeMessages(nil, b)
		if err != nil {
			t.Fatal(err)
		}
		if len(got)+len(msgs) > 0 && !reflect.DeepEqual(got, msgs) {
			t.Fatalf("sent %+v\n got %+v", msgs, got)
		}
		for n := range len(b) {
			if _, err := decodeMessages(nil, b[:n]); !errors.Is(err, errDecode) {
				t.Fatalf("%d of %d bytes decode: %v", n, len(b), err)
			}
		}
		if _, err := decodeMessages(nil, append(b, 0)); !errors.Is(err, errDecode) {
			t.Fatalf("a byte too many decodes: %v", err)
		}
	}
}

func TestAppAndChunkRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for range 500 {
		m := randomMessage(r, raft.MsgApp)
		for range 1 + r.IntN(5) {
			f := make([]byte, 1+r.IntN(300))
			for i := range f {
				f[i] = byte(r.Uint32())
			}
			m.Entries = append(m.Entries, raft.Entry{Frame: f})
		}
		b := encodeApp(&m)
		got, err := decodeApp(b)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Fatalf("sent %+v\n got %+v %v", m, got, err)
		}
		rest := 0 // frames lie side by side, and the capacity of none reaches beyond the message
		for i := len(got.Entries) - 1; i >= 0; i-- {
			f := got.Entries[i].Frame
			if rest += len(f); cap(f) != rest {
				t.Fatalf("frame %d has room for %d bytes, and %d are left of the message", i, cap(f), rest)
			}
		}
		for n := range len(b) {
			if _, err := decodeApp(b[:n]); !errors.Is(err, errDecode) {
				t.Fatalf("%d of %d bytes decode: %v", n, len(b), err)
			}
		}

		c := multi.ChunkMessage{Group: raft.GroupID(r.Uint64()), Index: raft.Index(r.Uint64()), Term: raft.Term(r.Uint32() >> 1),
			Size: 1 << 40, Sum: r.Uint32(), Offset: r.Int64N(1 << 39), CRC: r.Uint32()}
		switch r.IntN(3) {
		case 0:
			c.Response, c.Data = true, make([]byte, 1+r.IntN(100))
		case 1:
			c.Response, c.Gone = true, true
		}
		b = append(appendChunkHead(nil, &c), c.Data...)
		if got, err := decodeChunk(b); err != nil || !reflect.DeepEqual(*got, c) {
			t.Fatalf("sent %+v\n got %+v %v", c, got, err)
		}
		for n := range len(b) - len(c.Data) {
			if _, err := decodeChunk(b[:n]); !errors.Is(err, errDecode) {
				t.Fatalf("%d of %d bytes decode: %v", n, len(b), err)
			}
		}
		for _, bad := range []multi.ChunkMessage{{Data: []byte("x"), Size: 9}, {Response: true, Size: 9}, {Response: true, Gone: true, Data: []byte("x"), Size: 9},
			{Response: true, Size: 3, Offset: 2, Data: []byte("xx")}, {Size: 3, Offset: 4}} {
			if _, err := decodeChunk(append(appendChunkHead(nil, &bad), bad.Data...)); !errors.Is(err, errDecode) {
				t.Fatalf("%+v decodes: %v", bad, err)
			}
		}
	}
}

func TestPairRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	ids := func() (gs []raft.GroupID) {
		for range r.IntN(5) {
			gs = append(gs, raft.GroupID(r.Uint64()))
		}
		return gs
	}
	for range 1000 {
		m := &multi.PairMessage{Response: r.IntN(2) == 0, Session: r.Uint64(), Seq: r.Uint64(), SentAt: raft.Time(r.Int64()), Uncover: ids(), Except: ids()}
		for range r.IntN(5) {
			m.Cover = append(m.Cover, multi.CoveredGroup{Group: raft.GroupID(r.Uint64()), Term: raft.Term(r.Uint32() >> 1), Commit: raft.Index(r.Uint64())})
		}
		b := appendPair(nil, m)
		got, err := decodePair(b)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Fatalf("sent %+v\n got %+v %v", m, got, err)
		}
		for n := range len(b) {
			if _, err := decodePair(b[:n]); !errors.Is(err, errDecode) {
				t.Fatalf("%d of %d bytes decode: %v", n, len(b), err)
			}
		}
	}
}

// Counts and lengths that claim more than there is are refused before anything is allocated for them.
func TestClaimsTakeNoMemory(t *testing.T) {
	huge := binary.AppendUvarint(nil, 1<<40)
	app := raft.Message{Type: raft.MsgApp, Entries: []raft.Entry{{Frame: []byte("x")}}}
	plain := raft.Message{Type: raft.MsgApp}
	head := appendMessage(nil, &plain)
	head[1] |= flagEntries
	snap := appendMessage(nil, &plain)
	snap[0], snap[1] = byte(raft.MsgSnap), snap[1]|flagSnapshot
	cases := map[string]func() error{
		"messages": func() error { _, err := decodeMessages(nil, append(bytes.Clone(huge), 1, 2, 3)); return err },
		"entries":  func() error { _, err := decodeApp(append(bytes.Clone(head), huge...)); return err },
		"entry": func() error {
			_, err := decodeApp(append(append(bytes.Clone(head), 1), binary.AppendUvarint(nil, math.MaxUint64)...))
			return err
		},
		"lengths that wrap": func() error {
			b := append(bytes.Clone(head), 2)
			b = binary.AppendUvarint(b, math.MaxUint64)
			b = binary.AppendUvarint(b, 3) // together 2, if they wrapped
			_, err := decodeApp(append(b, 'x', 'y'))
			return err
		},
		"empty entry": func() error { _, err := decodeApp(append(bytes.Clone(head), 2, 0, 1, 'x')); return err },
		"members": func() error {
			_, err := decodeMessages(nil, append(append([]byte{1}, snap...), append([]byte{1, 1, 1, 0, 0, 0, 0}, huge...)...))
			return err
		},
		"pair": func() error { _, err := decodePair(append(make([]byte, 11), huge...)); return err },
		"term above int32": func() error {
			m := plain
			m.Term = raft.MaxTerm + 1
			_, err := decodeMessages(nil, appendMessages(nil, []raft.Message{m}))
			return err
		},
		"node above int32": func() error {
			m := plain
			m.From = 1 << 31
			_, err := decodeMessages(nil, appendMessages(nil, []raft.Message{m}))
			return err
		},
		"entries among messages": func() error {
			_, err := decodeMessages(nil, append([]byte{1}, encodeApp(&app)...))
			return err
		},
	}
	for name, f := range cases {
		var err error
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		const times = 100
		for range times {
			err = f()
		}
		runtime.ReadMemStats(&after)
		bytesTaken := (after.TotalAlloc - before.TotalAlloc) / times
		if !errors.Is(err, errDecode) {
			t.Errorf("%s: %v", name, err)
		}
		if bytesTaken > 8<<10 {
			t.Errorf("%s: took %d bytes", name, bytesTaken)
		}
	}
}

func TestFrames(t *testing.T) {
	body := bytes.Repeat([]byte("balsa"), 1_000_000) // more than firstRead
	for _, typ := range []frameType{frameApp, frameMessages} {
		f := append(beginFrame(nil, typ), body...)
		endFrame(f, 0)
		split := beginFrame(nil, typ)
		endFrame(split, 0, body[:100], body[100:])
		if !bytes.Equal(f, append(split, body...)) {
			t.Fatal("a frame in pieces differs from the frame in one")
		}
		fr := newFrameReader(bytes.NewReader(append(f, f...)), 4096)
		for range 2 {
			got, b, err := fr.next(len(body))
			if err != nil || got != typ || !bytes.Equal(b, body) {
				t.Fatal(got, len(b), err)
			}
		}
		if _, _, err := newFrameReader(bytes.NewReader(f), 4096).next(len(body) - 1); !errors.Is(err, errFrameLarge) {
			t.Fatal(err)
		}
	}
	// Any single flipped bit is noticed: in the body, the length, the type, the flags, the checksum.
	f := append(beginFrame(nil, framePair), "some body"...)
	endFrame(f, 0)
	for bit := range len(f) * 8 {
		g := bytes.Clone(f)
		g[bit/8] ^= 1 << (bit % 8)
		if typ, b, err := newFrameReader(bytes.NewReader(g), 4096).next(1 << 20); err == nil {
			t.Fatalf("bit %d flipped: type %d, %q", bit, typ, b)
		}
	}
}

func FuzzFrame(f *testing.F) {
	g := append(beginFrame(nil, framePair), "some body"...)
	endFrame(g, 0)
	f.Add(g)
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(bytes.Repeat([]byte{0xff}, 64))
	m := app(1, 2, 3, 5)
	f.Add(entriesFrame(&m))
	f.Fuzz(func(t *testing.T, data []byte) {
		fr := newFrameReader(bytes.NewReader(data), 64)
		for total := 0; ; {
			_, body, err := fr.next(1 << 20)
			if err != nil {
				return
			}
			if total += frameHeaderLen + len(body); total > len(data) {
				t.Fatal("more came out than went in")
			}
		}
	})
}

func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(4, 4))
	m := randomMessage(r, raft.MsgApp)
	f.Add(appendMessages(nil, []raft.Message{m, randomMessage(r, raft.MsgVote)}))
	m.Entries = []raft.Entry{{Frame: []byte("one")}, {Frame: []byte("three")}}
	f.Add(encodeApp(&m))
	f.Add(entriesFrame(&m)[frameHeaderLen:])
	s := randomMessage(r, raft.MsgSnap)
	s.Snapshot = &raft.Snapshot{Meta: raft.SnapshotMeta{Conf: raft.ConfState{Voters: []raft.Member{{ID: 1, Incarnation: 2}}}}}
	f.Add(appendMessages(nil, []raft.Message{s}))
	f.Add(append(appendChunkHead(nil, &multi.ChunkMessage{Response: true, Group: 7, Index: 5, Term: 2, Size: 9, Offset: 3}), "piece"...))
	f.Add(appendPair(nil, &multi.PairMessage{Cover: []multi.CoveredGroup{{Group: 1, Term: 2, Commit: 3}}, Except: []raft.GroupID{9}}))
	f.Add(appendHello(nil, &hello{min: minProtocol, max: maxProtocol, lane: laneRPC}))
	f.Add(appendWelcome(nil, &welcome{reason: "because"}))
	f.Add(requestFrame(&request{id: 1, method: 2, left: 3, body: []byte("x")})[frameHeaderLen:])
	f.Add(responseFrame(&response{id: 1, err: &RPCError{Code: 2, Msg: "no"}})[frameHeaderLen:])
	f.Fuzz(func(t *testing.T, data []byte) {
		// What decodes must encode to something that decodes to the same.
		if msgs, err := decodeMessages(nil, data); err == nil {
			if again, err := decodeMessages(nil, appendMessages(nil, msgs)); err != nil || !reflect.DeepEqual(msgs, again) {
				t.Fatalf("%+v\n%+v %v", msgs, again, err)
			}
		}
		if m, err := decodeEntries(frameEntries, data); err == nil {
			again := entriesFrame(&m)[frameHeaderLen:]
			if got, err := decodeEntries(frameEntries, again); err != nil || !reflect.DeepEqual(m, got) {
				t.Fatalf("%+v\n%+v %v", m, got, err)
			}
		}
		if m, err := decodeApp(data); err == nil {
			if again, err := decodeApp(encodeApp(&m)); err != nil || !reflect.DeepEqual(m, again) {
				t.Fatalf("%+v\n%+v %v", m, again, err)
			}
		}
		if m, err := decodeChunk(data); err == nil {
			if again, err := decodeChunk(append(appendChunkHead(nil, m), m.Data...)); err != nil || !reflect.DeepEqual(m, again) {
				t.Fatalf("%+v\n%+v %v", m, again, err)
			}
		}
		if m, err := decodePair(data); err == nil {
			if again, err := decodePair(appendPair(nil, m)); err != nil || !reflect.DeepEqual(m, again) {
				t.Fatalf("%+v\n%+v %v", m, again, err)
			}
		}
		if h, err := decodeHello(data); err == nil {
			if again, err := decodeHello(appendHello(nil, &h)); err != nil || again != h {
				t.Fatalf("%+v\n%+v %v", h, again, err)
			}
			(&identity{self: raft.Member{ID: 1}}).judge(&h)
		}
		if w, err := decodeWelcome(data); err == nil {
			if again, err := decodeWelcome(appendWelcome(nil, &w)); err != nil || again != w {
				t.Fatalf("%+v\n%+v %v", w, again, err)
			}
		}
		if r, err := decodeRequest(data); err == nil {
			if again, err := decodeRequest(requestFrame(&r)[frameHeaderLen:]); err != nil || !reflect.DeepEqual(r, again) {
				t.Fatalf("%+v\n%+v %v", r, again, err)
			}
		}
		if r, err := decodeResponse(data); err == nil && (r.err != nil || len(r.body) == len(data)-responseLen) {
			if again, err := decodeResponse(responseFrame(&r)[frameHeaderLen:]); err != nil || !reflect.DeepEqual(r, again) {
				t.Fatalf("%+v\n%+v %v", r, again, err)
			}
		}
	})
}
