// The time of records.

package client

import (
	"sync/atomic"
	"time"
)

// anchorAge is how long the producer goes by the monotonic clock from a look at the time of day, which costs twice as much: also how late it
// notices that the time of day was set, or that the machine was suspended.
const anchorAge = 10 * time.Millisecond

// stamps tells the time, which every record without one gets.
type stamps struct {
	last atomic.Pointer[stamp]
}

// stamp is a millisecond, told by a look at the time of day.
type stamp struct {
	at   time.Time // of the look
	nano int64     // the time of day then, since 1970
	is   time.Time
	ends time.Duration // since at
}

func stampAt(at time.Time, nano int64, since time.Duration) *stamp {
	milli := (nano + int64(since)) / int64(time.Millisecond)
	return &stamp{at, nano, time.UnixMilli(milli), time.Duration((milli+1)*int64(time.Millisecond) - nano)}
}

// now is the time, to the millisecond that a record has.
func (s *stamps) now() time.Time {
	t := s.last.Load()
	since := anchorAge
	if t != nil {
		if since = time.Since(t.at); since < t.ends {
			return t.is
		}
	}
	if since < anchorAge {
		t = stampAt(t.at, t.nano, since)
	} else {
		now := time.Now()
		t = stampAt(now, now.UnixNano(), 0)
	}
	s.last.Store(t)
	return t.is
}
