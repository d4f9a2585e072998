// Features: what the brokers of a cluster can do, and how much of it the cluster uses. Each broker supports a range of levels
// of each feature; the cluster has finalized one level, which every broker supports, so that nothing is written that one of
// them could not read. Levels are raised by an operator once all brokers run a version that has them (`broker cluster
// upgrade`, UpdateFeatures), and a broker that lacks the finalized level is not let in. See docs/design/0020-configs-and-quotas.md.

package coordinator

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

const (
	// LevelAdmin is the level of MetadataVersion that has the configs of brokers and groups, client quotas, more partitions for
	// a topic that is there, users and ACLs.
	LevelAdmin = 3
	// LevelApps is the level that has bridges to other systems, and topics with ConditionalAppend: a broker that led one of these without
	// knowing what that is would write what it must refuse.
	LevelApps = 4
	// LevelRelaxed is the level that has topics with Durability relaxed: an older program that opened the log of one would not see that it may
	// have lost something, and would vote. It also has bridges whose definition changes.
	LevelRelaxed = 5
	// LevelPadded is the level at which brokers begin segments whose blocks have padding: an older program cannot open a log that has one.
	LevelPadded = 6
	// LevelLatest is the highest level that this version knows.
	LevelLatest = LevelPadded
	// maxFeatures bounds the updates of one request.
	maxFeatures = 100
)

// ConditionalAppend is the topic config by which a record may carry a condition on its key's last record. It is the brokers' to obey; here it says what
// a topic needs of them.
const ConditionalAppend = "balsa.conditional.append"

// Conditional reports that a topic with these configs has it. A truth value is read as Kafka reads it.
func Conditional(configs map[string]string) bool {
	return strings.EqualFold(strings.TrimSpace(configs[ConditionalAppend]), "true")
}

// Durability is the topic config that says what an acknowledged record is safe from. It is the brokers' to obey; here it says what a topic needs of
// them.
const Durability = "balsa.durability"

// DurabilityRelaxed is the value by which what is acknowledged may be in memory only, of a majority.
const DurabilityRelaxed = "relaxed"

// Relaxed reports that a topic with these configs has it.
func Relaxed(configs map[string]string) bool { return isRelaxed(configs[Durability]) }

func isRelaxed(value string) bool { return strings.TrimSpace(value) == DurabilityRelaxed }

// FeatureRange is the levels of a feature that a broker supports.
type FeatureRange struct {
	Name string `json:"name"`
	Min  int16  `json:"min"`
	Max  int16  `json:"max"`
}

// feature is one that this version knows.
type feature struct {
	FeatureRange
	needs int16 // of metadata.version, to be on
}

// features are those of this version, by name. A new cluster has each at its highest level; one that is not named is off.
// All but metadata.version may be off (level 0).
var features = []feature{
	{FeatureRange{FeatureGroupVersion, 0, 1}, LevelAdmin},
	{FeatureRange{MetadataVersion, 1, LevelLatest}, 0},
	{FeatureRange{TransactionVersion, 0, 2}, 0},
}

// SupportedFeatures are the ranges that this version supports, by name.
func SupportedFeatures() []FeatureRange {
	out := make([]FeatureRange, len(features))
	for i := range features {
		out[i] = features[i].FeatureRange
	}
	return out
}

// FoundingFeatures are the levels that a new cluster has.
func FoundingFeatures() map[string]int16 {
	m := make(map[string]int16, len(features))
	for i := range features {
		m[features[i].Name] = features[i].Max
	}
	return m
}

// level is the level of MetadataVersion that a command needs: whoever reads an older level would stop at it. Below it the
// command is not proposed, and refused should it get into the log all the same.
func (c *Command) level() int16 {
	switch {
	case c.CreateTopics != nil && slices.ContainsFunc(c.CreateTopics.Topics, func(t NewTopic) bool { return Relaxed(t.Configs) }),
		c.SetConfigs != nil && slices.ContainsFunc(c.SetConfigs.Changes, func(ch ConfigChange) bool {
			v := ch.Set[Durability]
			return ch.Kind == ConfigTopic && v != nil && isRelaxed(*v)
		}):
		return LevelRelaxed
	case c.AlterBridge != nil && c.AlterBridge.Spec != nil: // came later than bridges
		return LevelRelaxed
	case c.Reassign != nil, c.Settle != nil, c.Unregister != nil:
		return LevelMoves
	case c.AlterUsers != nil, c.AlterACLs != nil, c.SetConfigs != nil, c.AddPartitions != nil, c.AlterQuotas != nil:
		return LevelAdmin
	case c.CreateTopics != nil && slices.ContainsFunc(c.CreateTopics.Topics, func(t NewTopic) bool { return Conditional(t.Configs) }):
		return LevelApps
	case c.AlterBridge != nil:
		return LevelApps
	}
	return 0
}

