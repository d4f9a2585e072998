// What only Linux tells and does: free space, the page cache, children that end with their parent.

package bench

import "golang.org/x/sys/unix"

// freeBytes is the space for data below dir; 0 if it is not known.
func freeBytes(dir string) int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0
	}
	return int64(st.Bavail) * st.Bsize
}
