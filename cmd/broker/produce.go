// broker produce: lines to records.

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/client"
)

// maxLineBytes bounds one line of input, so that a binary file without newlines does not fill the memory.
const maxLineBytes = 16 << 20

type produceOptions struct {
	file, keySeparator string
	headers            []string
	partition          int32
	acks, compression  *choice
	linger             time.Duration
}

func newProduceCommand(a *app) *cobra.Command {
	o := &produceOptions{acks: newChoice("all", "all", "1", "0"), compression: newChoice("none", "none", "gzip", "snappy", "lz4", "zstd")}
	cmd := &cobra.Command{
		Use:   "produce TOPIC",
		Short: "Write lines as records",
		Long: `Write each line of the standard input, or of a file, as one record. The command ends when every record has its
answer: exit code 0 means that all of them are on the disks of a majority (with --acks all). The topic must exist.
An interrupt stops reading; what was read is still written.`,
		Example: `  seq 1000 | broker produce numbers
  printf 'k1=v1\nk2=v2\n' | broker produce settings --key-separator = -H source=shell`,
		Args: exactly("TOPIC"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.produce(cmd, args[0], o) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.file, "file", "f", "-", "read this `FILE`; '-': the standard input")
	f.StringVarP(&o.keySeparator, "key-separator", "K", "", "what stands between key and value in a line; a line without it has no key")
	f.StringArrayVarP(&o.headers, "header", "H", nil, "a header `NAME=VALUE` for every record; may be repeated")
	f.Int32VarP(&o.partition, "partition", "p", -1, "write to this partition; -1: by the key's hash, or in turn")
	f.Var(o.acks, "acks", "wait for `all|1|0`: a majority's disks, the leader's disk, nothing")
	f.VarP(o.compression, "compression", "z", "`none|gzip|snappy|lz4|zstd`")
	f.DurationVar(&o.linger, "linger", 5*time.Millisecond, "how long a batch waits for more records")
	setting(f, "acks", "produce.acks")
	setting(f, "compression", "produce.compression")
	setting(f, "linger", "produce.linger")
	return cmd
}

// produced is the result of a run, and its form in JSON and YAML.
type produced struct {
	Topic      string        `json:"topic" yaml:"topic"`
	Written    int64         `json:"written" yaml:"written"`
	Failed     int64         `json:"failed" yaml:"failed"`
	Bytes      int64         `json:"bytes" yaml:"bytes"` // of keys and values that were written
	Seconds    float64       `json:"seconds" yaml:"seconds"`
	Partitions map[int32]int `json:"partitions" yaml:"partitions"` // records written to each
	FirstError string        `json:"firstError,omitempty" yaml:"firstError,omitempty"`
}

func (a *app) produce(cmd *cobra.Command, topic string, o *produceOptions) error {
	headers, err := parseHeaders(o.headers)
	if err != nil {
		return err
	}
	if o.linger < 0 || o.linger > time.Minute {
		return usageError("give it a duration from 0s to 1m", "--linger %v is out of range", o.linger)
	}
	in := a.in
	if o.file != "-" {
		f, err := os.Open(o.file)
		if errors.Is(err, fs.ErrNotExist) {
			return &cliError{code: exitNotFound, what: "the file does not exist", where: o.file, mend: "name a file that does, or '-' for the standard input", err: err}
		} else if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	if err := withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
		t, err := adm.Topic(ctx, topic)
		if err != nil {
			return err
		}
		if n := len(t.Partitions); o.partition >= int32(n) {
			return &cliError{code: exitNotFound, what: fmt.Sprintf("topic %s has no partition %d", topic, o.partition), where: "--partition",
				mend: fmt.Sprintf("it has %d: 0 to %d", n, n-1)}
		}
		return nil
	}); err != nil {
		return err
	}
	// Producing outlives an interrupt: what was read is written.
	alive := context.WithoutCancel(cmd.Context())
	timeout, _ := cmd.Flags().GetDuration("timeout")
	acks := map[string]client.Acks{"all": client.AcksAll, "1": client.AcksLeader, "0": client.AcksNone}[o.acks.String()]
	p, err := client.NewProducer(alive, client.ProducerConfig{Config: connection(cmd), Topic: topic, Acks: acks,
		Compression: client.Compression(o.compression.String()), Linger: o.linger, ManualPartitions: o.partition >= 0})
	if err != nil {
		return err
	}
	var (
		mu    sync.Mutex
		res   = produced{Topic: topic, Partitions: make(map[int32]int)}
		first error
	)
	started := time.Now()
	// One deadline for the records of a second would do as well as one for each, and costs a timer less per record.
	var deadline struct {
		ctx  context.Context
		made time.Time
	}
	var cancels []context.CancelFunc
	defer func() {
		for _, c := range cancels {
			c()
		}
	}()
	readErr := eachLine(cmd.Context(), in, func(n int64, line []byte) {
		if now := time.Now(); deadline.ctx == nil || now.Sub(deadline.made) > time.Second {
			c, cancel := context.WithTimeout(alive, timeout)
			deadline.ctx, deadline.made, cancels = c, now, append(cancels, cancel)
		}
		r := &kgo.Record{Value: line, Headers: headers, Partition: max(o.partition, 0)}
		if o.keySeparator != "" {
			if k, v, ok := bytes.Cut(line, []byte(o.keySeparator)); ok {
				r.Key, r.Value = k, v
			}
		}
		size := int64(len(r.Key) + len(r.Value))
		p.ProduceAsync(deadline.ctx, r, func(r *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				res.Failed++
				if first == nil {
					first = fmt.Errorf("line %d: %w", n, err)
				}
				return
			}
			res.Written++
			res.Bytes += size
			res.Partitions[r.Partition]++
		})
	})
	closing, cancel := context.WithTimeout(alive, timeout+5*time.Second) // the records' own deadlines come first
	defer cancel()
	closeErr := p.Close(closing)
	mu.Lock()
	defer mu.Unlock()
	res.Seconds = time.Since(started).Seconds()
	if first == nil {
		first = closeErr
	}
	if first != nil {
		res.FirstError = first.Error()
	}
	if err := a.print(cmd, res, func(w io.Writer) {
		fmt.Fprintf(w, "%d records written to %s, %d bytes in %d partitions, %.3f s\n", res.Written, topic, res.Bytes, len(res.Partitions), res.Seconds)
	}); err != nil {
		return err
	}
	if first != nil {
		e := a.explain(first, cmd.CommandPath())
		e.what = fmt.Sprintf("%d of %d records were not written; the first is %s", res.Failed, res.Failed+res.Written, e.what)
		return e
	}
	return readErr
}