// CheckLevel refuses a command that the finalized level does not have.
func (im *Image) CheckLevel(c *Command) error {
	if have, need := im.Feature(MetadataVersion), c.level(); have < need {
		return fmt.Errorf("%w: it is finalized at %d, this needs %d: 'broker cluster upgrade', once all brokers run this version", ErrFeatureLevel, have, need)
	}
	return nil
}

// usage is a part of the state that a lower level of MetadataVersion could not hold.
type usage struct {
	level int16
	what  string
	there func(*Image) bool
}

// usages are what keeps a level from being lowered. A part of the snapshot that a level brings has a line here.
var usages = []usage{
	{LevelAdmin, "users", func(im *Image) bool { return im.UserCount() > 0 }},
	{LevelAdmin, "ACLs", func(im *Image) bool { return len(im.acls.list) > 0 }},
	{LevelAdmin, "configs of brokers", func(im *Image) bool { return len(im.brokerConfigs) > 0 }},
	{LevelAdmin, "configs of groups", func(im *Image) bool { return len(im.groupConfigs) > 0 }},
	{LevelAdmin, "client quotas", func(im *Image) bool { return len(im.quotas) > 0 }},
	{LevelApps, "topics with " + ConditionalAppend, func(im *Image) bool {
		for t := range im.All() {
			if Conditional(t.Configs) {
				return true
			}
		}
		return false
	}},
	{LevelRelaxed, "topics with " + Durability + "=" + DurabilityRelaxed, func(im *Image) bool {
		for t := range im.All() {
			if Relaxed(t.Configs) {
				return true
			}
		}
		return false
	}},
	{LevelPadded, "logs like those of the topics that are there", func(im *Image) bool {
		for range im.All() {
			return im.Feature(MetadataVersion) >= LevelPadded // below it none is written, and brokers may be there that know nothing of it
		}
		return false
	}},
	{LevelApps, "bridges", func(im *Image) bool { return len(im.bridges) > 0 }},
}

// checkLowered refuses to lower MetadataVersion to where something that is there cannot be expressed.
func (im *Image) checkLowered(level int16) error {
	var what []string
	for _, u := range usages {
		if level < u.level && u.there(im) {
			what = append(what, u.what)
		}
	}
	if len(what) > 0 {
		return fmt.Errorf("%w: %s %d has no %s: change or remove them first", ErrFeatureUpdate, MetadataVersion, level, strings.Join(what, ", no "))
	}
	return nil
}

// setFeatureLevel applies SetFeature. It is as older versions apply it as long as one of them may be there; above that, what the
// controller has checked is checked again, as something may have come in between.
func (d *draft) setFeatureLevel(f *SetFeature) error {
	if have := d.Feature(MetadataVersion); f.Name == MetadataVersion && have >= LevelAdmin && f.Level < have {
		if err := d.checkLowered(f.Level); err != nil {
			return err
		}
		d.lowered = true
	}
	d.setFeature(f.Name, f.Level)
	return nil
}

// FeatureUpdate asks for another level of a feature; 0: off.
type FeatureUpdate struct {
	Name  string `json:"name"`
	Level int16  `json:"level"`
	// Lower allows a level below the finalized one, and then no higher one.
	Lower bool `json:"lower,omitempty"`
}

// FeatureUpdates is what UpdateFeatures wants, all or nothing as far as can be said before.
type FeatureUpdates struct {
	Updates      []FeatureUpdate `json:"updates"`
	ValidateOnly bool            `json:"validate_only,omitempty"`
}

// updateFeatures carries out FeatureUpdates: it holds each against every live broker, and finalizes the levels one after the
// other. Placing is held, so no broker is let in meanwhile.
func (c *Controller) updateFeatures(ctx context.Context, in *Intent) (*Result, error) {
	im := c.md.Image()
	ups := in.Features.Updates
	result := &Result{Index: im.version, Features: make([]Failure, len(ups))}
	after := im.Features()
	for _, u := range ups {
		if after == nil {
			after = make(map[string]int16)
		}
		after[u.Name] = u.Level
	}
	failed := false
	for i := range ups {
		err := im.checkFeature(ups, i, after)
		if err == nil && ups[i].Level != im.Feature(ups[i].Name) {
			err = c.checkBrokersSupport(ctx, im, &ups[i])
		}
		result.Features[i] = FailureOf(err)
		failed = failed || err != nil
	}
	if failed || in.Features.ValidateOnly {
		return result, nil
	}
	// What needs a level of metadata.version comes after that is raised, and goes before it is lowered.
	order := slices.Clone(ups)
	slices.SortStableFunc(order, func(a, b FeatureUpdate) int { return featureOrder(a) - featureOrder(b) })
	for _, u := range order {
		if u.Level == im.Feature(u.Name) {
			continue
		}
		r, err := c.propose(ctx, &Command{Request: in.Request + "/" + u.Name, SetFeature: &SetFeature{Name: u.Name, Level: u.Level}})
		if err != nil {
			return nil, err
		}
		result.Index = r.Index
		if r.Code != "" {
			i := slices.IndexFunc(ups, func(x FeatureUpdate) bool { return x.Name == u.Name })
			result.Features[i] = r.Failure
			break
		}
		c.cfg.Logger.Info("a feature has another level", "feature", u.Name, "level", u.Level, "before", im.Feature(u.Name))
	}
	return result, nil
}

