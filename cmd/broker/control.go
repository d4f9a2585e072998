// Reaching the brokers' admin listeners: by way of the cluster, or directly with --admin.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/balsamq/balsa/client"
)

// adminFlag gives a command --admin.
func adminFlag(cmd *cobra.Command) {
	cmd.Flags().StringSlice("admin", nil, "admin listeners `HOST:PORT,...` of brokers to ask; default: the cluster's own, found through --brokers")
	setting(cmd.Flags(), "admin", "admin")
}

// withControl finds the admin listeners and runs fn within --timeout. With --admin no Kafka listener is needed, which a cluster
// without a metadata leader may not have.
func withControl(cmd *cobra.Command, fn func(context.Context, *client.Control) error) error {
	if addrs, _ := cmd.Flags().GetStringSlice("admin"); len(addrs) > 0 {
		ctl, err := client.NewSecureControl(connection(cmd).Security, addrs...)
		if err != nil {
			return err
		}
		ctx, cancel := within(cmd)
		defer cancel()
		return explainDirect(cmd, addrs, explainControl(fn(ctx, ctl)))
	}
	return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
		ctl, err := adm.Control(ctx)
		if errors.Is(err, client.ErrNoAdminListener) {
			return &cliError{code: exitUnreachable, what: innermostClient(err), err: err,
				mend: "on a broker's machine, name its listener with --admin HOST:PORT; to reach it from here, start brokers with --admin-listen and an address that operators can reach"}
		}
		if err != nil {
			return err
		}
		return explainControl(fn(ctx, ctl))
	})
}

// innermostClient is what an error of the SDK says below what was being done.
func innermostClient(err error) string {
	if ce, ok := errors.AsType[*client.Error](err); ok && ce.Err != nil {
		return ce.Err.Error()
	}
	return err.Error()
}

// explainDirect words the failures of listeners that --admin has named: -b had no part in it.
func explainDirect(cmd *cobra.Command, addrs []string, err error) error {
	if _, done := errors.AsType[*cliError](err); err == nil || done {
		return err
	}
	const mend = "--admin takes the addresses that 'broker start --admin-listen' has; 'broker dev' prints its own"
	e := &cliError{code: exitFailure, what: innermostClient(err), where: strings.Join(addrs, ", "), mend: mend, err: err}
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, client.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		timeout, _ := cmd.Flags().GetDuration("timeout")
		e.code, e.what = exitTimeout, fmt.Sprintf("no answer within %v", timeout)
		e.mend = "--timeout waits longer; " + mend
	case errors.Is(err, client.ErrUnreachable):
		e.code, e.what = exitUnreachable, "no admin listener answered: "+innermost(err)
	case errors.Is(err, io.EOF):
		e.code, e.what = exitUnreachable, "no admin listener answered: the other side hung up"
	}
	return e
}

// explainControl shows a broker's refusal in its own words, with its own advice.
func explainControl(err error) error {
	ce, ok := errors.AsType[*client.ControlError](err)
	if !ok {
		return err
	}
	e := &cliError{code: exitFailure, what: ce.Message, mend: ce.Mend, err: err}
	switch {
	case errors.Is(err, client.ErrNotFound):
		e.code = exitNotFound
	case errors.Is(err, client.ErrInvalid):
		e.code = exitUsage
	case errors.Is(err, client.ErrTimeout):
		e.code = exitTimeout
	case errors.Is(err, client.ErrUnreachable):
		e.code = exitUnreachable
	}
	return e
}
