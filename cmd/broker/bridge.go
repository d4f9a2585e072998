// broker bridge: bridges between NATS and topics.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/balsamq/balsa/bridge"
	"github.com/balsamq/balsa/client"
)

const bridgeHelp = `A bridge takes messages from NATS into a topic, or records of a topic into NATS, as long as the cluster lives: its definition is kept by the brokers, one of
them carries it, and another one goes on where it was when that dies.

  a JetStream stream into a topic    each message once (to consumers that read committed records), in order per subject
  a topic into a JetStream stream    each record once, in order per partition and subject
  a core NATS subject into a topic   at most once: nobody keeps what is not taken

Secrets never go through this command: a definition names files, which lie in one directory on every broker ('broker start --bridge-secrets').
Like all of --admin these commands are for operators; what bridges may do to topics is decided by ACLs for the user that 'broker start --bridge-user' names.`

func newBridgeCommand(a *app) *cobra.Command {
	nats := group("nats", "Bridge NATS subjects and JetStream streams", newBridgeAdd(a), newBridgeList(a), newBridgeStatus(a), newBridgePause(a), newBridgeResume(a), newBridgeSeek(a), newBridgeSet(a), newBridgeRemove(a))
	nats.Long = bridgeHelp
	return group("bridge", "Join the cluster to other systems", nats)
}

// natsBridge is a bridge as the brokers show it.
type natsBridge struct {
	Name   string       `json:"name" yaml:"name"`
	ID     string       `json:"id" yaml:"id"`
	Kind   string       `json:"kind" yaml:"kind"`
	Spec   bridgeSpec   `json:"spec" yaml:"spec"`
	Paused bool         `json:"paused" yaml:"paused"`
	Begin  string       `json:"begin,omitempty" yaml:"begin,omitempty"`
	Seeks  int64        `json:"seeks" yaml:"seeks"`
	Owner  int32        `json:"owner" yaml:"owner"`
	Term   int64        `json:"term" yaml:"term"`
	Status bridgeStatus `json:"status" yaml:"status"`
}

// bridgeStatus is how it is.
type bridgeStatus struct {
	State       string    `json:"state" yaml:"state"`
	Error       string    `json:"error,omitempty" yaml:"error,omitempty"`
	Since       time.Time `json:"since,omitzero" yaml:"since,omitempty"`
	Position    string    `json:"position,omitempty" yaml:"position,omitempty"`
	Lag         int64     `json:"lag" yaml:"lag"` // -1: not known
	Records     uint64    `json:"records" yaml:"records"`
	Bytes       uint64    `json:"bytes" yaml:"bytes"`
	DeadLetters uint64    `json:"deadLetters" yaml:"deadLetters"`
	Skipped     uint64    `json:"skipped" yaml:"skipped"`
	Dropped     uint64    `json:"dropped" yaml:"dropped"`
	Restarts    uint64    `json:"restarts" yaml:"restarts"`
}

// bridgeSpec is a definition as it came: a newer broker may know more of it.
type bridgeSpec map[string]any

// parsed is what this version understands of it.
func (s bridgeSpec) parsed() *bridge.Spec {
	out := new(bridge.Spec)
	if raw, err := json.Marshal(s); err == nil {
		_ = json.Unmarshal(raw, out) // what is there in another form is left out
	}
	return out
}

// bridgeOrder is what the routes take.
type bridgeOrder struct {
	Name   string       `json:"name,omitempty"`
	Kind   string       `json:"kind,omitempty"`
	Spec   *bridge.Spec `json:"spec,omitempty"`
	Begin  string       `json:"begin,omitempty"`
	Paused bool         `json:"paused,omitempty"`
	To     string       `json:"to,omitempty"`
	// Was is the definition that Spec was made from.
	Was     json.RawMessage `json:"was,omitempty"`
	DryRun  bool            `json:"dryRun,omitempty"`
	NoProbe bool            `json:"noProbe,omitempty"`
}

func bridgePath(name string) string { return "/v1/bridges/" + url.PathEscape(name) }

func dryRunFlag(cmd *cobra.Command, dry *bool) {
	cmd.Flags().BoolVar(dry, "dry-run", false, "say what would be done, and do nothing")
}

// withBridges is withControl, with what only bridges are refused for: the name is taken, or the broker is too old.
func withBridges(cmd *cobra.Command, fn func(context.Context, *client.Control) error) error {
	err := withControl(cmd, fn)
	ce, ok := errors.AsType[*client.ControlError](err)
	switch {
	case ok && ce.Kind == "conflict" && strings.HasPrefix(ce.Message, "there is a bridge"):
		return &cliError{code: exitExists, what: ce.Message, mend: ce.Mend, err: err}
	case ok && ce.Kind == "not_found" && strings.HasPrefix(ce.Message, "there is no /v1/bridges"):
		return &cliError{code: exitFailure, what: "the broker that was asked has no bridges", mend: "it runs an older version", err: err}
	}
	return err
}

