// Completion in the shell: what can stand for an argument or a flag, asked of the cluster while somebody types.
//
// Cobra writes the shells' scripts, which call `broker __complete …` at each press of the key. What goes wrong there, a cluster that is away
// above all, may only mean that nothing is offered: no text, and no long wait.

package main

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/balsamq/balsa/bench"
	"github.com/balsamq/balsa/client"
)

// completionTimeout bounds what a press of the key may take.
const completionTimeout = 1500 * time.Millisecond

// asked is what a completion goes by.
type asked struct {
	app  *app
	cmd  *cobra.Command
	args []string // before the one that is being typed
	text string   // what is typed of it
}

// source finds what can stand somewhere, each with a description behind a tab if there is one. What does not begin with the text that is typed
// is taken out afterwards.
type source func(ctx context.Context, q *asked) ([]string, error)

// words are always the same.
func words(list ...string) source {
	return func(context.Context, *asked) ([]string, error) { return list, nil }
}

// fromCluster is a source that asks the brokers.
func fromCluster(list func(ctx context.Context, adm *client.Admin, q *asked) ([]string, error)) source {
	return func(ctx context.Context, q *asked) ([]string, error) {
		cfg := connection(q.cmd)
		cfg.ConnectTimeout = completionTimeout
		adm, err := client.NewAdmin(ctx, cfg)
		if err != nil {
			return nil, err
		}
		defer adm.Close()
		return list(ctx, adm, q)
	}
}

func described(name, description string) string {
	if description == "" {
		return name
	}
	return name + "\t" + description
}

var topics = fromCluster(func(ctx context.Context, adm *client.Admin, q *asked) ([]string, error) {
	list, err := adm.ListTopics(ctx, strings.HasPrefix(q.text, "_"))
	out := make([]string, 0, len(list))
	for _, t := range list {
		out = append(out, described(t.Name, counted(len(t.Partitions), "partition")))
	}
	return out, err
})

var groups = fromCluster(func(ctx context.Context, adm *client.Admin, _ *asked) ([]string, error) {
	list, err := adm.ListGroups(ctx, nil, nil)
	out := make([]string, 0, len(list))
	for _, g := range list {
		out = append(out, described(g.Name, g.Type+", "+g.State))
	}
	return out, err
})

var brokers = fromCluster(func(ctx context.Context, adm *client.Admin, _ *asked) ([]string, error) {
	list, err := adm.Brokers(ctx)
	out := make([]string, 0, len(list))
	for _, b := range list {
		where := b.Address
		if b.Rack != "" {
			where += ", rack " + b.Rack
		}
		if b.State == client.BrokerFenced {
			where += ", " + b.State
		}
		out = append(out, described(strconv.Itoa(int(b.ID)), where))
	}
	return out, err
})

var users = fromCluster(func(ctx context.Context, adm *client.Admin, _ *asked) ([]string, error) {
	list, err := adm.Users(ctx)
	out := make([]string, 0, len(list))
	for _, u := range list {
		out = append(out, u.Name)
	}
	return out, err
})

var transactionalIDs = fromCluster(func(ctx context.Context, adm *client.Admin, _ *asked) ([]string, error) {
	list, err := adm.Transactions(ctx, client.TransactionFilter{})
	out := make([]string, 0, len(list))
	for _, t := range list {
		out = append(out, described(t.TransactionalID, t.State))
	}
	return out, err
})

var features = fromCluster(func(ctx context.Context, adm *client.Admin, _ *asked) ([]string, error) {
	list, err := adm.Features(ctx)
	out := make([]string, 0, len(list))
	for _, f := range list {
		out = append(out, described(f.Name+"=", "levels "+supportedLevels(&f)))
	}
	return out, err
})

// bridges come from an admin listener, by way of the cluster or of --admin.
func bridges(ctx context.Context, q *asked) ([]string, error) {
	var out []string
	q.cmd.SetContext(ctx)
	err := withControl(q.cmd, func(ctx context.Context, ctl *client.Control) error {
		var table struct {
			Bridges []natsBridge `json:"bridges"`
		}
		err := ctl.Get(ctx, "/v1/bridges", &table)
		for i := range table.Bridges {
			s := table.Bridges[i].Spec.parsed()
			out = append(out, described(table.Bridges[i].Name, s.Source()+" to "+s.Target()))
		}
		return err
	})
	return out, err
}

