// The crashable in-memory file system. It keeps, for every file and directory, what a power loss could not take away
// (the durable image) beside what the process sees, and the list of changes between the two. A crash plays a random
// part of that list onto the durable image.
//
//	file:  cur  [page][page][page]      pages are shared by both images until they are written again
//	       dur  [page][page]
//	       pending: write(sectors 3..9), truncate(5000), allocate, write(sector 1) …   since the last Sync
//	dir:   cur names, durable names, pending: link a, unlink b, rename a→b …           since the last SyncDir
//
// What survives a crash: each pending write wholly, not at all, or torn: any subset of its 512-byte sectors, where a
// sector is atomic and carries all that the process had put there by then. Each pending name change is kept or lost
// on its own, without regard to order. A rename is one change within one directory; across directories the new name may
// survive without the old one's removal, but never the other way round (no journaling file system loses a file so).
// Nothing is copied wholesale: a Sync moves page pointers, a crash touches only what is pending.

package vfs

import (
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// SectorSize is the unit that [Mem] writes atomically, as a disk does.
	SectorSize = 512
	pageSize   = 4096
	// maxPending bounds the changes that a file remembers between syncs; beyond it the older half counts as written
	// back, which is what an operating system does with old dirty pages too.
	maxPending = 1 << 14
	// maxMemFile bounds a file's size, so that a wild offset is an error and not an allocation.
	maxMemFile = 64 << 30
)

// pageEpoch hands out ownership marks for pages; see memPage.
var pageEpoch atomic.Uint64

// memPage is a piece of file content. It may be written in place only by the file whose epoch it carries: then nobody
// else (the durable image, a clone) points to it.
type memPage struct {
	epoch uint64
	data  [pageSize]byte
}

type change struct {
	kind changeKind
	off  int64  // write: sector-aligned start; truncate: the size
	data []byte // write: whole sectors (the last may end at the file's end)
	end  int64  // write: file size that this write made sure of
	// direct: a write past the cache, so that nothing but the disk has it
	direct bool
}

type changeKind uint8

const (
	changeWrite changeKind = iota
	changeTruncate
	changeAllocate
)

// inode is a file or a directory. All fields are guarded by the tree's lock.
type inode struct {
	dir bool

	// files
	epoch   uint64
	cur     []*memPage // nil: a page of zeros
	size    int64
	dur     []*memPage
	durSize int64
	dirty   []int // pages that cur and dur do not share
	pending []change

	// directories
	names    map[string]*inode
	durNames map[string]*inode
	moves    []nameChange
}

// nameChange is one entry of a directory's history: after it, unlink is gone and link leads to node.
type nameChange struct {
	unlink string
	link   string
	node   *inode
	move   *move // a rename across directories: its two halves share it
}

// move is a rename across directories.
type move struct{ linked, unlinked bool } // halves that are durable

// sync marks a half as durable.
func (c *nameChange) sync() {
	if c.move == nil {
		return
	}
	if c.link != "" {
		c.move.linked = true
	} else {
		c.move.unlinked = true
	}
}

// Mem is a crashable in-memory file system. Its methods are safe for any goroutine.
type Mem struct {
	mu    sync.RWMutex
	rng   *rand.Rand // for Crash(nil)
	root  *inode
	life  uint64 // raised by Crash: handles and locks of an earlier life are dead
	boot  uint64 // raised by each power loss
	locks map[string]bool
}

// NewMem makes an empty crashable file system. seed drives crashes that bring no random source of their own.
func NewMem(seed uint64) *Mem {
	return &Mem{rng: rand.New(rand.NewPCG(seed, 0x6d656d)), root: newDir(), locks: map[string]bool{}}
}

func newDir() *inode {
	return &inode{dir: true, names: map[string]*inode{}, durNames: map[string]*inode{}}
}

func split(name string) []string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return nil
	}
	return strings.Split(name, "/")
}

func pathErr(op, name string, err error) error { return &fs.PathError{Op: op, Path: name, Err: err} }

