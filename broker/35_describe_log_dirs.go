// DescribeLogDirs (key 35), versions 1 to 4: what this broker's replicas take on its disk. There is one directory, and no
// replica on its way from one to another (isFuture). The lag is against the leader's high watermark, which the leader is asked
// for; of one that does not answer it is -1, Kafka's "not known". v4 has the room on the volume (KIP-827).

package broker

import (
	"cmp"
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func (s *server) describeLogDirs(r *request) {
	req := r.msg.(*kmsg.DescribeLogDirsRequest)
	resp := kmsg.NewPtrDescribeLogDirsResponse()
	type key struct {
		topic     string
		partition int32
	}
	var asked map[key]bool
	if req.Topics != nil {
		asked = make(map[key]bool)
		for i := range req.Topics {
			for _, p := range req.Topics[i].Partitions {
				asked[key{req.Topics[i].Topic, p}] = true
			}
		}
	}
	ctx, cancel := context.WithCancel(r.c.ctx)
	s.b.LogDir(ctx, func(topic string, p int32) bool { return asked == nil || asked[key{topic, p}] }, func(d logDir, err error) {
		cancel()
		if err != nil {
			if req.Version >= 3 {
				resp.ErrorCode = codeOf(err)
			}
			r.respond(resp)
			return
		}
		dir := kmsg.NewDescribeLogDirsResponseDir()
		dir.Dir, dir.TotalBytes, dir.UsableBytes = d.path, d.total, d.usable
		slices.SortFunc(d.replicas, func(a, b logDirReplica) int {
			return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.partition, b.partition))
		})
		for i := range d.replicas {
			rep := &d.replicas[i]
			if n := len(dir.Topics); n == 0 || dir.Topics[n-1].Topic != rep.topic {
				t := kmsg.NewDescribeLogDirsResponseDirTopic()
				t.Topic = rep.topic
				dir.Topics = append(dir.Topics, t)
			}
			p := kmsg.NewDescribeLogDirsResponseDirTopicPartition()
			p.Partition, p.Size, p.OffsetLag = rep.partition, rep.size, rep.lag
			t := &dir.Topics[len(dir.Topics)-1]
			t.Partitions = append(t.Partitions, p)
		}
		resp.Dirs = append(resp.Dirs, dir)
		r.respond(resp)
	})
}
