// Package segment keeps one Raft group's log on disk: it appends, syncs, reads, truncates at both ends, recovers, and
// maps between Raft indexes, Kafka offsets and timestamps. It is the only package that knows both an entry's index and
// its offset. All I/O goes through package vfs.
//
// # Directory
//
// One directory per group:
//
//	00000000000000000001-00000001.log   segment: first index (decimal), generation (hex)
//	00000000000000000001-00000001.idx   sparse index of a closed segment; can always be rebuilt. Made when the next file is durable
//	00000000000000004711-00000002.log
//	00000000000000004711-00000002.tip   what a scan of the newest segment would find, up to shortly before its end. See tip.go
//	meta                                where the log starts, damage not yet healed
//	snapshot                            the stored snapshot
//	00000000000000000000-00000003.cln   cleaned file of a compacted log: first offset, generation. See clean_file.go, clean.go
//	relaxed                             the log acknowledges ahead of its syncs: see relaxed.go
//	snapshot.cleaned                    the cleaned files that belong to a snapshot which is being installed
//	empty                               there is no segment yet, or since a snapshot was installed: none is missing
//	damaged-00000003/                   files set aside by a recovery that met corruption; never read, never deleted
//
// All integers are little-endian. All checksums are CRC32C (Castagnoli) and seeded with the group id, so that a file
// or a frame that strays into another group's log is not valid there.
//
// # Frame
//
// The frame is an entry, the same bytes in memory, on every disk and between brokers. The leader makes it once.
//
//	 0        4        8  9 10 11 12       16                24                32                40
//	+--------+--------+--+--+--+--+--------+-----------------+-----------------+-----------------+- - -
//	| length | crc    |v |fl|ty|0 | records| term            | index           | base offset     | payload
//	+--------+--------+--+--+--+--+--------+-----------------+-----------------+-----------------+- - -
//
//	length      of the whole frame, these four bytes included: 40 ≤ length ≤ MaxFrameSize
//	crc         over all that follows it, seeded with the group id, the version and the length
//	v, fl       format version 1; flags, reserved: a reader that does not know a flag must refuse the frame
//	ty          raft.EntryType
//	records     Kafka offsets that the entry takes; 0 for every type but records
//	base offset first offset of a record entry; for an internal entry the next one: that is why internal entries are
//	            invisible to consumers, and why no table beside the log can get out of step with it
//
// # Block
//
// What is local to this replica wraps the frames. Each write is one block (a large one several); frames stand in it
// verbatim.
//
//	 0        4        8        12       16       20       24               32               40               48
//	+--------+--------+--------+--------+--------+--------+----------------+----------------+----------------+- - -
//	| magic  | crc    | pad    | count  | length | digest | generation     | first index    | synced index   | padding, frames
//	+--------+--------+--------+--------+--------+--------+----------------+----------------+----------------+- - -
//
//	magic       "BLK" and version; larger than any frame length, so that a reader at a boundary knows a block header from a
//	            frame from the zeros of a preallocated extent by one word
//	crc         over the rest of the header: a header can be believed even if its frames are damaged
//	pad         bytes of padding between the header and the frames, less than 4096; 0 in a file of version 1. What stands there counts for nothing
//	count       of frames; 0: a mark block, written only for its synced index
//	length      of the frames together
//	digest      CRC32C over the first eight bytes (length, crc) of each frame: binds exactly these frames to the header
//	            without a second pass over the data
//	generation  of the file; a block of another generation is not of this file's life
//	synced      the index that was known to be durable when the block was written: the recovery's evidence
//
// A block is accepted as a whole or not at all.
//
// How the bytes get there, through the page cache or past it, is not part of the format: see direct.go. What padding is for: gather.go.
//
// # Segment file
//
// A header (SegmentHeaderSize bytes) and blocks back to back, then the zeros of the preallocated extent.
//
//	 0        4        8    10   12               16               24               32               40
//	+--------+--------+----+----+----------------+----------------+----------------+----------------+
//	| magic  | crc    |ver |flag| reserved       | group          | generation     | first index    | …
//	+--------+--------+----+----+----------------+----------------+----------------+----------------+
//	 40               48               56                    64                    72
//	+----------------+----------------+---------------------+---------------------+
//	| base offset    | previous term  | previous generation | previous file's first index
//	+----------------+----------------+---------------------+---------------------+
//
// Version 1; 2 if its blocks may have padding: a program that does not know it refuses the file, and takes none of it for damage.
//
// The last three say what must come before. If a file vanishes that had overruled the end of an older one, the void
// entries there would otherwise seem to fill its place.
//
// The generation is one larger than that of any file before it in this log. A file (first index f, generation g)
// overrules every entry at or above f in files of smaller generation. That is the whole truncation protocol: to cut the
// tail at f is to make a new file that begins at f. The old file is not touched, so there is no moment in which a crash
// leaves half a truncation, and frames that stay behind it with good checksums are never taken for the log again. The
// same rule takes entries after a recovery that found a torn tail: it goes on in a new file, and overwrites nothing.
// (Overwriting in place is how stale but valid frames come back: a new block whose header reached the disk and whose
// body did not, over the old frames.)
//
// Order of a roll or a cut, each step durable before the next: all earlier entries; then the new file's header, blocks
// and name. So a file that exists says that everything before its first index was durable.
//
// # Recovery
//
// Files are read in the order of their rule above; the newest without an index file is read from where its tip ends, and every frame
// there verified. At the first block that is not valid, at index x: if anything else proves that x was durable (a later block's
// synced index, a later file, the file's tip, the stored snapshot), the log is corrupt from x; otherwise it is the torn tail of the
// last write, and cut. A corrupt log opens with what is intact before x; Recovery.DamagedUpTo is the last index known to
// have been durable, and stays on record in meta until a leader has refilled the log up to there. If the newest file has an index, or no
// file is left and nothing says that none need be, the end is lost and the last index is not known (raft.UntilTold). The damaged files are
// kept in a directory of their own.
//
// # Meta
//
//	magic | crc | ver, flags | group | first index | previous term | start offset | generation floor | damaged up to | n, n × epoch
//
// of a compacted log version 2, and behind that: cleaned up to | n, n × (first offset, end, generation, size, crc) of a cleaned file
//
// Replaced as a whole: written beside, synced, renamed, directory synced. Files of a generation below the floor are
// dead: that makes the installation of a snapshot one atomic step. An epoch is (term, first index, start offset).
//
// # Snapshot
//
//	magic | crc | ver, flags | group | index | term | floor | membership | n, data
//
// Replaced like meta. A floor other than 0 says that the snapshot came from a leader and replaces the log; if meta's
// floor is lower, the crash came in between and the next open finishes the installation. data is what EncodeSnapshot
// made: the next offset and the epoch table as of the index, then the state machine's bytes.
package segment
