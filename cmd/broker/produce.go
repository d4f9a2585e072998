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
	"math/bits"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/client"
)

// Bounds of one line of input, so that a binary file without newlines does not fill the memory. In JSON a byte may take six.
const (
	maxLineBytes = 16 << 20
	maxJSONBytes = 6 * maxLineBytes
)

// What the lines of `broker produce` are.
const (
	inputLines = "lines"
	inputJSON  = "json"
)

type produceOptions struct {
	file, keySeparator string
	headers            []string
	partition          int32
	keepPartition, dry bool
	input              *choice
	acks, compression  *choice
	linger             time.Duration
}

func newProduceCommand(a *app) *cobra.Command {
	o := &produceOptions{input: newChoice(inputLines, inputLines, inputJSON), acks: newChoice("all", "all", "1", "0"),
		compression: newChoice("none", "none", "gzip", "snappy", "lz4", "zstd")}
	cmd := &cobra.Command{
		Use:   "produce TOPIC",
		Short: "Write lines as records",
		Long: `Write each line of the standard input, or of a file, as one record. The command ends when every record has its
answer: exit code 0 means that all of them are on the disks of a majority (with --acks all). The topic must exist.
An interrupt stops reading; what was read is still written.

With -i json each line is a record as 'broker consume -o json' prints it, and becomes the same record again:

  {"key":"k","value":"v","headers":[{"name":"h","value":"1"}],"timestamp":"2026-03-01T12:00:00.007Z","partition":0}

Only value must be there; null is a record without one, a tombstone. Bytes that are no text stand in keyBase64, valueBase64, and in headers
nameBase64 and valueBase64. Without a timestamp (RFC 3339, or milliseconds since 1970) it is the time of writing. The partition counts with
--keep-partition; topic and offset are not looked at. At a line that is no record reading ends, and the exit code is 1; what was read before
is written, and it is said how much that is. --dry-run finds such lines beforehand.`,
		Example: `  seq 1000 | broker produce numbers
  printf 'k1=v1\nk2=v2\n' | broker produce settings --key-separator = -H source=shell
  broker consume orders -e -o json | broker produce copy -i json --keep-partition`,
		Args: exactly("TOPIC"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.produce(cmd, args[0], o) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.file, "file", "f", "-", "read this `FILE`; '-': the standard input")
	f.VarP(o.input, "input", "i", "what a line is, `lines|json`: a value, or a record as an object")
	f.StringVarP(&o.keySeparator, "key-separator", "K", "", "what stands between key and value in a line; a line without it has no key")
	f.StringArrayVarP(&o.headers, "header", "H", nil, "a header `NAME=VALUE` for every record, after its own; may be repeated")
	f.Int32VarP(&o.partition, "partition", "p", -1, "write to this partition; -1: by the key's hash, or in turn")
	f.BoolVar(&o.keepPartition, "keep-partition", false, "write each record to the partition that its line names (with -i json)")
	f.BoolVar(&o.dry, "dry-run", false, "read the input, say what would be written, and write nothing")
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
	DryRun     bool          `json:"dryRun,omitempty" yaml:"dryRun,omitempty"` // nothing was written: it would be
}

func (a *app) produce(cmd *cobra.Command, topic string, o *produceOptions) error {
	read, err := o.reader()
	if err != nil {
		return err
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
	partitions, limit := 0, 0
	if err := withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
		t, err := adm.Topic(ctx, topic)
		if err != nil {
			return err
		}
		if partitions = len(t.Partitions); o.partition >= int32(partitions) {
			return &cliError{code: exitNotFound, what: fmt.Sprintf("topic %s has no partition %d", topic, o.partition), where: "--partition",
				mend: fmt.Sprintf("it has %d: 0 to %d", partitions, partitions-1)}
		}
		limit = batchLimit(ctx, adm, topic)
		return nil
	}); err != nil {
		return err
	}
	maxBytes := maxLineBytes
	if o.input.String() == inputJSON {
		maxBytes = maxJSONBytes
	}
	w := &recordSink{res: produced{Topic: topic, Partitions: make(map[int32]int), DryRun: o.dry}, started: time.Now()}
	if !o.dry {
		if err := w.connect(cmd, topic, limit, o); err != nil {
			return err
		}
	}
	var taken atomic.Int64 // bytes of the input
	total := int64(0)
	if f, ok := in.(*os.File); ok {
		if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
			total = st.Size()
		}
	}
	stop := a.progress(cmd, func() string {
		w.mu.Lock()
		records, bytes := w.res.Written, w.res.Bytes
		w.mu.Unlock()
		return fmt.Sprintf("%s written, %s, %s/s, %s", counted(int(records), "record"), byteSize(bytes), byteSize(int64(float64(bytes)/time.Since(w.started).Seconds())),
			pace(w.started, taken.Load(), total))
	})
	defer stop()
	readErr := eachLine(cmd.Context(), in, maxBytes, func(n int64, line []byte) error {
		taken.Add(int64(len(line)) + 1)
		r, err := read(line)
		if err == nil && r != nil && r.Partition >= int32(partitions) {
			err = badLine(fmt.Sprintf("it has %d: 0 to %d. Without --keep-partition the key decides", partitions, partitions-1), "topic %s has no partition %d", topic, r.Partition)
		}
		if err == nil && r != nil && o.dry && limit > 0 {
			if size := batchBytes(r); size > limit {
				err = badLine(fmt.Sprintf("make the record smaller, or let the topic take it: 'broker topic alter %s --set max.message.bytes=%d'", topic, size),
					"the record takes %d bytes as a batch of its own, more than the %d that max.message.bytes allows in topic %s", size, limit, topic)
			}
		}
		if bad, ok := errors.AsType[*badRecord](err); ok {
			return &cliError{code: exitFailure, what: bad.what, where: fmt.Sprintf("line %d", n), mend: bad.mend, err: err}
		}
		if err == nil && r != nil {
			w.write(n, r)
		}
		return err
	})
	err = w.close()
	stop()
	if printErr := a.print(cmd, &w.res, func(out io.Writer) { w.show(out, o.dry) }); printErr != nil {
		return printErr
	}
	if err != nil {
		e := a.explain(err, cmd.CommandPath())
		if errors.Is(err, kerr.MessageTooLarge) {
			e.code, e.mend = exitFailure, fmt.Sprintf("make the record smaller, or let the topic take it: 'broker topic alter %s --set max.message.bytes=BYTES'; --dry-run says how many", topic)
		}
		e.what = fmt.Sprintf("%d of %d records were not written; the first is %s", w.res.Failed, w.res.Failed+w.res.Written, e.what)
		if bad, ok := errors.AsType[*cliError](readErr); ok {
			e.what += fmt.Sprintf("; and %s: %s", bad.where, bad.what)
		}
		return e
	}
	if bad, ok := errors.AsType[*cliError](readErr); ok {
		verb := one(int(w.res.Written), "is", "are") + " written"
		if o.dry {
			verb = "could be written"
		}
		bad.what += fmt.Sprintf("; the %s before it %s, nothing from there on", counted(int(w.res.Written), "record"), verb)
		return bad
	}
	return readErr
}

