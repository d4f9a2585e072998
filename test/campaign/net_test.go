//go:build linux

// The network between the brokers: a TUN device in each namespace, and one for the clients, between which this process carries packets, or
// drops, delays and reorders them. No other tool for that is needed, and each direction of each pair has a rule of its own.

package campaign_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	tunDevice = "/dev/net/tun"
	// clients is where this process is, beside the brokers' ids.
	clients = 100
	// mtu is what a packet holds at most.
	mtu = 32000
)

// rule is what happens to packets of one direction.
type rule struct {
	drop   bool
	loss   float64       // of each packet
	delay  time.Duration // of all
	jitter time.Duration // up to so much more, of each by itself, which reorders
}

var cut = rule{drop: true}

// network has the brokers and the clients. It is removed with the test.
type network struct {
	subnet     int // 10.subnet.0.0/24
	namespaces map[int]string
	devices    map[int]*os.File

	mu    sync.RWMutex
	rules map[[2]int]rule // from, to
}

func newNetwork(t *testing.T, ids []int) *network {
	t.Helper()
	n := &network{subnet: 64 + os.Getpid()%128, namespaces: make(map[int]string), devices: make(map[int]*os.File), rules: make(map[[2]int]rule)}
	t.Cleanup(func() {
		for _, f := range n.devices {
			_ = f.Close()
		}
		for _, name := range n.namespaces {
			_ = command("ip", "netns", "del", name)
		}
	})
	if err := n.add(clients); err != nil {
		t.Skip(err)
	}
	for _, id := range ids {
		name := fmt.Sprintf("balsa-%d-%d", os.Getpid(), id)
		if err := command("ip", "netns", "add", name); err != nil {
			t.Skip(err)
		}
		n.namespaces[id] = name
		if err := inNamespace(name, func() error { return errors.Join(command("ip", "link", "set", "lo", "up"), n.add(id)) }); err != nil {
			t.Fatal(err)
		}
	}
	for id, f := range n.devices {
		go n.carry(id, f)
	}
	return n
}

func command(args ...string) error {
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w: %s", args, err, out)
	}
	return nil
}

// inNamespace runs f on a thread that is in a network namespace, and ends the thread.
func inNamespace(name string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		ns, err := os.Open("/var/run/netns/" + name)
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// add makes the device of one side, in the namespace that the thread is in.
func (n *network) add(id int) error {
	name := fmt.Sprintf("balsa%d-%d", n.subnet, id)
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", tunDevice, err)
	}
	var req [40]byte // struct ifreq
	copy(req[:unix.IFNAMSIZ-1], name)
	*(*uint16)(unsafe.Pointer(&req[unix.IFNAMSIZ])) = unix.IFF_TUN | unix.IFF_NO_PI
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&req[0]))); errno != 0 {
		_ = unix.Close(fd)
		return fmt.Errorf("%s: %w", tunDevice, errno)
	}
	n.devices[id] = os.NewFile(uintptr(fd), name)
	return errors.Join(command("ip", "addr", "add", n.ip(id)+"/24", "dev", name), command("ip", "link", "set", name, "mtu", fmt.Sprint(mtu), "up"))
}

func (n *network) ip(id int) string { return fmt.Sprintf("10.%d.0.%d", n.subnet, id) }

// carry takes what one side sends to where it belongs.
func (n *network) carry(from int, f *os.File) {
	buf := make([]byte, mtu+100)
	for {
		k, err := f.Read(buf)
		if err != nil {
			return // it is closed
		}
		if k < 20 || buf[0]>>4 != 4 {
			continue // no IPv4
		}
		to := int(buf[19]) // the last byte of the destination
		out := n.devices[to]
		if out == nil {
			continue
		}
		n.mu.RLock()
		r := n.rules[[2]int{from, to}]
		n.mu.RUnlock()
		switch {
		case r.drop || r.loss > 0 && rand.Float64() < r.loss:
		case r.delay > 0 || r.jitter > 0:
			packet := append([]byte(nil), buf[:k]...)
			late := r.delay
			if r.jitter > 0 {
				late += rand.N(r.jitter)
			}
			time.AfterFunc(late, func() { _, _ = out.Write(packet) })
		default:
			_, _ = out.Write(buf[:k]) // a full queue drops it, as networks do
		}
	}
}

// set gives packets from a to b a rule.
func (n *network) set(a, b int, r rule) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rules[[2]int{a, b}] = r
}

func (n *network) both(a, b int, r rule) {
	n.set(a, b, r)
	n.set(b, a, r)
}

func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.rules)
}
