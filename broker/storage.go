// The data directory:
//
//	DataDir/
//	    lock                     held while a broker runs on it
//	    meta.json                who this is: cluster, node, incarnation, starts. Written atomically, with a checksum
//	    peers.json               cache: where the others were last seen, and in which start. May be lost
//	    scrub.json               how far scrubbing has come. May be lost
//	    reserve                  room for the next meta.json: a full disk must not keep a broker from starting
//	    journal/                 terms and votes of all groups (raft/multi/journal)
//	    groups/0000000000000001/ the metadata group's log
//	    groups/<group id>/       one partition's log
//
// meta.json decides: a directory without it has never been a broker's, whatever else is in it.

package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"strconv"
	"sync"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

const (
	metaFormat   = 1
	reserveBytes = 1 << 20
	// zeroAhead is how far ahead of small writes a log's file is laid out with zeros; see segment.Options.
	zeroAhead = 128 << 10
	// maxMetaBytes bounds what is read of the small files.
	maxMetaBytes = 1 << 20
)

// ErrDataDir is what every refusal of a data directory wraps. The text names the path and what to do.
var ErrDataDir = errors.New("data directory cannot be used")

// syncBatches makes what syncs many logs at once; nil: each is synced by itself, since the system cannot, or shall not. Another file system
// than the system's has no such thing, and one goroutine that does one write after another is worse than many.
func (b *Broker) syncBatches() func(logs int) (multi.SyncBatch, error) {
	if b.cfg.DisableAsyncIO || b.cfg.DisableDirectIO || b.cfg.FS != nil {
		return nil
	}
	try, err := vfs.NewBatch(1)
	if err != nil {
		b.log.Debug("logs are synced one by one", "error", err)
		return nil
	}
	if err := try.Close(); err != nil {
		b.log.Debug("logs are synced one by one", "error", err)
		return nil
	}
	return func(logs int) (multi.SyncBatch, error) { return vfs.NewBatch(logs) }
}

// identity is meta.json: the broker as its data directory knows it.
type identity struct {
	Format      int              `json:"format"`
	ClusterID   string           `json:"cluster_id,omitempty"` // empty until joined
	NodeID      raft.NodeID      `json:"node_id,omitempty"`    // 0 until joined
	Incarnation raft.Incarnation `json:"incarnation"`          // drawn when the directory was formatted
	Boots       uint64           `json:"boots"`                // starts so far, this one included
	Life        uint64           `json:"-"`                    // drawn at each start: tells two with one count apart
	Founder     raft.Member      `json:"founder"`              // the membership that the metadata log starts from
	// MetadataEpoch is the metadata group's epoch that others told this broker of: a metadata log of an earlier one is set aside.
	MetadataEpoch raft.GroupEpoch `json:"metadata_epoch,omitempty"`
	// Past is the start of this directory that others had heard of when this one, from a copy that is older, told of itself.
	Past uint64 `json:"past,omitempty"`
}

func (id *identity) joined() bool { return id.ClusterID != "" }

// peerAddr is where a broker listens for others.
type peerAddr struct {
	ID   raft.NodeID `json:"id"`
	Addr string      `json:"addr"`
}

// knownPeer is one line of peers.json: where a broker was, and the latest start of its directory that was heard of.
type knownPeer struct {
	peerAddr
	Incarnation raft.Incarnation `json:"incarnation,omitempty"`
	Boot        uint64           `json:"boot,omitempty"`
	Life        uint64           `json:"life,omitempty"`
}

// storage is an open, locked data directory.
type storage struct {
	fs     vfs.FS
	dir    string
	unlock func() error
	id     identity

	mu sync.Mutex // held while a broker that runs changes id, and writes it: see age, outlive
}