type bridgeAdd struct {
	order bridgeOrder
	spec  bridge.Spec
}

func newBridgeAdd(a *app) *cobra.Command {
	o := &bridgeAdd{}
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Make a bridge",
		Long: `Make a bridge, which begins at once. Before that the broker that is asked connects to NATS and looks for source and target.

Keys and subjects are made by templates: text with fields in braces. --key knows {subject}, {subject[N]} (its token N, from 0 on, or from the end with a
negative one; what a bridge has escaped is unescaped), {token[N]} (as it is) and {header:NAME}. --subject knows {key}, {key.*} (its dots part tokens), {topic},
{partition} and {header:NAME}; what a token cannot hold is percent-encoded, an empty key is %e, and none is %n.

A message that cannot be converted, or is too large for the other side, goes to the topic of --dead-letters; without one the bridge stops there.`,
		Example: `  broker bridge nats add orders-in --server nats://nats.example:4222 --from-stream ORDERS --to-topic orders --key '{subject[1]}'
  broker bridge nats add orders-out --server tls://nats.example:4222 --creds-file bridge.creds --from-topic orders --to-stream OUT --subject 'out.{key}'
  broker bridge nats add sensors --server nats://nats.example:4222 --from-subject 'sensors.>' --to-topic sensors`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.order.Name, o.order.Kind, o.order.Spec = args[0], "nats", &o.spec
			if err := o.spec.Check(); err != nil {
				return bridgeUsage(err)
			}
			if err := bridge.CheckPosition(&o.spec, o.order.Begin); err != nil {
				return bridgeUsage(err)
			}
			return withBridges(cmd, func(ctx context.Context, ctl *client.Control) error {
				var b natsBridge
				if err := ctl.Post(ctx, "/v1/bridges", &o.order, &b); err != nil {
					return err
				}
				return a.print(cmd, &b, func(w io.Writer) {
					if o.order.DryRun {
						fmt.Fprintf(w, "bridge %s would be made: %s, %s to %s\n", b.Name, o.spec.Direction(), o.spec.Source(), o.spec.Target())
						return
					}
					fmt.Fprintf(w, "made bridge %s: %s, %s to %s\n", b.Name, o.spec.Direction(), o.spec.Source(), o.spec.Target())
				})
			})
		},
	}
	o.flags(cmd.Flags())
	dryRunFlag(cmd, &o.order.DryRun)
	adminFlag(cmd)
	return cmd
}

func (o *bridgeAdd) flags(f *pflag.FlagSet) {
	s := &o.spec
	s.Servers = []string{"nats://127.0.0.1:4222"}
	bridgeSetFlags(f, s)
	f.StringVar(&s.FromStream, "from-stream", "", "take the messages of this JetStream `STREAM`")
	f.StringSliceVar(&s.Filters, "filter", nil, "of these `SUBJECT,...` only (with --from-stream)")
	f.StringVar(&s.FromSubject, "from-subject", "", "take the messages of this core `SUBJECT`, which may have wildcards")
	f.StringVar(&s.Queue, "queue-group", "", "share them with others in this queue group `NAME` (with --from-subject)")
	f.StringVar(&s.FromTopic, "from-topic", "", "take the records of this `TOPIC`")
	f.StringVar(&s.ToTopic, "to-topic", "", "write records to this `TOPIC`")
	f.StringVar(&s.ToStream, "to-stream", "", "publish messages into this JetStream `STREAM`, best one of the bridge's own")
	f.StringVar(&s.Key, "key", "", "`TEMPLATE` of the records' keys; default: {subject}; 'none': no key")
	f.StringVar(&s.Subject, "subject", "", "`TEMPLATE` of the messages' subjects, such as orders.{key}")
	f.StringSliceVar(&s.Skip, "skip-bridge", nil, "leave out what has passed one of these bridges, `NAME,...`; *: any. What has passed this one is left out anyway")
	f.StringVar(&o.order.Begin, "begin", "", "`POSITION` to begin at: first, new, a time (RFC 3339), a sequence of the stream, PARTITION:OFFSET,... of the topic; default: first, of a core subject new")
	f.BoolVar(&o.order.Paused, "paused", false, "make it, and do not begin: 'broker bridge nats resume' does")
	noProbeFlag(f, &o.order)
}

