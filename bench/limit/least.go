// The least log: three replicas that do what no system can leave out for one record in flight, and nothing else. Its producer and replicas are
// threads that block in the kernel, connected over the loopback; the leader sends a record on and writes it, each follower writes it and answers,
// and the producer has its answer once the leader and one follower have written. What the model of L1 adds up is held against it.

package limit

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
)

const (
	leastRecord   = 1024 + 64 // bytes: a record of 1 KiB and what is around it
	leastAnswer   = 16        // bytes, the record's number in front
	leastReplicas = 3
	leastFile     = 8 << 20
)

// leastLog times records; each write is its own sync if so asked.
func leastLog(ctx context.Context, e *env, synced bool) (_ sample, err error) {
	flags := 0
	if synced {
		if directFlag == 0 {
			return sample{}, errCannot
		}
		flags = directFlag | dsyncFlag
	}
	var files []*os.File
	defer func() {
		for _, f := range files {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	for i := range leastReplicas {
		path := filepath.Join(e.dir, fmt.Sprintf("least-%d", i))
		if err := laidOut(path, leastFile); err != nil {
			return sample{}, errors.Join(err, os.Remove(path))
		}
		f, err := os.OpenFile(path, os.O_RDWR|flags, 0)
		if err != nil {
			err = errors.Join(err, os.Remove(path))
			if flags != 0 {
				return sample{}, fmt.Errorf("%w: %v", errCannot, err)
			}
			return sample{}, err
		}
		files = append(files, f)
	}
	var followers []*os.File // the leader's ends of their connections
	var ends []func() error
	defer func() {
		for i := range ends {
			err = errors.Join(err, ends[i]())
		}
	}()
	for _, f := range files[1:] {
		c, closed, err := connect(ctx, func(peer net.Conn) error { return follow(peer, f) })
		if err != nil {
			return sample{}, err
		}
		to, err := c.File() // in blocking mode
		if err != nil {
			return sample{}, errors.Join(err, closed())
		}
		followers = append(followers, to)
		ends = append(ends, func() error {
			err := c.CloseWrite()
			_, read := io.Copy(io.Discard, to) // the answers that nobody waited for, or closing would reset the connection
			return errors.Join(err, read, to.Close(), closed())
		})
	}
	c, closed, err := connect(ctx, func(peer net.Conn) error { return lead(peer, files[0], followers) })
	if err != nil {
		return sample{}, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var l latencies
	to, err := c.File()
	if err == nil {
		record, answer := make([]byte, leastRecord), make([]byte, leastAnswer)
		err = l.fill(ctx, e.each, func(i int) error {
			binary.BigEndian.PutUint64(record, uint64(i))
			if _, err := to.Write(record); err != nil {
				return err
			}
			_, err := io.ReadFull(to, answer)
			return err
		})
		err = errors.Join(err, to.Close())
	}
	if err := errors.Join(err, closed()); err != nil {
		return sample{}, err
	}
	return l.sample(), nil
}

// replica serves records from a connection until that ends, in a thread of its own.
func replica(peer net.Conn, each func(conn *os.File, record []byte) error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	conn, err := peer.(*net.TCPConn).File()
	if err != nil {
		return err
	}
	record := make([]byte, leastRecord)
	for err == nil {
		if _, err = io.ReadFull(conn, record); err == nil {
			err = each(conn, record)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, conn.Close())
}

// writeLeast puts a record into its block of the file.
func writeLeast(f *os.File, block, record []byte) error {
	copy(block, record)
	_, err := f.WriteAt(block, int64(binary.BigEndian.Uint64(record)%(leastFile/blockBytes))*blockBytes)
	return err
}

func follow(peer net.Conn, f *os.File) error {
	block := aligned(blockBytes)
	return replica(peer, func(conn *os.File, record []byte) error {
		if err := writeLeast(f, block, record); err != nil {
			return err
		}
		_, err := conn.Write(record[:leastAnswer])
		return err
	})
}

func lead(peer net.Conn, f *os.File, followers []*os.File) error {
	block, answer := aligned(blockBytes), make([]byte, leastAnswer)
	return replica(peer, func(conn *os.File, record []byte) error {
		for _, to := range followers {
			if _, err := to.Write(record); err != nil {
				return err
			}
		}
		if err := writeLeast(f, block, record); err != nil { // meanwhile the followers do the same
			return err
		}
		for { // what the slower one says of an earlier record is passed over
			i, err := readable(followers)
			if err != nil {
				return err
			}
			if _, err := io.ReadFull(followers[i], answer); err != nil {
				return err
			}
			if binary.BigEndian.Uint64(answer) == binary.BigEndian.Uint64(record) {
				break
			}
		}
		_, err := conn.Write(answer)
		return err
	})
}