func parseHeaders(args []string) ([]kgo.RecordHeader, error) {
	var out []kgo.RecordHeader
	for _, h := range args {
		k, v, ok := strings.Cut(h, "=")
		if !ok || k == "" {
			return nil, usageError("write -H name=value", "the header %q has no name and value", h)
		}
		out = append(out, kgo.RecordHeader{Key: k, Value: []byte(v)})
	}
	return out, nil
}

// eachLine calls fn with every line, without its end, and its number, until the input or ctx ends. The line is fn's to keep.
func eachLine(ctx context.Context, in io.Reader, fn func(n int64, line []byte)) error {
	type line struct {
		text []byte
		err  error
	}
	// A read from a terminal cannot be interrupted, so it happens on a goroutine of its own, which may outlive this call.
	lines := make(chan line, 64)
	go func() {
		defer close(lines)
		r := bufio.NewReaderSize(in, 64<<10)
		for {
			text, err := readLine(r)
			if err == nil || len(text) > 0 {
				select {
				case lines <- line{text: text}:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					select {
					case lines <- line{err: err}:
					case <-ctx.Done():
					}
				}
				return
			}
		}
	}()
	for n := int64(1); ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case l, ok := <-lines:
			if !ok {
				return nil
			}
			if l.err != nil {
				return &cliError{code: exitFailure, what: "the input cannot be read: " + l.err.Error(), where: fmt.Sprintf("line %d", n),
					mend: "the lines before it are written", err: l.err}
			}
			fn(n, l.text)
		}
	}
}

// readLine is one line without its end, in memory of its own; at the end of the input its last error comes with what is left.
func readLine(r *bufio.Reader) ([]byte, error) {
	var text []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(text)+len(part) > maxLineBytes {
			return nil, fmt.Errorf("a line is longer than %d bytes", maxLineBytes)
		}
		text = append(text, part...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err == nil {
			text = bytes.TrimSuffix(text[:len(text)-1], []byte("\r"))
		}
		return text, err
	}
}
