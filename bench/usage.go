// CPU and memory of the server processes and of the load generator, read from /proc (Linux; elsewhere they are reported as 0).

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
	clockTicks    = 100 // USER_HZ, fixed by the Linux ABI
	usageInterval = 200 * time.Millisecond
)

// usage accounts for the server processes, and for this one.
type usage struct {
	pids   func() []int // those that run; they may change
	begin  map[int]float64
	client float64
	stop   chan struct{}
	wg     sync.WaitGroup
	spent  spent // owned by the watching goroutine until wg is done
}

// spent is what was used: seconds and bytes.
type spent struct {
	cpu, client    float64
	rssMax, rssSum float64 // of the largest process; of all together
}

// watch starts to account.
func watch(pids func() []int) *usage {
	u := &usage{pids: pids, stop: make(chan struct{}), begin: make(map[int]float64), client: cpuSeconds([]int{os.Getpid()})}
	now := u.look()
	for pid, cpu := range now {
		u.begin[pid] = cpu
	}
	u.wg.Go(func() {
		t := time.NewTicker(usageInterval)
		defer t.Stop()
		last := now
		for {
			select {
			case <-u.stop:
				for pid, cpu := range u.look() {
					last[pid] = cpu
				}
				for pid, cpu := range last {
					u.spent.cpu += cpu - u.begin[pid] // a process that began meanwhile counts from its start
				}
				return
			case <-t.C:
				// What a process used that ends before the next look is lost: a fifth of a second.
				for pid, cpu := range u.look() {
					last[pid] = cpu
				}
			}
		}
	})
	return u
}

// look weighs the processes, and returns what each has used since it began.
func (u *usage) look() map[int]float64 {
	cpu := make(map[int]float64)
	sum := 0.0
	for _, pid := range u.pids() {
		if pid == 0 {
			continue
		}
		if rss := rssBytes(pid); rss > 0 { // else it has ended
			cpu[pid] = cpuSeconds([]int{pid})
			u.spent.rssMax = max(u.spent.rssMax, rss)
			sum += rss
		}
	}
	u.spent.rssSum = max(u.spent.rssSum, sum)
	return cpu
}

// end returns what was used since watch.
func (u *usage) end() spent {
	close(u.stop)
	u.wg.Wait()
	u.spent.client = cpuSeconds([]int{os.Getpid()}) - u.client
	return u.spent
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