func noProbeFlag(f *pflag.FlagSet, o *bridgeOrder) {
	f.BoolVar(&o.NoProbe, "no-probe", false, "do not look for source and target first")
}

// bridgeSetFlags are those for what can be changed of a bridge that is there. What s has is what they have when they are not given.
func bridgeSetFlags(f *pflag.FlagSet, s *bridge.Spec) {
	f.StringSliceVar(&s.Servers, "server", s.Servers, "`URL,...` of NATS servers")
	f.StringVar(&s.DeadLetters, "dead-letters", s.DeadLetters, "`TOPIC` for what cannot be converted")
	f.StringVar(&s.CredsFile, "creds-file", s.CredsFile, "`NAME` of the file with a JWT and its NKey, in the brokers' directory of secrets")
	f.StringVar(&s.NKeyFile, "nkey-file", s.NKeyFile, "`NAME` of the file with the seed of an NKey, there")
	f.StringVar(&s.User, "nats-user", s.User, "the user `NAME` to be in NATS")
	f.StringVar(&s.PasswordFile, "nats-password-file", s.PasswordFile, "`NAME` of the file with its password, there")
	f.StringVar(&s.TokenFile, "nats-token-file", s.TokenFile, "`NAME` of the file with a token, there")
	f.BoolVar(&s.TLS, "nats-tls", s.TLS, "connect to NATS with TLS; on as well where one of the next three is given")
	f.StringVar(&s.CAFile, "nats-ca-file", s.CAFile, "`NAME` of the file with the authorities of the NATS servers' certificates (PEM), there; default: the system's")
	f.StringVar(&s.CertFile, "nats-cert-file", s.CertFile, "`NAME` of the file with a certificate to show to them (PEM), there")
	f.StringVar(&s.KeyFile, "nats-key-file", s.KeyFile, "`NAME` of the file with its private key (PEM), there")
	f.StringVar(&s.JSDomain, "js-domain", s.JSDomain, "the JetStream domain `NAME`")
}

// bridgeUsage is what is wrong with a definition, before anybody was asked.
func bridgeUsage(err error) error {
	return &cliError{code: exitUsage, what: strings.TrimPrefix(err.Error(), bridge.ErrSpec.Error()+": "), mend: "'broker bridge nats add --help' shows what a bridge can be", err: err}
}

func newBridgeList(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the bridges, and how they are",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withBridges(cmd, func(ctx context.Context, ctl *client.Control) error {
				var table struct {
					Bridges []natsBridge `json:"bridges"`
				}
				if err := ctl.Get(ctx, "/v1/bridges", &table); err != nil {
					return err
				}
				return a.print(cmd, table.Bridges, func(w io.Writer) {
					if len(table.Bridges) == 0 {
						fmt.Fprintln(w, "no bridges")
						return
					}
					fmt.Fprintln(w, "NAME\tDIRECTION\tFROM\tTO\tBROKER\tSTATE\tLAG\tRECORDS")
					for i := range table.Bridges {
						b := &table.Bridges[i]
						s := b.Spec.parsed()
						fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\n", b.Name, s.Direction(), s.Source(), s.Target(), nobody(b.Owner), b.Status.State, known(b.Status.Lag), b.Status.Records)
					}
				})
			})
		},
	}
	adminFlag(cmd)
	return cmd
}

func nobody(id int32) string {
	if id == 0 {
		return "-"
	}
	return fmt.Sprint(id)
}

func newBridgeStatus(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status NAME",
		Short: "Show a bridge: its definition, who carries it, how far it is",
		Long: `Show a bridge. The position is where it goes on: 'broker bridge nats seek' takes it. Counts are since its broker has it. The exit code is 1 if it is neither running,
starting nor paused.`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withBridges(cmd, func(ctx context.Context, ctl *client.Control) error {
				var b natsBridge
				if err := ctl.Get(ctx, bridgePath(args[0]), &b); err != nil {
					return err
				}
				if err := a.printBridge(cmd, &b); err != nil {
					return err
				}
				switch b.Status.State {
				case string(bridge.StateRunning), string(bridge.StateStarting), "paused":
					return nil
				}
				return &cliError{code: exitFailure, what: fmt.Sprintf("bridge %s is %s", b.Name, b.Status.State), mend: "the error above says what is missing; the broker's log has more"}
			})
		},
	}
	adminFlag(cmd)
	return cmd
}