// lookup finds the inode of name. The caller holds mu.
func (m *Mem) lookup(name string) (*inode, error) {
	n := m.root
	for _, part := range split(name) {
		if !n.dir {
			return nil, fs.ErrNotExist
		}
		c, ok := n.names[part]
		if !ok {
			return nil, fs.ErrNotExist
		}
		n = c
	}
	return n, nil
}

// parent finds the directory that holds name, and name's last element. The caller holds mu.
func (m *Mem) parent(name string) (*inode, string, error) {
	parts := split(name)
	if len(parts) == 0 {
		return nil, "", fs.ErrInvalid
	}
	d, err := m.lookup(strings.Join(parts[:len(parts)-1], "/"))
	if err == nil && !d.dir {
		err = fs.ErrNotExist
	}
	return d, parts[len(parts)-1], err
}

func (d *inode) link(name string, n *inode) {
	d.names[name] = n
	d.moves = append(d.moves, nameChange{link: name, node: n})
}

func (d *inode) unlink(name string) {
	delete(d.names, name)
	d.moves = append(d.moves, nameChange{unlink: name})
}

func (c *nameChange) apply(names map[string]*inode) {
	if c.unlink != "" {
		delete(names, c.unlink)
	}
	if c.link != "" {
		names[c.link] = c.node
	}
}

// Create implements [FS].
func (m *Mem) Create(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base, err := m.parent(name)
	if err != nil {
		return nil, pathErr("create", name, err)
	}
	if _, ok := d.names[base]; ok {
		return nil, pathErr("create", name, fs.ErrExist)
	}
	n := &inode{epoch: pageEpoch.Add(1)}
	d.link(base, n)
	return &memFile{m: m, n: n, name: name, life: m.life}, nil
}

// Open implements [FS].
func (m *Mem) Open(name string) (File, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n, err := m.lookup(name)
	if err == nil && n.dir {
		err = fs.ErrInvalid
	}
	if err != nil {
		return nil, pathErr("open", name, err)
	}
	return &memFile{m: m, n: n, name: name, life: m.life}, nil
}

// Remove implements [FS].
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base, err := m.parent(name)
	if err != nil {
		return pathErr("remove", name, err)
	}
	n, ok := d.names[base]
	switch {
	case !ok:
		return pathErr("remove", name, fs.ErrNotExist)
	case n.dir && len(n.names) > 0:
		return pathErr("remove", name, fmt.Errorf("directory not empty: %w", fs.ErrInvalid))
	}
	d.unlink(base)
	return nil
}

// RemoveAll implements [FS].
func (m *Mem) RemoveAll(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base, err := m.parent(name)
	if err != nil {
		return nil
	}
	if n, ok := d.names[base]; ok {
		emptyTree(n)
		d.unlink(base)
	}
	return nil
}

// emptyTree records the removal of each name below n, as rm -r does: a crash may bring any of them back, but only if
// it brings the directories above back too.
func emptyTree(n *inode) {
	for _, name := range sortedNames(n.names) {
		emptyTree(n.names[name])
		n.unlink(name)
	}
}

// Rename implements [FS].
func (m *Mem) Rename(oldname, newname string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	od, ob, err := m.parent(oldname)
	if err != nil {
		return pathErr("rename", oldname, err)
	}
	nd, nb, err := m.parent(newname)
	if err != nil {
		return pathErr("rename", newname, err)
	}
	n, ok := od.names[ob]
	if !ok {
		return pathErr("rename", oldname, fs.ErrNotExist)
	}
	if od == nd {
		if ob == nb {
			return nil
		}
		c := nameChange{unlink: ob, link: nb, node: n}
		c.apply(od.names)
		od.moves = append(od.moves, c)
		return nil
	}
	mv := &move{}
	nd.link(nb, n)
	nd.moves[len(nd.moves)-1].move = mv
	od.unlink(ob)
	od.moves[len(od.moves)-1].move = mv
	return nil
}

// MkdirAll implements [FS]. Each new directory is durable only after SyncDir of the one above it.
func (m *Mem) MkdirAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.root
	for _, part := range split(dir) {
		c, ok := n.names[part]
		if !ok {
			c = newDir()
			n.link(part, c)
		}
		if !c.dir {
			return pathErr("mkdir", dir, fs.ErrExist)
		}
		n = c
	}
	return nil
}

