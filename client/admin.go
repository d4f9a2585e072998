// Administration: topics and offsets.

package client

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Admin manages topics and asks about the cluster. It is safe for concurrent use.
type Admin struct {
	cl       *kgo.Client
	raw      *kadm.Client
	security Security // for the admin listeners
	closed   atomic.Bool
}

// TopicSpec describes a topic to be created.
type TopicSpec struct {
	Name string
	// Partitions and Replicas: zero leaves them to the brokers' defaults.
	Partitions int32
	Replicas   int16
	// Configs are topic settings by name, such as "retention.ms".
	Configs map[string]string
	// ValidateOnly asks whether the topic could be created, and creates nothing. The answer has as many partitions and replicas as the topic
	// would have, if the brokers say, with -1 for each broker that is not chosen yet.
	ValidateOnly bool
	// Progress, if set, is told now and then how many partitions have a leader, while CreateTopic waits for those.
	Progress func(led, partitions int)
}

// Topic is what the cluster says about a topic.
type Topic struct {
	Name       string      `json:"name" yaml:"name"`
	ID         string      `json:"id" yaml:"id"` // in the form of Kafka's own tools; empty if the brokers have none
	Internal   bool        `json:"internal" yaml:"internal"`
	Partitions []Partition `json:"partitions" yaml:"partitions"` // by number
	// Configs are the settings in force. Only DescribeTopic fills it.
	Configs []TopicConfig `json:"configs,omitempty" yaml:"configs,omitempty"`
}

// Replicas is the largest number of replicas that any partition has.
func (t *Topic) Replicas() int {
	n := 0
	for _, p := range t.Partitions {
		n = max(n, len(p.Replicas))
	}
	return n
}

// Partition is what the cluster says about a partition.
type Partition struct {
	Partition   int32   `json:"partition" yaml:"partition"`
	Leader      int32   `json:"leader" yaml:"leader"` // -1: none at the moment
	LeaderEpoch int32   `json:"leaderEpoch" yaml:"leaderEpoch"`
	Replicas    []int32 `json:"replicas" yaml:"replicas"`
	InSync      []int32 `json:"inSync" yaml:"inSync"`
	// Start and End are the first offset that is kept and the one after the last acknowledged record. Only
	// DescribeTopic and Offsets fill them; -1: not known.
	Start int64 `json:"start" yaml:"start"`
	End   int64 `json:"end" yaml:"end"`
	// Error says why a partition cannot be used at the moment; empty if it can.
	Error string `json:"error,omitempty" yaml:"error,omitempty"`
}

// TopicConfig is one setting of a topic.
type TopicConfig struct {
	Name    string `json:"name" yaml:"name"`
	Value   string `json:"value" yaml:"value"`
	Default bool   `json:"default" yaml:"default"` // not set for this topic
}

// NewAdmin connects to the cluster. Close it when done.
func NewAdmin(ctx context.Context, cfg Config) (*Admin, error) {
	cl, err := cfg.connect(ctx)
	if err != nil {
		return nil, err
	}
	return &Admin{cl: cl, raw: kadm.NewClient(cl), security: cfg.Security}, nil
}

