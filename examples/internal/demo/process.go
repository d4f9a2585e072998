// Parts of an example in processes of their own: the same program, told by its environment which part it is.

package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/balsamq/balsa/client"
)

// partEnv holds what a part has to know, in JSON. That it is set makes a process one.
const partEnv = "BALSA_EXAMPLE_PART"

type handed struct {
	Part     string
	Brokers  []string
	Security client.Security
	Suffix   string
	Began    time.Time
}

// Start runs a part of the example in a process of its own, which ends with ctx at the latest. What it says, it says on the same terminal.
func (d *Demo) Start(ctx context.Context, part string, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(handed{Part: part, Brokers: d.Config.Brokers, Security: d.Config.Security, Suffix: d.suffix, Began: d.began})
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), partEnv+"="+string(raw))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd, cmd.Start()
}

// Die ends the process as kill -9 does: nothing more is written, sent or said.
func Die() {
	if p, err := os.FindProcess(os.Getpid()); err == nil {
		_ = p.Kill()
	}
	select {} // until the kernel has come to it
}

// part is the process that Start has started.
func (e *Example) part(ctx context.Context, raw string, args []string) error {
	var h handed
	if err := json.Unmarshal([]byte(raw), &h); err != nil {
		return fmt.Errorf("%s: %w", partEnv, err)
	}
	run := e.Parts[h.Part]
	if run == nil {
		return fmt.Errorf("%s: there is no part %q", partEnv, h.Part)
	}
	return run(ctx, &Demo{name: e.Name, suffix: h.Suffix, began: h.Began, Config: client.Config{Brokers: h.Brokers, Security: h.Security}}, args)
}
