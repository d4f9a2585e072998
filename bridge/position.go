// Where a bridge begins: at its first start, and after a seek.

package bridge

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The words for both ends of a source.
const (
	PositionFirst = "first"
	PositionNew   = "new"
)

// maxPartitions bounds the partitions that a position may name: those that a topic can have.
const maxPartitions = 10_000

// position is one that has been read.
type position struct {
	new     bool
	time    time.Time       // not zero: from then on
	seq     uint64          // not 0: of a stream
	offsets map[int32]int64 // of a topic; partitions that are not named stay where they are
}

// CheckPosition says what is wrong with a position for a bridge; nil: nothing.
func CheckPosition(s *Spec, to string) error {
	_, err := parsePosition(s, to)
	return err
}

// parsePosition reads "first", "new", a time as in RFC 3339, a sequence of a stream, or PARTITION:OFFSET,… of a topic.
func parsePosition(s *Spec, to string) (p position, err error) {
	const what = "first, new, or a time such as 2026-11-27T08:00:00Z"
	if s.FromSubject != "" {
		if to == PositionNew || to == "" {
			return position{new: true}, nil
		}
		return p, specErrorf("a core subject has no past: it is bridged from now on, and there is nowhere to seek to")
	}
	switch to {
	case PositionFirst, "":
		return p, nil
	case PositionNew:
		return position{new: true}, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, to); err == nil {
		return position{time: t}, nil
	}
	if s.FromStream != "" {
		if p.seq, err = strconv.ParseUint(to, 10, 63); err != nil || p.seq == 0 {
			return p, specErrorf("position %.80q is none in a stream: a sequence from 1 on, %s", to, what)
		}
		return p, nil
	}
	p.offsets = make(map[int32]int64)
	for part := range strings.SplitSeq(to, ",") {
		number, offset, ok := strings.Cut(part, ":")
		n, err1 := strconv.ParseInt(number, 10, 32)
		o, err2 := strconv.ParseInt(offset, 10, 64)
		if !ok || err1 != nil || err2 != nil || n < 0 || o < 0 || len(p.offsets) >= maxPartitions {
			return p, specErrorf("position %.80q is none in a topic: PARTITION:OFFSET,..., %s", to, what)
		}
		p.offsets[int32(n)] = o
	}
	return p, nil
}

// placeText shows offsets as a position that seek takes.
func placeText(offsets map[int32]int64) string {
	var b strings.Builder
	for _, p := range slices.Sorted(maps.Keys(offsets)) {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		if b.Len() > 1000 {
			b.WriteString("…")
			break
		}
		b.WriteString(strconv.Itoa(int(p)) + ":" + strconv.FormatInt(offsets[p], 10))
	}
	return b.String()
}
