// broker profile: add, list, show, use, remove.

package main

import (
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

const profileLong = `A profile is how to reach a cluster: brokers, TLS, and who one is. It is in force if --profile or BALSA_PROFILE names it, or 'broker profile use'
has chosen it. 'none' is no profile.

A flag wins over the environment, the environment over the profile, the profile over the default, setting by setting. Next to a profile that is
named, what balsa.yaml says of the connection does not count. The one that is chosen is left out where -b, --admin, BALSA_BROKERS or BALSA_ADMIN
names a cluster, or balsa.yaml says anything of the connection: that is not the usual one then.

The file is $XDG_CONFIG_HOME/balsa/profiles.yaml (~/.config/balsa/profiles.yaml), for its owner's eyes only. It holds no passwords: a profile
names a file, or an environment variable.`

func newProfileCommand(a *app) *cobra.Command {
	cmd := group("profile", "Keep how to reach several clusters", newProfileAdd(a), newProfileList(a), newProfileShow(a), newProfileUse(a), newProfileRemove(a))
	cmd.Long = profileLong
	return cmd
}

// profileView is a profile as it is printed.
type profileView struct {
	Name    string `json:"name" yaml:"name"`
	InUse   bool   `json:"inUse" yaml:"inUse"`
	profile `yaml:",inline"`
}

// variableName is what an environment variable can be called.
var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func newProfileAdd(a *app) *cobra.Command {
	var (
		passwordEnv  string
		use, replace bool
	)
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a profile",
		Long: `Add a profile of the flags that are given: -b, --admin, --tls and its kin, --sasl, --user, --password-file or --password-env, --token-file. What the
environment and balsa.yaml say is not taken over. Files are read to see that they are good, and kept by their absolute names.`,
		Example: `  broker profile add dev -b localhost:9092 --use
  broker profile add prod -b one.example:9093,two.example:9093 --tls-ca prod-ca.pem --user alice --password-file prod.password`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if !profileName.MatchString(name) || name == noProfile {
				return usageError("a name has 1 to 64 small letters, digits, hyphens and underscores; 'none' is no profile", "a profile cannot be called %q", name)
			}
			p, err := a.typedProfile(cmd, passwordEnv)
			if err != nil {
				return err
			}
			set, err := a.loadProfiles()
			if err != nil {
				return err
			}
			if _, there := set.Profiles[name]; there && !replace {
				return &cliError{code: exitExists, what: fmt.Sprintf("there is a profile %s already", name), where: set.file, mend: "say --replace, or choose another name"}
			}
			set.Profiles[name] = p
			if use {
				set.Current = name
			}
			if err := set.save(); err != nil {
				return err
			}
			return a.print(cmd, profileView{name, set.Current == name, p}, func(w io.Writer) {
				fmt.Fprintf(w, "profile %s added\n", name)
				if set.Current != name {
					fmt.Fprintf(w, "'broker profile use %s' makes it the usual one, '--profile %s' the one of a command\n", name, name)
				}
			})
		},
	}
	cmd.Flags().StringVar(&passwordEnv, passwordEnvKey, "", "the environment variable `NAME` that holds the password when the profile is used")
	cmd.Flags().BoolVar(&use, "use", false, "make it the usual one")
	cmd.Flags().BoolVar(&replace, "replace", false, "a profile of that name is replaced")
	adminFlag(cmd)
	return cmd
}

// typedProfile is what the command line's flags say.
func (a *app) typedProfile(cmd *cobra.Command, passwordEnv string) (p profile, err error) {
	if a.typed["password"] {
		return p, usageError("name a file with --password-file, or an environment variable with --password-env", "a profile holds no password")
	}
	if p.Brokers, _ = cmd.Flags().GetStringSlice("brokers"); !a.typed["brokers"] {
		return p, usageError("name some with -b HOST:PORT,...", "there are no brokers for the profile")
	}
	if a.typed["admin"] {
		p.Admin, _ = cmd.Flags().GetStringSlice("admin")
	}
	if a.typed["tls"] {
		p.TLS, _ = cmd.Flags().GetBool("tls")
	}
	for key, text := range p.texts() {
		if key == passwordEnvKey || !a.typed[key] {
			continue
		}
		*text = flagString(cmd, key)
		if slices.Contains(profileFiles, key) && *text != "" {
			if *text, err = filepath.Abs(filepath.Join(a.workDirOf(*text), *text)); err != nil {
				return p, err
			}
		}
	}
	if p.SASL == "auto" {
		p.SASL = ""
	}
	if p.PasswordEnv = passwordEnv; passwordEnv != "" {
		if !variableName.MatchString(passwordEnv) {
			return p, usageError("write --password-env PROD_PASSWORD, and set that variable when you use the profile", "%q is no name of an environment variable", passwordEnv)
		}
		if p.PasswordFile != "" {
			return p, usageError("leave one of them out", "--password-file and --password-env exclude each other")
		}
	}
	if (p.PasswordFile != "" || p.PasswordEnv != "") && p.User == "" {
		return p, usageError("name the user with --user", "a password without a user")
	}
	cfg := p.config()
	if err := cfg.Check(); err != nil {
		return p, usageError("correct the flag: a profile that cannot work is not kept", "%s", innermostClient(err))
	}
	return p, nil
}

