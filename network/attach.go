package network

import (
	"fmt"
	"slices"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/tag"
	"google.golang.org/protobuf/proto"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/ipam"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// maxAddresses bounds the addresses of one machine, so that all of them fit in
// the transaction that gives them back.
const maxAddresses = 64

const firewallType = apiv2.MachineAllocationType_MACHINE_ALLOCATION_TYPE_FIREWALL

// An Attachment is what a machine asks of the network when it is allocated.
type Attachment struct {
	Machine    string // its uuid
	Allocation string // uuid of the allocation
	Name       string // of the allocation, and so of the addresses it is given
	Project    string
	Partition  string // where the machine stands
	Type       apiv2.MachineAllocationType
	Networks   []*apiv2.MachineAllocationNetwork
	NewID      func() string // makes uuids for addresses
}

// Attach gives a machine its addresses and its AS number: in every network
// those asked for, or else the lowest free one of each address family. A
// firewall gets one of the partition's underlay network, too. Everything is
// taken in the Tx or nothing is.
//
// The answer belongs into the allocation's record: the leaves' configuration
// and the deletion of networks go by that.
func Attach(tx *store.Tx, a Attachment) ([]*apiv2.MachineNetwork, error) {
	if _, err := access.OpenProject(tx, a.Project); err != nil {
		return nil, err
	}
	networks, err := attachable(tx, a)
	if err != nil {
		return nil, err
	}
	asn, err := takeASN(tx, firstMachineASN, lastMachineASN, allocationOwner(a.Allocation))
	if err != nil {
		return nil, err
	}
	var out []*apiv2.MachineNetwork
	total := 0
	for i, n := range networks {
		var asked []string
		if i < len(a.Networks) {
			asked = a.Networks[i].GetIps()
		}
		ips, err := attachIPs(tx, a, n, asked)
		if err != nil {
			return nil, err
		}
		if total += len(ips); total > maxAddresses {
			return nil, tooManyAddresses(a.Machine)
		}
		out = append(out, &apiv2.MachineNetwork{
			Network: n.GetId(), Prefixes: n.GetPrefixes(), DestinationPrefixes: n.GetDestinationPrefixes(), Ips: ips,
			NetworkType: n.GetType(), NatType: n.GetNatType(), Vrf: uint64(n.GetVrf()), Asn: asn, Project: n.Project,
		})
	}
	return out, nil
}

// Attachable checks what Attach would, before it is known which machine it will
// be: it says whether a machine of this kind can be in these networks.
func Attachable(tx *store.Tx, a Attachment) error {
	_, err := attachable(tx, a)
	return err
}

func allocationOwner(uuid string) string { return "allocation " + uuid }

func tooManyAddresses(machine string) error {
	return fault.Newf(fault.Precondition, "machine "+machine, "would have more than %d addresses", maxAddresses).Do("announce further addresses without naming the machine")
}

// attachable checks the networks asked for and returns them, for a firewall
// with the underlay as the last.
func attachable(tx *store.Tx, a Attachment) ([]*apiv2.Network, error) {
	if len(a.Networks) == 0 {
		return nil, invalid("networks must not be empty")
	}
	var out []*apiv2.Network
	count := map[apiv2.NetworkType]int{}
	for _, q := range a.Networks {
		n, err := Open(tx, q.GetNetwork())
		if err != nil {
			return nil, err
		}
		if n.Project != nil && n.GetProject() != a.Project && n.GetType() != childShared {
			return nil, invalid("given network %s is project scoped but not part of project %s", n.GetId(), a.Project)
		}
		if n.Partition != nil && n.GetPartition() != a.Partition {
			return nil, invalid("network %q must be located in the partition where the machine is going to be placed", n.GetId())
		}
		if slices.ContainsFunc(out, func(o *apiv2.Network) bool { return o.GetId() == n.GetId() }) {
			return nil, invalid("given network ids are not unique")
		}
		count[n.GetType()]++
		out = append(out, n)
	}
	if err := checkMix(a.Type, count); err != nil {
		return nil, err
	}
	if a.Type != firewallType {
		return out, nil
	}
	c, ok := records.Claims.Peek(tx, records.Key(typeName(underlay), a.Partition))
	if !ok {
		return nil, fault.New(fault.Precondition, "partition "+a.Partition, "has no underlay network", "an operator must create one before firewalls can be allocated")
	}
	n, err := Open(tx, c.GetOwner())
	return append(out, n), err
}

// checkMix checks how many networks of each type a machine is to be in.
func checkMix(t apiv2.MachineAllocationType, count map[apiv2.NetworkType]int) error {
	private := count[child] + count[childShared]
	switch {
	case count[underlay] > 0:
		return invalid("underlays cannot be specified in a machine allocation request (this is done automatically for firewalls)")
	case count[super]+count[namespaced] > 0:
		return invalid("super networks can not be specified as allocation networks")
	case t == firewallType && count[external] == 0:
		return invalid("firewalls must be allocated in at least one external network")
	case t == firewallType && private == 0:
		return invalid("firewalls must have at least one child or child_shared network")
	case count[childShared] > 1:
		return invalid("machines or firewalls must not be allocated in more than one child_shared network")
	case t != firewallType && private != 1:
		return invalid("machines must be allocated in exactly one child or child_shared network")
	}
	return nil
}

// attachIPs attaches the addresses asked for to the machine, or takes the
// lowest free one of each family of the network.
func attachIPs(tx *store.Tx, a Attachment, n *apiv2.Network, asked []string) ([]string, error) {
	var out []string
	for _, text := range asked {
		ip, err := attachGiven(tx, a, n, text)
		if err != nil {
			return nil, err
		}
		out = append(out, ip.GetIp())
	}
	if len(asked) > 0 {
		return out, nil
	}
	for _, f := range families {
		if !has(prefixesOf(n), f) {
			continue
		}
		id := a.NewID()
		addr, err := pickFamily(tx, n, apiv2.IPAddressFamily(f)+apiv2.IPAddressFamily_IP_ADDRESS_FAMILY_V4, id)
		if err != nil {
			return nil, err
		}
		ip := &apiv2.IP{
			Uuid: id, Ip: addr.String(), Name: a.Name, Description: "autoassigned", Network: n.GetId(), Project: a.Project,
			Type: ephemeral, Namespace: n.Namespace, Meta: &apiv2.Meta{Labels: &apiv2.Labels{Labels: map[string]string{tag.MachineID: a.Machine}}},
		}
		if err := records.IPs.Insert(tx, ip); err != nil {
			return nil, err
		}
		out = append(out, ip.GetIp())
	}
	return out, nil
}

func attachGiven(tx *store.Tx, a Attachment, n *apiv2.Network, text string) (*apiv2.IP, error) {
	addr, err := ipam.ParseAddr(text)
	if err != nil {
		return nil, err
	}
	return records.IPs.Change(tx, records.IPKey(n.GetNamespace(), addr), func(ip *apiv2.IP) error {
		switch {
		case ip.GetProject() != a.Project:
			return fault.New(fault.NotFound, "ip "+text, "not found", "create it before it is used")
		case ip.GetNetwork() != n.GetId():
			return invalid("given ip %s is not in the given network %s, which is required", text, n.GetId())
		case Machine(ip) != "":
			return invalid("given ip %s is not available for direct attachment to machine because it is already in use", text)
		}
		setMachine(ip, a.Machine)
		return nil
	})
}

// setMachine notes in an address which machine has it; empty is none.
func setMachine(ip *apiv2.IP, machine string) {
	labels := ip.GetMeta().GetLabels().GetLabels()
	delete(labels, tag.MachineID)
	if machine != "" {
		if labels == nil {
			labels = map[string]string{}
		}
		labels[tag.MachineID] = machine
	}
	ip.Meta.Labels = nil
	if len(labels) > 0 {
		ip.Meta.Labels = &apiv2.Labels{Labels: labels}
	}
}

// Detach takes a machine's addresses out of the project when its allocation is
// deleted. The ephemeral ones leave it at once. All of them, and the AS number,
// stay taken until Release, because what runs on the machine may still use
// them.
func Detach(tx *store.Tx, allocation, machine string) error {
	for ip := range records.IPs.By(tx, "machine", machine) {
		if ip.GetType() != ephemeral {
			continue
		}
		if _, err := records.IPs.Change(tx, keyOf(ip), func(ip *apiv2.IP) error {
			ip.Project = ""
			ip.Description = "in quarantine until machine " + machine + " is released"
			ip.Meta.DeletionTaskId = proto.String(allocation)
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// Release gives back what a machine had: its ephemeral addresses and its AS
// number are free, its static addresses can be attached again. It may be called
// when the machine's ports have left its VRF (Moved), and more than once.
func Release(tx *store.Tx, allocation, machine string) error {
	for ip := range records.IPs.By(tx, "machine", machine) {
		var err error
		if ip.GetType() == ephemeral {
			_, err = records.IPs.Delete(tx, keyOf(ip))
		} else {
			_, err = records.IPs.Change(tx, keyOf(ip), func(ip *apiv2.IP) error {
				setMachine(ip, "")
				return nil
			})
		}
		if err != nil {
			return err
		}
	}
	for t := range records.ASNs.By(tx, "owner", allocationOwner(allocation)) {
		if err := release(tx, records.ASNs, t.GetKey(), t.GetOwner()); err != nil {
			return err
		}
	}
	return nil
}

func keyOf(ip *apiv2.IP) string {
	a, err := ipam.ParseAddr(ip.GetIp())
	if err != nil {
		panic(fmt.Sprintf("network: stored address %q: %v", ip.GetIp(), err))
	}
	return records.IPKey(ip.GetNamespace(), a)
}
