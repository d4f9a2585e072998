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
func newDelete(a *app, kind, short string, del func(adm *client.Admin, ctx context.Context, name string) error) *cobra.Command {
	var ifExists bool
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: short,
		Args:  exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				err := del(adm, ctx, args[0])
				existed := err == nil
				if ifExists && isKind(err, client.ErrNotFound) {
					err = nil
				}
				if err != nil {
					return err
				}
				type result struct {
					Name    string `json:"name" yaml:"name"`
					Deleted bool   `json:"deleted" yaml:"deleted"`
				}
				return a.print(cmd, result{args[0], existed}, func(w io.Writer) {
					if existed {
						fmt.Fprintf(w, "%s %s deleted\n", kind, args[0])
					} else {
						fmt.Fprintf(w, "%s %s was not there\n", kind, args[0])
					}
				})
			})
		},
	}
	cmd.Flags().BoolVar(&ifExists, "if-exists", false, "a "+kind+" that is not there is no error")
	return cmd
}
