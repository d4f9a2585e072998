// The hard states of a simulated node: a model of the journal over a vfs.FS, so that it crashes with the disk that the
// logs are on. (The real journal stands on tidwall/wal, which calls the operating system itself.)

package sim

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"sync"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// HardStates satisfies multi.HardStateStore. What is saved waits for Flush, which makes it durable and reports. It may
// be used from several goroutines; Flush calls the reports.
type HardStates struct {
	fs   vfs.FS
	name string

	io   sync.Mutex // held by Flush, guards what follows
	file vfs.File
	at   int64
	err  error

	mu      sync.Mutex                      // never held across I/O
	states  map[raft.GroupID]raft.HardState // durable ones
	pending []hardSave
	wake    func() // called when something became pending
}

type hardSave struct {
	group raft.GroupID
	hs    raft.HardState
	gone  bool
	done  func(error)
}

// hardRecord: group, term, vote, deleted, CRC32C, little endian.
const hardRecord = 8 + 8 + 4 + 4 + 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// OpenHardStates opens or makes the store at name. A torn last record was never reported durable, and is dropped.
func OpenHardStates(fsys vfs.FS, name string) (*HardStates, error) {
	h := &HardStates{fs: fsys, name: name, states: map[raft.GroupID]raft.HardState{}}
	f, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		if f, err = fsys.Create(name); err == nil {
			err = fsys.SyncDir(".")
		}
	}
	if err != nil {
		return nil, err
	}
	h.file = f
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	var b [hardRecord]byte
	for ; h.at+hardRecord <= size; h.at += hardRecord {
		if _, err := f.ReadAt(b[:], h.at); err != nil {
			return nil, err
		}
		if crc32.Checksum(b[:hardRecord-4], castagnoli) != binary.LittleEndian.Uint32(b[hardRecord-4:]) {
			break
		}
		g := raft.GroupID(binary.LittleEndian.Uint64(b[0:]))
		if binary.LittleEndian.Uint32(b[20:]) != 0 {
			delete(h.states, g)
			continue
		}
		h.states[g] = raft.HardState{Term: raft.Term(binary.LittleEndian.Uint32(b[8:])), Epoch: raft.GroupEpoch(binary.LittleEndian.Uint32(b[12:])),
			Vote: raft.NodeID(binary.LittleEndian.Uint32(b[16:]))}
	}
	// What is read may be in the cache only, after a process crash, or after a sync that failed (fsyncgate): it is written
	// again before anybody goes by it.
	if h.at > 0 {
		all := make([]byte, h.at)
		if _, err := f.ReadAt(all, 0); err != nil {
			return nil, err
		}
		if _, err := f.WriteAt(all, 0); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(f.Sync(), fsys.SyncDir(".")); err != nil {
		return nil, err
	}
	return h, nil
}

// OnPending sets a function that is called, without locks held, when a save is waiting for Flush.
func (h *HardStates) OnPending(fn func()) { h.wake = fn }

func (h *HardStates) queue(s hardSave) {
	h.mu.Lock()
	h.pending = append(h.pending, s)
	h.mu.Unlock()
	if h.wake != nil {
		h.wake()
	}
}

// Save queues hs.
func (h *HardStates) Save(g raft.GroupID, hs raft.HardState, done func(error)) {
	h.queue(hardSave{group: g, hs: hs, done: done})
}

// Delete queues the removal of g's state.
func (h *HardStates) Delete(g raft.GroupID, done func(error)) {
	h.queue(hardSave{group: g, gone: true, done: done})
}

// Load returns g's durable state.
func (h *HardStates) Load(g raft.GroupID) (raft.HardState, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	hs, ok := h.states[g]
	return hs, ok
}

// Pending reports whether Flush has something to do.
func (h *HardStates) Pending() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.pending) > 0
}

// Flush makes all that is pending durable with one sync, and reports.
func (h *HardStates) Flush() {
	h.io.Lock()
	defer h.io.Unlock()
	h.mu.Lock()
	batch := h.pending
	h.pending = nil
	h.mu.Unlock()
	if h.err == nil && len(batch) > 0 {
		h.err = h.write(batch)
	}
	if h.err == nil {
		h.mu.Lock()
		for _, s := range batch {
			if s.gone {
				delete(h.states, s.group)
			} else {
				h.states[s.group] = s.hs
			}
		}
		h.mu.Unlock()
	}
	for _, s := range batch {
		if s.done != nil {
			s.done(h.err)
		}
	}
}

func (h *HardStates) write(batch []hardSave) error {
	buf := make([]byte, 0, len(batch)*hardRecord)
	for _, s := range batch {
		start := len(buf)
		buf = binary.LittleEndian.AppendUint64(buf, uint64(s.group))
		buf = binary.LittleEndian.AppendUint32(buf, uint32(s.hs.Term))
		buf = binary.LittleEndian.AppendUint32(buf, uint32(s.hs.Epoch))
		buf = binary.LittleEndian.AppendUint32(buf, uint32(s.hs.Vote))
		gone := uint32(0)
		if s.gone {
			gone = 1
		}
		buf = binary.LittleEndian.AppendUint32(buf, gone)
		buf = binary.LittleEndian.AppendUint32(buf, crc32.Checksum(buf[start:], castagnoli))
	}
	if _, err := h.file.WriteAt(buf, h.at); err != nil {
		return err
	}
	if err := h.file.Sync(); err != nil {
		return err
	}
	h.at += int64(len(buf))
	return nil
}
