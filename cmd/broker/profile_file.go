// Profiles: how to reach several clusters, by name, in a file of the user's own. It holds no password, only where one is to be found.
//
//	# $XDG_CONFIG_HOME/balsa/profiles.yaml, written by 'broker profile'
//	current: staging
//	profiles:
//	  prod:
//	    brokers: [broker-1.example:9093, broker-2.example:9093]
//	    tls-ca: /home/alice/prod-ca.pem
//	    user: alice
//	    password-env: PROD_PASSWORD

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"

	"github.com/balsamq/balsa/client"
)

const (
	profileEnv = envPrefix + "_PROFILE"
	noProfile  = "none"
)

// profileName is what a profile can be called. Viper takes keys in small letters only, and a dot for a section.
var profileName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)

// profile is how to reach a cluster: the settings of these names.
type profile struct {
	Brokers       []string `mapstructure:"brokers" json:"brokers" yaml:"brokers"`
	Admin         []string `mapstructure:"admin" json:"admin,omitempty" yaml:"admin,omitempty"`
	TLS           bool     `mapstructure:"tls" json:"tls,omitempty" yaml:"tls,omitempty"`
	TLSCA         string   `mapstructure:"tls-ca" json:"tlsCa,omitempty" yaml:"tlsCa,omitempty"`
	TLSClientCert string   `mapstructure:"tls-client-cert" json:"tlsClientCert,omitempty" yaml:"tlsClientCert,omitempty"`
	TLSClientKey  string   `mapstructure:"tls-client-key" json:"tlsClientKey,omitempty" yaml:"tlsClientKey,omitempty"`
	TLSServerName string   `mapstructure:"tls-server-name" json:"tlsServerName,omitempty" yaml:"tlsServerName,omitempty"`
	SASL          string   `mapstructure:"sasl" json:"sasl,omitempty" yaml:"sasl,omitempty"`
	User          string   `mapstructure:"user" json:"user,omitempty" yaml:"user,omitempty"`
	PasswordFile  string   `mapstructure:"password-file" json:"passwordFile,omitempty" yaml:"passwordFile,omitempty"`
	PasswordEnv   string   `mapstructure:"password-env" json:"passwordEnv,omitempty" yaml:"passwordEnv,omitempty"` // a variable that holds it
	TokenFile     string   `mapstructure:"token-file" json:"tokenFile,omitempty" yaml:"tokenFile,omitempty"`
}

// passwordEnvKey is the one key of a profile that is no setting.
const passwordEnvKey = "password-env"

// connectionKeys are the settings that say how to reach a cluster.
var connectionKeys = []string{"brokers", "admin", "tls", "tls-ca", "tls-client-cert", "tls-client-key", "tls-server-name", "sasl", "user", "password", "password-file", "token-file"}

// texts are the profile's keys that are a text.
func (p *profile) texts() map[string]*string {
	return map[string]*string{"tls-ca": &p.TLSCA, "tls-client-cert": &p.TLSClientCert, "tls-client-key": &p.TLSClientKey, "tls-server-name": &p.TLSServerName,
		"sasl": &p.SASL, "user": &p.User, "password-file": &p.PasswordFile, passwordEnvKey: &p.PasswordEnv, "token-file": &p.TokenFile}
}

// files are those of its keys that name a file.
var profileFiles = []string{"tls-ca", "tls-client-cert", "tls-client-key", "password-file", "token-file"}

// keys are the profile's keys with their values as the file has them; none for what is not set.
func (p *profile) keys() map[string]any {
	out := map[string]any{"brokers": p.Brokers}
	if len(p.Admin) > 0 {
		out["admin"] = p.Admin
	}
	if p.TLS {
		out["tls"] = true
	}
	for key, text := range p.texts() {
		if *text != "" {
			out[key] = *text
		}
	}
	return out
}

