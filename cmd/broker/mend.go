// How to mend: what is said of mistyped flags and names, and of errors that the brokers, TLS or SASL gave.

package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/balsamq/balsa/broker"
	"github.com/balsamq/balsa/client"
)

// elsewhere are flags of Kafka's and Redpanda's tools, and what does that here. A mend is given where the command has the flag.
var elsewhere = map[string]struct{ flag, mend string }{
	"bootstrap-server":   {"brokers", "-b HOST:PORT names the brokers"},
	"bootstrap-servers":  {"brokers", "-b HOST:PORT names the brokers"},
	"broker-list":        {"brokers", "-b HOST:PORT names the brokers"},
	"replication-factor": {"replicas", "--replicas N says how many replicas each partition has"},
	"topic-config":       {"set", "--set NAME=VALUE gives the topic a setting"},
	"add-config":         {"set", "--set NAME=VALUE gives the topic a setting"},
	"from-beginning":     {"from", "--from beginning is the default"},
	"max-messages":       {"count", "--count N ends after so many records"},
	"num":                {"count", "--count N ends after so many records"},
	"offset":             {"from", "--from says where to begin"},
	"format":             {"output", "-o table|json|yaml says how to print"},
	"command-config":     {"config", "--config FILE, --tls… and --user say how to connect"},
	"version":            {"", "'broker version' shows it"},
}

// flagMistake words what pflag says of a command line.
func flagMistake(cmd *cobra.Command, err error) error {
	mend := fmt.Sprintf("'%s --help' shows what is understood", cmd.CommandPath())
	what := firstLine(err.Error())
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok && unknown.GetSpecifiedShortnames() == "" {
		name := unknown.GetSpecifiedName()
		flags := make(map[string]*pflag.Flag)
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				flags[f.Name] = f
			}
		})
		if e, ok := elsewhere[name]; ok && (e.flag == "" && !cmd.HasParent() || flags[e.flag] != nil) {
			mend = e.mend
		} else if near := nearest(name, flags); near != "" && editDistance(name, near) <= len(name)/2 {
			mend = fmt.Sprintf("did you mean --%s? %s", near, mend)
		}
	}
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		if kind := valueKind(invalid.GetFlag(), invalid.Unwrap()); kind != "" {
			before, _, _ := strings.Cut(what, `" flag: `)
			what = before + `" flag: it must be ` + kind
		}
	}
	return &cliError{code: exitUsage, what: what, mend: mend, err: err}
}

// valueKind is what a flag takes, where it is Go's own parser that refused a value, whose words are for programmers; "" where the flag itself did.
func valueKind(f *pflag.Flag, err error) string {
	if sizes := sizeKind(f.Value.Type()); sizes != "" {
		if errors.Is(err, strconv.ErrRange) {
			sizes += ", and one that fits into 64 bits"
		}
		return sizes
	}
	if _, ok := errors.AsType[*strconv.NumError](err); !ok && f.Value.Type() != "duration" {
		return ""
	}
	if kind := f.Value.Type(); errors.Is(err, strconv.ErrRange) {
		switch bits := strings.TrimSuffix(strings.TrimPrefix(kind, "int"), "Slice"); {
		case bits == "":
			return fmt.Sprintf("%s that fits into %d bits", kindName(f), strconv.IntSize)
		case strings.HasSuffix(kind, "Slice"):
			return "whole numbers that fit into " + bits + " bits: 0,1,2"
		case strings.HasPrefix(kind, "int"):
			return kindName(f) + " that fits into " + bits + " bits"
		}
	}
	return kindName(f)
}

// strict makes the commands that cobra adds refuse what they do not know, as all others do.
func strict(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd("completion")
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			show := c.Run
			c.Run = nil
			c.RunE = func(cmd *cobra.Command, args []string) error {
				target, rest, err := root.Find(args)
				if err != nil {
					return err
				}
				if err := subcommands(target, rest); err != nil {
					return err
				}
				show(cmd, args)
				return nil
			}
		case "completion":
			c.Args, c.RunE = subcommands, needsSubcommand
		}
	}
}

// tlsMend is what can be done about a handshake that failed; "" if that is not what an error is about.
func tlsMend(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "--tls-ca names a file with the authority that the brokers' certificates come from"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "connect to a name that the certificate has, or say with --tls-server-name which one it has"
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return "give the broker a certificate that is valid (--kafka-tls-cert, read anew every 10 s); or see to the clock of this machine"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "what listens there speaks no TLS: leave out --tls and --tls-…, or name another address"
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok || strings.Contains(err.Error(), "remote error: tls: ") {
		return "the broker ended the handshake: it may want a certificate that it knows, from --tls-client-cert and --tls-client-key; its log says why"
	}
	return ""
}