// workDirOf is what a relative name is relative to.
func (a *app) workDirOf(name string) string {
	if filepath.IsAbs(name) {
		return ""
	}
	return a.workDir
}

// inForce is the name of the profile that a command would take, as long as nothing else says which cluster.
func (a *app) inForce(cmd *cobra.Command, set *profileSet) string {
	if name, _ := a.chosenProfile(cmd); name != "" {
		return name
	}
	return set.Current
}

func newProfileList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the profiles, and which is in use",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			set, err := a.loadProfiles()
			if err != nil {
				return err
			}
			inUse := a.inForce(cmd, set)
			views := []profileView{}
			for _, name := range set.names() {
				views = append(views, profileView{name, name == inUse, set.Profiles[name]})
			}
			a.noteProfile(cmd, set, inUse)
			return a.print(cmd, views, func(w io.Writer) {
				fmt.Fprintln(w, "NAME\tIN USE\tBROKERS\tTLS\tUSER")
				for _, v := range views {
					cfg := v.config()
					who := v.User
					if who == "" && v.TokenFile != "" {
						who = "(token)"
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", v.Name, yesOrDash(v.InUse), strings.Join(v.Brokers, ","), yesOrDash(cfg.Security.UsesTLS()), orDash(who))
				}
			})
		},
	}
}

// noteProfile says why the profile that is in use would be left out, if it would.
func (a *app) noteProfile(cmd *cobra.Command, set *profileSet, inUse string) {
	named, from := a.chosenProfile(cmd)
	if _, there := set.Profiles[named]; named != "" && named != noProfile && !there {
		fmt.Fprintf(a.err, "note: %s names the profile %s, which does not exist\n", from, named)
	}
	if named != "" || inUse == "" {
		return
	}
	for _, key := range []string{"brokers", "admin"} {
		if s, ok := a.lookupEnv(envName(key)); ok && s != "" {
			fmt.Fprintf(a.err, "note: %s is set, so that profile %s is left out\n", envName(key), inUse)
		}
	}
	if a.inFile != "" {
		fmt.Fprintf(a.err, "note: %s says how to connect, so that profile %s is left out\n", a.inFile, inUse)
	}
}

func yesOrDash(yes bool) string {
	if yes {
		return "yes"
	}
	return "-"
}

func newProfileShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show [NAME]",
		Short: "Show a profile, or the one that is in use",
		Args:  atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := a.loadProfiles()
			if err != nil {
				return err
			}
			inUse := a.inForce(cmd, set)
			name, where := inUse, ""
			if len(args) > 0 {
				name = args[0]
			} else if name == "" || name == noProfile {
				return &cliError{code: exitNotFound, what: "no profile is in use", mend: "'broker profile use NAME' chooses one; 'broker profile list' shows those there are"}
			} else if _, where = a.chosenProfile(cmd); where == "" {
				where = set.file
			}
			p, err := set.get(name, where)
			if err != nil {
				return err
			}
			if name == inUse {
				a.noteProfile(cmd, set, inUse)
			}
			return a.print(cmd, profileView{name, name == inUse, p}, func(w io.Writer) {
				fmt.Fprintf(w, "profile\t%s\nin use\t%s\n", name, yesOrDash(name == inUse))
				keys := p.keys()
				for _, key := range slices.Sorted(maps.Keys(keys)) {
					value := keys[key]
					if list, ok := value.([]string); ok {
						value = strings.Join(list, ",")
					}
					fmt.Fprintf(w, "%s\t%v\n", key, value)
				}
			})
		},
	}
}

func newProfileUse(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "use NAME",
		Short: "Make a profile the usual one; none: no profile",
		Args:  exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := a.loadProfiles()
			if err != nil {
				return err
			}
			name := args[0]
			type result struct {
				InUse string `json:"inUse" yaml:"inUse"` // empty: none
			}
			if name == noProfile {
				set.Current = ""
			} else {
				if _, err := set.get(name, ""); err != nil {
					return err
				}
				set.Current = name
			}
			if err := set.save(); err != nil {
				return err
			}
			if env, from := a.chosenProfile(cmd); env != "" && env != name {
				fmt.Fprintf(a.err, "note: %s names another one, %s, which wins\n", from, env)
			}
			return a.print(cmd, result{set.Current}, func(w io.Writer) {
				if set.Current == "" {
					fmt.Fprintln(w, "no profile is in use")
					return
				}
				fmt.Fprintf(w, "profile %s is in use: %s\n", name, strings.Join(set.Profiles[name].Brokers, ","))
			})
		},
	}
}

func newProfileRemove(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a profile",
		Args:  exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := a.loadProfiles()
			if err != nil {
				return err
			}
			if _, err := set.get(args[0], ""); err != nil {
				return err
			}
			wasUsed := set.Current == args[0]
			delete(set.Profiles, args[0])
			if wasUsed {
				set.Current = ""
			}
			if err := set.save(); err != nil {
				return err
			}
			type result struct {
				Removed string `json:"removed" yaml:"removed"`
				InUse   string `json:"inUse" yaml:"inUse"` // the one that is now; empty: none
			}
			return a.print(cmd, result{args[0], set.Current}, func(w io.Writer) {
				fmt.Fprintf(w, "profile %s is removed\n", args[0])
				if wasUsed {
					fmt.Fprintln(w, "no profile is in use now")
				}
			})
		},
	}
}