func profileNames(_ context.Context, q *asked) ([]string, error) {
	set, err := q.app.loadProfiles()
	if err != nil {
		return nil, err
	}
	out := []string{described(noProfile, "go without")}
	for _, name := range set.names() {
		out = append(out, described(name, strings.Join(set.Profiles[name].Brokers, ",")))
	}
	return out, nil
}

func benchScenarios(context.Context, *asked) (out []string, _ error) {
	for _, s := range bench.Scenarios() {
		out = append(out, described(s.ID, s.What))
	}
	return out, nil
}

// partitionsOf are the numbers of the partitions of the topic that is the first argument.
var partitionsOf = fromCluster(func(ctx context.Context, adm *client.Admin, q *asked) ([]string, error) {
	if len(q.args) == 0 {
		return nil, nil
	}
	return partitionNumbers(ctx, adm, q.args[0], "")
})

// partitionNumbers are those of a topic, each behind a prefix.
func partitionNumbers(ctx context.Context, adm *client.Admin, topic, prefix string) ([]string, error) {
	t, err := adm.Topic(ctx, topic)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, p := range t.Partitions {
		out = append(out, described(prefix+strconv.Itoa(int(p.Partition)), "led by "+known(int64(p.Leader))))
	}
	return out, nil
}

// partitionNames are TOPIC/PARTITION: topics with a slash behind them first, where whole says so topics as well, then their partitions; and some
// words.
func partitionNames(whole bool, more ...string) source {
	return fromCluster(func(ctx context.Context, adm *client.Admin, q *asked) ([]string, error) {
		if topic, _, ok := strings.Cut(q.text, "/"); ok {
			return partitionNumbers(ctx, adm, topic, topic+"/")
		}
		list, err := topics(ctx, q)
		out := slices.Clone(more)
		for _, t := range list {
			name, about, _ := strings.Cut(t, "\t")
			if whole {
				out = append(out, t)
			}
			out = append(out, described(name+"/", about))
		}
		return out, err
	})
}

// resources are those that have configs: their kinds first, then their names.
var resources = fromCluster(func(ctx context.Context, adm *client.Admin, q *asked) ([]string, error) {
	kind, _, ok := strings.Cut(q.text, "/")
	if !ok {
		return []string{"topic/", "broker/", "brokers\twhat holds for all brokers", "group/", "logger/\tlevels of a broker's loggers"}, nil
	}
	if kind == client.GroupConfigs { // any group may get some
		return behind(kind + "/")(groups(ctx, q))
	}
	list, err := adm.ConfigResources(ctx, kind)
	var out []string
	for _, r := range list {
		if r.Name != "" {
			out = append(out, r.String())
		}
	}
	slices.Sort(out) // brokers have orders of their own
	return out, err
})

// behind puts a prefix before each.
func behind(prefix string) func([]string, error) ([]string, error) {
	return func(list []string, err error) ([]string, error) {
		out := make([]string, len(list))
		for i := range list {
			out[i] = prefix + list[i]
		}
		return out, err
	}
}

// configNames are the names of the configs of a resource, with an equals sign behind them if a value is to follow. Of none, as of a topic that is to
// be made, they are those of some topic.
func configNames(of func(q *asked) string, value bool) source {
	return fromCluster(func(ctx context.Context, adm *client.Admin, q *asked) ([]string, error) {
		name := of(q)
		if name == "" {
			list, err := adm.ListTopics(ctx, true)
			if err != nil || len(list) == 0 {
				return nil, err
			}
			name = client.TopicConfigs + "/" + list[0].Name
		}
		r, err := resourceArg(name)
		if err != nil {
			return nil, err
		}
		if r.Kind == client.BrokerConfigs && r.Name == "" { // of all brokers only what is set is shown: some broker knows them all
			list, err := adm.Brokers(ctx)
			if err != nil || len(list) == 0 {
				return nil, err
			}
			r.Name = strconv.Itoa(int(list[0].ID))
		}
		values, err := adm.Configs(ctx, r)
		var out []string
		for _, v := range values {
			if value && v.ReadOnly {
				continue
			}
			name := v.Name
			if value {
				name += "="
			}
			out = append(out, described(name, strings.ReplaceAll(v.Doc, "\n", " ")))
		}
		return out, err
	})
}

func firstArg(q *asked) string {
	if len(q.args) == 0 {
		return ""
	}
	return q.args[0]
}

func topicArg(q *asked) string { return client.TopicConfigs + "/" + firstArg(q) }

// completion is what the arguments and flags of a command are completed by.
type completion struct {
	args  []source // one after the other
	more  bool     // the last of them again and again
	flags map[string]source
}

