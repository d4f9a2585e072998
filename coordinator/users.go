// Users, as metadata: what a broker must know to check a password by SCRAM (RFC 5802), and nothing from which the password
// could be had but by guessing. One user may have a credential for each mechanism.

package coordinator

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// SCRAM mechanisms, by their names in SASL.
const (
	ScramSHA256 = "SCRAM-SHA-256"
	ScramSHA512 = "SCRAM-SHA-512"
)

const (
	// MinScramIterations and MaxScramIterations bound what a credential may cost its user: Kafka's bounds.
	MinScramIterations = 4096
	MaxScramIterations = 16384
	// MaxUsers bounds the credentials of a cluster.
	MaxUsers = 50_000
	// MaxUserChanges bounds one AlterUsers.
	MaxUserChanges = 1000
	// MaxUserName bounds a user's name, maxScramBytes a salt or key.
	MaxUserName   = 1024
	maxScramBytes = 256
	// loginSecretBytes is the length of AlterUsers.Secret.
	loginSecretBytes = 32
)

var (
	// ErrUnknownUser: no user of that name has a credential for that mechanism.
	ErrUnknownUser = errors.New("unknown user")
	// ErrHasUsers: the cluster has users already, so that nobody gets a first one.
	ErrHasUsers = errors.New("the cluster has users already")
	// ErrTooManyUsers: MaxUsers is reached.
	ErrTooManyUsers = errors.New("too many users")
)

// UserMechanism names a credential.
type UserMechanism struct {
	User      string `json:"user"`
	Mechanism string `json:"mechanism"`
}

// ScramCredential is what RFC 5802 has a server keep. Shared by images: never change one.
type ScramCredential struct {
	UserMechanism
	Salt       []byte `json:"salt"`
	StoredKey  []byte `json:"stored_key"`
	ServerKey  []byte `json:"server_key"`
	Iterations int    `json:"iterations"`
}

// AlterUsers sets and deletes credentials, each deletion on its own.
type AlterUsers struct {
	Set    []ScramCredential `json:"set,omitempty"`
	Delete []UserMechanism   `json:"delete,omitempty"`
	// First: only if there is no user at all.
	First bool `json:"first,omitempty"`
	// Secret, drawn by the proposer, becomes the cluster's if it has none: see Image.LoginSecret.
	Secret []byte `json:"secret"`
}

func (u UserMechanism) check() error {
	if u.User == "" || len(u.User) > MaxUserName {
		return fmt.Errorf("%w: a user's name has 1 to %d bytes", ErrMalformed, MaxUserName)
	}
	if u.Mechanism != ScramSHA256 && u.Mechanism != ScramSHA512 {
		return fmt.Errorf("%w: mechanism %q", ErrMalformed, u.Mechanism)
	}
	return nil
}

func (c *ScramCredential) check() error {
	if err := c.UserMechanism.check(); err != nil {
		return err
	}
	size := 32
	if c.Mechanism == ScramSHA512 {
		size = 64
	}
	if len(c.Salt) == 0 || len(c.Salt) > maxScramBytes || len(c.StoredKey) != size || len(c.ServerKey) != size ||
		c.Iterations < MinScramIterations || c.Iterations > MaxScramIterations {
		return fmt.Errorf("%w: the credential of user %q", ErrMalformed, c.User)
	}
	return nil
}

func (a *AlterUsers) check() error {
	if n := len(a.Set) + len(a.Delete); n == 0 || n > MaxUserChanges || len(a.Secret) != loginSecretBytes {
		return fmt.Errorf("%w: %d changes of users", ErrMalformed, n)
	}
	for i := range a.Set {
		if err := a.Set[i].check(); err != nil {
			return err
		}
	}
	for _, u := range a.Delete {
		if err := u.check(); err != nil {
			return err
		}
	}
	return nil
}

// User is the credential of a user for a mechanism, or nil.
func (im *Image) User(name, mechanism string) *ScramCredential {
	return im.users[UserMechanism{name, mechanism}]
}

// Users are all credentials, by name and mechanism.
func (im *Image) Users() []*ScramCredential {
	return slices.SortedFunc(maps.Values(im.users), func(a, b *ScramCredential) int {
		return cmp.Or(strings.Compare(a.User, b.User), strings.Compare(a.Mechanism, b.Mechanism))
	})
}

// UserCount is how many credentials there are.
func (im *Image) UserCount() int { return len(im.users) }

// LoginSecret is the same on all brokers and known to nobody else: from it they draw what they show of users that do not exist.
// Empty as long as there never was one.
func (im *Image) LoginSecret() []byte { return im.loginSecret }

func (d *draft) alterUsers(a *AlterUsers) *Result {
	if a.First && len(d.users) > 0 {
		return &Result{Failure: FailureOf(ErrHasUsers)}
	}
	users := maps.Clone(d.users)
	if users == nil {
		users = make(map[UserMechanism]*ScramCredential)
	}
	r := &Result{Users: make([]Failure, len(a.Delete))}
	for i, u := range a.Delete {
		if users[u] == nil {
			r.Users[i] = FailureOf(fmt.Errorf("%w: %q has no credential for %s", ErrUnknownUser, u.User, u.Mechanism))
		}
		delete(users, u)
	}
	for i := range a.Set {
		users[a.Set[i].UserMechanism] = &a.Set[i]
	}
	if len(users) > MaxUsers {
		return &Result{Failure: FailureOf(fmt.Errorf("%w: at most %d", ErrTooManyUsers, MaxUsers))}
	}
	d.users = users
	if len(d.loginSecret) == 0 {
		d.loginSecret = a.Secret
	}
	return r
}

// securityState are users and ACLs in a snapshot; nil where there are none, as older versions know none.
type securityState struct {
	Users  []*ScramCredential `json:"users,omitempty"`
	Secret []byte             `json:"secret,omitempty"`
	ACLs   []ACL              `json:"acls,omitempty"`
}

func (im *Image) securityState() *securityState {
	if len(im.users) == 0 && len(im.loginSecret) == 0 && len(im.acls.list) == 0 {
		return nil
	}
	return &securityState{Users: im.Users(), Secret: im.loginSecret, ACLs: im.acls.list}
}

// check believes nothing: see decodeSnapshot.
func (s *securityState) check() error {
	if s == nil {
		return nil
	}
	if len(s.Users) > MaxUsers || len(s.ACLs) > MaxACLs || len(s.Secret) != 0 && len(s.Secret) != loginSecretBytes {
		return fmt.Errorf("%w: %d users, %d ACLs", ErrMalformed, len(s.Users), len(s.ACLs))
	}
	for i, u := range s.Users {
		if u == nil {
			return fmt.Errorf("%w: no user", ErrMalformed)
		}
		if err := u.check(); err != nil {
			return err
		}
		if i > 0 && s.Users[i-1].UserMechanism == u.UserMechanism {
			return fmt.Errorf("%w: user %q twice", ErrMalformed, u.User)
		}
	}
	for i := range s.ACLs {
		if err := s.ACLs[i].Check(); err != nil {
			return err
		}
		if i > 0 && s.ACLs[i-1].compare(&s.ACLs[i]) >= 0 {
			return fmt.Errorf("%w: ACLs out of order", ErrMalformed)
		}
	}
	return nil
}

func (d *draft) restoreSecurity(s *securityState) {
	if s == nil {
		return
	}
	d.users, d.loginSecret, d.acls = make(map[UserMechanism]*ScramCredential, len(s.Users)), s.Secret, newACLs(s.ACLs)
	for _, u := range s.Users {
		d.users[u.UserMechanism] = u
	}
}
