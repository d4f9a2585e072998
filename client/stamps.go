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
	anchor atomic.Pointer[anchor]
}

// anchor is a look at the time of day.
type anchor struct {
	at   time.Time
	nano int64 // since 1970
}

// now is the time, to the millisecond that a record has.
func (s *stamps) now() time.Time {
	if a := s.anchor.Load(); a != nil {
		if d := time.Since(a.at); d < anchorAge {
			return time.UnixMilli((a.nano + int64(d)) / int64(time.Millisecond))
		}
	}
	now := time.Now()
	s.anchor.Store(&anchor{now, now.UnixNano()})
	return now
}
