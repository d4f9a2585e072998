package broker

import "github.com/balsamq/balsa/coordinator"

// Groups implements backend: the fake coordinates nothing.
func (b *fakeBackend) Groups() *coordinator.Groups {
	return coordinator.NewGroups(coordinator.GroupConfig{Partitions: func() int { return 0 }})
}

// EnsureOffsetsTopic implements backend.
func (b *fakeBackend) EnsureOffsetsTopic() {}