// completions are by the commands' names. What is not here takes nothing that could be known.
func completions() map[string]completion {
	one := func(s source) completion { return completion{args: []source{s}} }
	noTopic := func(*asked) string { return "" }
	quotas := words(quotaNames...)
	limits := words("producer_byte_rate=", "consumer_byte_rate=", "request_percentage=", "controller_mutation_rate=", "connection_creation_rate=")
	who := map[string]source{"for-user": users}
	aclFlags := func(more map[string]source) completion {
		f := map[string]source{"topic": topics, "group": groups, "transactional-id": transactionalIDs,
			"operation": words(aclOperations...)}
		for name, s := range more {
			f[name] = s
		}
		return completion{flags: f}
	}
	return map[string]completion{
		"":                          {flags: map[string]source{"profile": profileNames, "user": words()}},
		"topic create":              {flags: map[string]source{"set": configNames(noTopic, true)}},
		"topic describe":            one(topics),
		"topic alter":               {args: []source{topics}, flags: map[string]source{"set": configNames(topicArg, true), "unset": configNames(topicArg, false)}},
		"topic add-partitions":      {args: []source{topics}, flags: map[string]source{"assign": brokers}},
		"topic trim":                {args: []source{topics}, flags: map[string]source{"partition": partitionsOf, "before": words("end")}},
		"topic delete":              one(topics),
		"group list":                {flags: map[string]source{"type": words(client.GroupClassic, client.GroupConsumer), "state": words(groupStates...)}},
		"group describe":            one(groups),
		"group delete":              one(groups),
		"group reset-offsets":       {args: []source{groups}, flags: map[string]source{"topic": topics}},
		"group delete-offsets":      {args: []source{groups}, flags: map[string]source{"topic": topics}},
		"produce":                   {args: []source{topics}, flags: map[string]source{"partition": partitionsOf}},
		"consume":                   {args: []source{topics}, flags: map[string]source{"partition": partitionsOf, "group": groups, "from": words("beginning", "end")}},
		"config get":                {args: []source{resources, configNames(firstArg, false)}, more: true},
		"config set":                {args: []source{resources, configNames(firstArg, true)}, more: true},
		"config delete":             {args: []source{resources, configNames(firstArg, false)}, more: true},
		"config list":               one(words(client.TopicConfigs, client.BrokerConfigs, client.GroupConfigs, client.LoggerConfigs)),
		"quota list":                {flags: who},
		"quota set":                 {args: []source{limits}, more: true, flags: who},
		"quota delete":              {args: []source{quotas}, more: true, flags: who},
		"cluster remove":            one(brokers),
		"cluster upgrade":           {flags: map[string]source{"feature": features}},
		"partition move":            {args: []source{partitionNames(true)}, flags: map[string]source{"to": brokers}},
		"partition status":          one(partitionNames(true)),
		"partition cancel":          one(partitionNames(true)),
		"partition transfer-leader": {args: []source{partitionNames(false)}, flags: map[string]source{"to": brokers}},
		"partition elect-preferred": one(partitionNames(true)),
		"partition reset-peers":     one(partitionNames(false, metadataWord)),
		"raft describe":             one(partitionNames(false, metadataWord)),
		"txn list":                  {flags: map[string]source{"state": words("Empty", "Ongoing", "PrepareCommit", "PrepareAbort", "CompleteCommit", "CompleteAbort")}},
		"txn describe":              one(transactionalIDs),
		"txn abort":                 one(transactionalIDs),
		"bridge nats add":           {flags: map[string]source{"from-topic": topics, "to-topic": topics, "dead-letters": topics, "skip-bridge": bridges, "begin": words("first", "new"), "key": words("none", "{subject}")}},
		"bridge nats status":        one(bridges),
		"bridge nats pause":         one(bridges),
		"bridge nats resume":        one(bridges),
		"bridge nats remove":        one(bridges),
		"bridge nats seek":          {args: []source{bridges}, flags: map[string]source{"to": words("first", "new")}},
		"bridge nats set":           {args: []source{bridges}, flags: map[string]source{"dead-letters": topics}},
		"user passwd":               one(users),
		"user delete":               one(users),
		"acl create":                aclFlags(map[string]source{"allow": users, "deny": users}),
		"acl list":                  aclFlags(map[string]source{"principal": users}),
		"acl delete":                aclFlags(map[string]source{"principal": users}),
		"profile show":              one(profileNames),
		"profile use":               one(profileNames),
		"profile remove":            one(profileNames),
		"bench run":                 {args: []source{benchScenarios}, more: true, flags: map[string]source{"peer": words("jetstream", "kafka"), "class": words("A", "B")}},
	}
}

