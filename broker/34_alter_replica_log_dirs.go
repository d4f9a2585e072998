// AlterReplicaLogDirs (key 34), versions 1 and 2: moves replicas between the data directories of a broker. There is one, so a replica either
// is where it shall be, or the directory that it shall go to does not exist.

package broker

import (
	"path"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func (s *server) alterReplicaLogDirs(r *request) {
	req := r.msg.(*kmsg.AlterReplicaLogDirsRequest)
	resp := kmsg.NewPtrAlterReplicaLogDirsResponse()
	im := s.b.Image()
	own, _ := s.b.Config("log.dirs")
	places := make(map[string]int)
	for i := range req.Dirs {
		dir := &req.Dirs[i]
		for k := range dir.Topics {
			name := dir.Topics[k].Topic
			place, ok := places[name]
			if !ok {
				place = len(resp.Topics)
				places[name] = place
				rt := kmsg.NewAlterReplicaLogDirsResponseTopic()
				rt.Topic = name
				resp.Topics = append(resp.Topics, rt)
			}
			t := im.Topic(name)
			for _, p := range dir.Topics[k].Partitions {
				rp := kmsg.NewAlterReplicaLogDirsResponseTopicPartition()
				rp.Partition = p
				switch {
				case t == nil || p < 0 || int(p) >= len(t.Partitions):
					rp.ErrorCode = kerr.UnknownTopicOrPartition.Code
				case path.Clean(dir.Dir) != path.Clean(own):
					rp.ErrorCode = kerr.LogDirNotFound.Code
				case s.b.Replica(t.ID, p) == nil:
					rp.ErrorCode = kerr.ReplicaNotAvailable.Code
				}
				resp.Topics[place].Partitions = append(resp.Topics[place].Partitions, rp)
			}
		}
	}
	r.respond(resp)
}
