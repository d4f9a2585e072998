// Reaching the brokers' admin listeners: by way of the cluster, or directly with --admin.

package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/balsamq/balsa/client"
)

// adminFlag gives a command --admin.
func adminFlag(cmd *cobra.Command) {
	cmd.Flags().StringSlice("admin", nil, "admin listeners `HOST:PORT,…` of brokers to ask; default: the cluster's own, found through --brokers")
	setting(cmd.Flags(), "admin", "admin")
}

// withControl finds the admin listeners and runs fn within --timeout. With --admin no Kafka listener is needed, which a cluster
// without a metadata leader may not have.
func withControl(cmd *cobra.Command, fn func(context.Context, *client.Control) error) error {
	if addrs, _ := cmd.Flags().GetStringSlice("admin"); len(addrs) > 0 {
		ctl, err := client.NewControl(addrs...)
		if err != nil {
			return err
		}
		ctx, cancel := within(cmd)
		defer cancel()
		return explainControl(fn(ctx, ctl))
	}
	return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
		ctl, err := adm.Control(ctx)
		if err != nil {
			return err
		}
		return explainControl(fn(ctx, ctl))
	})
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