// CreateTopic creates a topic, and returns once it can be written to or the context has ended.
func (a *Admin) CreateTopic(ctx context.Context, spec TopicSpec) (Topic, error) {
	op := "create topic"
	if spec.ValidateOnly {
		op = "validate topic"
	}
	if spec.Name == "" {
		return Topic{}, &Error{Op: op, Kind: ErrInvalid, Err: errors.New("the name is empty")}
	}
	partitions, replicas := spec.Partitions, spec.Replicas
	if partitions == 0 {
		partitions = -1
	}
	if replicas == 0 {
		replicas = -1
	}
	configs := make(map[string]*string, len(spec.Configs))
	for k, v := range spec.Configs {
		configs[k] = &v
	}
	call := a.raw.CreateTopics
	if spec.ValidateOnly {
		call = a.raw.ValidateCreateTopics
	}
	resps, err := call(ctx, partitions, replicas, configs, spec.Name)
	if err != nil {
		return Topic{}, a.wrap(op, spec.Name, err)
	}
	resp, err := resps.On(spec.Name, nil)
	if err != nil {
		return Topic{}, a.wrap(op, spec.Name, err)
	}
	if errors.Is(resp.Err, kerr.RequestTimedOut) && !spec.ValidateOnly {
		// The brokers wait for the leaders only so long. Ten thousand take longer.
		if _, err := a.Topic(ctx, spec.Name); err == nil {
			return a.WaitForTopic(ctx, spec.Name, spec.Progress)
		}
	}
	if resp.Err != nil {
		return Topic{}, a.explain(op, spec.Name, resp.Err, resp.ErrMessage)
	}
	if spec.ValidateOnly {
		t := Topic{Name: spec.Name, Partitions: []Partition{}}
		for p := range max(resp.NumPartitions, 0) {
			t.Partitions = append(t.Partitions, Partition{Partition: p, Leader: -1, LeaderEpoch: -1, Replicas: slices.Repeat([]int32{-1}, int(max(resp.ReplicationFactor, 0))), InSync: []int32{}, Start: -1, End: -1})
		}
		return t, nil
	}
	return a.WaitForTopic(ctx, spec.Name, spec.Progress)
}

// WaitForTopic asks until the topic is there and each of its partitions has a leader, or the context has ended: the answer to
// its creation may come from a broker that is ahead of the one that answers the next request. progress, if not nil, is
// told now and then how many have one.
func (a *Admin) WaitForTopic(ctx context.Context, name string, progress func(led, partitions int)) (Topic, error) {
	var last error
	for {
		asked := time.Now()
		t, err := a.Topic(ctx, name)
		led := 0
		for _, p := range t.Partitions {
			if p.Leader >= 0 && p.Error == "" {
				led++
			}
		}
		if err == nil && led == len(t.Partitions) {
			return t, nil
		}
		if err == nil && progress != nil {
			progress(led, len(t.Partitions))
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			return t, err
		}
		last = err
		if last == nil {
			last = fmt.Errorf("%d of %d partitions have no leader: %w", len(t.Partitions)-led, len(t.Partitions), kerr.LeaderNotAvailable)
		}
		select {
		case <-ctx.Done():
			return t, &Error{Op: "wait for the leaders of topic", Subject: name, Kind: ErrTimeout, Err: fmt.Errorf("%w: %w", last, ctx.Err())}
		case <-time.After(max(50*time.Millisecond, 4*time.Since(asked))): // an answer about many partitions costs the brokers something
		}
	}
}

// fresh makes kadm ask a broker. It would otherwise answer from the client's cache, in which a topic lives on for a while
// after its deletion; asking for the permissions as well is its only way around that.
func fresh(ctx context.Context) context.Context { return kadm.WithAuthorizedOps(ctx) }

// Topic returns a topic as the metadata has it, without offsets and settings: one request.
func (a *Admin) Topic(ctx context.Context, name string) (Topic, error) {
	details, err := a.raw.ListTopicsWithInternal(fresh(ctx), name)
	if err != nil {
		return Topic{}, a.wrap("look up topic", name, err)
	}
	d, ok := details[name]
	if !ok {
		return Topic{}, &Error{Op: "look up topic", Subject: name, Kind: ErrNotFound, Err: kerr.UnknownTopicOrPartition}
	}
	if d.Err != nil {
		return Topic{}, a.wrap("look up topic", name, d.Err)
	}
	return topicOf(d), nil
}

func topicOf(d kadm.TopicDetail) Topic {
	t := Topic{Name: d.Topic, Internal: d.IsInternal, Partitions: make([]Partition, 0, len(d.Partitions))}
	if d.ID != (kadm.TopicID{}) {
		t.ID = base64.RawURLEncoding.EncodeToString(d.ID[:])
	}
	for _, p := range d.Partitions.Sorted() {
		slices.Sort(p.ISR) // each broker has an order of its own
		out := Partition{Partition: p.Partition, Leader: p.Leader, LeaderEpoch: p.LeaderEpoch,
			Replicas: orEmpty(p.Replicas), InSync: orEmpty(p.ISR), Start: -1, End: -1}
		if p.Err != nil {
			out.Error = p.Err.Error()
		}
		t.Partitions = append(t.Partitions, out)
	}
	return t
}