// settings are the profile's keys as values of settings, without those that do not fit what was given otherwise: another user's password is not
// the profile's, and a token stands for a user.
func (p *profile) settings(given func(key string) bool) map[string]string {
	out := make(map[string]string)
	for key, value := range p.keys() {
		switch v := value.(type) {
		case []string:
			out[key] = strings.Join(v, ",")
		case bool:
			out[key] = "true"
		case string:
			out[key] = v
		}
	}
	if given("user") || given("password") || given("password-file") || given("token-file") {
		if (p.TokenFile != "") != given("token-file") { // another way to say who one is
			delete(out, "sasl")
		}
		for _, key := range []string{"password-file", passwordEnvKey, "token-file"} {
			delete(out, key)
		}
		if given("token-file") {
			delete(out, "user")
		}
	}
	return out
}

// config is how the client would connect, with the files that the profile names.
func (p *profile) config() client.Config {
	s := client.Security{TLS: p.TLS, CA: p.TLSCA, Cert: p.TLSClientCert, Key: p.TLSClientKey, ServerName: p.TLSServerName, Mechanism: p.SASL, User: p.User,
		PasswordFile: p.PasswordFile, TokenFile: p.TokenFile}
	if p.PasswordEnv != "" {
		s.Password = "set when it is used"
	}
	return client.Config{Brokers: p.Brokers, Security: s}
}

// profileSet is the file.
type profileSet struct {
	file     string
	Current  string             `mapstructure:"current"`
	Profiles map[string]profile `mapstructure:"profiles"`
}

func (s *profileSet) names() []string { return slices.Sorted(maps.Keys(s.Profiles)) }

// get finds a profile by its name.
func (s *profileSet) get(name, where string) (profile, error) {
	if name == "" {
		return profile{}, usageError("'broker profile list' shows the profiles there are", "the name of the profile is empty")
	}
	p, ok := s.Profiles[name]
	if _, small := s.Profiles[strings.ToLower(name)]; !ok && small {
		return p, &cliError{code: exitNotFound, what: fmt.Sprintf("profile %s does not exist", name), where: where,
			mend: fmt.Sprintf("names are in small letters: there is %s", strings.ToLower(name))}
	}
	if !ok {
		return p, &cliError{code: exitNotFound, what: fmt.Sprintf("profile %s does not exist", name), where: where,
			mend: "'broker profile list' shows the profiles there are; 'broker profile add NAME' makes one"}
	}
	return p, nil
}

// profileFile is where the user's profiles are.
func (a *app) profileFile() (string, error) {
	if dir, ok := a.lookupEnv("XDG_CONFIG_HOME"); ok && filepath.IsAbs(dir) { // another is to be ignored, says the standard
		return filepath.Join(dir, "balsa", "profiles.yaml"), nil
	}
	if home, ok := a.lookupEnv("HOME"); ok && home != "" {
		return filepath.Join(home, ".config", "balsa", "profiles.yaml"), nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", &cliError{code: exitUsage, what: "there is no place for profiles: " + err.Error(), mend: "set HOME or XDG_CONFIG_HOME", err: err}
	}
	return filepath.Join(dir, "balsa", "profiles.yaml"), nil
}

// loadProfiles reads the file; none is an empty one.
func (a *app) loadProfiles() (*profileSet, error) {
	file, err := a.profileFile()
	if err != nil {
		return nil, err
	}
	s := &profileSet{file: file, Profiles: make(map[string]profile)}
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil && info.Size() > maxConfigBytes {
		err = fmt.Errorf("it is %d bytes long, more than %d", info.Size(), maxConfigBytes)
	}
	v := viper.New()
	v.SetConfigFile(file)
	v.SetConfigType("yaml")
	if err == nil {
		err = v.ReadInConfig()
	}
	if err == nil {
		err = v.UnmarshalExact(s)
	}
	if err == nil {
		err = checkNames(file)
	}
	if err != nil {
		what := strings.ReplaceAll(strings.TrimPrefix(err.Error(), "While parsing config: "), "\n", " ")
		return nil, &cliError{code: exitUsage, what: "the profiles cannot be read: " + what, where: file, mend: "correct the file, or delete it and add the profiles anew; --profile none goes without", err: err}
	}
	return s, nil
}

