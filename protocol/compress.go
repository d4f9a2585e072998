// Compression, for what the broker writes itself and for topics that say how their batches are to be compressed. What it
// writes is what Kafka's broker would write, so that every client can read it.

package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Compression is a codec and how hard it tries. The zero value does not compress.
type Compression struct {
	Codec Codec
	// Level is Kafka's: gzip 1 to 9, lz4 1 to 17, zstd -131072 to 22. 0: the codec's default. Snappy has none.
	Level int
}

const (
	// xerialBlock is the block size of Kafka's snappy.
	xerialBlock = 32 << 10
	// lz4Fast is the level of lz4 that stands for its fast compressor, as Kafka has it: all others are of the slow one.
	lz4Fast     = 9
	lz4MaxLevel = 17
)

// Writers are kept, as making one costs more than to compress a batch. zstd's takes calls from many goroutines.
var (
	gzipWriters [gzip.BestCompression + 1]sync.Pool
	lz4Writers  sync.Pool
	zstdWriters [zstd.SpeedBestCompression + 1]struct {
		once sync.Once
		w    *zstd.Encoder
	}
)

// Deflate returns src compressed; src itself if there is no codec. Safe for many goroutines.
func (c Compression) Deflate(src []byte) []byte {
	switch c.Codec {
	case CodecNone:
		return src
	case CodecGzip:
		return c.gzip(src)
	case CodecSnappy:
		return xerialSnappy(src)
	case CodecLZ4:
		return c.lz4(src)
	case CodecZstd:
		return c.zstd(src)
	}
	panic(fmt.Sprintf("protocol: cannot write codec %d", c.Codec))
}

func (c Compression) gzip(src []byte) []byte {
	level := 6 // zlib's default, which -1 stands for, too
	if c.Level >= gzip.BestSpeed && c.Level <= gzip.BestCompression {
		level = c.Level
	}
	pool := &gzipWriters[level]
	w, _ := pool.Get().(*gzip.Writer)
	if w == nil {
		w, _ = gzip.NewWriterLevel(nil, level) // the level is one that there is
	}
	defer pool.Put(w)
	var out bytes.Buffer
	w.Reset(&out)
	return written(&out, w, src)
}

func (c Compression) lz4(src []byte) []byte {
	w, _ := lz4Writers.Get().(*lz4.Writer)
	if w == nil {
		w = lz4.NewWriter(nil)
	}
	defer lz4Writers.Put(w)
	level := lz4.Fast
	if c.Level > 0 && c.Level != lz4Fast {
		// Nine levels here for the seventeen of the other library.
		n := (min(c.Level, lz4MaxLevel)*9 + lz4MaxLevel - 1) / lz4MaxLevel
		level = lz4.CompressionLevel(1 << (8 + n))
	}
	var out bytes.Buffer
	w.Reset(&out)
	// Blocks of 64 KiB without a checksum of the whole, as Kafka's own clients write: old readers know no others.
	if err := w.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.ChecksumOption(false), lz4.CompressionLevelOption(level)); err != nil {
		panic("protocol: lz4: " + err.Error()) // constant options
	}
	return written(&out, w, src)
}

// written is what is in out once src has been written to w.
func written(out *bytes.Buffer, w io.WriteCloser, src []byte) []byte {
	_, err := w.Write(src)
	if err = errors.Join(err, w.Close()); err != nil {
		panic("protocol: compress: " + err.Error()) // writes into a bytes.Buffer do not fail
	}
	return out.Bytes()
}

func (c Compression) zstd(src []byte) []byte {
	level := zstd.SpeedDefault
	if c.Level != 0 {
		level = zstd.EncoderLevelFromZstd(c.Level)
	}
	e := &zstdWriters[level]
	e.once.Do(func() {
		var err error
		if e.w, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(level)); err != nil {
			panic("protocol: zstd: " + err.Error()) // constant options
		}
	})
	return e.w.EncodeAll(src, nil)
}

// xerialSnappy frames blocks as Java's snappy does, which the Java client has always understood; see Inflater.snappy.
func xerialSnappy(src []byte) []byte {
	out := make([]byte, 0, xerialHeader+s2.MaxEncodedLen(min(len(src), xerialBlock))+len(src)/2)
	out = append(append(out, xerial...), 0, 0, 0, 1, 0, 0, 0, 1)
	var block []byte
	for len(src) > 0 {
		part := src[:min(len(src), xerialBlock)]
		src = src[len(part):]
		block = s2.EncodeSnappy(block[:cap(block)], part)
		out = append(binary.BigEndian.AppendUint32(out, uint32(len(block))), block...)
	}
	return out
}
