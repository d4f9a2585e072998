// A histogram for what is measured on the way of every record: one atomic addition to a bucket and one to the sum. (That of
// the Prometheus library keeps two sets of buckets and a sum in floating point, for five times the price.)

package broker

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// histogram counts whole numbers: nanoseconds or bytes. Safe for any goroutine.
type histogram struct {
	desc   *prometheus.Desc
	label  []string // values of the desc's labels
	scale  float64  // of the unit that is shown
	bounds []int64  // ascending; a value belongs to the first bound that it does not exceed
	counts []atomic.Uint64
	sum    atomic.Int64
}

const (
	nanoseconds = 1e9
	bytesEach   = 1
)

func newHistogram(desc *prometheus.Desc, scale float64, bounds []float64, label ...string) *histogram {
	h := &histogram{desc: desc, label: label, scale: scale, bounds: make([]int64, len(bounds)), counts: make([]atomic.Uint64, len(bounds)+1)}
	for i, b := range bounds {
		h.bounds[i] = int64(b * scale)
	}
	return h
}

func (h *histogram) observe(v int64) {
	i := 0
	for i < len(h.bounds) && v > h.bounds[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(v)
}

func (h *histogram) Describe(out chan<- *prometheus.Desc) { out <- h.desc }

// Collect may see a value in its bucket and not yet in the sum: the next scrape has it.
func (h *histogram) Collect(out chan<- prometheus.Metric) {
	n := uint64(0)
	buckets := make(map[float64]uint64, len(h.bounds))
	for i := range h.bounds {
		n += h.counts[i].Load()
		buckets[float64(h.bounds[i])/h.scale] = n
	}
	n += h.counts[len(h.bounds)].Load()
	out <- prometheus.MustNewConstHistogram(h.desc, n, float64(h.sum.Load())/h.scale, buckets, h.label...)
}