// orEmpty keeps absent lists from being printed as null.
func orEmpty(ids []int32) []int32 {
	if ids == nil {
		return []int32{}
	}
	return ids
}

// ListTopics returns all topics by name, those that the brokers keep for themselves only if internal is set.
func (a *Admin) ListTopics(ctx context.Context, internal bool) ([]Topic, error) {
	details, err := a.raw.ListTopicsWithInternal(fresh(ctx))
	if err != nil {
		return nil, a.wrap("list topics", "", err)
	}
	out := make([]Topic, 0, len(details))
	for _, d := range details.Sorted() {
		if d.IsInternal && !internal {
			continue
		}
		if d.Err != nil {
			return nil, a.wrap("list topics", d.Topic, d.Err)
		}
		out = append(out, topicOf(d))
	}
	return out, nil
}

// DescribeTopic returns a topic with its offsets and settings. A partition without a leader is no error, as this is where
// people look for what is wrong with it: it has offsets of -1, and an Error.
func (a *Admin) DescribeTopic(ctx context.Context, name string) (Topic, error) {
	t, err := a.Topic(ctx, name)
	if err != nil {
		return t, err
	}
	configs, err := a.raw.DescribeTopicConfigs(ctx, name)
	if err != nil {
		return t, a.wrap("describe the settings of topic", name, err)
	}
	rc, err := configs.On(name, nil)
	if err == nil {
		err = rc.Err
	}
	if err != nil {
		return t, a.wrap("describe the settings of topic", name, err)
	}
	for _, c := range rc.Configs {
		t.Configs = append(t.Configs, TopicConfig{Name: c.Key, Value: c.MaybeValue(), Default: c.Source.String() != "DYNAMIC_TOPIC_CONFIG"})
	}
	slices.SortFunc(t.Configs, func(x, y TopicConfig) int { return cmp.Compare(x.Name, y.Name) })
	if err := a.fillOffsets(ctx, &t); err != nil {
		for i := range t.Partitions {
			if p := &t.Partitions[i]; p.Error == "" {
				p.Error = shardText(err)
			}
		}
	}
	return t, nil
}

// shardText is what went wrong, without how a question was parted: it is shown for one partition.
func shardText(err error) string {
	if se, ok := errors.AsType[*kadm.ShardErrors](err); ok && len(se.Errs) > 0 {
		return se.Errs[0].Err.Error()
	}
	return err.Error()
}

