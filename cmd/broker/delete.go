// What 'broker topic delete' and 'broker group delete' have in common.

package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/balsamq/balsa/client"
)

// newDelete is the command that deletes one thing of a kind by its name.
// plan says what would go with it, or why it would be refused.
func newDelete(a *app, kind, short string, del func(adm *client.Admin, ctx context.Context, name string) error,
	plan func(ctx context.Context, adm *client.Admin, name string) (string, error)) *cobra.Command {
	var ifExists, dry bool
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: short,
		Args:  exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				what := ""
				var err error
				if dry {
					what, err = plan(ctx, adm, args[0])
				} else {
					err = del(adm, ctx, args[0])
				}
				existed := err == nil
				if ifExists && isKind(err, client.ErrNotFound) {
					err = nil
				}
				if err != nil {
					return err
				}
				type result struct {
					Name    string `json:"name" yaml:"name"`
					Deleted bool   `json:"deleted" yaml:"deleted"`                   // or would be
					DryRun  bool   `json:"dryRun,omitempty" yaml:"dryRun,omitempty"` // nothing was done
					What    string `json:"what,omitempty" yaml:"what,omitempty"`     // what would go with it
				}
				return a.print(cmd, result{args[0], existed, dry, what}, func(w io.Writer) {
					switch {
					case existed && dry:
						fmt.Fprintf(w, "%s %s would be deleted: %s\n", kind, args[0], what)
					case existed:
						fmt.Fprintf(w, "%s %s deleted\n", kind, args[0])
					default:
						fmt.Fprintf(w, "%s %s was not there\n", kind, args[0])
					}
				})
			})
		},
	}
	dryRunFlag(cmd, &dry)
	cmd.Flags().BoolVar(&ifExists, "if-exists", false, "a "+kind+" that is not there is no error")
	return cmd
}
