// The slack of timers: how a started broker comes to it.

package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

const slackTest = "SLACK_OF_A_TEST"

// Runs behind the init of slack_linux.go, on the main thread.
func init() {
	if os.Getenv(slackTest) == "" {
		return
	}
	slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	var signal int32
	err2 := unix.Prctl(unix.PR_GET_PDEATHSIG, uintptr(unsafe.Pointer(&signal)), 0, 0, 0)
	fmt.Println(os.Getpid(), slack, signal, err, err2)
	os.Exit(0)
}

// What holds for `broker start`: late timers on all threads, in the process that was started, which still ends with its parent.
func TestTimerSlack(t *testing.T) {
	runtime.LockOSThread() // with whose end a child would get the signal
	defer runtime.UnlockOSThread()
	if now, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || int64(now) != kernelSlack.Nanoseconds() {
		t.Skip("this process has another slack: ", now, err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for arg, want := range map[string]int64{"start": timerSlack.Nanoseconds(), "topic": kernelSlack.Nanoseconds()} {
		cmd := exec.Command(self, arg)
		cmd.Env = append(os.Environ(), slackTest+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if w := fmt.Sprintln(cmd.Process.Pid, want, int(syscall.SIGKILL), nil, nil); string(out) != w {
			t.Errorf("broker %s: %q, want %q", arg, out, w)
		}
	}
}
