// Checkpoints, which keep the file short, and the reserve, which keeps the journal writing on a full disk.

package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
)

// checkpointRecords are all states as begin, chunks, end. They are written by one WriteBatch, so that no other record
// ever comes between them.
func (j *Journal) checkpointRecords() []record {
	groups := j.sortedGroups()
	total := binary.LittleEndian.AppendUint32(nil, uint32(len(groups)))
	recs := []record{{kind: kindBegin, body: total}}
	for len(groups) > 0 {
		n := min(len(groups), MaxChunkStates)
		body := make([]byte, 0, 4+n*stateLen)
		body = binary.LittleEndian.AppendUint32(body, uint32(n))
		for _, g := range groups[:n] {
			body = appendState(body, groupState{g, j.states[g]})
		}
		recs = append(recs, record{kind: kindChunk, body: body})
		groups = groups[n:]
	}
	return append(recs, record{kind: kindEnd, body: total})
}

// checkpointLen is how long a checkpoint of n states is in the file, a little rounded up.
func checkpointLen(n int) int64 {
	chunks := (n + MaxChunkStates - 1) / MaxChunkStates
	return int64(genesisLen + chunks*(3+headerLen+4) + n*stateLen)
}

// planCheckpoint says when the next one is due: late enough that rewriting is a small part of writing.
func (j *Journal) planCheckpoint() {
	j.nextCkpt = max(j.ckptSize+j.o.CheckpointBytes, 4*j.ckptSize)
}

func (j *Journal) maybeCheckpoint() {
	if j.err == nil && j.size >= j.nextCkpt {
		j.checkpoint()
	}
}

// checkpoint writes all states once more and drops what is before them. The guard makes TruncateFront safe: that
// function renames the new file and removes the old one without a sync between the two, so that a power loss may keep
// the removal alone.
func (j *Journal) checkpoint() {
	before, begin := j.size, j.seq+1
	if j.writeRecords(j.checkpointRecords()) != nil {
		return
	}
	j.marked = false
	old := j.first
	guard := j.path(guardPrefix + segmentName(old))
	err := linkOrCopy(j.path(walName, segmentName(old)), guard)
	if err == nil {
		err = j.o.SyncDir(j.dir)
	}
	if err == nil {
		err = j.wal.TruncateFront(begin)
	}
	if err != nil && isNoSpace(err) && j.sameFile(old, begin) {
		// Nothing has changed but that the file is longer. Try again when it has grown as much as it might have shrunk.
		j.log.Warn("hard-state journal: no space for a checkpoint", "err", err)
		j.releaseReserve()
		j.nextCkpt = j.size + j.o.CheckpointBytes
		if err := os.Remove(guard); err != nil && !errors.Is(err, os.ErrNotExist) {
			_ = j.fail("remove guard", err)
		}
		return
	}
	if err == nil {
		err = j.o.SyncDir(j.path(walName))
	}
	if err == nil {
		err = os.Remove(guard)
	}
	if err == nil {
		err = j.o.SyncDir(j.dir)
	}
	if err != nil {
		_ = j.fail("checkpoint", err)
		return
	}
	j.first = begin
	j.size -= before
	j.ckptSize = j.size
	j.planCheckpoint()
}

// sameFile reports whether tidwall/wal still stands on the file that begins with entry first: it marks itself corrupt
// once it has begun to remove files.
func (j *Journal) sameFile(first, begin uint64) bool {
	if got, err := j.wal.FirstIndex(); err != nil || got != first {
		return false
	}
	_, err := os.Stat(j.path(walName, segmentName(begin)+".START"))
	return errors.Is(err, os.ErrNotExist)
}

// reserveRetry is how long a disk that was full is left alone before the reserve is laid out anew.
const reserveRetry = time.Minute

// ensureReserve writes the reserve out where it is missing. A disk that has no room for it is worth a warning and no
// more: the reserve is for later.
func (j *Journal) ensureReserve() {
	if j.reserved || j.o.ReserveBytes < 0 || j.err != nil || time.Since(j.released) < reserveRetry {
		return
	}
	path := j.path(reserveName)
	if fi, err := os.Stat(path); err == nil && fi.Size() >= j.o.ReserveBytes {
		j.reserved = true
		return
	}
	// Not zeros: some file systems do not store those.
	data := make([]byte, j.o.ReserveBytes)
	x := j.id
	for i := 0; i+8 <= len(data); i += 8 {
		x = x*6364136223846793005 + 1442695040888963407
		binary.LittleEndian.PutUint64(data[i:], x)
	}
	if err := j.writeDurably(path, data); err != nil {
		j.log.Warn("hard-state journal: no room for the reserve", "bytes", j.o.ReserveBytes, "err", err)
		return
	}
	j.reserved = true
}

// releaseReserve gives the reserve's space back to the disk; false if there was none.
func (j *Journal) releaseReserve() bool {
	if !j.reserved {
		return false
	}
	j.reserved, j.released = false, time.Now()
	if err := os.Remove(j.path(reserveName)); err != nil {
		j.log.Error("hard-state journal: cannot release the reserve", "err", err)
		return false
	}
	j.log.Warn("hard-state journal: the disk is full; living on the reserve", "bytes", j.o.ReserveBytes)
	return true
}

// retryOnReserve repeats the current batch after a write that found the disk full. tidwall/wal keeps a failed write in
// memory and part of it may be in the file, so both are brought back to what is known to be durable first. No sync has
// failed, so that this is not the retry that fsyncgate forbids.
func (j *Journal) retryOnReserve(cause error) error {
	cause = fmt.Errorf("%w: %w", vfs.ErrNoSpace, cause)
	if !j.releaseReserve() {
		return cause
	}
	old := j.wal
	j.wal = nil
	err := old.Close() // it syncs, and that must succeed
	if err == nil {
		err = j.cut(j.path(walName, segmentName(j.first)), j.size)
	}
	if err == nil {
		err = j.openLog()
	}
	if err != nil {
		return errors.Join(cause, err)
	}
	j.nextCkpt = 0 // make the file short as soon as this batch is in
	return j.wal.WriteBatch(&j.batch)
}
