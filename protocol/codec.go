// Decompression of record batches. The broker stores and hands out batches as they came; it looks inside only where a
// feature must see the records, and then within a bound: a few kilobytes can inflate to gigabytes.

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

// Codec is a batch's compression. The values are the wire's.
type Codec int8

const (
	CodecNone   Codec = 0
	CodecGzip   Codec = 1
	CodecSnappy Codec = 2
	CodecLZ4    Codec = 3
	CodecZstd   Codec = 4
)

func (c Codec) String() string {
	names := [...]string{"none", "gzip", "snappy", "lz4", "zstd"}
	if c >= 0 && int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("Codec(%d)", int8(c))
}

var (
	// ErrCodec: a codec that does not exist, or that was not expected here.
	ErrCodec = errors.New("unsupported compression codec")
	// ErrInflate: the compressed bytes are damaged, or inflate beyond the bound.
	ErrInflate = errors.New("cannot decompress the record batch")
)

// Inflater decompresses batches to at most Limit bytes each. It is safe for use by many goroutines.
type Inflater struct {
	limit int
	zstd  *zstd.Decoder
	gzip  sync.Pool // *gzip.Reader
	lz4   sync.Pool // *lz4.Reader
}

// NewInflater makes one. limit bounds what one batch may inflate to.
func NewInflater(limit int) *Inflater {
	// Only DecodeAll is used, whose memory is bounded by the output: a large window in the header costs nothing.
	d, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(uint64(limit)), zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true))
	if err != nil {
		panic("protocol: zstd decoder: " + err.Error()) // constant options
	}
	return &Inflater{limit: limit, zstd: d}
}

// Close frees the decoder's memory.
func (f *Inflater) Close() { f.zstd.Close() }

// Inflate returns the decompressed bytes, which are the caller's (src itself for CodecNone).
func (f *Inflater) Inflate(c Codec, src []byte) ([]byte, error) {
	var out []byte
	var err error
	switch c {
	case CodecNone:
		return src, nil
	case CodecGzip:
		r, _ := f.gzip.Get().(*gzip.Reader)
		if r == nil {
			r = new(gzip.Reader)
		}
		defer f.gzip.Put(r)
		if err = r.Reset(bytes.NewReader(src)); err == nil {
			out, err = f.readAll(r, len(src))
		}
	case CodecSnappy:
		out, err = f.snappy(src)
	case CodecLZ4:
		r, _ := f.lz4.Get().(*lz4.Reader)
		if r == nil {
			r = lz4.NewReader(nil)
		}
		defer f.lz4.Put(r)
		r.Reset(bytes.NewReader(src))
		out, err = f.readAll(r, len(src))
	case CodecZstd:
		out, err = f.zstd.DecodeAll(src, nil)
		if err == nil && len(out) > f.limit {
			err = errTooLarge
		}
	default:
		return nil, fmt.Errorf("%w: %d", ErrCodec, c)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %v: %w", ErrInflate, c, err)
	}
	return out, nil
}

var errTooLarge = errors.New("inflates beyond the limit")

// readAll reads r to its end or to one byte past the limit.
func (f *Inflater) readAll(r io.Reader, hint int) ([]byte, error) {
	var buf bytes.Buffer
	buf.Grow(min(f.limit, 4*hint) + bytes.MinRead)
	n, err := buf.ReadFrom(io.LimitReader(r, int64(f.limit)+1))
	if err != nil {
		return nil, err
	}
	if n > int64(f.limit) {
		return nil, errTooLarge
	}
	return buf.Bytes(), nil
}

// xerial is how Java's snappy-java frames its stream, and so what the Java client writes: this magic, two version
// numbers, then blocks, each with its length before it. librdkafka and Go clients write one bare block, or this.
var xerial = []byte{130, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

const xerialHeader = 16

func (f *Inflater) snappy(src []byte) ([]byte, error) {
	if len(src) < xerialHeader || !bytes.Equal(src[:len(xerial)], xerial) {
		return f.snappyBlock(nil, src)
	}
	out := []byte{}
	for src = src[xerialHeader:]; len(src) > 0; {
		if len(src) < 4 {
			return nil, io.ErrUnexpectedEOF
		}
		n := binary.BigEndian.Uint32(src)
		src = src[4:]
		if uint64(n) > uint64(len(src)) {
			return nil, io.ErrUnexpectedEOF
		}
		var err error
		if out, err = f.snappyBlock(out, src[:n]); err != nil {
			return nil, err
		}
		src = src[n:]
	}
	return out, nil
}

func (f *Inflater) snappyBlock(dst, src []byte) ([]byte, error) {
	n, err := s2.DecodedLen(src)
	if err != nil {
		return nil, err
	}
	if n > f.limit-len(dst) {
		return nil, errTooLarge
	}
	// A snappy block cannot inflate more than about 21 times (64 bytes from a copy of three): a length beyond says
	// that it is damaged, and would only make us allocate.
	if n > 64*len(src) {
		return nil, s2.ErrCorrupt
	}
	out, err := s2.Decode(nil, src)
	if err != nil {
		return nil, err
	}
	if dst == nil {
		return out, nil
	}
	return append(dst, out...), nil
}