// Offsets returns a topic's partitions with the first offset that each keeps and its end.
func (a *Admin) Offsets(ctx context.Context, name string) ([]Partition, error) {
	t, err := a.Topic(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := a.fillOffsets(ctx, &t); err != nil {
		return nil, err
	}
	return t.Partitions, nil
}

// share is a part of the time that ctx has left, if that is bounded.
func share(ctx context.Context, parts time.Duration) (context.Context, context.CancelFunc) {
	if end, ok := ctx.Deadline(); ok {
		return context.WithTimeout(ctx, time.Until(end)/parts)
	}
	return context.WithCancel(ctx)
}

// fillOffsets sets Start and End; a partition whose leader does not answer keeps -1 and says why.
func (a *Admin) fillOffsets(ctx context.Context, t *Topic) error {
	// A leader that does not come is asked again until the time is over: each question has a part of it only.
	startCtx, cancel := share(ctx, 3)
	defer cancel()
	starts, err := a.raw.ListStartOffsets(startCtx, t.Name)
	if err != nil && len(starts) == 0 {
		return a.wrap("list the start offsets of topic", t.Name, err)
	}
	endCtx, cancel := share(ctx, 2)
	defer cancel()
	ends, err := a.raw.ListEndOffsets(endCtx, t.Name)
	if err != nil && len(ends) == 0 {
		return a.wrap("list the end offsets of topic", t.Name, err)
	}
	for i := range t.Partitions {
		p := &t.Partitions[i]
		s, okS := starts.Lookup(t.Name, p.Partition)
		e, okE := ends.Lookup(t.Name, p.Partition)
		switch {
		case okS && s.Err == nil && okE && e.Err == nil:
			p.Start, p.End = s.Offset, e.Offset
		case p.Error != "":
		case s.Err != nil:
			p.Error = s.Err.Error()
		case e.Err != nil:
			p.Error = e.Err.Error()
		default:
			p.Error = "its leader did not answer"
		}
	}
	return nil
}

// DeleteTopic deletes a topic and its records.
func (a *Admin) DeleteTopic(ctx context.Context, name string) error {
	resps, err := a.raw.DeleteTopics(ctx, name)
	if err != nil {
		return a.wrap("delete topic", name, err)
	}
	resp, err := resps.On(name, nil)
	if err != nil {
		return a.wrap("delete topic", name, err)
	}
	return a.explain("delete topic", name, resp.Err, resp.ErrMessage)
}

// AtEnd stands for the end of a partition in [Admin.TrimPartition].
const AtEnd int64 = -1

// TrimPartition makes before the first offset of a partition: what is below is deleted, for good. It returns the start that
// is in force then, which may be higher already. [AtEnd] deletes all that is there.
func (a *Admin) TrimPartition(ctx context.Context, topic string, partition int32, before int64) (int64, error) {
	const op = "trim"
	subject := partitionName(topic, partition)
	if before < 0 && before != AtEnd {
		return 0, a.wrap(op, subject, fmt.Errorf("%w: offset %d", ErrInvalid, before))
	}
	if err := a.PartitionExists(ctx, topic, partition); err != nil {
		return 0, err
	}
	var at kadm.Offsets
	at.Add(kadm.Offset{Topic: topic, Partition: partition, At: before, LeaderEpoch: -1})
	resps, err := a.raw.DeleteRecords(ctx, at)
	if err != nil {
		return 0, a.wrap(op, subject, err)
	}
	resp, ok := resps.Lookup(topic, partition)
	if !ok {
		return 0, a.wrap(op, subject, kerr.UnknownTopicOrPartition)
	}
	return resp.LowWatermark, a.wrap(op, subject, resp.Err)
}

// OffsetAt is the offset of the first record of a partition whose timestamp is t or later, or the end if there is none.
func (a *Admin) OffsetAt(ctx context.Context, topic string, partition int32, t time.Time) (int64, error) {
	offsets, err := a.offsetsAt(ctx, topic, t, partition)
	return offsets[partition], err
}

// offsetsAt are those of several partitions.
func (a *Admin) offsetsAt(ctx context.Context, topic string, t time.Time, partitions ...int32) (map[int32]int64, error) {
	offsets, err := a.offsetsOf(ctx, topic, func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
		return a.raw.ListOffsetsAfterMilli(ctx, t.UnixMilli(), topics...)
	}, partitions...)
	if err != nil {
		return nil, err
	}
	for _, p := range partitions {
		if _, ok := offsets[p]; !ok {
			return nil, a.wrap("look up a time in", partitionName(topic, p), kerr.UnknownTopicOrPartition)
		}
	}
	return offsets, nil
}

// bounds returns the first offset and the end of every partition of a topic: the end that a reader sees who waits for
// transactions to be committed, or the high watermark. With partitions named those of others may be missing.
func (a *Admin) bounds(ctx context.Context, topic string, committed bool, only ...int32) (begins, ends map[int32]int64, err error) {
	list := a.raw.ListEndOffsets
	if committed {
		list = a.raw.ListCommittedOffsets
	}
	if begins, err = a.offsetsOf(ctx, topic, a.raw.ListStartOffsets, only...); err != nil {
		return nil, nil, err
	}
	ends, err = a.offsetsOf(ctx, topic, list, only...)
	return begins, ends, err
}

// settleTime is how long a question about offsets is repeated while a partition elects a leader, which is a matter of
// seconds; what takes longer is not going away by itself.
const settleTime = 20 * time.Second