func sortedNames(m map[string]*inode) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// ReadDir implements [FS].
func (m *Mem) ReadDir(dir string) ([]string, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n, err := m.lookup(dir)
	if err == nil && !n.dir {
		err = fs.ErrInvalid
	}
	if err != nil {
		return nil, pathErr("readdir", dir, err)
	}
	return sortedNames(n.names), nil
}

// Stat implements [FS].
func (m *Mem) Stat(name string) (fs.FileInfo, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n, err := m.lookup(name)
	if err != nil {
		return nil, pathErr("stat", name, err)
	}
	return memInfo{path.Base(path.Clean("/" + name)), n.size, n.dir}, nil
}

type memInfo struct {
	name string
	size int64
	dir  bool
}

func (i memInfo) Name() string       { return i.name }
func (i memInfo) Size() int64        { return i.size }
func (i memInfo) ModTime() time.Time { return time.Time{} }
func (i memInfo) IsDir() bool        { return i.dir }
func (i memInfo) Sys() any           { return nil }
func (i memInfo) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o755
	}
	return 0o644
}

// SyncDir implements [FS].
func (m *Mem) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.lookup(dir)
	if err == nil && !n.dir {
		err = fs.ErrInvalid
	}
	if err != nil {
		return pathErr("syncdir", dir, err)
	}
	for i := range n.moves {
		n.moves[i].apply(n.durNames)
		n.moves[i].sync()
	}
	n.moves = nil
	return nil
}

// Lock implements [FS]. Locks end with a crash, as they do with a process.
func (m *Mem) Lock(name string) (func() error, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locks[name] {
		return nil, pathErr("lock", name, ErrLocked)
	}
	m.locks[name] = true
	life := m.life
	return func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.life == life {
			delete(m.locks, name)
		}
		return nil
	}, nil
}

// Free implements [FS]: memory has no bound here; see [Quota].
func (m *Mem) Free(string) (int64, error) { return math.MaxInt64, nil }

// Total implements [FS].
func (m *Mem) Total(string) (int64, error) { return math.MaxInt64, nil }

// Boot implements [FS].
func (m *Mem) Boot() string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return fmt.Sprintf("boot %d", m.boot)
}

// Crash is a power loss in place: what was not synced is kept, lost or torn at random, every open file and lock is
// dead. With a nil rng the file system's own seed decides.
func (m *Mem) Crash(rng *rand.Rand) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if rng == nil {
		rng = m.rng
	}
	m.root = newPowerLoss(rng).dir(m.root)
	m.life++
	m.boot++
	m.locks = map[string]bool{}
}

// CrashClone is the file system as a power loss now could leave it. m itself goes on undisturbed.
func (m *Mem) CrashClone(rng *rand.Rand) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	if rng == nil {
		rng = m.rng
	}
	return &Mem{
		rng:  rand.New(rand.NewPCG(rng.Uint64(), 0x6d656d)),
		root: newPowerLoss(rng).dir(m.root), locks: map[string]bool{}, boot: m.boot + 1,
	}
}

// powerLoss decides what survives.
type powerLoss struct {
	rng   *rand.Rand
	seen  map[*inode]*inode // a file that has two names stays one file
	moves map[*move]int     // halves of a rename across directories that survive: 0, 1 (the new name), 2
}

func newPowerLoss(rng *rand.Rand) *powerLoss {
	return &powerLoss{rng, map[*inode]*inode{}, map[*move]int{}}
}

// keeps says whether a name change that was not synced survives.
func (p *powerLoss) keeps(c *nameChange) bool {
	if c.move == nil {
		return p.rng.IntN(2) == 0
	}
	halves, ok := p.moves[c.move]
	if !ok {
		halves = p.rng.IntN(3)
		if c.move.linked {
			halves = 1 + p.rng.IntN(2)
		}
		if c.move.unlinked {
			halves = 2
		}
		p.moves[c.move] = halves
	}
	return halves == 2 || halves == 1 && c.link != ""
}