func (a *app) printBridge(cmd *cobra.Command, b *natsBridge) error {
	return a.print(cmd, b, func(w io.Writer) {
		s, st := b.Spec.parsed(), &b.Status
		fmt.Fprintf(w, "bridge\t%s\ndirection\t%s\nfrom\t%s\nto\t%s\nservers\t%s\n", b.Name, s.Direction(), s.Source(), s.Target(), strings.Join(s.Servers, ", "))
		if len(s.Filters) > 0 {
			fmt.Fprintf(w, "filters\t%s\n", strings.Join(s.Filters, ", "))
		}
		switch {
		case s.FromTopic != "":
			fmt.Fprintf(w, "subject\t%s\n", s.Subject)
		case s.Key == "":
			fmt.Fprintf(w, "key\t{subject}\n")
		default:
			fmt.Fprintf(w, "key\t%s\n", s.Key)
		}
		fmt.Fprintf(w, "dead letters\t%s\nbroker\t%s\nstate\t%s", orDash(s.DeadLetters), nobody(b.Owner), st.State)
		if !st.Since.IsZero() {
			fmt.Fprintf(w, " for %v", time.Since(st.Since).Round(time.Second))
		}
		fmt.Fprintf(w, "\nposition\t%s\nlag\t%s\nrecords\t%d, %d bytes\n", orDash(st.Position), known(st.Lag), st.Records, st.Bytes)
		for _, c := range [...]struct {
			what string
			n    uint64
		}{{"dead letters written", st.DeadLetters}, {"left out", st.Skipped}, {"dropped", st.Dropped}, {"restarts", st.Restarts}} {
			if c.n > 0 {
				fmt.Fprintf(w, "%s\t%d\n", c.what, c.n)
			}
		}
		if st.Error != "" {
			fmt.Fprintf(w, "error\t%s\n", st.Error)
		}
	})
}

// bridgeChange is a command that changes one bridge: done is what it says then, with the bridge's name, and would what it says with --dry-run.
func (a *app) bridgeChange(use, short, long, route, done, would string) *cobra.Command {
	var o bridgeOrder
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Long:  long,
		Args:  exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.postBridge(cmd, args[0], route, &o, done, would)
		},
	}
	dryRunFlag(cmd, &o.DryRun)
	adminFlag(cmd)
	return cmd
}

func (a *app) postBridge(cmd *cobra.Command, name, route string, o *bridgeOrder, done, would string) error {
	return withBridges(cmd, func(ctx context.Context, ctl *client.Control) error {
		var b natsBridge
		if err := ctl.Post(ctx, bridgePath(name)+"/"+route, o, &b); err != nil {
			return err
		}
		return a.print(cmd, &b, func(w io.Writer) {
			if o.DryRun {
				done = would
			}
			fmt.Fprintf(w, done+"\n", b.Name)
		})
	})
}

func newBridgePause(a *app) *cobra.Command {
	return a.bridgeChange("pause NAME", "Stop a bridge where it is", "Stop a bridge. Where it is stays known, however long that lasts; a bridge that is paused already stays so.",
		"pause", "bridge %s is paused", "bridge %s would be paused")
}

func newBridgeResume(a *app) *cobra.Command {
	return a.bridgeChange("resume NAME", "Let a bridge go on where it was", "Let a bridge that was paused go on where it was.", "resume", "bridge %s goes on", "bridge %s would go on")
}

func newBridgeRemove(a *app) *cobra.Command {
	return a.bridgeChange("remove NAME", "Remove a bridge", `Remove a bridge. What it has taken over stays, and where it was is forgotten: one that is made under the same name begins anew.`,
		"remove", "removed bridge %s", "bridge %s would be removed")
}

func newBridgeSet(a *app) *cobra.Command {
	var (
		o bridgeOrder
		s bridge.Spec
	)
	given := pflag.NewFlagSet("set", pflag.ContinueOnError)
	bridgeSetFlags(given, &s)
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Change a bridge's servers, dead letters or credentials",
		Long: `Change a bridge that is there: it goes on where it was. What is not given stays; an empty text takes a thing away. For another source or target, or for other
keys, subjects or filters, make another bridge. Before that the broker that is asked connects to NATS and looks for source and target.`,
		Example: `  broker bridge nats set orders-in --dead-letters orders-dead
  broker bridge nats set orders-in --dead-letters ''
  broker bridge nats set orders-in --server nats://a.example:4222,nats://b.example:4222`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			changed := false
			given.VisitAll(func(f *pflag.Flag) { changed = changed || f.Changed })
			if !changed {
				return usageError("write --dead-letters TOPIC, for instance", "there is nothing to change")
			}
			return withBridges(cmd, func(ctx context.Context, ctl *client.Control) error {
				var b natsBridge
				if err := ctl.Get(ctx, bridgePath(args[0]), &b); err != nil {
					return err
				}
				raw, err := json.Marshal(b.Spec)
				if err != nil {
					return err
				}
				if o.Spec, err = bridge.ParseSpec(raw); err != nil {
					return &cliError{code: exitFailure, what: "this version does not know all of the bridge's definition: " + err.Error(), mend: "use the CLI of the brokers' version", err: err}
				}
				now := pflag.NewFlagSet("now", pflag.ContinueOnError)
				bridgeSetFlags(now, o.Spec)
				if err := copyFlags(now, given); err != nil {
					return err
				}
				if err := o.Spec.Check(); err != nil {
					return bridgeUsage(err)
				}
				o.Was = raw
				b = natsBridge{} // what the answer leaves out is not as it was
				if err := ctl.Post(ctx, bridgePath(args[0])+"/set", &o, &b); err != nil {
					return err
				}
				return a.print(cmd, &b, func(w io.Writer) {
					if o.DryRun {
						fmt.Fprintf(w, "bridge %s would be changed\n", b.Name)
						return
					}
					fmt.Fprintf(w, "changed bridge %s\n", b.Name)
				})
			})
		},
	}
	cmd.Flags().AddFlagSet(given)
	noProbeFlag(cmd.Flags(), &o)
	dryRunFlag(cmd, &o.DryRun)
	adminFlag(cmd)
	return cmd
}