// offsetsOf lists one offset of each partition. kadm does not repeat a question that a partition without a leader could not answer. Where only some
// partitions are wanted, others need no leader.
func (a *Admin) offsetsOf(ctx context.Context, topic string, list func(context.Context, ...string) (kadm.ListedOffsets, error), only ...int32) (map[int32]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for {
		listed, err := list(ctx, topic)
		if err == nil {
			err = listed.Error()
		}
		out := make(map[int32]int64)
		for p, o := range listed[topic] {
			// Without an error -1 is an answer. With one it may be half of kadm's, who asks twice about a time.
			if o.Err == nil && (err == nil || o.Offset >= 0) {
				out[p] = o.Offset
			}
		}
		missing := func(p int32) bool { _, ok := out[p]; return !ok }
		if err == nil || len(only) > 0 && !slices.ContainsFunc(only, missing) {
			return out, nil
		}
		if a.closed.Load() || !settling(err) {
			return nil, a.wrap("list the offsets of topic", topic, err)
		}
		select {
		case <-ctx.Done():
			return nil, &Error{Op: "list the offsets of topic", Subject: topic, Kind: ErrTimeout, Err: err}
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// settling: the error goes away when an election ends. The metadata names a leader that has just died for some time still; to reach nobody at all is
// another matter.
func settling(err error) bool {
	if se, ok := errors.AsType[*kadm.ShardErrors](err); ok {
		for _, s := range se.Errs {
			oe, network := errors.AsType[*net.OpError](s.Err)
			gone := kgo.IsRetryableBrokerErr(s.Err) || network && oe.Op == "dial"
			if !gone && !settling(s.Err) {
				return false
			}
		}
		return len(se.Errs) > 0
	}
	for _, passing := range []error{kerr.LeaderNotAvailable, kerr.NotLeaderForPartition, kerr.OffsetNotAvailable, kerr.FencedLeaderEpoch, kerr.UnknownLeaderEpoch,
		kerr.ReplicaNotAvailable, kerr.KafkaStorageError} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}

// partitionsOf returns the partition numbers of topics, all of which must exist.
func (a *Admin) partitionsOf(ctx context.Context, topics []string) (map[string][]int32, error) {
	out := make(map[string][]int32, len(topics))
	for _, name := range topics {
		t, err := a.Topic(ctx, name)
		if err != nil {
			return nil, err
		}
		for _, p := range t.Partitions {
			out[name] = append(out[name], p.Partition)
		}
	}
	return out, nil
}

// PartitionExists is nil if a topic has this partition, or with -1 if there is the topic at all.
func (a *Admin) PartitionExists(ctx context.Context, topic string, partition int32) error {
	_, err := a.existing(ctx, topic, partition)
	return err
}

// existing are the partitions that a command means: one, or with -1 all of the topic.
func (a *Admin) existing(ctx context.Context, topic string, partition int32) ([]int32, error) {
	all, err := a.partitionsOf(ctx, []string{topic})
	if err != nil {
		return nil, err
	}
	if partition < 0 {
		return all[topic], nil
	}
	if !slices.Contains(all[topic], partition) {
		return nil, &Error{Op: "look up partition", Subject: partitionName(topic, partition), Kind: ErrNotFound, Err: &NoPartitionError{topic, len(all[topic])}}
	}
	return []int32{partition}, nil
}

// Raw is the kadm client underneath, for what this package does not offer. It is closed with the Admin.
func (a *Admin) Raw() *kadm.Client { return a.raw }

// Client is the franz-go client underneath.
func (a *Admin) Client() *kgo.Client { return a.cl }

// Close disconnects. Calls under way and later ones fail with [ErrClosed]. Closing twice is harmless.
func (a *Admin) Close() {
	a.closed.Store(true)
	a.cl.Close()
}

// wrap is the package's, but says so where the Admin was closed: franz-go speaks of a connection that has died, and of trying again.
func (a *Admin) wrap(op, subject string, err error) error {
	if err != nil && a.closed.Load() {
		return &Error{Op: op, Subject: subject, Kind: ErrClosed, Err: errAdminClosed}
	}
	return wrap(op, subject, err)
}

// explain is the package's, as wrap is.
func (a *Admin) explain(op, subject string, err error, message string) error {
	if err != nil && a.closed.Load() {
		return a.wrap(op, subject, err)
	}
	return explain(op, subject, err, message)
}

var errAdminClosed = errors.New("the client was closed")