// reader checks the flags that bear on lines, and returns what makes a record of one; no record where there is none in it.
func (o *produceOptions) reader() (func(line []byte) (*kgo.Record, error), error) {
	headers, err := parseHeaders(o.headers)
	if err != nil {
		return nil, err
	}
	if o.linger < 0 || o.linger > time.Minute {
		return nil, usageError("give it a duration from 0s to 1m", "--linger %v is out of range", o.linger)
	}
	isJSON := o.input.String() == inputJSON
	switch {
	case isJSON && o.keySeparator != "":
		return nil, usageError("leave --key-separator away: the key stands in the field key", "--key-separator is for lines, not for JSON")
	case o.keepPartition && !isJSON:
		return nil, usageError("write -i json --keep-partition", "--keep-partition needs lines that name a partition")
	case o.keepPartition && o.partition >= 0:
		return nil, usageError("leave one of them out", "--partition and --keep-partition exclude each other")
	}
	if !isJSON {
		return func(line []byte) (*kgo.Record, error) {
			r := &kgo.Record{Value: line, Headers: headers, Partition: max(o.partition, 0)}
			if o.keySeparator != "" {
				if k, v, ok := bytes.Cut(line, []byte(o.keySeparator)); ok {
					r.Key, r.Value = k, v
				}
			}
			return r, nil
		}, nil
	}
	first := true
	return func(line []byte) (*kgo.Record, error) {
		if first { // what a program on Windows puts before a text
			line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
		}
		first = false
		if len(bytes.TrimSpace(line)) == 0 {
			return nil, nil
		}
		r, partition, err := readRecord(line)
		if err != nil {
			return nil, err
		}
		r.Headers = append(r.Headers, headers...)
		r.Partition = max(o.partition, 0)
		if o.keepPartition {
			if r.Partition = partition; partition < 0 {
				return nil, badLine(`write "partition":0, or leave --keep-partition away`, "there is no partition")
			}
		}
		return r, nil
	}, nil
}

// recordSink writes records and counts them; without a producer it only counts.
type recordSink struct {
	p       *client.Producer
	timeout time.Duration
	alive   context.Context // producing outlives an interrupt: what was read is written
	started time.Time
	// One deadline for the records of a second would do as well as one for each, and costs a timer less per record.
	deadline context.Context
	made     time.Time
	cancels  []context.CancelFunc

	mu    sync.Mutex // protects what follows
	res   produced
	first error // of the records that were not written
}

// batchLimit is how large a batch of a topic may be; 0: not known, since the user may not see it.
func batchLimit(ctx context.Context, adm *client.Admin, topic string) int {
	values, err := adm.Configs(ctx, client.ConfigResource{Kind: client.TopicConfigs, Name: topic}, "max.message.bytes")
	if err != nil || len(values) != 1 || values[0].Value == nil {
		return 0
	}
	n, err := strconv.Atoi(*values[0].Value)
	if err != nil {
		return 0
	}
	return n
}

