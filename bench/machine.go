// Where a run takes place and what runs there, as far as the machine tells (Linux; elsewhere little).

package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// NewReport notes when and where, and what of ours; data will go below dir (empty: the system's temporary directory).
func NewReport(dir string, command []string) *Report {
	if dir == "" {
		dir = os.TempDir()
	}
	r := &Report{Schema: Schema, Taken: time.Now().UTC().Truncate(time.Second), Command: command, Machine: machine(dir), Balsa: Build{Go: runtime.Version()}, Peers: []Peer{}, Results: []Result{}}
	if bi, ok := debug.ReadBuildInfo(); ok {
		r.Balsa.Version = bi.Main.Version
		for _, s := range bi.Settings {
			switch s.Key {
			case "vcs.revision":
				r.Balsa.Commit = s.Value
			case "vcs.modified":
				r.Balsa.Dirty = s.Value == "true"
			}
		}
	}
	return r
}

func machine(dir string) Machine {
	m := Machine{OS: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(), Load: loadAverage(), Kernel: firstLine("/proc/sys/kernel/osrelease"),
		CPU: field("/proc/cpuinfo", "model name")}
	if kb, err := strconv.ParseInt(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"), 10, 64); err == nil {
		m.MemoryBytes = kb << 10
	}
	if limit, err := strconv.ParseInt(firstLine("/sys/fs/cgroup/memory.max"), 10, 64); err == nil { // "max": none
		m.MemoryLimit = limit
	}
	m.DiskFree = freeBytes(dir)
	m.FileSystem = fileSystem(dir)
	return m
}

// firstLine of a file of the kernel's; empty if it cannot be read.
func firstLine(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line)
}

// field is the value of the first line `name: value`.
func field(file, name string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// fileSystem is the type of the mount that holds dir, with its options: they decide what a sync costs.
func fileSystem(dir string) string {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return ""
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		abs = real
	}
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return ""
	}
	best, found := "", ""
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		at := f[1]
		if (abs == at || strings.HasPrefix(abs, strings.TrimSuffix(at, "/")+"/")) && len(at) >= len(best) {
			best, found = at, fmt.Sprintf("%s (%s)", f[2], f[3])
		}
	}
	return found
}
