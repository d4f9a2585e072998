// What the processor gives: checksums, copies, and the way from one goroutine to another.

package limit

import (
	"context"
	"hash/crc32"
	"runtime"
	"time"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func cpuProbes() []probe {
	return []probe{
		stream("CRC32C", func(m *Machine) *Stream { return &m.CRC }, func(ctx context.Context, e *env) (sample, error) {
			b := aligned(streamBytes)
			var sum uint32
			return flow(func() (n int64, err error) {
				for end := time.Now().Add(e.each); time.Now().Before(end); n += int64(len(b)) {
					sum = crc32.Update(sum, castagnoli, b)
				}
				runtime.KeepAlive(sum)
				return n, ctx.Err()
			})
		}),
		stream("memcpy", func(m *Machine) *Stream { return &m.Copy }, func(ctx context.Context, e *env) (sample, error) {
			from, to := aligned(int(min(e.bytes, 64<<20))), aligned(int(min(e.bytes, 64<<20))) // more than a cache holds
			return flow(func() (n int64, err error) {
				for end := time.Now().Add(e.each); time.Now().Before(end); {
					n += int64(copy(to, from))
				}
				return n, ctx.Err()
			})
		}),
		{name: "handing over to a goroutine", run: func(ctx context.Context, e *env) (sample, error) { return handOver(ctx, e, false) },
			set: func(m *Machine, r []sample) { m.HandOver = figure(r, first) }},
		{name: "waking a thread", run: func(ctx context.Context, e *env) (sample, error) { return handOver(ctx, e, true) },
			set: func(m *Machine, r []sample) { m.Wake = figure(r, first) }},
	}
}

// handOver goes to another goroutine and back, a thousand times for each reading of the clock.
func handOver(ctx context.Context, e *env, threads bool) (sample, error) {
	const times = 1000
	there, back := make(chan struct{}), make(chan struct{})
	go func() {
		if threads {
			runtime.LockOSThread()
		}
		for range there {
			back <- struct{}{}
		}
		close(back)
	}()
	if threads {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
	}
	var l latencies
	err := l.fill(ctx, e.each, func(int) error {
		for range times {
			there <- struct{}{}
			<-back
		}
		return nil
	})
	close(there)
	<-back
	if err != nil {
		return sample{}, err
	}
	s := l.sample()
	s.value /= times
	return s, nil
}
