package records

import (
	"strconv"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/store"
)

// Machines are the states of the machines, by uuid. The index "candidate" has
// the machines that an allocation may take, by CandidateKey; "phase" has all
// of them by the number of their phase.
var Machines = store.NewTable(store.Table[*privatev1.Machine]{
	Name: "machine",
	Key:  func(m *privatev1.Machine) string { return m.GetUuid() },
	Indexes: map[string]func(*privatev1.Machine) []string{
		"partition": func(m *privatev1.Machine) []string { return []string{m.GetPartition()} },
		"size":      func(m *privatev1.Machine) []string { return []string{m.GetSize()} },
		"phase":     func(m *privatev1.Machine) []string { return []string{PhaseKey(m.GetPhase())} },
		"candidate": func(m *privatev1.Machine) []string {
			if !Waits(m) || m.GetAllocation() != "" || m.GetCondition().GetState() != apiv2.MachineState_MACHINE_STATE_AVAILABLE ||
				m.GetLiveliness() != apiv2.MachineLiveliness_MACHINE_LIVELINESS_ALIVE {
				return nil
			}
			return []string{CandidateKey(m.GetPartition(), m.GetSize())}
		},
	},
	Stamp: stamp(func(m *privatev1.Machine) **apiv2.Meta { return &m.Meta }),
})

// Waits reports whether a machine is clean and its agent listens: one that
// speaks the v2 API also has to hold its stream open.
func Waits(m *privatev1.Machine) bool {
	return m.GetPhase() == ingotv1.MachinePhase_MACHINE_PHASE_WAITING && (m.GetBootId() != "" || m.GetListening())
}

// PhaseKey returns the value of the index "phase".
func PhaseKey(p ingotv1.MachinePhase) string { return strconv.Itoa(int(p)) }

// CandidateKey returns the value of the index "candidate".
func CandidateKey(partition, size string) string { return Key(partition, size) }
