// How much room the volume of a directory has.

package broker

import "golang.org/x/sys/unix"

// diskSpace is the size of the volume that dir is on, and what of it may still be written; -1 if that is not known, as for a
// file system in memory.
func diskSpace(dir string) (total, usable int64) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return -1, -1
	}
	return int64(s.Blocks) * s.Bsize, int64(s.Bavail) * s.Bsize
}
