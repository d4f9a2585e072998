// Settings: a flag wins over BALSA_… in the environment, which wins over the configuration file. How to connect may come from a profile instead:
// profile_file.go.
//
// A flag that is also a setting carries its key as an annotation; the keys of all commands together are what the file may
// contain. The file is checked against them before viper reads it, because viper takes any key and any type: a setting
// with a typing error in it would silently keep its default.

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

const (
	keyAnnotation     = "balsa_key"
	envPrefix         = "BALSA"
	defaultConfigFile = "balsa.yaml"
	noConfigFile      = "none"
	// maxConfigBytes bounds the configuration file.
	maxConfigBytes = 1 << 20
)

// setting makes a flag settable from the environment and the file under key.
func setting(fs *pflag.FlagSet, flag, key string) {
	if err := fs.SetAnnotation(flag, keyAnnotation, []string{key}); err != nil {
		panic(err) // a flag of that name was not defined: our bug
	}
}

// settingsAll makes every flag of a command that is not yet a setting one, under its own name or section.name.
func settingsAll(fs *pflag.FlagSet, section string) {
	fs.VisitAll(func(f *pflag.Flag) {
		key := f.Name
		if section != "" {
			key = section + "." + key
		}
		setting(fs, f.Name, key)
	})
}

func keyOf(f *pflag.Flag) string {
	if k := f.Annotations[keyAnnotation]; len(k) == 1 {
		return k[0]
	}
	return ""
}

func envName(key string) string {
	return envPrefix + "_" + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(key))
}

// knownSettings are the flags behind the keys of a command and all below it. Where commands share a key, any of their flags
// will do: they have one type.
func knownSettings(root *cobra.Command) map[string]*pflag.Flag {
	known := make(map[string]*pflag.Flag)
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		for _, set := range []*pflag.FlagSet{c.Flags(), c.PersistentFlags()} {
			set.VisitAll(func(f *pflag.Flag) {
				if k := keyOf(f); k != "" {
					known[k] = f
				}
			})
		}
		for _, child := range c.Commands() {
			visit(child)
		}
	}
	visit(root)
	return known
}

// settingsHelp is the text of `broker help settings`.
func settingsHelp(root *cobra.Command) string {
	known := knownSettings(root)
	keys := make([]string, 0, len(known))
	for k := range known {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var b strings.Builder
	b.WriteString("A flag wins over the environment, the environment over the file (balsa.yaml, or --config FILE, or BALSA_CONFIG).\n" +
		"A key with a dot stands in a section: dev.nodes is 'nodes: 3' below 'dev:'.\n\n")
	w := tableWriter(&b)
	fmt.Fprintln(w, "KEY\tENVIRONMENT\tDEFAULT\tMEANING")
	for _, k := range keys {
		f := known[k]
		_, usage := pflag.UnquoteUsage(f)
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", k, envName(k), strings.Trim(f.DefValue, "[]"), usage)
	}
	_ = w.Flush() // into memory
	return strings.TrimRight(b.String(), "\n")
}

// applySettings gives each of the command's flags that was not on the command line its value from the environment or the file.
func (a *app) applySettings(cmd *cobra.Command) error {
	v := viper.New()
	v.SetEnvPrefix(envPrefix)
	v.SetEnvKeyReplacer(strings.NewReplacer(".", "_", "-", "_"))
	file, err := a.configFile(cmd)
	if err != nil {
		return err
	}
	known := knownSettings(cmd.Root())
	if file != "" {
		if err := checkConfigFile(file, known); err != nil {
			return err
		}
		v.SetConfigFile(file)
		v.SetConfigType("yaml")
		if err := v.ReadInConfig(); err != nil {
			return &cliError{code: exitUsage, what: err.Error(), where: file, mend: "correct the file", err: err}
		}
	}
	if slices.ContainsFunc(connectionKeys, v.IsSet) {
		a.inFile = file
	}
	a.typed = make(map[string]bool)
	cmd.Flags().VisitAll(func(f *pflag.Flag) { a.typed[f.Name] = f.Changed })
	inEnv := func(key string) (string, bool) {
		s, ok := a.lookupEnv(envName(key))
		return s, ok && s != ""
	}
	given := func(key string) bool { // keys and flags of a connection have the same names
		_, ok := inEnv(key)
		return ok || a.typed[key]
	}
	fromProfile, profileWhere, named, err := a.profileValues(cmd, given, v.IsSet)
	if err != nil {
		return err
	}
	rank := func(key string) int { // from how near a value comes; 0: from nowhere
		_, env := inEnv(key)
		_, inProfile := fromProfile[key]
		switch {
		case a.typed[key]:
			return 4
		case env:
			return 3
		case inProfile:
			return 2
		case !named && v.IsSet(key):
			return 1
		}
		return 0
	}
	var errs []error
	if brokers, err := cmd.Flags().GetStringSlice("brokers"); err == nil && a.typed["brokers"] && len(brokers) == 0 {
		// As an unset variable of a script makes it: what was meant for a cluster must not go to the default one.
		errs = append(errs, usageError("name some, as in -b localhost:9092, or leave the flag out", "-b names no broker"))
	}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		key := keyOf(f)
		if key == "" || f.Changed {
			return
		}
		if overruled(key, rank) {
			return
		}
		env := envName(key)
		value, where := "", ""
		if s, ok := inEnv(key); ok {
			value, where = s, "environment variable "+env
		} else if s, ok := fromProfile[key]; ok {
			value, where = s, profileWhere
		} else if named && slices.Contains(connectionKeys, key) {
			return // a profile is taken whole, or not at all
		} else if v.IsSet(key) {
			where = file + ", key " + key
			value = v.GetString(key)
			if f.Value.Type() == "stringSlice" {
				value = strings.Join(v.GetStringSlice(key), ",")
			}
		} else {
			return
		}
		if err := cmd.Flags().Set(f.Name, value); err != nil {
			what, kind := fmt.Sprintf("%q is no value for %s", value, key), valueKind(f, err)
			if kind == "" {
				what += ": " + plainFlagError(err)
			}
			errs = append(errs, &cliError{code: exitUsage, what: what,
				where: where, mend: "give it " + cmp.Or(kind, kindName(f)), err: err})
		}
	})
	return errors.Join(errs...)
}

