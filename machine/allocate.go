package machine

import (
	"slices"
	"strconv"

	"github.com/metal-stack/api/go/tag"
	"golang.org/x/crypto/ssh"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/network"
	"google.golang.org/protobuf/types/known/timestamppb"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// A Want is a request for a machine, with everything random and secret that
// the allocation needs.
type Want struct {
	// Request without its userdata.
	Request *apiv2.MachineServiceCreateRequest
	// UUID of the new allocation.
	UUID string
	// User who asks, and whether as an admin: only admins name a machine.
	User  string
	Admin bool
	// Userdata, sealed under UserdataKey(UUID); nil if there is none.
	Userdata *privatev1.Sealed
	// NewID makes the uuids of addresses.
	NewID func() string
	// Pick returns a number below n: it chooses among equal machines.
	Pick func(n int) int
}

// Hot returns the name under which rivals for the machines of one size queue.
func Hot(partition, size string) string { return pool(partition, size) }

// Allocate gives a machine to a project: one transaction in which the machine,
// its addresses and its numbers are taken, or nothing is.
func Allocate(tx *store.Tx, w Want) (*privatev1.Allocation, error) {
	q := w.Request
	if _, err := access.OpenProject(tx, q.GetProject()); err != nil {
		return nil, err
	}
	m, err := named(tx, w)
	if err != nil {
		return nil, err
	}
	place, err := placeOf(tx, q, m)
	if err != nil {
		return nil, err
	}
	if err := checkKind(q, place); err != nil {
		return nil, err
	}
	attachment := network.Attachment{
		Allocation: w.UUID, Name: q.GetName(), Project: q.GetProject(), Partition: place.partition,
		Type: q.GetAllocationType(), Networks: q.GetNetworks(), NewID: w.NewID,
	}
	if err := network.Attachable(tx, attachment); err != nil {
		return nil, err
	}
	if err := CheckKeys(q.GetSshPublicKeys()); err != nil {
		return nil, err
	}
	tx.Bump(Hot(place.partition, place.size))
	if m == nil {
		if m, err = choose(tx, w, place); err != nil {
			return nil, err
		}
	}
	hardware, err := records.Hardware.Get(tx, m.GetUuid())
	if err != nil {
		return nil, err
	}
	if err := FitLayout(place.layout, hardware.GetInventory().GetHardware()); err != nil {
		return nil, err
	}
	attachment.Machine = m.GetUuid()
	networks, err := network.Attach(tx, attachment)
	if err != nil {
		return nil, err
	}
	return give(tx, w, m, place, networks)
}

// CheckKeys checks that all are ssh public keys.
func CheckKeys(keys []string) error {
	for _, key := range keys {
		if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(key)); err != nil {
			return fault.Wrap(fault.Invalid, "", "invalid ssh public key", err)
		}
	}
	return nil
}

// named returns the machine that a request names, nil if it names none.
func named(tx *store.Tx, w Want) (*privatev1.Machine, error) {
	q := w.Request
	if q.Uuid == nil {
		return nil, nil
	}
	switch {
	case !w.Admin:
		return nil, fault.New(fault.Unauthenticated, "", "only admins can create machines with a specific uuid", "")
	case q.Partition != nil:
		return nil, fault.New(fault.Invalid, "", "when machine id is given, a partition must not be specified", "")
	case q.Size != nil:
		return nil, fault.New(fault.Invalid, "", "when machine id is given, a size must not be specified", "")
	}
	m, err := records.Machines.Get(tx, q.GetUuid())
	if err != nil {
		return nil, err
	}
	switch {
	case m.GetAllocation() != "":
		return nil, fault.Newf(fault.Invalid, "", "machine %s is already allocated", m.GetUuid())
	case m.GetCondition().GetState() == apiv2.MachineState_MACHINE_STATE_LOCKED:
		return nil, fault.Newf(fault.Invalid, "", "machine %s is LOCKED", m.GetUuid())
	case !records.Waits(m):
		return nil, fault.Newf(fault.Invalid, "", "machine %s is not waiting", m.GetUuid())
	}
	return m, nil
}

