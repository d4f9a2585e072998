// How long a start takes, phase by phase, and with how much: in the log as it goes, and in balsa_start_seconds. What a start should take
// depends on how many logs there are, not on what they hold: docs/design/0003-segment.md, "The tip".

package broker

import (
	"sync/atomic"
	"time"

	"github.com/balsamq/balsa/partition"
)

// startPhase is one that a start goes through, in this order.
type startPhase int

const (
	startedDirectory startPhase = iota // the data directory is locked and read
	startedJournal                     // the journal of terms and votes is replayed
	startedMetadata                    // the metadata log is open
	startedLogs                        // and so are the logs of all partitions that this broker holds by what that says
	startedReady                       // clients are served
	startPhases
)

var startPhaseNames = [startPhases]string{"directory", "journal", "metadata", "logs", "ready"}

// starting has when the phases ended.
type starting struct {
	began time.Time
	took  [startPhases]atomic.Int64 // nanoseconds since then; 0: not yet
}

// reached notes the end of a phase, and says how long it took to come there.
func (s *starting) reached(p startPhase) time.Duration {
	took := time.Since(s.began)
	s.took[p].Store(max(int64(took), 1))
	return took.Round(time.Millisecond)
}

// opening counts the replicas that a start has to open, and what it finds in their logs.
type opening struct {
	pending  int  // begun, or about to be
	over     bool // what is opened from here on is new, or was failed
	logs     int
	segments int
	bytes    int64
	scanned  int   // segments that were read, each at least its end
	read     int64 // of them
	torn     int   // logs of which the end of the last write was cut
	damaged  int
}

func (o *opening) add(r *partition.Replica) {
	bytes, segments := r.LogSize()
	rec, scan := r.Recovery()
	o.logs++
	o.segments += segments
	o.bytes += bytes
	o.scanned += scan.Segments
	o.read += scan.Bytes
	if rec.Torn {
		o.torn++
	}
	if rec.Corrupt {
		o.damaged++
	}
}

// logsOpen is called by the reconciler when no log is left to open, as far as its Image goes; again, if that then shows more.
func (b *Broker) logsOpen(o opening) {
	took := b.starting.reached(startedLogs)
	if o.logs > 0 {
		b.log.Info("logs are open", "logs", o.logs, "segments", o.segments, "bytes", o.bytes, "scanned", o.scanned, "read", o.read,
			"torn", o.torn, "damaged", o.damaged, "took", took)
	}
}