// emptyBatch is what a batch takes besides its records, in a request.
const emptyBatch = 65

// batchBytes is what a record takes as a batch of its own, before compression: what the client compares with the limit.
func batchBytes(r *kgo.Record) int {
	varint := func(n int) int { return (bits.Len64(uint64(n)<<1|1) + 6) / 7 }
	n := 3 + varint(len(r.Key)) + len(r.Key) + varint(len(r.Value)) + len(r.Value) + varint(len(r.Headers)) // 3: attributes, and two deltas that are 0
	for _, h := range r.Headers {
		n += varint(len(h.Key)) + len(h.Key) + varint(len(h.Value)) + len(h.Value)
	}
	return emptyBatch + varint(n) + n
}

// Bounds of what franz-go takes for the size of a batch.
const (
	minBatchLimit = 512
	maxBatchLimit = 90 << 20
)

func (w *recordSink) connect(cmd *cobra.Command, topic string, limit int, o *produceOptions) (err error) {
	w.alive = context.WithoutCancel(cmd.Context())
	w.timeout, _ = cmd.Flags().GetDuration("timeout")
	acks := map[string]client.Acks{"all": client.AcksAll, "1": client.AcksLeader, "0": client.AcksNone}[o.acks.String()]
	cfg := connection(cmd)
	if limit > 0 { // otherwise batches are as large as is usual, which may be too large for the topic or too small for a record
		cfg.Options = append(cfg.Options, kgo.ProducerBatchMaxBytes(int32(min(max(limit, minBatchLimit), maxBatchLimit))))
	}
	w.p, err = client.NewProducer(w.alive, client.ProducerConfig{Config: cfg, Topic: topic, Acks: acks,
		Compression: client.Compression(o.compression.String()), Linger: o.linger, ManualPartitions: o.partition >= 0 || o.keepPartition})
	return err
}

// write hands over the record of line n.
func (w *recordSink) write(n int64, r *kgo.Record) {
	size := int64(len(r.Key) + len(r.Value))
	if w.p == nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.res.Written++
		w.res.Bytes += size
		return
	}
	if now := time.Now(); w.deadline == nil || now.Sub(w.made) > time.Second {
		c, cancel := context.WithTimeout(w.alive, w.timeout)
		w.deadline, w.made, w.cancels = c, now, append(w.cancels, cancel)
	}
	w.p.ProduceAsync(w.deadline, r, func(r *kgo.Record, err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if err != nil {
			w.res.Failed++
			if w.first == nil {
				w.first = fmt.Errorf("line %d: %w", n, err)
			}
			return
		}
		w.res.Written++
		w.res.Bytes += size
		w.res.Partitions[r.Partition]++
	})
}

// close waits until each record has its answer, and returns the first error.
func (w *recordSink) close() error {
	var err error
	if w.p != nil {
		closing, cancel := context.WithTimeout(w.alive, w.timeout+5*time.Second) // the records' own deadlines come first
		defer cancel()
		err = w.p.Close(closing)
	}
	for _, c := range w.cancels {
		c()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.res.Seconds = time.Since(w.started).Seconds()
	if w.first == nil {
		w.first = err
	}
	if w.first != nil {
		w.res.FirstError = w.first.Error()
	}
	return w.first
}

func (w *recordSink) show(out io.Writer, dry bool) {
	if dry {
		fmt.Fprintf(out, "%s would be written to %s, %s\n", counted(int(w.res.Written), "record"), w.res.Topic, counted(int(w.res.Bytes), "byte"))
		return
	}
	fmt.Fprintf(out, "%s written to %s, %s in %s, %.3f s\n", counted(int(w.res.Written), "record"), w.res.Topic, counted(int(w.res.Bytes), "byte"), counted(len(w.res.Partitions), "partition"), w.res.Seconds)
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

// eachLine calls fn with every line, without its end, and its number, until the input or ctx ends, or fn fails. The line is fn's to keep.
func eachLine(ctx context.Context, in io.Reader, maxBytes int, fn func(n int64, line []byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type line struct {
		text []byte
		err  error
	}
	// A read from a terminal cannot be interrupted, so it happens on a goroutine of its own, which may outlive this call.
	// Few lines wait: one may be as large as maxJSONBytes.
	lines := make(chan line, 4)
	go func() {
		defer close(lines)
		r := bufio.NewReaderSize(in, 64<<10)
		for {
			text, err := readLine(r, maxBytes)
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
				return &cliError{code: exitFailure, what: "the input cannot be read: " + l.err.Error(), where: fmt.Sprintf("line %d", n), mend: "give the rest of it again", err: l.err}
			}
			if err := fn(n, l.text); err != nil {
				return err
			}
		}
	}
}

// readLine is one line without its end, in memory of its own; at the end of the input its last error comes with what is left.
func readLine(r *bufio.Reader, maxBytes int) ([]byte, error) {
	var text []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(text)+len(part) > maxBytes {
			return nil, fmt.Errorf("a line is longer than %d bytes", maxBytes)
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