// A place is what an allocation resolves to before there is a machine.
type place struct {
	partition, size string
	dns             []*apiv2.DNSServer
	ntp             []*apiv2.NTPServer
	image           *apiv2.Image
	layout          *apiv2.FilesystemLayout
}

// placeOf resolves partition, size, image and layout.
func placeOf(tx *store.Tx, q *apiv2.MachineServiceCreateRequest, m *privatev1.Machine) (*place, error) {
	p := &place{partition: q.GetPartition(), size: q.GetSize()}
	switch {
	case m != nil:
		p.partition, p.size = m.GetPartition(), m.GetSize()
	case q.Partition == nil:
		return nil, fault.New(fault.Invalid, "", "when no machine id is given, a partition must be specified", "")
	case q.Size == nil:
		return nil, fault.New(fault.Invalid, "", "when no machine id is given, a size must be specified", "")
	}
	partition, err := access.Open(tx, records.Partitions, p.partition)
	if err != nil {
		return nil, err
	}
	if p.dns = q.GetDnsServers(); len(p.dns) == 0 {
		p.dns = partition.GetDnsServers()
	}
	if p.ntp = q.GetNtpServers(); len(p.ntp) == 0 {
		p.ntp = partition.GetNtpServers()
	}
	if _, err := access.Open(tx, records.Sizes, p.size); err != nil {
		return nil, err
	}
	if p.image, err = ResolveImage(tx, q.GetImage()); err != nil {
		return nil, err
	}
	if err := CheckConstraint(tx, p.size, p.image); err != nil {
		return nil, err
	}
	if q.FilesystemLayout != nil {
		p.layout, err = access.Open(tx, records.FilesystemLayouts, q.GetFilesystemLayout())
	} else {
		p.layout, err = ResolveLayout(tx, p.size, p.image)
	}
	return p, err
}

// checkKind checks that image and firewall rules fit the kind of allocation.
func checkKind(q *apiv2.MachineServiceCreateRequest, p *place) error {
	switch q.GetAllocationType() {
	case machineType:
		if q.GetFirewallSpec() != nil {
			return fault.New(fault.Invalid, "", "firewall rules can only be specified on firewalls", "")
		}
	case firewallType:
		if err := network.CheckFirewallRules(q.GetFirewallSpec().GetFirewallRules()); err != nil {
			return err
		}
	default:
		return fault.Newf(fault.Invalid, "", "given allocationtype %s is not supported", q.GetAllocationType())
	}
	return checkFeature(p.image, q.GetAllocationType())
}

// checkFeature checks that an image is for this kind of allocation.
func checkFeature(i *apiv2.Image, kind apiv2.MachineAllocationType) error {
	feature, noun := apiv2.ImageFeature_IMAGE_FEATURE_MACHINE, "machines"
	if kind == firewallType {
		feature, noun = apiv2.ImageFeature_IMAGE_FEATURE_FIREWALL, "firewalls"
	}
	if !slices.Contains(i.GetFeatures(), feature) {
		return fault.Newf(fault.Invalid, "", "given image %s is not allowed for %s", i.GetId(), noun)
	}
	return nil
}

// maxCandidates is how many waiting machines are looked at: uuids say nothing
// about racks, so that the first of many are as good a choice as all of them.
const maxCandidates = 256

// choose picks a waiting machine: where the project has the fewest machines
// with the same placement tags, and of those where it has the fewest of this
// kind, per rack.
func choose(tx *store.Tx, w Want, p *place) (*privatev1.Machine, error) {
	key := records.CandidateKey(p.partition, p.size)
	free := records.Machines.Count(tx, "candidate", key)
	if free == 0 {
		return nil, fault.New(fault.Exhausted, "", "no machine candidate available", "")
	}
	if !MayTake(SharesOf(tx, p.partition, p.size), w.Request.GetProject(), free) {
		return nil, fault.New(fault.Exhausted, "", "no machine available", "")
	}
	candidates := make([]*privatev1.Machine, 0, min(free, maxCandidates))
	for m := range records.Machines.By(tx, "candidate", key) {
		if candidates = append(candidates, m); len(candidates) == maxCandidates {
			break
		}
	}
	share, kind := records.ShareKey(p.partition, p.size, w.Request.GetProject()), w.Request.GetAllocationType()
	tagged, all := map[string]int{}, map[string]int{}
	if tags := w.Request.GetPlacementTags(); len(tags) > 0 {
		for a := range records.Allocations.By(tx, "share", share) {
			if a.GetAllocation().GetAllocationType() == kind && slices.ContainsFunc(a.GetPlacementTags(), func(t string) bool { return slices.Contains(tags, t) }) {
				tagged[a.GetRack()]++
			}
		}
	}
	for _, m := range candidates {
		if _, counted := all[m.GetRack()]; !counted {
			all[m.GetRack()] = records.Allocations.Count(tx, "spread", records.SpreadKey(share, kind, m.GetRack()))
		}
	}
	candidates = fewest(fewest(candidates, tagged), all)
	m := candidates[w.Pick(len(candidates))]
	records.Machines.Rely(tx, m.GetUuid())
	return m, nil
}