// takesFiles are the commands whose arguments are files.
var takesFiles = []string{"log dump", "bench report", "bench check", "bench limits"}

// complete gives each command and each flag of the tree its completion.
func (a *app) complete(root *cobra.Command) {
	table := completions()
	var visit func(cmd *cobra.Command, path string)
	visit = func(cmd *cobra.Command, path string) {
		c := table[path]
		delete(table, path)
		if !cmd.HasSubCommands() && !slices.Contains(takesFiles, path) {
			cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, text string) ([]string, cobra.ShellCompDirective) {
				n := len(args)
				if c.more {
					n = min(n, len(c.args)-1)
				}
				if n >= len(c.args) {
					return nil, cobra.ShellCompDirectiveNoFileComp
				}
				return a.offer(c.args[n], &asked{app: a, cmd: cmd, args: args, text: text}, args)
			}
		}
		set := cmd.LocalNonPersistentFlags()
		if !cmd.HasParent() {
			set = cmd.PersistentFlags()
		}
		for name := range c.flags {
			if set.Lookup(name) == nil {
				panic("no flag " + name + " of " + path + " to be completed") // our bug
			}
		}
		set.VisitAll(func(f *pflag.Flag) { a.completeFlag(cmd, f, c.flags[f.Name]) })
		for _, child := range cmd.Commands() {
			visit(child, strings.TrimSpace(path+" "+child.Name()))
		}
	}
	visit(root, "")
	for path := range table {
		panic("no command " + path + " to be completed") // our bug
	}
}

// completeFlag completes a flag's value: by its source, else by the few words that it can be, else as a file if it is one.
func (a *app) completeFlag(cmd *cobra.Command, f *pflag.Flag, s source) {
	if s == nil {
		if c, ok := f.Value.(*choice); ok {
			s = words(c.allowed...)
		}
	}
	kind, _ := pflag.UnquoteUsage(f)
	complete := func(cmd *cobra.Command, args []string, text string) ([]string, cobra.ShellCompDirective) {
		switch {
		case s != nil:
		case kind == "FILE":
			return nil, cobra.ShellCompDirectiveDefault
		case kind == "DIR":
			return nil, cobra.ShellCompDirectiveFilterDirs
		default:
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		if !strings.HasSuffix(f.Value.Type(), "Slice") && !strings.HasSuffix(kind, ",...") {
			return a.offer(s, &asked{app: a, cmd: cmd, args: args, text: text}, nil)
		}
		// A list: what is typed is its last element.
		before, last := "", text
		if i := strings.LastIndexByte(text, ','); i >= 0 {
			before, last = text[:i+1], text[i+1:]
		}
		list, directive := a.offer(s, &asked{app: a, cmd: cmd, args: args, text: last}, strings.Split(strings.TrimSuffix(before, ","), ","))
		list, _ = behind(before)(list, nil)
		return list, directive | cobra.ShellCompDirectiveNoSpace
	}
	if err := cmd.RegisterFlagCompletionFunc(f.Name, complete); err != nil {
		panic(err) // our bug: it is completed twice
	}
}

// offer asks a source, within completionTimeout, and leaves out what does not begin as it is typed, or is there already. Errors are nobody's to
// see: nothing is offered.
func (a *app) offer(s source, q *asked, there []string) ([]string, cobra.ShellCompDirective) {
	const none = cobra.ShellCompDirectiveNoFileComp
	if a.applySettings(q.cmd) != nil {
		return nil, none
	}
	ctx, cancel := context.WithTimeout(q.cmd.Context(), completionTimeout)
	defer cancel()
	var list []string
	found := make(chan []string, 1)
	go func() { // a connection that hangs is left to hang: the process ends when the words are printed
		if list, err := s(ctx, q); err == nil {
			found <- list
		}
		close(found)
	}()
	select {
	case list = <-found:
	case <-ctx.Done():
		return nil, none
	}
	var out []string
	directive := none
	for _, item := range list {
		name, _, _ := strings.Cut(item, "\t")
		if !strings.HasPrefix(name, q.text) || slices.Contains(there, name) {
			continue
		}
		out = append(out, item)
		if strings.HasSuffix(name, "/") || strings.HasSuffix(name, "=") {
			directive |= cobra.ShellCompDirectiveNoSpace
		}
	}
	return out, directive
}
