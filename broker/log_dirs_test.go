package broker

import (
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
)

// What is said of the volume comes from the file system that the data is on, whichever that is.
func TestLogDirKnowsItsVolume(t *testing.T) {
	c := newCluster(t, 1, true)
	n := c.nodes[0]
	all := func(string, int32) bool { return true }
	c.start(n)
	if d := n.logDir(t.Context(), all); d.total != -1 || d.usable != -1 {
		t.Errorf("in memory: %d of %d bytes", d.usable, d.total)
	}
	c.stop(n)
	const limit = 1 << 30
	n.cfg.FS = vfs.Quota(n.cfg.FS, limit, "/data")
	c.start(n)
	if d := n.logDir(t.Context(), all); d.total != limit || d.usable <= 0 || d.usable >= limit {
		t.Errorf("below a quota of %d: %d of %d bytes", limit, d.usable, d.total)
	}
	osfs := vfs.OS()
	total, err := osfs.Total(t.TempDir())
	if free, ferr := osfs.Free(t.TempDir()); err != nil || ferr != nil || total < free || total <= 0 {
		t.Errorf("on a disk: %d of %d bytes, %v, %v", free, total, err, ferr)
	}
}