// copyFlags sets those flags of to that were given in from.
func copyFlags(to, from *pflag.FlagSet) (err error) {
	from.VisitAll(func(f *pflag.Flag) {
		if !f.Changed || err != nil {
			return
		}
		target := to.Lookup(f.Name).Value
		if list, ok := f.Value.(pflag.SliceValue); ok {
			err = target.(pflag.SliceValue).Replace(list.GetSlice())
		} else {
			err = target.Set(f.Value.String())
		}
	})
	return err
}

func newBridgeSeek(a *app) *cobra.Command {
	var o bridgeOrder
	cmd := &cobra.Command{
		Use:   "seek NAME",
		Short: "Let a bridge go on somewhere else",
		Long: `Let a bridge go on at another position: first, new, a time (RFC 3339), a sequence of a stream, or PARTITION:OFFSET,... of a topic, where partitions that are not named
go on where they are. What it takes over for a second time is written for a second time.`,
		Example: `  broker bridge nats seek orders-in --to 120055
  broker bridge nats seek orders-out --to 0:500,1:0
  broker bridge nats seek orders-out --to 2026-11-27T08:00:00Z`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.To == "" {
				return usageError("write --to first, for instance", "there is no position to seek to")
			}
			return a.postBridge(cmd, args[0], "seek", &o, "bridge %s goes on at "+strings.ReplaceAll(o.To, "%", "%%"), "bridge %s would go on at "+strings.ReplaceAll(o.To, "%", "%%"))
		},
	}
	cmd.Flags().StringVar(&o.To, "to", "", "the `POSITION`")
	dryRunFlag(cmd, &o.DryRun)
	adminFlag(cmd)
	return cmd
}

// bridgeFlags are those of `broker start`.
func bridgeFlags(f *pflag.FlagSet, r *bridge.Runner) *choice {
	s := &r.Security
	f.StringVar(&r.Secrets, "bridge-secrets", "", "the directory `DIR` with the files that bridges' definitions name; default: secrets in the data directory")
	f.StringVar(&s.User, "bridge-user", "", "the user `NAME` that bridges are to the brokers, where listeners ask for one; ACLs say what it may do")
	f.StringVar(&s.PasswordFile, "bridge-password-file", "", "`FILE` with its password on the first line")
	f.StringVar(&s.TokenFile, "bridge-token-file", "", "`FILE` with a token (JWT) instead")
	mechanism := newChoice("auto", "auto", client.MechanismPlain, client.MechanismScramSHA256, client.MechanismScramSHA512, client.MechanismOAuthBearer)
	f.Var(mechanism, "bridge-sasl", "the SASL `MECHANISM` for that; auto: SCRAM-SHA-512 with a user, OAUTHBEARER with a token, or none")
	f.BoolVar(&s.TLS, "bridge-tls", false, "bridges connect to the brokers with TLS; on as well where one of the next four is given")
	f.StringVar(&s.CA, "bridge-tls-ca", "", "`FILE` with the authorities of the brokers' certificates (PEM); default: the system's")
	f.StringVar(&s.Cert, "bridge-tls-cert", "", "`FILE` with a certificate that bridges show to brokers (PEM)")
	f.StringVar(&s.Key, "bridge-tls-key", "", "`FILE` with its private key (PEM)")
	f.StringVar(&s.ServerName, "bridge-tls-server-name", "", "the `NAME` that the brokers' certificates have; default: of the address")
	return mechanism
}