// overruled says that a way to prove who one is gives way to another one that is given nearer: a password on the command line to the file with one that
// balsa.yaml names. Two that come from the same place are the user's to choose between.
func overruled(key string, rank func(key string) int) bool {
	var others []string
	switch key {
	case "password", "password-file":
		others = []string{"password", "password-file", "token-file"}
	case "token-file":
		others = []string{"password", "password-file"}
	case "user":
		others = []string{"token-file"}
	}
	return slices.ContainsFunc(others, func(other string) bool { return rank(other) > rank(key) })
}

// plainFlagError is the end of pflag's error, which repeats value and flag before it.
func plainFlagError(err error) string {
	s := err.Error()
	if i := strings.LastIndex(s, `" flag: `); i >= 0 {
		s = s[i+len(`" flag: `):]
	}
	return s
}

// configFile is the file to be read, or "" if there is none.
func (a *app) configFile(cmd *cobra.Command) (string, error) {
	name, from := flagString(cmd, "config"), "--config"
	if name == "" {
		if env, ok := a.lookupEnv(envPrefix + "_CONFIG"); ok {
			name, from = env, "BALSA_CONFIG"
		}
	}
	switch name {
	case noConfigFile:
		return "", nil
	case "":
		name = filepath.Join(a.workDir, defaultConfigFile)
		if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
		return name, nil
	}
	if _, err := os.Stat(name); err != nil {
		mend := "name a file that exists, or 'none'"
		if strings.Contains(name, "=") { // as Kafka's own tools would have it
			mend = "--config names a file of settings of this program; those of a topic are given with 'broker topic create --set NAME=VALUE'"
		}
		return "", &cliError{code: exitUsage, what: "the configuration file cannot be read: " + err.Error(), where: from, mend: mend, err: err}
	}
	return name, nil
}

