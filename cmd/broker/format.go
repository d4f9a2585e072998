// The format strings of `broker consume`: kcat's, so that nobody has to learn another set.

package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const formatHelp = `  %t  topic                 %p  partition            %o  offset
  %k  key                   %K  its length, or -1    %s  value      %S  its length, or -1
  %T  timestamp, ms         %D  the same, RFC 3339   %h  headers as name=value,name=value
  %e  leader epoch          %%  a per cent sign
  \n \t \r \0 \\ \xHH       the characters
  Nothing is put between the records but what the format says.`

// formatter renders one record.
type formatter func(dst []byte, r *kgo.Record) []byte

// compileFormat reads a format string once, so that its mistakes show before the first record.
func compileFormat(s string) (formatter, error) {
	var parts []formatter
	literal := make([]byte, 0, len(s))
	flush := func() {
		if len(literal) > 0 {
			text := string(literal)
			parts = append(parts, func(dst []byte, _ *kgo.Record) []byte { return append(dst, text...) })
			literal = literal[:0]
		}
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c != '%' && c != '\\' {
			literal = append(literal, c)
			continue
		}
		i++
		if i == len(s) {
			return nil, fmt.Errorf("it ends in the middle of an escape: %q", s[i-1:])
		}
		if c == '\\' {
			switch s[i] {
			case 'n':
				literal = append(literal, '\n')
			case 't':
				literal = append(literal, '\t')
			case 'r':
				literal = append(literal, '\r')
			case '0':
				literal = append(literal, 0)
			case '\\':
				literal = append(literal, '\\')
			case 'x':
				if i+2 >= len(s) {
					return nil, fmt.Errorf("\\x needs two hexadecimal digits: %q", s[i-1:])
				}
				n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
				if err != nil {
					return nil, fmt.Errorf("\\x needs two hexadecimal digits: %q", s[i-1:i+3])
				}
				literal = append(literal, byte(n))
				i += 2
			default:
				return nil, fmt.Errorf("\\%c is not known", s[i])
			}
			continue
		}
		if s[i] == '%' {
			literal = append(literal, '%')
			continue
		}
		field, ok := formatFields[s[i]]
		if !ok {
			return nil, fmt.Errorf("%%%c is not known", s[i])
		}
		flush()
		parts = append(parts, field)
	}
	flush()
	return func(dst []byte, r *kgo.Record) []byte {
		for _, p := range parts {
			dst = p(dst, r)
		}
		return dst
	}, nil
}

var formatFields = map[byte]formatter{
	't': func(d []byte, r *kgo.Record) []byte { return append(d, r.Topic...) },
	'p': func(d []byte, r *kgo.Record) []byte { return strconv.AppendInt(d, int64(r.Partition), 10) },
	'o': func(d []byte, r *kgo.Record) []byte { return strconv.AppendInt(d, r.Offset, 10) },
	'k': func(d []byte, r *kgo.Record) []byte { return append(d, r.Key...) },
	'K': func(d []byte, r *kgo.Record) []byte { return strconv.AppendInt(d, length(r.Key), 10) },
	's': func(d []byte, r *kgo.Record) []byte { return append(d, r.Value...) },
	'S': func(d []byte, r *kgo.Record) []byte { return strconv.AppendInt(d, length(r.Value), 10) },
	'T': func(d []byte, r *kgo.Record) []byte { return strconv.AppendInt(d, r.Timestamp.UnixMilli(), 10) },
	'D': func(d []byte, r *kgo.Record) []byte { return r.Timestamp.UTC().AppendFormat(d, rfc3339Milli) },
	'e': func(d []byte, r *kgo.Record) []byte { return strconv.AppendInt(d, int64(r.LeaderEpoch), 10) },
	'h': func(d []byte, r *kgo.Record) []byte {
		for i, h := range r.Headers {
			if i > 0 {
				d = append(d, ',')
			}
			d = append(d, h.Key...)
			d = append(d, '=')
			d = append(d, h.Value...)
		}
		return d
	},
}

const rfc3339Milli = "2006-01-02T15:04:05.000Z07:00"

// length is -1 for null, which is not the same as empty.
func length(b []byte) int64 {
	if b == nil {
		return -1
	}
	return int64(len(b))
}

// startHelp documents parseStart.
const startHelp = `  beginning     the oldest record that is kept
  end           what is written from now on
  N             offset N
  -N            N records before the end of each partition
  @TIME         the first record at or after a time: RFC 3339 (@2026-03-01T12:00:00Z), milliseconds since 1970
                (@1772366400000), or a duration ago (@15m)`

// start is a parsed --from.
type start struct {
	kind byte // 'b', 'e', 'o', 't', '@'
	n    int64
	at   time.Time
}

func parseStart(s string, now time.Time) (start, error) {
	switch s {
	case "beginning":
		return start{kind: 'b'}, nil
	case "end":
		return start{kind: 'e'}, nil
	}
	if t, ok := strings.CutPrefix(s, "@"); ok {
		if ms, err := strconv.ParseInt(t, 10, 64); err == nil && ms >= 0 {
			return start{kind: '@', at: time.UnixMilli(ms)}, nil
		}
		if d, err := time.ParseDuration(t); err == nil && d >= 0 {
			return start{kind: '@', at: now.Add(-d)}, nil
		}
		if at, err := time.Parse(time.RFC3339Nano, t); err == nil {
			return start{kind: '@', at: at}, nil
		}
		return start{}, fmt.Errorf("%q is no time", t)
	}
	n, err := strconv.ParseInt(s, 10, 64)
	switch {
	case err != nil || s == "-0":
		return start{}, fmt.Errorf("%q is no place to start at", s)
	case n < 0:
		return start{kind: 't', n: -n}, nil
	}
	return start{kind: 'o', n: n}, nil
}
