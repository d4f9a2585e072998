// What the disk gives: syncs of one file and of many, appends and reads, buffered and direct.

package limit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

func diskProbes(files []int) []probe {
	probes := []probe{
		wait("a sync of a growing file", func(m *Machine) *Wait { return &m.SyncGrowing }, syncGrowing),
		wait("a sync of a written file", func(m *Machine) *Wait { return &m.SyncWritten }, func(ctx context.Context, e *env) (sample, error) { return syncOver(ctx, e, 0) }),
		wait("a direct, synced write", func(m *Machine) *Wait { return &m.SyncDirect }, func(ctx context.Context, e *env) (sample, error) {
			if directFlag == 0 {
				return sample{}, errCannot
			}
			return syncOver(ctx, e, directFlag|dsyncFlag)
		}),
		stream("buffered append", func(m *Machine) *Stream { return &m.AppendBuffered }, appendBuffered),
		stream("direct append", func(m *Machine) *Stream { return &m.AppendDirect }, func(ctx context.Context, e *env) (sample, error) {
			return direct(ctx, e, 0, func(f *os.File, b []byte, at int64) error { _, err := f.WriteAt(b, at); return err })
		}),
		stream("direct, synced append", func(m *Machine) *Stream { return &m.AppendSynced }, func(ctx context.Context, e *env) (sample, error) {
			return direct(ctx, e, dsyncFlag, func(f *os.File, b []byte, at int64) error { _, err := f.WriteAt(b, at); return err })
		}),
		stream("cached read", func(m *Machine) *Stream { return &m.ReadCached }, readCached),
		stream("direct read", func(m *Machine) *Stream { return &m.ReadDirect }, func(ctx context.Context, e *env) (sample, error) {
			return direct(ctx, e, 0, func(f *os.File, b []byte, at int64) error { _, err := f.ReadAt(b, at); return err })
		}),
		{name: "opening a file", run: openFile, set: func(m *Machine, r []sample) { m.OpenFile = figure(r, first) }},
	}
	for _, n := range files {
		probes = append(probes, probe{
			name: fmt.Sprintf("syncs of %d files", n),
			run:  func(ctx context.Context, e *env) (sample, error) { return syncMany(ctx, e, n, 0) },
			set:  func(m *Machine, r []sample) { m.SyncMany = append(m.SyncMany, syncs(n, r)) },
		})
	}
	for _, n := range files {
		if n > maxDirectMany {
			continue
		}
		probes = append(probes, probe{
			name: fmt.Sprintf("direct, synced writes of %d files", n),
			run: func(ctx context.Context, e *env) (sample, error) {
				if directFlag == 0 {
					return sample{}, errCannot
				}
				return syncMany(ctx, e, n, directFlag|dsyncFlag)
			},
			set: func(m *Machine, r []sample) { m.DirectMany = append(m.DirectMany, syncs(n, r)) },
		})
	}
	return probes
}

// maxDirectMany is the most files of which direct writes are measured side by side: the replicas of one log.
const maxDirectMany = 5

func syncs(files int, r []sample) Syncs {
	return Syncs{Files: files, PerSec: figure(r, third), Wait: Wait{P50: figure(r, first), P99: figure(r, second)}}
}

// aligned is a buffer as direct I/O wants it.
func aligned(n int) []byte {
	b := make([]byte, n+blockBytes)
	off := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (blockBytes - 1)
	b = b[off : off+n : off+n]
	for i := range b {
		b[i] = byte(i * 131)
	}
	return b
}