// dir returns the state of a directory after the power loss.
func (p *powerLoss) dir(d *inode) *inode {
	names := make(map[string]*inode, len(d.durNames))
	for name, n := range d.durNames {
		names[name] = n
	}
	for i := range d.moves {
		if p.keeps(&d.moves[i]) {
			d.moves[i].apply(names)
		}
	}
	out := newDir()
	for _, name := range sortedNames(names) {
		n := names[name]
		c, ok := p.seen[n]
		if !ok {
			if n.dir {
				c = p.dir(n)
			} else {
				c = crashFile(n, p.rng)
			}
			p.seen[n] = c
		}
		out.names[name], out.durNames[name] = c, c
	}
	return out
}

func crashFile(n *inode, rng *rand.Rand) *inode {
	n.epoch = pageEpoch.Add(1) // pages are shared with the survivor from here on
	out := &inode{epoch: pageEpoch.Add(1), size: n.durSize}
	if len(n.pending) == 0 {
		out.cur = slices.Clone(n.dur)
		out.durSize, out.dur = out.size, slices.Clone(out.cur)
		return out
	}
	out.cur = slices.Clone(n.dur)
	// A disk that loses power in mid-flight is unlike one that lost it long after: vary how much survives.
	keep := []int{0, 1, 5, 9, 10}[rng.IntN(5)]
	for i := range n.pending {
		c := &n.pending[i]
		kept, torn := rng.IntN(10) < keep, rng.IntN(4) == 0
		switch c.kind {
		case changeTruncate:
			if kept {
				out.resize(c.off)
			}
		case changeAllocate:
			if kept && c.off > out.size {
				out.resize(c.off)
			}
		case changeWrite:
			if !kept && !torn {
				continue
			}
			for s := 0; s < len(c.data); s += SectorSize {
				if torn && rng.IntN(2) == 0 {
					continue
				}
				e := min(s+SectorSize, len(c.data))
				out.put(c.data[s:e], c.off+int64(s))
			}
			// The size may reach the disk before the data: a tail of zeros.
			if torn && rng.IntN(2) == 0 && c.end > out.size {
				out.resize(c.end)
			}
		}
	}
	out.dirty = nil
	out.epoch = pageEpoch.Add(1)
	out.durSize, out.dur = out.size, slices.Clone(out.cur)
	return out
}

// put writes p at off, growing the file.
func (n *inode) put(p []byte, off int64) {
	if end := off + int64(len(p)); end > n.size {
		n.grow(end)
	}
	for len(p) > 0 {
		i, at := int(off/pageSize), int(off%pageSize)
		c := copy(n.own(i).data[at:], p)
		p, off = p[c:], off+int64(c)
	}
}

// own makes page i writable in place.
func (n *inode) own(i int) *memPage {
	pg := n.cur[i]
	if pg != nil && pg.epoch == n.epoch {
		return pg
	}
	fresh := &memPage{epoch: n.epoch}
	if pg != nil {
		fresh.data = pg.data
	}
	n.cur[i] = fresh
	n.dirty = append(n.dirty, i)
	return fresh
}

func (n *inode) grow(size int64) {
	n.size = size
	if pages := int((size + pageSize - 1) / pageSize); pages > len(n.cur) {
		n.cur = append(n.cur, make([]*memPage, pages-len(n.cur))...)
	}
}

func (n *inode) resize(size int64) {
	if size >= n.size {
		n.grow(size)
		return
	}
	pages := int((size + pageSize - 1) / pageSize)
	clear(n.cur[pages:])
	n.cur = n.cur[:pages]
	n.size = size
	if at := int(size % pageSize); at != 0 && n.cur[pages-1] != nil {
		clear(n.own(pages - 1).data[at:])
	}
}

// get reads p from the current image at off, which lies within the file as a whole.
func (n *inode) get(p []byte, off int64) {
	for len(p) > 0 {
		i, at := int(off/pageSize), int(off%pageSize)
		c := min(len(p), pageSize-at)
		if pg := n.cur[i]; pg != nil {
			copy(p[:c], pg.data[at:])
		} else {
			clear(p[:c])
		}
		p, off = p[c:], off+int64(c)
	}
}