func featureOrder(u FeatureUpdate) int {
	switch {
	case u.Name != MetadataVersion:
		return 1
	case u.Lower:
		return 2
	}
	return 0
}

// checkFeature is what can be said of an update by this version and the levels that there are. after are the levels with
// all updates of the request.
func (im *Image) checkFeature(ups []FeatureUpdate, i int, after map[string]int16) error {
	u := &ups[i]
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrFeatureUpdate}, args...)...)
	}
	k := slices.IndexFunc(features, func(f feature) bool { return f.Name == u.Name })
	if k < 0 {
		return bad("there is no feature %q", u.Name)
	}
	f, have := &features[k], im.Feature(u.Name)
	switch {
	case slices.ContainsFunc(ups[:i], func(x FeatureUpdate) bool { return x.Name == u.Name }):
		return bad("%s is named more than once", u.Name)
	case u.Level < 0:
		return bad("level %d of %s is negative", u.Level, u.Name)
	case u.Level == 0 && u.Name == MetadataVersion:
		return bad("%s cannot be switched off", u.Name)
	case u.Level != 0 && (u.Level < f.Min || u.Level > f.Max):
		return bad("level %d of %s: this version supports %d to %d", u.Level, u.Name, f.Min, f.Max)
	case u.Level < have && !u.Lower:
		return bad("%s is finalized at %d: a lower level has to be asked for as a downgrade", u.Name, have)
	case u.Level > have && u.Lower:
		return bad("%s is finalized at %d: %d would be no downgrade", u.Name, have, u.Level)
	case u.Level > 0 && after[MetadataVersion] < f.needs:
		return bad("%s %d needs %s %d, which is at %d", u.Name, u.Level, MetadataVersion, f.needs, after[MetadataVersion])
	}
	if u.Name != MetadataVersion || u.Level >= have {
		return nil
	}
	for i := range features {
		if o := &features[i]; after[o.Name] > 0 && u.Level < o.needs {
			return bad("%s is on at level %d and needs %s %d: switch it off first", o.Name, after[o.Name], MetadataVersion, o.needs)
		}
	}
	// The state machine looks at topics only, as it did when the first clusters had this level. But the metadata has a log as well, and so had topics that
	// are gone: a segment that was begun at LevelPadded cannot be opened by a program that does not know it.
	if have >= LevelPadded && u.Level < LevelPadded {
		return bad("%s is finalized at %d: since then logs are written, those of the metadata among them, that a program of a lower level cannot open", u.Name, have)
	}
	return im.checkLowered(u.Level)
}

// checkBrokersSupport asks every live broker. A fenced one is not asked: should it come back in a version that is too old, it
// is not let in.
func (c *Controller) checkBrokersSupport(ctx context.Context, im *Image, u *FeatureUpdate) error {
	if u.Level == 0 {
		return nil
	}
	for _, b := range im.LiveBrokers() {
		if b.ID == c.cfg.Self {
			continue
		}
		has, err := c.cfg.Supports(ctx, b.ID)
		if err != nil {
			return fmt.Errorf("%w: broker %d does not say what it supports: %v", ErrFeatureUpdate, b.ID, err)
		}
		k := slices.IndexFunc(has, func(f FeatureRange) bool { return f.Name == u.Name })
		switch {
		case k < 0:
			return fmt.Errorf("%w: broker %d does not know %s: it runs an older version", ErrFeatureUpdate, b.ID, u.Name)
		case u.Level < has[k].Min || u.Level > has[k].Max:
			return fmt.Errorf("%w: level %d of %s: broker %d only supports %d to %d", ErrFeatureUpdate, u.Level, u.Name, b.ID, has[k].Min, has[k].Max)
		}
	}
	return nil
}

// checkNewcomer refuses a broker whose version lacks a finalized level. Brokers of the time before they said what they support
// can do metadata.version 1 and 2.
func (im *Image) checkNewcomer(has []FeatureRange) error {
	if has == nil {
		has = OldFeatures()
	}
	for i := range features {
		name := features[i].Name
		level := im.Feature(name)
		if level == 0 {
			continue
		}
		k := slices.IndexFunc(has, func(f FeatureRange) bool { return f.Name == name })
		if k < 0 || level < has[k].Min || level > has[k].Max {
			return fmt.Errorf("%w: the cluster has finalized %s at %d, which this version of the broker does not support: start a newer one", ErrFeatureLevel, name, level)
		}
	}
	return nil
}

// OldFeatures are what brokers support that cannot say it.
func OldFeatures() []FeatureRange { return []FeatureRange{{MetadataVersion, 1, LevelMoves}} }
