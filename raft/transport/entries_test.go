// Entries, which are most of what brokers send each other: their frames without a sum over them, those of the protocol before, and the
// reader that takes them in without a copy.

package transport

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"reflect"
	"runtime"
	"testing"
	"testing/iotest"
	"time"

	"github.com/balsamq/balsa/raft"
)

// entriesFrame is what a lane sends at protocol 3, in one piece.
func entriesFrame(m *raft.Message) []byte {
	f := appendMessage(append(beginFrame(nil, frameEntries), make([]byte, headLen)...), m)
	n := 0
	for i := range m.Entries {
		n += len(m.Entries[i].Frame)
	}
	endEntries(f, 0, n)
	for i := range m.Entries {
		f = append(f, m.Entries[i].Frame...)
	}
	return f
}

func TestEntriesFrame(t *testing.T) {
	m := app(1, 2, 7, 300)
	m.Entries = append(m.Entries, raft.Entry{Frame: []byte("another")})
	f := entriesFrame(&m)
	entries := 307
	typ, body, err := newFrameReader(bytes.NewReader(f), 4096).next(len(f))
	if err != nil || typ != frameEntries {
		t.Fatal(typ, err)
	}
	if got, err := decodeEntries(typ, body); err != nil || !reflect.DeepEqual(got, m) {
		t.Fatalf("%+v %v", got, err)
	}
	// Any single flipped bit of what is not entries is noticed. Those of entries are their group's to find.
	for bit := range (len(f) - entries) * 8 {
		g := bytes.Clone(f)
		g[bit/8] ^= 1 << (bit % 8)
		typ, body, err := newFrameReader(bytes.NewReader(g), 4096).next(1 << 20)
		if err == nil {
			t.Fatalf("bit %d flipped: type %d, %d bytes", bit, typ, len(body))
		}
	}
	// A head that ends elsewhere than it says, with a sum that is right.
	for _, off := range []int{-headLen, -1, 1, entries} {
		g := bytes.Clone(f)
		head := len(f) - entries - frameHeaderLen - headLen + off
		if off == -headLen {
			head = 0
		}
		binary.LittleEndian.PutUint32(g[frameHeaderLen:], uint32(head))
		binary.LittleEndian.PutUint32(g[4:], frameCRC(g[:frameHeaderLen], g[frameHeaderLen:frameHeaderLen+headLen+head]))
		typ, body, err := newFrameReader(bytes.NewReader(g), 4096).next(len(g))
		if err != nil {
			t.Fatal(err)
		}
		if m, err := decodeEntries(typ, body); err == nil {
			t.Fatalf("a head %d off decodes: %+v", off, m)
		}
	}
	for _, n := range []uint32{uint32(len(f)), 1<<32 - 1} {
		g := bytes.Clone(f)
		binary.LittleEndian.PutUint32(g[frameHeaderLen:], n)
		if _, _, err := newFrameReader(bytes.NewReader(g), 4096).next(len(g)); err == nil {
			t.Fatalf("a head of %d bytes is read", n)
		}
	}
	short := append(beginFrame(nil, frameEntries), 1, 0)
	endFrame(short, 0)
	if _, _, err := newFrameReader(bytes.NewReader(short), 4096).next(len(short)); err == nil {
		t.Fatal("a frame without a head is read")
	}
}

// However the bytes come, frames of all sizes come out whole and in order.
func TestFramesInPieces(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	var sent []frame
	var stream []byte
	for i := range 300 {
		f := frame{[]frameType{framePair, frameApp, frameEntries, frameMessages}[r.IntN(4)], make([]byte, []int{headLen, 100, unclearedFrom - 1, unclearedFrom, 20_000, 70_000, 140_000}[r.IntN(7)]+r.IntN(30))}
		for k := range f.body {
			f.body[k] = byte(i)
		}
		b := beginFrame(nil, f.typ)
		if f.typ == frameEntries {
			binary.LittleEndian.PutUint32(f.body, uint32(r.IntN(len(f.body)-headLen+1)))
			summed, err := f.typ.summed(f.body)
			if err != nil {
				t.Fatal(err)
			}
			binary.LittleEndian.PutUint32(b, uint32(len(f.body)))
			binary.LittleEndian.PutUint32(b[4:], frameCRC(b, summed))
		} else {
			endFrame(b, 0, f.body)
		}
		sent = append(sent, f)
		stream = append(append(stream, b...), f.body...)
	}
	random := func(r io.Reader) io.Reader { return &pieces{r, rand.New(rand.NewPCG(7, 7))} }
	ways := map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "halves": iotest.HalfReader, "bytes": iotest.OneByteReader,
		"pieces": random, "with the end": iotest.DataErrReader}
	for way, in := range ways {
		for _, size := range []int{64, 4 << 10, 100_000, 512 << 10} {
			readsFrames(t, fmt.Sprintf("%s, by %d", way, size), newFrameReader(in(bytes.NewReader(stream)), size), sent)
		}
	}
	// A stream that ends within a frame, or within a header of which some has come with the body before.
	f := append(beginFrame(nil, frameApp), make([]byte, 2*unclearedFrom)...)
	endFrame(f, 0)
	for _, n := range []int{1, frameHeaderLen - 1, frameHeaderLen, len(f) - 1, len(f) + 1, len(f) + frameHeaderLen, 2*len(f) - 1} {
		for _, size := range []int{100, 512 << 10} {
			fr := newFrameReader(bytes.NewReader(append(bytes.Clone(f), f...)[:n]), size)
			err := error(nil)
			for err == nil {
				_, _, err = fr.next(1 << 20)
			}
			if err != io.ErrUnexpectedEOF {
				t.Fatalf("by %d, cut after %d of %d bytes: %v", size, n, len(f), err)
			}
		}
	}
}

