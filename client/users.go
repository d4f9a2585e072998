// Users of the cluster: those who prove by a password who they are.

package client

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// passwordIterations is what a password made here costs whoever tries to guess it: more than Kafka's least, 4,096.
const passwordIterations = 8192

// User is what the cluster says of one.
type User struct {
	Name       string   `json:"name" yaml:"name"`
	Mechanisms []string `json:"mechanisms" yaml:"mechanisms"` // by which it can authenticate
}

// Users are all users by name.
func (a *Admin) Users(ctx context.Context) ([]User, error) {
	described, err := a.raw.DescribeUserSCRAMs(ctx)
	if err != nil {
		return nil, a.wrap("list the users", "", err)
	}
	out := []User{}
	for _, d := range described.Sorted() {
		if d.Err != nil {
			return nil, a.explain("describe user", d.User, d.Err, d.ErrMessage)
		}
		u := User{Name: d.User, Mechanisms: []string{}}
		for _, c := range d.CredInfos {
			u.Mechanisms = append(u.Mechanisms, c.Mechanism.String())
		}
		slices.Sort(u.Mechanisms)
		out = append(out, u)
	}
	return out, nil
}

// user finds one, or returns nil.
func (a *Admin) user(ctx context.Context, name string) (*User, error) {
	all, err := a.Users(ctx)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(all, func(u User) bool { return u.Name == name }); i >= 0 {
		return &all[i], nil
	}
	return nil, nil
}

// CreateUser makes a user who can authenticate by SCRAM-SHA-256, SCRAM-SHA-512 and, where brokers offer it, PLAIN. The password
// itself does not leave this process.
func (a *Admin) CreateUser(ctx context.Context, name, password string) error {
	u, err := a.user(ctx, name)
	if err != nil {
		return err
	}
	if u != nil {
		return &Error{Op: "create user", Subject: name, Kind: ErrExists}
	}
	return a.setPassword(ctx, "create user", name, password)
}

// SetPassword gives a user another password. Connections that stand go on until they have to authenticate anew.
func (a *Admin) SetPassword(ctx context.Context, name, password string) error {
	const op = "set the password of user"
	u, err := a.user(ctx, name)
	if err != nil {
		return err
	}
	if u == nil {
		return &Error{Op: op, Subject: name, Kind: ErrNotFound, Err: kerr.ResourceNotFound}
	}
	return a.setPassword(ctx, op, name, password)
}

func (a *Admin) setPassword(ctx context.Context, op, name, password string) error {
	if name == "" || password == "" {
		return &Error{Op: op, Subject: name, Kind: ErrInvalid, Err: kerr.UnacceptableCredential}
	}
	var ups []kadm.UpsertSCRAM
	for _, m := range []kadm.ScramMechanism{kadm.ScramSha256, kadm.ScramSha512} {
		ups = append(ups, kadm.UpsertSCRAM{User: name, Mechanism: m, Iterations: passwordIterations, Password: password})
	}
	return a.alterUser(ctx, op, name, nil, ups)
}

// DeleteUser deletes a user. Connections that stand go on until they have to authenticate anew.
func (a *Admin) DeleteUser(ctx context.Context, name string) error {
	const op = "delete user"
	u, err := a.user(ctx, name)
	if err != nil {
		return err
	}
	if u == nil {
		return &Error{Op: op, Subject: name, Kind: ErrNotFound, Err: kerr.ResourceNotFound}
	}
	var del []kadm.DeleteSCRAM
	for _, m := range []kadm.ScramMechanism{kadm.ScramSha256, kadm.ScramSha512} {
		if slices.Contains(u.Mechanisms, m.String()) {
			del = append(del, kadm.DeleteSCRAM{User: name, Mechanism: m})
		}
	}
	return a.alterUser(ctx, op, name, del, nil)
}

func (a *Admin) alterUser(ctx context.Context, op, name string, del []kadm.DeleteSCRAM, ups []kadm.UpsertSCRAM) error {
	altered, err := a.raw.AlterUserSCRAMs(ctx, del, ups)
	if err != nil {
		return a.wrap(op, name, err)
	}
	for _, res := range altered {
		if res.Err != nil {
			return a.explain(op, name, res.Err, res.ErrMessage)
		}
	}
	return nil
}
