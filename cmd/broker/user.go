// broker user: create, list, delete, passwd.

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/balsamq/balsa/client"
)

func newUserCommand(a *app) *cobra.Command {
	return group("user", "Create, list and delete users, and change passwords", newUserCreate(a), newUserList(a), newUserPasswd(a), newUserDelete(a))
}

// maxTypedPassword bounds a password from the standard input.
const maxTypedPassword = 1024

// newPassword is from a file, or the first line of the standard input.
func (a *app) newPassword(file string) (string, error) {
	if file != "" {
		p, err := client.ReadSecret(file)
		if err != nil {
			return "", &cliError{code: exitUsage, what: "the password cannot be read: " + err.Error(), where: file, mend: "write it on the file's first line", err: err}
		}
		return p, nil
	}
	fmt.Fprintln(a.err, "new password, on the standard input:")
	line, err := bufio.NewReader(io.LimitReader(a.in, maxTypedPassword+2)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" || len(line) > maxTypedPassword {
		return "", usageError("write it on one line, or name a file with --new-password-file", "a password has 1 to %d bytes", maxTypedPassword)
	}
	return line, nil
}

// passwordCommand is create and passwd.
func (a *app) passwordCommand(use, short, long, done, would string, call func(*client.Admin, context.Context, string, string) error) *cobra.Command {
	var (
		file string
		dry  bool
	)
	cmd := &cobra.Command{
		Use: use + " NAME", Short: short, Long: long,
		Example: fmt.Sprintf("  broker user %s alice --new-password-file alice.password\n  echo secret | broker user %s alice", use, use),
		Args:    exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			password := ""
			if !dry || file != "" { // nobody is asked for one that is not used
				var err error
				if password, err = a.newPassword(file); err != nil {
					return err
				}
			}
			if dry {
				return a.planUser(cmd, args[0], use == "create", would)
			}
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				if err := call(adm, ctx, args[0], password); err != nil {
					return explainUser(err, args[0])
				}
				return a.print(cmd, client.User{Name: args[0], Mechanisms: []string{client.MechanismScramSHA256, client.MechanismScramSHA512}}, func(w io.Writer) {
					fmt.Fprintf(w, "user %s: %s\n", args[0], done)
				})
			})
		},
	}
	cmd.Flags().StringVar(&file, "new-password-file", "", "`FILE` with the password on its first line; default: the standard input")
	dryRunFlag(cmd, &dry)
	return cmd
}

// planUser says what would become of a user, who must not be there yet if it is new, and else must.
func (a *app) planUser(cmd *cobra.Command, name string, isNew bool, what string) error {
	type result struct {
		client.User `yaml:",inline"`
		DryRun      bool `json:"dryRun" yaml:"dryRun"`
	}
	return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
		all, err := adm.Users(ctx)
		if err != nil {
			return err
		}
		u := client.User{Name: name, Mechanisms: []string{}}
		i := slices.IndexFunc(all, func(x client.User) bool { return x.Name == name })
		switch {
		case i >= 0 && isNew:
			return explainUser(&client.Error{Op: "create user", Subject: name, Kind: client.ErrExists}, name)
		case i < 0 && !isNew:
			return explainUser(&client.Error{Op: "look up user", Subject: name, Kind: client.ErrNotFound}, name)
		case i >= 0:
			u = all[i]
		}
		return a.print(cmd, result{u, true}, func(w io.Writer) { fmt.Fprintf(w, "user %s: %s\n", name, what) })
	})
}

func newUserCreate(a *app) *cobra.Command {
	return a.passwordCommand("create", "Create a user", `Create a user, who can authenticate by SCRAM-SHA-256 and SCRAM-SHA-512, and by PLAIN where brokers offer it. The password is read
from the standard input, or from a file. It does not leave this program: brokers get what they need to check it.

What the user may do say ACLs: 'broker acl create'.`, "created", "would be created", (*client.Admin).CreateUser)
}

func newUserPasswd(a *app) *cobra.Command {
	return a.passwordCommand("passwd", "Change a user's password", `Change a user's password. Connections that stand go on until they have to authenticate anew (--reauth-interval of 'broker start').`,
		"password changed", "password would be changed", (*client.Admin).SetPassword)
}

func newUserList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the users",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				users, err := adm.Users(ctx)
				if err != nil {
					return err
				}
				return a.print(cmd, users, func(w io.Writer) {
					if len(users) == 0 {
						fmt.Fprintln(w, "no users")
						return
					}
					fmt.Fprintln(w, "NAME\tMECHANISMS")
					for _, u := range users {
						fmt.Fprintf(w, "%s\t%s\n", u.Name, strings.Join(u.Mechanisms, ","))
					}
				})
			})
		},
	}
}

func newUserDelete(a *app) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a user",
		Long: `Delete a user. Connections that stand go on until they have to authenticate anew (--reauth-interval of 'broker start'). ACLs for
the user stay: 'broker acl delete --principal NAME'.`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if dry {
				return a.planUser(cmd, args[0], false, "would be deleted")
			}
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				if err := adm.DeleteUser(ctx, args[0]); err != nil {
					return explainUser(err, args[0])
				}
				return a.print(cmd, client.User{Name: args[0], Mechanisms: []string{}}, func(w io.Writer) { fmt.Fprintf(w, "user %s: deleted\n", args[0]) })
			})
		},
	}
	dryRunFlag(cmd, &dry)
	return cmd
}

// explainUser words what is not about topics.
func explainUser(err error, name string) error {
	switch {
	case isKind(err, client.ErrExists):
		return &cliError{code: exitExists, what: fmt.Sprintf("user %s exists already", name), mend: fmt.Sprintf("'broker user passwd %s' changes the password", name), err: err}
	case isKind(err, client.ErrNotFound):
		return &cliError{code: exitNotFound, what: fmt.Sprintf("user %s does not exist", name), mend: "'broker user list' shows the users there are; 'broker user create NAME' makes one", err: err}
	}
	return err
}