// A peer that claims a frame of the largest size, and sends nothing of it, has us take firstRead at most.
func TestFrameClaimsTakeLittleMemory(t *testing.T) {
	for _, typ := range []frameType{frameEntries, frameMessages} {
		h := beginFrame(nil, typ)
		binary.LittleEndian.PutUint32(h, 100<<20)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err := newFrameReader(bytes.NewReader(h), readBuffer(laneBulk)).next(128 << 20)
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; err != io.ErrUnexpectedEOF || took > 2*firstRead {
			t.Fatalf("type %d: %d bytes taken, %v", typ, took, err)
		}
	}
}

type frame struct {
	typ  frameType
	body []byte
}

func readsFrames(t *testing.T, name string, fr *frameReader, sent []frame) {
	t.Helper()
	var kept [][]byte
	for i, f := range sent {
		typ, body, err := fr.next(1 << 20)
		if err != nil || typ != f.typ || !bytes.Equal(body, f.body) {
			t.Fatalf("%s: frame %d: type %d, %d bytes, %v; sent %d, %d", name, i, typ, len(body), err, f.typ, len(f.body))
		}
		if typ.owned() {
			if cap(body) != len(body) {
				t.Fatalf("%s: a body's capacity reaches beyond it", name)
			}
			kept = append(kept, body)
		}
	}
	if _, _, err := fr.next(1 << 20); err != io.EOF {
		t.Fatalf("%s: at the end: %v", name, err)
	}
	for _, f := range sent {
		if f.typ.owned() {
			if !bytes.Equal(kept[0], f.body) {
				t.Fatalf("%s: a body has changed after it was read", name)
			}
			kept = kept[1:]
		}
	}
}

// pieces reads as much as chance has it.
type pieces struct {
	r   io.Reader
	rng *rand.Rand
}

func (p *pieces) Read(b []byte) (int, error) { return p.r.Read(b[:min(len(b), 1+p.rng.IntN(50_000))]) }

// A broker that speaks protocol 2 is sent what it understands, and understood.
func TestEntriesOfProtocol2(t *testing.T) {
	b := newBook()
	n1 := start(t, b, 1, nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	b.set(2, ln.Addr().String())
	for _, c := range []struct {
		top  byte
		want frameType
	}{{2, frameApp}, {3, frameEntries}, {9, frameEntries}} {
		n1.Send(2, []raft.Message{app(1, 2, 5, 10_000)})
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		fr := newFrameReader(conn, 4096)
		h, err := receiveHello(fr)
		if err != nil || h.min != minProtocol || h.max != maxProtocol {
			t.Fatalf("%+v %v", h, err)
		}
		if err := answer(conn, &identity{cluster: testCluster, self: raft.Member{ID: 2}}, min(c.top, h.max), accepted, ""); err != nil {
			t.Fatal(err)
		}
		typ, body, err := fr.next(1 << 20)
		for err == nil && typ == framePing {
			typ, body, err = fr.next(1 << 20)
		}
		if err != nil || typ != c.want {
			t.Fatalf("protocol %d: frame of type %d, %v", c.top, typ, err)
		}
		want := app(1, 2, 5, 10_000)
		if m, err := decodeEntries(typ, body); err != nil || !reflect.DeepEqual(m, want) {
			t.Fatalf("protocol %d: %+v %v", c.top, m, err)
		}
		before := n1.unreachable.Load()
		conn.Close()
		eventually(t, "the lane has noticed, and dials again", func() bool {
			if n1.unreachable.Load() == before {
				return false
			}
			l := n1.peer(2).bulk
			l.mu.Lock()
			defer l.mu.Unlock()
			return !l.down
		})
	}
	conn, err := net.Dial("tcp", n1.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	h := hello{min: 2, max: 2, lane: laneBulk, identity: identity{cluster: testCluster, self: raft.Member{ID: 3, Incarnation: 1}}}
	if w, err := greet(conn, newFrameReader(conn, 100), "n1", &h, patience); err != nil || w.version != 2 {
		t.Fatalf("%+v %v", w, err)
	}
	m := app(3, 1, 5, 10_000)
	f := append(beginFrame(nil, frameApp), encodeApp(&m)...)
	endFrame(f, 0)
	if _, err := conn.Write(f); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its entries arrive", func() bool { return n1.got(raft.MsgApp) == 1 })
}
