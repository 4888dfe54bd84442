package machine

import (
	"slices"
	"time"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// coarsely is how old a stored report may become while nothing changes.
const coarsely = 5 * time.Minute

// Find makes sure that there is a machine with the uuid in the partition and
// reports whether it was created. A machine does not change its partition.
func Find(tx *store.Tx, uuid, partition, message string) (created bool, err error) {
	m, err := records.Machines.Get(tx, uuid)
	if isNotFound(err) || err == nil && m.GetPartition() == "" {
		if _, err := access.Open(tx, records.Partitions, partition); err != nil {
			return false, err
		}
	}
	switch {
	case isNotFound(err):
		if err := records.Machines.Insert(tx, New(uuid, partition, tx.Now())); err != nil {
			return false, err
		}
		return true, Note(tx, uuid, Step{Source: fromBMC, Step: "found", Message: message})
	case err != nil:
		return false, err
	case m.GetPartition() == "":
		_, err := records.Machines.Change(tx, uuid, func(m *privatev1.Machine) error {
			m.Partition = partition
			return nil
		})
		return false, err
	case m.GetPartition() != partition:
		return false, fault.Newf(fault.Precondition, object(uuid), "belongs to partition %s, but %s reports it", m.GetPartition(), partition).
			Do("delete the machine if it was moved")
	default:
		return false, nil
	}
}

// FoundBMC records what was found at the BMC of a machine, which is created if
// it is not known yet. The password must have been cut out of the report.
func FoundBMC(tx *store.Tx, uuid, partition, bmc string, report *apiv2.MachineBMCReport) (created bool, err error) {
	if report.GetBmc().GetPassword() != "" {
		panic("machine: a BMC password reached the store in clear")
	}
	created, err = Find(tx, uuid, partition, "its BMC "+report.GetBmc().GetAddress()+" answered")
	if err != nil {
		return false, err
	}
	was, err := records.MachineBMCs.Get(tx, uuid)
	if err != nil && !isNotFound(err) {
		return false, err
	}
	report = proto.CloneOf(report)
	if report == nil {
		report = &apiv2.MachineBMCReport{}
	}
	if report.Bios == nil {
		report.Bios = was.GetReport().GetBios()
	}
	if report.Fru == nil {
		report.Fru = was.GetReport().GetFru()
	}
	if !worthStoring(was.GetReport(), report, tx.Now()) && was.GetBmc() == bmc {
		return created, nil
	}
	report.UpdatedAt = timestamppb.New(tx.Now())
	return created, records.MachineBMCs.Put(tx, &privatev1.MachineBMC{Uuid: uuid, Partition: partition, Bmc: bmc, Report: report})
}

// worthStoring reports whether a report says something new. Readings of power
// alone, and that nothing changed, are stored coarsely.
func worthStoring(was, now *apiv2.MachineBMCReport, at time.Time) bool {
	if was == nil || at.Sub(was.GetUpdatedAt().AsTime()) >= coarsely {
		return true
	}
	a, b := proto.CloneOf(was), proto.CloneOf(now)
	a.UpdatedAt, a.PowerMetric, b.UpdatedAt, b.PowerMetric = nil, nil, nil, nil
	return !proto.Equal(a, b)
}

// Scanned records what a site found at a BMC, and the machine behind it if one
// answered.
func Scanned(tx *store.Tx, partition string, r *ingotv1.BMCReport) error {
	b, err := records.BMCs.Get(tx, records.BMCKey(partition, r.GetId()))
	if err != nil {
		return err
	}
	was, err := records.BMCStatuses.Get(tx, records.BMCKey(partition, r.GetId()))
	if err != nil && !isNotFound(err) {
		return err
	}
	status := proto.CloneOf(r.GetStatus())
	if status == nil {
		status = &ingotv1.BMCStatus{}
	}
	if status.GetLastError() == "" {
		status.LastError, status.LastErrorTime = "", was.GetStatus().GetLastErrorTime()
	} else {
		status.LastSeen, status.LastErrorTime = was.GetStatus().GetLastSeen(), timestamppb.New(tx.Now())
		status.OwnAccount = was.GetStatus().GetOwnAccount()
	}
	if status.Machine = r.GetMachine(); r.GetMachine() == "" {
		status.Machine = was.GetStatus().GetMachine()
	} else {
		status.LastSeen = timestamppb.New(tx.Now())
	}
	keep(status, was.GetStatus())
	if !slices.Equal(status.GetMacs(), was.GetStatus().GetMacs()) {
		if err := learn(tx, b, status.GetMacs()); err != nil {
			return err
		}
	}
	if err := storeStatus(tx, was, &privatev1.BMCStatus{Partition: partition, Id: r.GetId(), Status: status}); err != nil || r.GetMachine() == "" {
		return err
	}
	report := proto.CloneOf(r.GetReport())
	if report == nil {
		report = &apiv2.MachineBMCReport{}
	}
	if report.Bmc == nil {
		report.Bmc = &apiv2.MachineBMC{}
	}
	report.Bmc.Address, report.Bmc.User, report.Bmc.Password = b.GetAddress(), b.GetUser(), ""
	if status.GetPowerState() != "" {
		report.Bmc.PowerState = status.GetPowerState()
	}
	_, err = FoundBMC(tx, r.GetMachine(), partition, r.GetId(), report)
	return err
}

// storeStatus stores what a scan found if it is new, or if the time of the
// last one grows old.
func storeStatus(tx *store.Tx, was, now *privatev1.BMCStatus) error {
	if was != nil && now.GetStatus().GetLastSeen().AsTime().Sub(was.GetStatus().GetLastSeen().AsTime()) < coarsely {
		a, b := proto.CloneOf(was), proto.CloneOf(now)
		for _, s := range []*ingotv1.BMCStatus{a.GetStatus(), b.GetStatus()} {
			s.LastSeen, s.LastErrorTime = nil, nil
			if s.GetMedium() != nil {
				s.Medium.Checked = nil
			}
		}
		if proto.Equal(a, b) {
			return nil
		}
	}
	return records.BMCStatuses.Put(tx, now)
}

// Wanted returns what shall hold for a BMC, without its password. Media and
// override of an allocated machine are touched only as long as it is not
// installed or still boots from the medium; those of a locked one never are.
func Wanted(r store.Reader, b *ingotv1.BMC) *ingotv1.BMCWanted {
	w := &ingotv1.BMCWanted{
		Id: b.GetId(), Address: b.GetAddress(), User: b.GetUser(), Ca: b.GetCa(), Driver: b.GetDriver(), BootMedium: Medium(r, b.GetPartition(), b),
	}
	status, _ := records.BMCStatuses.Peek(r, records.BMCKey(b.GetPartition(), b.GetId()))
	w.Machine = status.GetStatus().GetMachine()
	m, ok := records.Machines.Peek(r, w.GetMachine())
	if !ok {
		return w
	}
	a, allocated := records.Allocations.Peek(r, w.GetMachine())
	installed := allocated && a.GetInstalled() != nil
	w.Allocation = a.GetAllocation().GetUuid()
	stillMedium := fromMedium(status.GetStatus().GetMedium().GetOverrideTarget()) && status.GetStatus().GetMedium().GetOverrideEnabled() != "Disabled"
	w.Medium = !installed
	w.Enforce = m.GetCondition().GetState() != apiv2.MachineState_MACHINE_STATE_LOCKED && (!installed || stillMedium || m.GetPhase() == bootingNewKernel)
	if o, ok := records.Operations.Peek(r, w.GetMachine()); ok && o.GetOperation().GetDone() == nil {
		w.Operation = o.GetOperation()
	}
	return w
}

// Inside records what the system of a machine tells about its own BMC, which
// may know less than somebody who asks the BMC.
func Inside(tx *store.Tx, uuid, partition string, report *apiv2.MachineBMCReport) error {
	was, err := records.MachineBMCs.Get(tx, uuid)
	if err != nil && !isNotFound(err) {
		return err
	}
	merged := proto.CloneOf(was.GetReport())
	if merged == nil {
		merged = &apiv2.MachineBMCReport{}
	}
	if was.GetBmc() == "" && report.GetBmc() != nil {
		merged.Bmc = report.GetBmc()
	}
	if report.GetBios() != nil {
		merged.Bios = report.GetBios()
	}
	if report.GetFru() != nil {
		merged.Fru = report.GetFru()
	}
	_, err = FoundBMC(tx, uuid, partition, was.GetBmc(), merged)
	return err
}