// sync makes the current image the durable one.
func (n *inode) sync() {
	if len(n.pending) == 0 {
		return
	}
	if len(n.dur) > len(n.cur) {
		n.dur = n.dur[:len(n.cur)]
	} else if len(n.dur) < len(n.cur) {
		// Pages between the two ends that were never written are nil in both images.
		n.dur = append(n.dur, make([]*memPage, len(n.cur)-len(n.dur))...)
	}
	for _, i := range n.dirty {
		if i < len(n.cur) {
			n.dur[i] = n.cur[i]
		}
	}
	for _, c := range n.pending {
		// A truncation cleared pages without making them dirty.
		if c.kind == changeTruncate {
			copy(n.dur, n.cur)
			break
		}
	}
	n.durSize, n.dirty, n.pending = n.size, n.dirty[:0], nil
	n.epoch = pageEpoch.Add(1)
}

// settle makes p, whole sectors at off, durable, and nothing else that is pending.
func (n *inode) settle(p []byte, off int64) {
	medium := &inode{epoch: pageEpoch.Add(1), cur: n.dur, size: n.durSize}
	medium.put(p, off) // copies the pages that it touches
	n.dur, n.durSize = medium.cur, medium.size
	end := off + int64(len(p))
	var pending []change
	for _, c := range n.pending {
		if from, to := c.off, c.off+int64(len(c.data)); c.kind == changeWrite && from < end && to > off {
			// What was written there before is overwritten for good.
			if head := c; from < off {
				head.data = c.data[:off-from]
				pending = append(pending, head)
			}
			if tail := c; to > end {
				tail.off, tail.data = end, c.data[end-from:]
				pending = append(pending, tail)
			}
			continue
		}
		pending = append(pending, c)
	}
	n.pending = pending
}

func (n *inode) remember(c change) {
	n.pending = append(n.pending, c)
	if len(n.pending) <= maxPending {
		return
	}
	n.epoch = pageEpoch.Add(1)
	old := &inode{epoch: pageEpoch.Add(1), cur: slices.Clone(n.dur), size: n.durSize}
	half := len(n.pending) / 2
	for i := range n.pending[:half] {
		switch c := &n.pending[i]; c.kind {
		case changeWrite:
			old.put(c.data, c.off)
		case changeTruncate:
			old.resize(c.off)
		case changeAllocate:
			old.resize(max(old.size, c.off))
		}
	}
	n.dur, n.durSize = old.cur, old.size
	n.pending = slices.Clone(n.pending[half:])
	n.dirty = n.dirty[:0]
	for i := range n.cur {
		n.dirty = append(n.dirty, i)
	}
}

// memFile is a handle.
type memFile struct {
	m      *Mem
	n      *inode
	name   string
	life   uint64
	direct bool // see SetDirect; of the handle's owner
	closed atomic.Bool
}

// alive is called with the tree's lock held.
func (f *memFile) alive(op string) error {
	if f.closed.Load() || f.life != f.m.life {
		return pathErr(op, f.name, fs.ErrClosed)
	}
	return nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.m.mu.RLock()
	defer f.m.mu.RUnlock()
	if err := f.alive("read"); err != nil {
		return 0, err
	}
	if off < 0 || f.direct && !aligned([][]byte{p}, off) {
		return 0, pathErr("read", f.name, fs.ErrInvalid)
	}
	if off >= f.n.size {
		return 0, io.EOF
	}
	c := int(min(int64(len(p)), f.n.size-off))
	f.n.get(p[:c], off)
	if c < len(p) {
		return c, io.EOF
	}
	return c, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.WritevAt([][]byte{p}, off)
	return int(n), err
}

func (f *memFile) WritevAt(bufs [][]byte, off int64) (int64, error) {
	return f.writev(bufs, off, f.direct)
}
func (f *memFile) WriteCached(bufs [][]byte, off int64) (int64, error) {
	return f.writev(bufs, off, false)
}