// openStorage locks and reads the directory, formats it if it is new, and counts this start: the count is on the disk
// before anything else happens, since peers tell this life's messages from the last one's by it.
func openStorage(fsys vfs.FS, dir string) (_ *storage, err error) {
	s := &storage{fs: fsys, dir: dir}
	if err := makeDirs(fsys, path.Join(dir, "groups")); err != nil {
		return nil, fmt.Errorf("%w: make %s: %w: check that the path is right and writable", ErrDataDir, dir, err)
	}
	if s.unlock, err = fsys.Lock(path.Join(dir, "lock")); err != nil {
		return nil, fmt.Errorf("%w: %s is in use by another process (%w): stop that broker, or give this one a directory of its own", ErrDataDir, dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.unlock())
		}
	}()
	name := path.Join(dir, "meta.json")
	switch err := readChecked(fsys, name, &s.id); {
	case errors.Is(err, fs.ErrNotExist):
		groups, err := fsys.ReadDir(path.Join(dir, "groups"))
		if err != nil {
			return nil, fmt.Errorf("%w: read %s: %w", ErrDataDir, dir, err)
		}
		if len(groups) > 0 {
			return nil, fmt.Errorf("%w: %s holds logs but meta.json is gone: restore it from a backup, or move the directory away and join as a new broker", ErrDataDir, dir)
		}
		s.id = identity{Format: metaFormat, Incarnation: newIncarnation()}
	case err != nil:
		return nil, fmt.Errorf("%w: %s: %w: restore the file from a backup, or move the directory away and join as a new broker", ErrDataDir, name, err)
	case s.id.Format > metaFormat:
		return nil, fmt.Errorf("%w: %s has format %d, this broker knows %d: start a newer broker on it", ErrDataDir, dir, s.id.Format, metaFormat)
	case s.id.Format < 1 || s.id.Incarnation == 0 || s.id.joined() != (s.id.NodeID != 0) || s.id.NodeID > coordinator.MaxNodeID:
		return nil, fmt.Errorf("%w: %s is not what a broker writes: restore it from a backup, or move the directory away and join as a new broker", ErrDataDir, name)
	}
	s.id.Boots++
	s.id.Life = uint64(newIncarnation())
	if err := s.save(); err != nil {
		return nil, err
	}
	s.reserve()
	return s, nil
}

// reserve lays the reserve out, if there is room for it and none yet.
func (s *storage) reserve() {
	name := path.Join(s.dir, "reserve")
	f, err := s.fs.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = s.fs.Create(name)
	}
	if err != nil {
		return
	}
	err = f.Allocate(0, reserveBytes)
	if f.Close() != nil || err != nil {
		_ = s.fs.Remove(name) // half a reserve is none
	}
}

// makeDirs makes dir and what is missing above it, durably, from above: else a power loss takes the whole directory with
// everything that was synced in it, and the next start founds another cluster.
func makeDirs(fsys vfs.FS, dir string) error {
	var missing []string
	above := dir
	for ; above != path.Dir(above); above = path.Dir(above) {
		if _, err := fsys.Stat(above); err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		missing = append(missing, above)
	}
	// What is there may have been made a moment ago, by a start that was cut off before its sync or by a mkdir. What we may
	// not even read is older.
	for d := above; d != path.Dir(d); d = path.Dir(d) {
		if err := fsys.SyncDir(path.Dir(d)); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	for _, d := range slices.Backward(missing) {
		if err := fsys.MkdirAll(d); err != nil {
			return err
		}
		if err := fsys.SyncDir(path.Dir(d)); err != nil {
			return err
		}
	}
	return nil
}

func newIncarnation() raft.Incarnation {
	for {
		if n := raft.Incarnation(rand.Uint64()); n != 0 { // the runtime seeds it from the system
			return n
		}
	}
}

func (s *storage) save() error {
	err := writeChecked(s.fs, s.dir, "meta.json", &s.id)
	if errors.Is(err, vfs.ErrNoSpace) && s.fs.Remove(path.Join(s.dir, "reserve")) == nil {
		err = writeChecked(s.fs, s.dir, "meta.json", &s.id)
	}
	if err != nil {
		return fmt.Errorf("%w: write %s: %w", ErrDataDir, path.Join(s.dir, "meta.json"), err)
	}
	return nil
}

// join notes which cluster the directory belongs to, for good.
func (s *storage) join(cluster string, node raft.NodeID, founder raft.Member) error {
	s.id.ClusterID, s.id.NodeID, s.id.Founder = cluster, node, founder
	return s.save()
}

// check compares the directory with what was asked for.
func (s *storage) check(cfg *Config) error {
	if !s.id.joined() {
		return nil
	}
	if cfg.ClusterID != "" && cfg.ClusterID != s.id.ClusterID {
		return fmt.Errorf("%w: %s belongs to cluster %s, not %s: use another directory, or configure the cluster it belongs to", ErrDataDir, s.dir, s.id.ClusterID, cfg.ClusterID)
	}
	if cfg.NodeID != 0 && cfg.nodeID() != s.id.NodeID {
		return fmt.Errorf("%w: %s belongs to broker %d, not %d: use another directory, or leave the node id unset", ErrDataDir, s.dir, s.id.NodeID, cfg.NodeID)
	}
	return s.oldCopy()
}

// age notes that the directory is an older copy, of which others know start past: each further start counts, and would come to that.
func (s *storage) age(past uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.id.Past = past
	return s.save()
}

// oldCopy refuses such a copy. Votes and records that others count on are missing from it.
func (s *storage) oldCopy() error {
	if s.id.Past == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s is an older copy: the other brokers know start %d of this directory, which came after the copy was made, and count on what it had written. "+
		"Put the directory back as it was when the broker last stopped, or move it away and start on an empty one with --node-id %d --replace-disk %016x: "+
		"everything is then copied from the other brokers", ErrDataDir, s.dir, s.id.Past, s.id.NodeID, uint64(s.id.Incarnation))
}

