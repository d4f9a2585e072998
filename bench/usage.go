// CPU and memory of the server processes, read from /proc (Linux; elsewhere they are reported as 0).

package bench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	clockTicks  = 100 // USER_HZ, fixed by the Linux ABI
	rssInterval = 200 * time.Millisecond
)

type usage struct {
	pids  []int
	begin float64
	stop  chan struct{}
	wg    sync.WaitGroup
	rss   float64
}

// watch starts to account for the processes.
func watch(pids []int) *usage {
	u := &usage{pids: pids, stop: make(chan struct{}), begin: cpuSeconds(pids)}
	u.wg.Go(func() {
		t := time.NewTicker(rssInterval)
		defer t.Stop()
		for {
			for _, pid := range pids {
				u.rss = max(u.rss, rssBytes(pid))
			}
			select {
			case <-u.stop:
				return
			case <-t.C:
			}
		}
	})
	return u
}

// end returns the CPU seconds of all processes since watch, and the largest resident size of any one, in bytes.
func (u *usage) end() (cpu, rss float64) {
	cpu = cpuSeconds(u.pids) - u.begin
	close(u.stop)
	u.wg.Wait()
	return cpu, u.rss
}

func cpuSeconds(pids []int) (sum float64) {
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// Fields are counted from behind the command's closing parenthesis: utime and stime are fields 14 and 15.
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if len(f) > 12 {
			u, _ := strconv.ParseFloat(f[11], 64)
			s, _ := strconv.ParseFloat(f[12], 64)
			sum += (u + s) / clockTicks
		}
	}
	return sum
}

func rssBytes(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseFloat(f[1], 64)
	return pages * float64(os.Getpagesize())
}

// children are the direct child processes of pid.
func children(pid int) []int {
	var pids []int
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, t := range tasks {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		for f := range strings.FieldsSeq(string(b)) {
			if p, err := strconv.Atoi(f); err == nil {
				pids = append(pids, p)
			}
		}
	}
	return pids
}
