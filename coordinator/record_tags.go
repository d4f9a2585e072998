// A look at a record's value before kmsg decodes it. The numbers of tagged fields in the newer versions are a claim like any other, and kmsg
// counts each down to its end, whether or not there is anything left to read: a few bytes would cost a coordinator that loads a minute.

package coordinator

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kbin"
)

// The first versions with tagged fields.
const (
	taggedTxnValue    = 1
	taggedOffsetValue = 4
	taggedGroupValue  = 4
)

// checkTagged reads a value with read, which is to see all of its tagged fields; what does not end where the value ends is refused.
func checkTagged(value []byte, read func(b *kbin.Reader)) error {
	b := kbin.Reader{Src: value}
	read(&b)
	if err := b.Complete(); err != nil {
		return fmt.Errorf("%w: tagged fields of a record: %w", ErrMalformed, err)
	}
	return nil
}

func skipTxnValue(b *kbin.Reader) {
	b.Span(2 + 8 + 2 + 4 + 1) // version, producer id and epoch, time-out, state
	for n := b.CompactArrayLen(); n > 0 && b.Ok(); n-- {
		b.CompactString()
		b.Span(4 * int(max(b.CompactArrayLen(), 0)))
		readTags(b, noTags)
	}
	b.Span(8 + 8) // updated, started
	readTags(b, noTags)
}

func skipOffsetValue(b *kbin.Reader) {
	b.Span(2 + 8 + 4) // version, offset, epoch
	b.CompactString()
	b.Span(8)
	readTags(b, noTags)
}

func skipGroupValue(b *kbin.Reader) {
	b.Span(2) // version
	b.CompactString()
	b.Span(4) // generation
	b.CompactNullableString()
	b.CompactNullableString()
	b.Span(8) // since when in this state
	for n := b.CompactArrayLen(); n > 0 && b.Ok(); n-- {
		b.CompactString()
		b.CompactNullableString()
		b.CompactString()
		b.CompactString()
		b.Span(4 + 4) // time-outs
		b.CompactBytes()
		b.CompactBytes()
		readTags(b, noTags)
	}
	readTags(b, noTags)
}