func (f *memFile) writev(bufs [][]byte, off int64, direct bool) (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.alive("write"); err != nil {
		return 0, err
	}
	total := lengthOf(bufs)
	if off < 0 || off+total > maxMemFile {
		return 0, pathErr("write", f.name, fs.ErrInvalid)
	}
	if direct && !aligned(bufs, off) {
		return 0, pathErr("direct write", f.name, fs.ErrInvalid)
	}
	if total == 0 {
		return 0, nil
	}
	at := off
	for _, b := range bufs {
		f.n.put(b, at)
		at += int64(len(b))
	}
	start := off / SectorSize * SectorSize
	end := min((at+SectorSize-1)/SectorSize*SectorSize, f.n.size)
	data := make([]byte, end-start)
	f.n.get(data, start)
	f.n.remember(change{kind: changeWrite, off: start, data: data, end: f.n.size, direct: direct})
	return total, nil
}

func (f *memFile) Allocate(off, length int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.alive("allocate"); err != nil {
		return err
	}
	if off < 0 || length <= 0 || off+length > maxMemFile {
		return pathErr("allocate", f.name, fs.ErrInvalid)
	}
	if off+length > f.n.size {
		f.n.grow(off + length)
		f.n.remember(change{kind: changeAllocate, off: off + length})
	}
	return nil
}

func (f *memFile) Truncate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.alive("truncate"); err != nil {
		return err
	}
	if size < 0 || size > maxMemFile {
		return pathErr("truncate", f.name, fs.ErrInvalid)
	}
	if size != f.n.size {
		f.n.resize(size)
		f.n.remember(change{kind: changeTruncate, off: size})
	}
	return nil
}

func (f *memFile) Size() (int64, error) {
	f.m.mu.RLock()
	defer f.m.mu.RUnlock()
	if err := f.alive("size"); err != nil {
		return 0, err
	}
	return f.n.size, nil
}

func (f *memFile) Sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.alive("sync"); err != nil {
		return err
	}
	f.n.sync()
	return nil
}

// WriteSync implements [File]. A crash may come between the two, and a direct one makes nothing else durable.
func (f *memFile) WriteSync(bufs [][]byte, off int64) error {
	if _, err := f.WritevAt(bufs, off); err != nil {
		return err
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.alive("sync"); err != nil {
		return err
	}
	if f.direct {
		for _, b := range bufs {
			f.n.settle(b, off)
			off += int64(len(b))
		}
	} else {
		f.n.sync()
	}
	return nil
}

// SetDirect implements [File]. A direct write is as little durable as any other before Sync, and torn the same way; the rules for
// its place and memory are enforced.
func (f *memFile) SetDirect() bool {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.direct = true
	return true
}

func (f *memFile) Close() error {
	if f.closed.Swap(true) {
		return pathErr("close", f.name, fs.ErrClosed)
	}
	return nil
}

// FailSync is what a failed Sync leaves of a file: the disk has some of what was pending, and the system has forgotten that
// the rest is not there. It is still read from the cache, and the next Sync reports success without having written it
// (fsyncgate). What was written directly is in no cache: it is read as the disk has it, either still from the disk's own memory or
// as if the power had gone. With a nil rng the file system's own seed decides.
func (m *Mem) FailSync(name string, rng *rand.Rand) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.lookup(name)
	if err == nil && n.dir {
		err = fs.ErrInvalid
	}
	if err != nil {
		return pathErr("sync", name, err)
	}
	if rng == nil {
		rng = m.rng
	}
	left := crashFile(n, rng)
	direct := slices.ContainsFunc(n.pending, func(c change) bool { return c.direct })
	n.dur, n.durSize = left.cur, left.size
	n.pending, n.dirty = nil, n.dirty[:0]
	if direct && rng.IntN(2) == 0 {
		n.cur, n.size = slices.Clone(left.cur), left.size
	}
	n.epoch = pageEpoch.Add(1) // what is written again from here on is dirty again
	return nil
}

// Damage puts p at off, on the medium and in the cache, behind the back of whoever wrote the file: rot, or a write that
// was meant for another place. It changes nothing that is not durable.
func (m *Mem) Damage(name string, off int64, p []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.lookup(name)
	if err == nil && (n.dir || off < 0 || off+int64(len(p)) > min(n.size, n.durSize)) {
		err = fs.ErrInvalid
	}
	if err != nil {
		return pathErr("damage", name, err)
	}
	n.put(p, off)
	medium := &inode{epoch: pageEpoch.Add(1), cur: n.dur, size: n.durSize}
	medium.put(p, off) // copies the pages that it touches
	return nil
}
