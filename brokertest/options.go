// What a test says about its brokers, and what it waits for.

package brokertest

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/broker"
	"github.com/balsamq/balsa/client"
)

// Option says how the brokers shall be.
type Option func(*options)

type options struct {
	topics    []client.TopicSpec
	configure []func(id int, cfg *broker.Config)
	secure    bool
	logger    *slog.Logger
}

// Topic makes a topic before the start returns. Configs are names and values in turn, such as "cleanup.policy", "compact". It has three
// replicas, or as many as there are brokers.
func Topic(name string, partitions int32, configs ...string) Option {
	spec := client.TopicSpec{Name: name, Partitions: partitions, Configs: make(map[string]string)}
	for i := 0; i+1 < len(configs); i += 2 {
		spec.Configs[configs[i]] = configs[i+1]
	}
	return Topics(spec)
}

// Topics makes topics before the start returns.
func Topics(specs ...client.TopicSpec) Option {
	return func(o *options) { o.topics = append(o.topics, specs...) }
}

// Configure changes the configuration of each broker before its first start. Seams (FS, HardStates, Clock, Network), addresses and DataDir
// are this package's.
func Configure(change func(id int, cfg *broker.Config)) Option {
	return func(o *options) { o.configure = append(o.configure, change) }
}

// Secure makes everything speak TLS, clients prove who they are by SCRAM, and ACLs say what they may do. [Brokers.Config] is then that of
// a super user, who makes others with client.Admin; [Brokers.ConfigFor] is theirs.
func Secure() Option { return func(o *options) { o.secure = true } }

// Logger receives the brokers' log as well. Otherwise a test that fails shows its end.
func Logger(l *slog.Logger) Option { return func(o *options) { o.logger = l } }

// awaitVoters waits until so many brokers vote on metadata: before, the loss of the first one would be the loss of the cluster.
func awaitVoters(ctx context.Context, adm *client.Admin, n int) error {
	for n > 1 {
		req := kmsg.NewPtrDescribeQuorumRequest()
		t := kmsg.NewDescribeQuorumRequestTopic()
		t.Topic, t.Partitions = "__cluster_metadata", []kmsg.DescribeQuorumRequestTopicPartition{kmsg.NewDescribeQuorumRequestTopicPartition()}
		req.Topics = append(req.Topics, t)
		resp, err := req.RequestWith(ctx, adm.Client())
		if err == nil && len(resp.Topics) == 1 && len(resp.Topics[0].Partitions) == 1 && len(resp.Topics[0].Partitions[0].CurrentVoters) >= n {
			return nil
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
	return nil
}

// pause is between two looks at something that comes by itself.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(5 * time.Millisecond):
		return nil
	}
}

// maxLogTail bounds what is kept of a broker's log.
const maxLogTail = 32 << 10

// logTail keeps the end of a log.
type logTail struct {
	mu  sync.Mutex // guards buf
	buf []byte
}

func (l *logTail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.buf)+len(p) > 2*maxLogTail {
		l.buf = append(l.buf[:0], l.buf[max(0, len(l.buf)-maxLogTail):]...)
	}
	l.buf = append(l.buf, p[max(0, len(p)-maxLogTail):]...)
	return len(p), nil
}

func (l *logTail) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.buf[max(0, len(l.buf)-maxLogTail):])
}
