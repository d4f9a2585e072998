// Ratios to peers that are kept: what a later run is checked against, so that a loss of speed is seen without a quiet machine. Both sides of
// a ratio come from one round of one run; the median of the rounds must not fall below half of what was recorded.

package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// Kept are the ratios of one run, as they are committed.
type Kept struct {
	Taken   time.Time `json:"taken"`
	Command []string  `json:"command"` // that measured them
	Commit  string    `json:"commit"`
	Machine Machine   `json:"machine"`
	Peers   []string  `json:"peers"` // with their versions
	Ratios  []Ratio   `json:"ratios"`
}

// Ratio is how much better we are than a peer: above 1 is better, also where less is.
type Ratio struct {
	Cell   Cell    `json:"cell"`
	Figure string  `json:"figure"`
	Peer   string  `json:"peer"`
	Mode   string  `json:"mode,omitempty"`
	Rounds int     `json:"rounds"`
	Median float64 `json:"median"`
}

func (r Ratio) String() string {
	return fmt.Sprintf("%s, %s: %.2f times %s", r.Cell, r.Figure, r.Median, strings.TrimSpace(r.Peer+" "+r.Mode))
}

// What is compared: throughput where many records are in flight, the median latency where one is.
const (
	figureRate = "records_per_second"
	figureP50  = "p50_ms"
)

// KeptShare is the part of a recorded ratio that must be reached: less is a loss, and not the machine's mood.
const KeptShare = 0.5

// Ratios are those of all peers of a run.
func (r *Report) Ratios() (all []Ratio) {
	for _, x := range r.Results {
		if x.System == OurName || x.Rate > 0 || x.Backlog > 0 {
			continue
		}
		ratio := Ratio{Cell: x.Cell, Figure: figureRate, Peer: x.System, Mode: x.Mode}
		of := func(x Result) float64 { return x.RecordsSec }
		if x.InflightBytes <= x.RecordBytes {
			ratio.Figure = figureP50
			of = func(x Result) float64 { // more is better
				if x.Latency.P50 == 0 {
					return 0
				}
				return 1 / x.Latency.P50
			}
		}
		if slices.ContainsFunc(all, func(o Ratio) bool {
			return o.Cell == ratio.Cell && o.Peer == ratio.Peer && o.Mode == ratio.Mode
		}) {
			continue
		}
		var v []float64
		for _, peer := range r.Results {
			if peer.Cell != x.Cell || peer.System != x.System || peer.Mode != x.Mode {
				continue
			}
			for _, our := range r.Results {
				if our.Cell == x.Cell && our.System == OurName && our.Round == peer.Round && of(our) > 0 && of(peer) > 0 {
					v = append(v, of(our)/of(peer))
				}
			}
		}
		if ratio.Rounds = len(v); ratio.Rounds > 0 {
			slices.Sort(v)
			ratio.Median = rank(v, 0.5)
			all = append(all, ratio)
		}
	}
	return all
}

// ErrSlower is returned by Kept.Check.
var ErrSlower = errors.New("slower than it was")

// Check compares a run with what was kept; line is called for each ratio. A ratio that the run does not have is an error, too: a check that
// compares nothing would always pass.
func (k *Kept) Check(r *Report, line func(string)) error {
	if len(k.Ratios) == 0 {
		return errors.New("no ratios were recorded")
	}
	now := r.Ratios()
	var errs []error
	for _, want := range k.Ratios {
		i := slices.IndexFunc(now, func(n Ratio) bool {
			return n.Cell == want.Cell && n.Figure == want.Figure && n.Peer == want.Peer && n.Mode == want.Mode
		})
		if i < 0 {
			errs = append(errs, fmt.Errorf("the run has no figures for %s", want))
			continue
		}
		line(fmt.Sprintf("%s in the median of %d rounds; it was %.2f, %.2f would do", now[i], now[i].Rounds, want.Median, want.Median*KeptShare))
		if now[i].Median < want.Median*KeptShare {
			errs = append(errs, fmt.Errorf("%w: %s; it was %.2f", ErrSlower, now[i], want.Median))
		}
	}
	return errors.Join(errs...)
}

// Keep makes of a run what later ones are checked against.
func (r *Report) Keep() *Kept {
	k := &Kept{Taken: r.Taken, Command: r.Command, Commit: r.Balsa.Commit, Machine: r.Machine, Ratios: r.Ratios()}
	for _, p := range r.Peers {
		k.Peers = append(k.Peers, p.Name+" "+p.Version)
	}
	return k
}

// ReadKept reads a Kept in JSON.
func ReadKept(file string) (*Kept, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxReportBytes {
		return nil, fmt.Errorf("%s is larger than %d bytes", file, maxReportBytes)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	k := new(Kept)
	if err := json.Unmarshal(b, k); err != nil {
		return nil, fmt.Errorf("%s holds no ratios: %w", file, err)
	}
	return k, nil
}