// laidOut makes a file of written extents.
func laidOut(path string, n int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	b := make([]byte, streamBytes)
	for at := int64(0); at < n && err == nil; at += int64(len(b)) {
		_, err = f.Write(b[:min(int64(len(b)), n-at)])
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncGrowing(ctx context.Context, e *env) (_ sample, err error) {
	path := filepath.Join(e.dir, "growing")
	f, err := os.Create(path)
	if err != nil {
		return sample{}, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(path)) }()
	b := aligned(blockBytes)
	var l latencies
	err = l.fill(ctx, e.each, func(int) error {
		if _, err := f.Write(b); err != nil {
			return err
		}
		return dataSync(f)
	})
	if err != nil {
		return sample{}, err
	}
	return l.sample(), nil
}

// syncOver writes and syncs block by block over a laid-out file; with flags each write is its own sync.
func syncOver(ctx context.Context, e *env, flags int) (_ sample, err error) {
	path := filepath.Join(e.dir, "written")
	const size = 8 << 20
	if err := laidOut(path, size); err != nil {
		return sample{}, err
	}
	defer func() { err = errors.Join(err, os.Remove(path)) }()
	f, err := os.OpenFile(path, os.O_RDWR|flags, 0)
	if err != nil {
		if flags != 0 {
			return sample{}, fmt.Errorf("%w: %v", errCannot, err)
		}
		return sample{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b := aligned(blockBytes)
	var l latencies
	err = l.fill(ctx, e.each, func(i int) error {
		if _, err := f.WriteAt(b, int64(i)*blockBytes%size); err != nil || flags != 0 {
			return err
		}
		return dataSync(f)
	})
	if err != nil {
		return sample{}, err
	}
	return l.sample(), nil
}

// syncMany writes and syncs n laid-out files, each by one thread at a time, by as many threads as there are files or as
// are allowed; with flags each write is its own sync.
func syncMany(ctx context.Context, e *env, n, flags int) (_ sample, err error) {
	dir := filepath.Join(e.dir, "many")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return sample{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	files := make([]*os.File, 0, n)
	defer func() {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
	}()
	zeros := make([]byte, manyBytes)
	for i := range n {
		path := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(path, zeros, 0o600); err != nil {
			return sample{}, err
		}
		f, err := os.OpenFile(path, os.O_RDWR|flags, 0)
		if err != nil {
			if flags != 0 {
				return sample{}, fmt.Errorf("%w: %v", errCannot, err)
			}
			return sample{}, err
		}
		files = append(files, f)
	}
	for _, f := range files {
		if err := f.Sync(); err != nil {
			return sample{}, err
		}
	}
	threads := min(n, manyThreads)
	all := make([]latencies, threads)
	errs := make([]error, threads)
	var wg sync.WaitGroup
	begin := time.Now()
	for t := range threads {
		wg.Go(func() {
			b := aligned(blockBytes)
			errs[t] = all[t].fill(ctx, e.each, func(i int) error {
				mine := (n - t + threads - 1) / threads // files t, t+threads, …
				f := files[t+i%mine*threads]
				if _, err := f.WriteAt(b, int64(i/mine)*blockBytes%manyBytes); err != nil || flags != 0 {
					return err
				}
				return dataSync(f)
			})
		})
	}
	wg.Wait()
	took := time.Since(begin).Seconds()
	var sum latencies
	for i := range all {
		sum.took = append(sum.took, all[i].took...)
	}
	if err := errors.Join(errs...); err != nil {
		return sample{}, err
	}
	s := sum.sample()
	s.third = float64(len(sum.took)) / took
	return s, nil
}

func appendBuffered(ctx context.Context, e *env) (_ sample, err error) {
	path := filepath.Join(e.dir, "append")
	f, err := os.Create(path)
	if err != nil {
		return sample{}, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(path)) }()
	b := aligned(streamBytes)
	return flow(func() (n int64, err error) {
		for end := time.Now().Add(e.each); n < e.bytes && time.Now().Before(end) && ctx.Err() == nil; n += int64(len(b)) {
			if _, err := f.Write(b); err != nil {
				return n, err
			}
		}
		return n, ctx.Err()
	})
}

// direct moves blocks past the page cache, four at a time, over and over the same laid-out file.
func direct(ctx context.Context, e *env, flags int, move func(f *os.File, b []byte, at int64) error) (_ sample, err error) {
	if directFlag == 0 {
		return sample{}, errCannot
	}
	path := filepath.Join(e.dir, "direct")
	if err := laidOut(path, e.bytes); err != nil {
		return sample{}, err
	}
	defer func() { err = errors.Join(err, os.Remove(path)) }()
	f, err := os.OpenFile(path, os.O_RDWR|directFlag|flags, 0)
	if err != nil {
		return sample{}, fmt.Errorf("%w: %v", errCannot, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	const depth = 4
	return flow(func() (int64, error) {
		var next atomic.Int64
		var wg sync.WaitGroup
		errs := make([]error, depth)
		end := time.Now().Add(e.each)
		for i := range depth {
			b := aligned(streamBytes)
			wg.Go(func() {
				for {
					errs[i] = move(f, b, (next.Add(1)-1)*streamBytes%e.bytes)
					if errs[i] != nil || time.Now().After(end) || ctx.Err() != nil {
						return
					}
				}
			})
		}
		wg.Wait()
		return next.Load() * streamBytes, errors.Join(append(errs, ctx.Err())...)
	})
}

func readCached(ctx context.Context, e *env) (_ sample, err error) {
	path := filepath.Join(e.dir, "cached")
	size := min(e.bytes, 64<<20)
	if err := laidOut(path, size); err != nil {
		return sample{}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return sample{}, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(path)) }()
	b := make([]byte, streamBytes)
	return flow(func() (n int64, err error) {
		for end := time.Now().Add(e.each); time.Now().Before(end) && ctx.Err() == nil; n += int64(len(b)) {
			if _, err := f.ReadAt(b, n%size); err != nil {
				return n, err
			}
		}
		return n, ctx.Err()
	})
}

// openFile opens one of many files and reads its last block: what opening a log's segment costs at the least.
func openFile(ctx context.Context, e *env) (_ sample, err error) {
	dir := filepath.Join(e.dir, "open")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return sample{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	const files = 64
	names := make([]string, files)
	for i := range names {
		names[i] = filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(names[i], make([]byte, manyBytes), 0o600); err != nil {
			return sample{}, err
		}
	}
	b := make([]byte, blockBytes)
	var l latencies
	err = l.fill(ctx, e.each, func(i int) error {
		f, err := os.Open(names[i%files])
		if err != nil {
			return err
		}
		_, err = f.ReadAt(b, manyBytes-blockBytes)
		return errors.Join(err, f.Close())
	})
	if err != nil {
		return sample{}, err
	}
	return l.sample(), nil
}