// deniedMend is what can be done by somebody whom the brokers do not believe, or do not allow what was asked for.
func deniedMend(err error) string {
	switch {
	case errors.Is(err, kerr.SaslAuthenticationFailed):
		return "check the name and the password: --user, --password-file or BALSA_PASSWORD, --token-file; 'broker user passwd NAME' gives another password"
	case errors.Is(err, kerr.IllegalSaslState):
		return "the listener asks nobody who they are: leave out --user, --password-file and --sasl, or name a listener that does"
	case errors.Is(err, kerr.UnsupportedSaslMechanism):
		return "--sasl names the mechanism: one of those that the brokers offer (sasl-mechanisms of 'broker start')"
	}
	return "--user and --password-file, --token-file, or --tls-client-cert say who you are; 'broker acl list' shows who may do what"
}

// invalidMend is what can be done about a request that the brokers, or the client, can never grant.
func invalidMend(err error, commandPath string) string {
	op, subject := "", ""
	if ce, ok := errors.AsType[*client.Error](err); ok {
		op, subject = ce.Op, ce.Subject
	}
	switch {
	case op == "set up the connection's security":
		if text := err.Error(); strings.Contains(text, "certificate") || strings.Contains(text, "no such file") {
			return "--tls-ca, --tls-client-cert and --tls-client-key name PEM files, --password-file and --token-file files with a secret on the first line"
		}
		return "--user goes with --password-file or BALSA_PASSWORD; otherwise there is --token-file"
	case op == "read the broker address", op == "read the admin address":
		return "write HOST:PORT, as in localhost:9092 or [::1]:9092"
	case op == "read the ACL":
		return "the operations are " + strings.Join(aclOperations, ", ")
	case op == "list transactions":
		return "--state takes Empty, Ongoing, PrepareCommit, PrepareAbort, CompleteCommit and CompleteAbort, --match an expression in RE2's syntax"
	case strings.HasPrefix(op, "change the quotas"):
		return "the quotas are " + strings.Join(quotaNames, ", ") + "; the last is for addresses only"
	case op == "reset the offsets of group":
		return "name them with --topic TOPIC, or --topic TOPIC/PARTITION,...; it can be repeated"
	case errors.Is(err, kerr.InvalidReplicationFactor), errors.Is(err, kerr.InvalidReplicaAssignment):
		return "'broker cluster status' shows the brokers"
	case errors.Is(err, kerr.OffsetOutOfRange):
		return "'broker topic describe NAME' shows where each partition starts and ends"
	case errors.Is(err, kerr.InvalidConfig):
		if kind, _, _ := strings.Cut(subject, "/"); op != "change the configs of" || kind == client.TopicConfigs {
			return "'broker help topic-configs' lists what a topic can be given"
		} else if kind == "brokers" {
			subject = "broker/ID"
		}
		return fmt.Sprintf("'broker config get %s --all --doc' lists what there is", subject)
	}
	return fmt.Sprintf("'%s --help' shows what is understood", commandPath)
}

// configMistake words the brokers' refusal of configs: a name that they do not know may be nearly another one, and a value that is none 1GiB, where they,
// as Kafka's, have plain numbers: what is given is what everybody's tools show.
func configMistake(err error, kind string, given map[string]string) error {
	if !errors.Is(err, kerr.InvalidConfig) {
		return err
	}
	known := broker.Configs(kind)
	for _, name := range slices.Sorted(maps.Keys(given)) {
		near, there := "", false
		distance := len(name)/3 + 1
		for i := range known {
			k := known[i].Name
			there = there || k == name
			if d := editDistance(name, k); d < distance {
				near, distance = k, d
			}
		}
		if near != "" && !there {
			return &cliError{code: exitUsage, what: err.Error(), mend: fmt.Sprintf("did you mean %s? %s", near, invalidMend(err, "")), err: err}
		}
		value := given[name]
		if _, notPlain := strconv.ParseInt(value, 10, 64); there && notPlain != nil && strings.Contains(err.Error(), name) {
			if n, noSize := parseSize(strings.TrimSuffix(value, "/s")); noSize == nil {
				return &cliError{code: exitUsage, what: err.Error(), mend: fmt.Sprintf("configs are plain numbers, as Kafka's: write %s=%d", name, n), err: err}
			}
			if d, noDuration := time.ParseDuration(value); noDuration == nil && strings.HasSuffix(name, ".ms") {
				return &cliError{code: exitUsage, what: err.Error(), mend: fmt.Sprintf("configs are plain numbers, as Kafka's: write %s=%d", name, d.Milliseconds()), err: err}
			}
		}
	}
	return err
}

// topicConfigsHelp is the text of `broker help topic-configs`.
func topicConfigsHelp() string {
	var b strings.Builder
	b.WriteString("The settings of a topic, which 'broker topic create --set NAME=VALUE', 'broker topic alter' and 'broker config set topic/NAME' take.\n" +
		"A default may be another one where the brokers have a config for it: 'broker config get topic/NAME --all' shows what is in force.\n\n")
	w := tableWriter(&b)
	fmt.Fprintln(w, "NAME\tDEFAULT\tMEANING")
	var fixed []string
	for _, c := range broker.Configs(client.TopicConfigs) {
		if c.Fixed {
			fixed = append(fixed, c.Name)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", c.Name, c.Default, c.Doc)
	}
	_ = w.Flush() // into memory
	fmt.Fprintf(&b, "\nKnown as well, with their defaults only:\n  %s", strings.Join(fixed, "\n  "))
	return b.String()
}