// fewest keeps the machines in the racks with the lowest count.
func fewest(candidates []*privatev1.Machine, count map[string]int) []*privatev1.Machine {
	lowest := count[candidates[0].GetRack()]
	for _, m := range candidates {
		lowest = min(lowest, count[m.GetRack()])
	}
	return slices.DeleteFunc(candidates, func(m *privatev1.Machine) bool { return count[m.GetRack()] > lowest })
}

// give writes the allocation.
func give(tx *store.Tx, w Want, m *privatev1.Machine, p *place, networks []*apiv2.MachineNetwork) (*privatev1.Allocation, error) {
	q := w.Request
	full := &apiv2.MachineAllocation{
		Uuid: w.UUID, Meta: &apiv2.Meta{Labels: q.GetLabels()}, Name: q.GetName(), Description: q.GetDescription(), CreatedBy: w.User,
		Project: q.GetProject(), Image: &apiv2.Image{Id: p.image.GetId()}, FilesystemLayout: p.layout, Networks: networks,
		Hostname: q.GetHostname(), SshPublicKeys: q.GetSshPublicKeys(), AllocationType: q.GetAllocationType(),
		DnsServers: p.dns, NtpServers: p.ntp,
	}
	if q.Hostname == nil {
		full.Hostname = "metal"
	}
	if q.GetAllocationType() == firewallType {
		full.FirewallRules = q.GetFirewallSpec().GetFirewallRules()
	}
	a := &privatev1.Allocation{
		Machine: m.GetUuid(), Allocation: full, Partition: p.partition, Size: p.size, Rack: m.GetRack(), PlacementTags: q.GetPlacementTags(),
	}
	if err := records.Allocations.Insert(tx, a); err != nil {
		return nil, err
	}
	if w.Userdata != nil {
		if err := records.Secrets.Insert(tx, w.Userdata); err != nil {
			return nil, err
		}
	}
	if _, err := records.Machines.Change(tx, m.GetUuid(), func(m *privatev1.Machine) error {
		m.Allocation = w.UUID
		m.PhaseSince = timestamppb.New(tx.Now()) // from now on it waits for its agent, not for a user
		return nil
	}); err != nil {
		return nil, err
	}
	return a, Note(tx, m.GetUuid(), Step{
		Source: fromAPI, Step: "allocate", Message: "by " + w.User + " with image " + p.image.GetId(),
	})
}

// Labels returns the labels that the v2 API shows on a machine: the user's,
// and what Ingot knows about its place.
func Labels(m *privatev1.Machine, a *privatev1.Allocation, fru *apiv2.MachineFRU) map[string]string {
	labels := map[string]string{}
	for k, v := range a.GetAllocation().GetMeta().GetLabels().GetLabels() {
		labels[k] = v
	}
	if n := a.GetAllocation().GetNetworks(); len(n) > 0 {
		labels[tag.MachineNetworkPrimaryASN] = strconv.FormatUint(uint64(n[0].GetAsn()), 10)
	}
	if m.GetRack() != "" {
		labels[tag.MachineRack] = m.GetRack()
	}
	if fru.GetChassisPartSerial() != "" {
		labels[tag.MachineChassis] = fru.GetChassisPartSerial()
	}
	return labels
}