// checkNames says which of the names in the file is none. Viper would read two that differ in capital letters as one.
func checkNames(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var doc struct {
		Profiles map[string]yaml.Node `yaml:"profiles"`
	}
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(doc.Profiles)) {
		if !profileName.MatchString(name) || name == noProfile {
			return fmt.Errorf("a profile cannot be called %q: a name has 1 to 64 small letters, digits, hyphens and underscores, and is not 'none'", name)
		}
	}
	return nil
}

// save writes the file anew, as a whole or not at all, for nobody else to read.
func (s *profileSet) save() (err error) {
	doc := map[string]any{"profiles": map[string]any{}}
	if s.Current != "" {
		doc["current"] = s.Current
	}
	for name, p := range s.Profiles {
		doc["profiles"].(map[string]any)[name] = p.keys()
	}
	text, err := yaml.Marshal(doc)
	if err != nil {
		return err
	}
	dir, base := filepath.Split(s.file)
	if at, err := filepath.EvalSymlinks(s.file); err == nil {
		dir, base = filepath.Split(at) // a link stays one, and the new file is made beside its target: a name cannot be moved from one file system to another
	}
	defer func() {
		if err != nil {
			err = &cliError{code: exitFailure, what: "the profiles cannot be written: " + err.Error(), where: s.file, mend: "make the directory writable, or name another with XDG_CONFIG_HOME", err: err}
		}
	}()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".profiles-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // it has another name by then, if all went well
	_, err = f.WriteString("# written by 'broker profile'\n" + string(text))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, base))
}

// chosenProfile is the profile's name that the flag or the environment gives, and which of the two; empty: neither.
func (a *app) chosenProfile(cmd *cobra.Command) (name, from string) {
	if name = flagString(cmd, "profile"); name != "" {
		return name, "--profile"
	}
	if env, ok := a.lookupEnv(profileEnv); ok && env != "" {
		return env, profileEnv
	}
	return "", ""
}

// offline are the commands that reach no cluster by the global flags, and so need no profile.
var offline = []string{"start", "dev", "bench", "log", "version", "profile", "completion", "help", cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd}

// profileValues are the settings that the profile in force gives, and where they come from. given says what flags and the environment have
// said, inFile what balsa.yaml has.
func (a *app) profileValues(cmd *cobra.Command, given, inFile func(key string) bool) (values map[string]string, where string, named bool, err error) {
	top := cmd
	for top.HasParent() && top.Parent().HasParent() {
		top = top.Parent()
	}
	if slices.Contains(offline, top.Name()) || !top.HasParent() {
		return nil, "", false, nil
	}
	name, from := a.chosenProfile(cmd)
	if named = name != ""; !named {
		// Who says which cluster, or how to connect in this directory, does not mean the one that is usual.
		if given("brokers") || given("admin") || slices.ContainsFunc(connectionKeys, inFile) {
			return nil, "", false, nil
		}
	}
	if name == noProfile {
		return nil, "", false, nil
	}
	set, err := a.loadProfiles()
	if err != nil {
		return nil, "", false, err
	}
	if !named {
		if name, from = set.Current, set.file; name == "" {
			return nil, "", false, nil
		}
	}
	p, err := set.get(name, from)
	if err != nil {
		return nil, "", false, err
	}
	if len(p.Brokers) == 0 && !given("brokers") { // the default ones are some other cluster
		return nil, "", false, &cliError{code: exitUsage, what: fmt.Sprintf("profile %s names no brokers", name), where: set.file,
			mend: fmt.Sprintf("'broker profile add %s --replace -b HOST:PORT,...' makes it anew", name)}
	}
	values, where = p.settings(given), set.file+", profile "+name
	if env, ok := values[passwordEnvKey]; ok {
		delete(values, passwordEnvKey)
		password, ok := a.lookupEnv(env)
		if !ok || password == "" {
			return nil, "", false, &cliError{code: exitUsage, what: fmt.Sprintf("profile %s takes the password from the environment variable %s, which is not set", name, env),
				where: set.file, mend: "set it, or give another with --password-file"}
		}
		values["password"] = password
	}
	return values, where, named, nil
}