// checkConfigFile refuses keys that no command knows and values of the wrong type, each with its line.
func checkConfigFile(file string, known map[string]*pflag.Flag) error {
	bad := func(line int, mend, format string, a ...any) error {
		where := file
		if line > 0 {
			where += ":" + strconv.Itoa(line)
		}
		return &cliError{code: exitUsage, what: fmt.Sprintf(format, a...), where: where, mend: mend}
	}
	info, err := os.Stat(file)
	if err == nil && info.Size() > maxConfigBytes {
		return bad(0, "it is probably not the file you mean", "the configuration file is %d bytes long, more than %d", info.Size(), maxConfigBytes)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return bad(0, "make it readable, or use --config none", "the configuration file cannot be read: %v", err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		return bad(yamlErrorLine(err), "correct the file: it is YAML, 'key: value' on each line", "the configuration file is not valid YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(doc.Content) == 0 {
		return nil // empty
	}
	var walk func(node *yaml.Node, prefix string) error
	walk = func(node *yaml.Node, prefix string) error {
		if node.Kind != yaml.MappingNode {
			return bad(node.Line, "write 'key: value' on each line", "%s is %s where keys and values belong", cmpOr(prefix, "the file"), nodeName(node))
		}
		seen := make(map[string]int)
		for i := 0; i+1 < len(node.Content); i += 2 {
			k, val := node.Content[i], node.Content[i+1]
			key := k.Value
			if prefix != "" {
				key = prefix + "." + key
			}
			if first, ok := seen[key]; ok {
				return bad(k.Line, "remove one of them", "the key %q was given on line %d already", key, first)
			}
			seen[key] = k.Line
			f := known[key]
			switch {
			case f != nil:
				if why := checkValue(f, val); why != "" {
					return bad(val.Line, "give it "+kindName(f), "%s: %s", key, why)
				}
			case isSection(known, key):
				if err := walk(val, key); err != nil {
					return err
				}
			default:
				mend := "remove it; 'broker help settings' lists the keys"
				if near := nearest(key, known); near != "" {
					mend = fmt.Sprintf("did you mean %q? 'broker help settings' lists the keys", near)
				}
				return bad(k.Line, mend, "unknown key %q", key)
			}
		}
		return nil
	}
	return walk(doc.Content[0], "")
}

func cmpOr(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func isSection(known map[string]*pflag.Flag, key string) bool {
	for k := range known {
		if strings.HasPrefix(k, key+".") {
			return true
		}
	}
	return false
}

// yamlErrorLine finds "line N" in the parser's error; 0 if there is none.
func yamlErrorLine(err error) int {
	_, rest, ok := strings.Cut(err.Error(), "line ")
	if !ok {
		return 0
	}
	n, _ := strconv.Atoi(rest[:max(strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }), 0)])
	return n
}

func nodeName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "a section"
	}
	return strconv.Quote(n.Value)
}

// checkValue says why a value does not fit a flag; "" if it does.
func checkValue(f *pflag.Flag, n *yaml.Node) string {
	if f.Value.Type() == "stringSlice" && n.Kind == yaml.SequenceNode {
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode {
				return nodeName(item) + " is no value"
			}
		}
		return ""
	}
	if n.Kind != yaml.ScalarNode {
		return nodeName(n) + " is no value"
	}
	var err error
	switch f.Value.Type() {
	case "string", "stringSlice":
	case "int", "int16", "int32", "int64":
		bits := map[string]int{"int": 64, "int16": 16, "int32": 32, "int64": 64}[f.Value.Type()]
		_, err = strconv.ParseInt(n.Value, 10, bits)
	case "bool":
		_, err = strconv.ParseBool(n.Value)
	case "float64":
		_, err = strconv.ParseFloat(n.Value, 64)
	case sizeType, rateType, sizeListType:
		err = checkSize(f.Value.Type(), n.Value)
	case "duration":
		_, err = time.ParseDuration(n.Value)
	case "choice":
		if c := f.Value.(*choice); !slices.Contains(c.allowed, n.Value) {
			err = errors.New("unknown")
		}
	default:
		panic("no check for settings of type " + f.Value.Type()) // our bug: a flag type was added
	}
	if err != nil {
		return fmt.Sprintf("%q is no value", n.Value)
	}
	return ""
}

func kindName(f *pflag.Flag) string {
	switch f.Value.Type() {
	case "int", "int16", "int32", "int64":
		return "a whole number"
	case "float64":
		return "a number"
	case "bool":
		return "true or false"
	case "duration":
		return "a duration such as 500ms, 2s or 5m"
	case "int32Slice", "intSlice":
		return "whole numbers: 0,1,2"
	case sizeType, rateType, sizeListType:
		return sizeKind(f.Value.Type())
	case "stringSlice":
		return "a list: [a, b], or \"a,b\""
	case "choice":
		return "one of " + strings.Join(f.Value.(*choice).allowed, ", ")
	}
	return "a text"
}

// nearest is the known key that differs least from key, if it differs little.
func nearest(key string, known map[string]*pflag.Flag) string {
	best, bestD := "", 3
	for k := range known {
		if d := editDistance(key, k); d < bestD || d == bestD && best != "" && k < best {
			best, bestD = k, d
		}
	}
	return best
}

// editDistance is Levenshtein's, over bytes: keys are ASCII.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			prev, row[j+1] = row[j+1], min(prev+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