// checkJournal refuses logs whose journal is gone: their replicas have forgotten whom they voted for, and a second vote in one term
// may elect a second leader. The journal's directories are durable before the first log is made.
func (s *storage) checkJournal() error {
	dir := path.Join(s.dir, "journal", "wal")
	if _, err := s.fs.Stat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	groups, err := s.groupDirs()
	if err != nil || len(groups) == 0 {
		return err
	}
	return fmt.Errorf("%w: %s is gone, and with it the votes of %d groups: restore it as it was when the broker stopped, or move the whole data directory away and start on an empty one with --node-id %d --replace-disk %016x: "+
		"everything is then copied from the other brokers", ErrDataDir, dir, len(groups), s.id.NodeID, uint64(s.id.Incarnation))
}

// outlive notes the metadata group's epoch, of which this directory's metadata log is not.
func (s *storage) outlive(epoch raft.GroupEpoch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.id.MetadataEpoch = epoch
	return s.save()
}

func (s *storage) close() error { return s.unlock() }

func (s *storage) groupsDir() string { return path.Join(s.dir, "groups") }

func (s *storage) groupDir(g raft.GroupID) string { return path.Join(s.groupsDir(), groupDirName(g)) }

func groupDirName(g raft.GroupID) string { return fmt.Sprintf("%016d", uint64(g)) }

// parseGroupDir is the inverse of groupDirName, and refuses whatever it would not write.
func parseGroupDir(name string) (raft.GroupID, bool) {
	n, err := strconv.ParseUint(name, 10, 64)
	if err != nil || n == 0 || groupDirName(raft.GroupID(n)) != name {
		return 0, false
	}
	return raft.GroupID(n), true
}

// groupDirs are the groups that have a directory.
func (s *storage) groupDirs() ([]raft.GroupID, error) {
	names, err := s.fs.ReadDir(s.groupsDir())
	if err != nil {
		return nil, err
	}
	var out []raft.GroupID
	for _, n := range names {
		if g, ok := parseGroupDir(n); ok {
			out = append(out, g)
		}
	}
	return out, nil
}

// loadPeers is best effort: a lost or damaged cache costs a detour through the seeds.
func (s *storage) loadPeers() []knownPeer {
	var peers []knownPeer
	if err := readChecked(s.fs, path.Join(s.dir, "peers.json"), &peers); err != nil {
		return nil
	}
	return peers
}

func (s *storage) savePeers(peers []knownPeer) error {
	return writeChecked(s.fs, s.dir, "peers.json", peers)
}

// A small file is one line of JSON, {"crc32c": "…", "content": …}, with the checksum over the content's bytes as they
// stand there.
type checkedFile struct {
	CRC     string          `json:"crc32c"`
	Content json.RawMessage `json:"content"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sum(b []byte) string { return fmt.Sprintf("%08x", crc32.Checksum(b, castagnoli)) }

func encodeChecked(v any) ([]byte, error) {
	content, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "{\"crc32c\":%q,\"content\":%s}\n", sum(content), content), nil
}

func decodeChecked(b []byte, v any) error {
	var f checkedFile
	if err := json.Unmarshal(b, &f); err != nil {
		return fmt.Errorf("it is damaged: %w", err)
	}
	if f.CRC != sum(f.Content) {
		return fmt.Errorf("it is damaged: checksum %s, computed %s", f.CRC, sum(f.Content))
	}
	return json.Unmarshal(f.Content, v)
}

func readChecked(fsys vfs.FS, name string, v any) error {
	f, err := fsys.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return err
	}
	if size > maxMetaBytes {
		return fmt.Errorf("it is %d bytes long, at most %d", size, maxMetaBytes)
	}
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); n < len(b) {
		return err
	}
	return decodeChecked(b, v)
}

// writeChecked replaces a file atomically and durably: a new file, synced, renamed over the old one, the directory synced.
func writeChecked(fsys vfs.FS, dir, name string, v any) (err error) {
	b, err := encodeChecked(v)
	if err != nil {
		return err
	}
	tmp := path.Join(dir, name+".tmp")
	if err := fsys.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := fsys.Create(tmp)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := fsys.Rename(tmp, path.Join(dir, name)); err != nil {
		return err
	}
	return fsys.SyncDir(dir)
}
