// The runner: bridges as a broker carries them (broker.Config.Bridges).

package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/balsamq/balsa/broker"
	"github.com/balsamq/balsa/client"
)

// Runner is a [broker.BridgeRunner].
type Runner struct {
	// Security is how bridges prove to the brokers who they are. What they may do is decided by ACLs.
	Security client.Security
	// Secrets is the directory with the files that definitions name. Empty: "secrets" in the broker's data directory.
	Secrets string
}

var _ broker.BridgeRunner = (*Runner)(nil)

func (r *Runner) secrets(host *broker.BridgeHost) string {
	if r.Secrets != "" {
		return r.Secrets
	}
	return filepath.Join(host.DataDir, "secrets")
}

func (r *Runner) kafka(host *broker.BridgeHost) client.Config {
	return client.Config{Brokers: []string{host.Kafka}, Security: r.Security, Logger: host.Logger}
}

// Check implements broker.BridgeRunner.
func (r *Runner) Check(spec json.RawMessage, position string) error {
	s, err := ParseSpec(spec)
	if err != nil {
		return err
	}
	return CheckPosition(s, position)
}

// CheckChange implements broker.BridgeRunner.
func (r *Runner) CheckChange(from, to json.RawMessage) error {
	was, err := ParseSpec(from)
	if err != nil {
		return err
	}
	s, err := ParseSpec(to)
	if err != nil {
		return err
	}
	return was.checkChange(s)
}

// Probe implements broker.BridgeRunner: it connects to NATS and to the cluster, and looks whether source and target are there.
func (r *Runner) Probe(ctx context.Context, host broker.BridgeHost, spec json.RawMessage) error {
	s, err := ParseSpec(spec)
	if err != nil {
		return err
	}
	conn, err := connect(ctx, s, secrets(r.secrets(&host)), "probe", maxWindow, host.Logger, func(error) {})
	if err != nil {
		return err
	}
	defer conn.close()
	if err := conn.probe(ctx, s); err != nil {
		return err
	}
	adm, err := client.NewAdmin(ctx, r.kafka(&host))
	if err != nil {
		return fmt.Errorf("connect to the brokers as bridges do: %w", err)
	}
	defer adm.Close()
	for _, name := range [...]string{s.FromTopic, s.ToTopic, s.DeadLetters} {
		if name == "" {
			continue
		}
		if _, err := adm.Topic(ctx, name); errors.Is(err, client.ErrNotFound) {
			return fmt.Errorf("there is no topic %s", name)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// probe asks for the side that is NATS. A question that is not allowed is answered with nothing: the wait for the answer ends with the news of that.
func (c *connection) probe(ctx context.Context, s *Spec) (err error) {
	asked, end := context.WithCancel(ctx)
	defer end()
	go func() {
		for c.denied.some() == nil {
			select {
			case <-c.denied.news:
			case <-asked.Done():
				return
			}
		}
		end()
	}()
	switch {
	case s.FromStream != "":
		_, _, err = c.openSource(asked, s.FromStream)
	case s.ToStream != "":
		var info *jetstream.StreamInfo
		if _, info, err = c.stream(asked, s.ToStream); err == nil && (info.Config.Mirror != nil || info.Config.Sealed) {
			err = fmt.Errorf("stream %s takes no messages: it is a mirror, or sealed", s.ToStream)
		}
	}
	if denied := c.denied.some(); err != nil && denied != nil {
		return fmt.Errorf("NATS does not allow what the bridge has to ask for: %w", denied)
	}
	return err
}

// Start implements broker.BridgeRunner.
func (r *Runner) Start(host broker.BridgeHost, d broker.BridgeDefinition, owns func(context.Context) error) (broker.BridgeRun, error) {
	s, err := ParseSpec(d.Spec)
	if err != nil {
		return nil, err
	}
	b, err := Start(Job{ID: d.ID, Name: d.Name, Cluster: host.Cluster, Spec: s, Position: d.Position, Number: d.Number, Kafka: r.kafka(&host),
		Secrets: r.secrets(&host), Owns: owns, Logger: host.Logger})
	if err != nil {
		return nil, err
	}
	return carried{b}, nil
}

// carried is a Bridge as a broker sees it.
type carried struct{ *Bridge }

// Status implements broker.BridgeRun.
func (c carried) Status() broker.BridgeStatus {
	s := c.Bridge.Status()
	return broker.BridgeStatus{State: string(s.State), Error: s.Error, Since: s.Since, Position: s.Position, Lag: s.Lag, Records: s.Records, Bytes: s.Bytes,
		DeadLetters: s.DeadLetters, Skipped: s.Skipped, Dropped: s.Dropped, Restarts: s.Restarts}
}
