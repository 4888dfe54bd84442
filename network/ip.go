package network

import (
	"maps"
	"net/netip"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/tag"
	"google.golang.org/protobuf/proto"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/ipam"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

const (
	ephemeral = apiv2.IPType_IP_TYPE_EPHEMERAL
	static    = apiv2.IPType_IP_TYPE_STATIC
)

// HotIPs makes rivals for the addresses of one network take turns, instead of
// all of them going for the lowest free one and all but one losing.
func HotIPs(network string) store.UpdateOption { return store.Hot("network/ips/" + network) }

// CreateIP takes an address for a project: the one asked for, or the lowest
// free one. uuid becomes its uuid. Only admin editors may take one from an
// underlay network.
func CreateIP(tx *store.Tx, q *apiv2.IPServiceCreateRequest, uuid string, adminEditor bool) (*apiv2.IP, error) {
	if _, err := access.OpenProject(tx, q.GetProject()); err != nil {
		return nil, err
	}
	n, err := Open(tx, q.GetNetwork())
	if err != nil {
		return nil, err
	}
	if n.GetProject() != "" && n.GetProject() != q.GetProject() {
		return nil, invalid("not allowed to create ip in network %q", n.GetId())
	}
	switch n.GetType() {
	case child, childShared, external:
	case underlay:
		if !adminEditor {
			return nil, fault.New(fault.Denied, "", "only admin editors can allocate ips from an underlay network", "")
		}
	default:
		return nil, fault.Newf(fault.Denied, "", "given networktype %q is not allowed", typeName(n.GetType()))
	}
	if q.Ip != nil && q.AddressFamily != nil {
		return nil, invalid("it is not possible to specify specificIP and addressfamily")
	}
	labels, err := ipLabels(tx, q)
	if err != nil {
		return nil, err
	}
	ip := &apiv2.IP{
		Uuid: uuid, Name: q.GetName(), Description: q.GetDescription(), Network: n.GetId(), Project: q.GetProject(),
		Type: q.GetType(), Namespace: n.Namespace, Meta: &apiv2.Meta{Labels: labels},
	}
	if ip.GetType() == apiv2.IPType_IP_TYPE_UNSPECIFIED {
		ip.Type = ephemeral
	}
	var a netip.Addr
	if q.Ip != nil {
		a, err = pickAddr(tx, n, q.GetIp())
	} else {
		a, err = pickFamily(tx, n, q.GetAddressFamily(), uuid)
	}
	if err != nil {
		return nil, err
	}
	ip.Ip = a.String()
	return ip, records.IPs.Insert(tx, ip)
}

// ipLabels returns the labels of a new address. The label that names a machine
// is made from the machine asked for, which must be the project's.
func ipLabels(tx *store.Tx, q *apiv2.IPServiceCreateRequest) (*apiv2.Labels, error) {
	if err := CheckIPLabels(q.GetLabels().GetLabels(), q.GetMachine()); err != nil {
		return nil, err
	}
	if q.Machine == nil {
		return q.GetLabels(), nil
	}
	a, err := records.Allocations.Get(tx, q.GetMachine())
	if err != nil || a.GetAllocation().GetProject() != q.GetProject() {
		return nil, fault.New(fault.NotFound, "machine "+q.GetMachine(), "not found", "name a machine that is allocated by the project of the address")
	}
	if records.IPs.Count(tx, "machine", q.GetMachine()) >= maxAddresses {
		return nil, tooManyAddresses(q.GetMachine())
	}
	labels := map[string]string{tag.MachineID: q.GetMachine()}
	maps.Copy(labels, q.GetLabels().GetLabels())
	return &apiv2.Labels{Labels: labels}, nil
}

// CheckIPLabels refuses labels that would say that an address is another
// machine's than it is: that is the control plane's to say. machine is empty if
// it is no machine's.
func CheckIPLabels(labels map[string]string, machine string) error {
	if m, ok := labels[tag.MachineID]; ok && m != machine {
		return invalid("label %s cannot be changed", tag.MachineID).Do("an address gets it with the machine that it is allocated with")
	}
	return nil
}

// KeepMachine undoes what a change of labels did to the one that names the
// machine of an address, and refuses a change that named another one.
func KeepMachine(ip *apiv2.IP, machine string) error {
	if err := CheckIPLabels(ip.GetMeta().GetLabels().GetLabels(), machine); err != nil {
		return err
	}
	setMachine(ip, machine)
	return nil
}

// Machine returns the machine an address is attached to, empty if none.
func Machine(ip *apiv2.IP) string { return ip.GetMeta().GetLabels().GetLabels()[tag.MachineID] }

// pickAddr checks that a certain address can be taken.
func pickAddr(tx *store.Tx, n *apiv2.Network, text string) (netip.Addr, error) {
	a, err := ipam.ParseAddr(text)
	if err != nil {
		return a, err
	}
	if _, taken := records.IPs.Peek(tx, records.IPKey(n.GetNamespace(), a)); taken {
		return a, invalid("given ip %q is already allocated", text)
	}
	for _, p := range prefixesOf(n) {
		if !p.Contains(a) {
			continue
		}
		first, last, ok := ipam.Hosts(p)
		if at, fits := ipam.Number(p, a); fits && (!ok || at < first || at > last) {
			return a, invalid("given ip %q is reserved in prefix %s", text, p)
		}
		return a, nil
	}
	return a, invalid("specific ip %q is not contained in any of the prefixes of network %q", text, n.GetId())
}

// pickFamily returns the lowest free address of a family, of IPv4 if none is
// asked for and the network has it.
func pickFamily(tx *store.Tx, n *apiv2.Network, want apiv2.IPAddressFamily, who string) (netip.Addr, error) {
	ps := prefixesOf(n)
	f := v4
	if want == apiv2.IPAddressFamily_IP_ADDRESS_FAMILY_V6 || want == apiv2.IPAddressFamily_IP_ADDRESS_FAMILY_UNSPECIFIED && !has(ps, v4) {
		f = v6
	}
	if !has(ps, f) {
		return netip.Addr{}, invalid("there is no prefix for the given addressfamily:%s present in network:%s", f, n.GetId())
	}
	a, ok := lowestAddr(tx, n.GetNamespace(), ofFamily(ps, f), who)
	if ok {
		return a, nil
	}
	if has(ps, 1-f) {
		return a, invalid("no free ips in network %q for addressfamily %s", n.GetId(), f)
	}
	return a, invalid("no free ips in network %q", n.GetId())
}

// lowestAddr returns the lowest free address of the first prefix that has one.
func lowestAddr(tx *store.Tx, namespace string, ps []netip.Prefix, who string) (netip.Addr, bool) {
	for _, p := range ps {
		first, last, ok := ipam.Hosts(p)
		if !ok {
			continue
		}
		n, ok := lowest(tx, records.IPs, first, last, func(n uint64) string {
			a, _ := ipam.Nth(p, n)
			return records.IPKey(namespace, a)
		}, who)
		if ok {
			return ipam.Nth(p, n)
		}
	}
	return netip.Addr{}, false
}

// FindIP returns the key of a project's address. The namespace is the one
// given; without one it is everybody's, and if the project has no such address
// there, the project's own: v2's Update and Delete cannot name a namespace.
func FindIP(r store.Reader, project, text string, namespace *string) (string, error) {
	missing := fault.New(fault.NotFound, "ip "+text, "not found", "list the addresses of the project")
	a, err := ipam.ParseAddr(text)
	if err != nil {
		return "", err
	}
	in := []string{"", project}
	if namespace != nil {
		in = []string{*namespace}
	}
	for _, ns := range in {
		if ip, ok := records.IPs.Peek(r, records.IPKey(ns, a)); ok && ip.GetProject() == project {
			return records.IPKey(ns, a), nil
		}
	}
	return "", missing
}

// EditIP applies an update to an address, which the caller stores. Labels are
// the caller's.
func EditIP(ip *apiv2.IP, q *apiv2.IPServiceUpdateRequest) error {
	if q.Type != nil && ip.GetType() == static && q.GetType() != static {
		return invalid("cannot change type of ip address from static to ephemeral")
	}
	if q.Name != nil {
		ip.Name = q.GetName()
	}
	if q.Description != nil {
		ip.Description = q.GetDescription()
	}
	if q.Type != nil && q.GetType() != apiv2.IPType_IP_TYPE_UNSPECIFIED {
		ip.Type = q.GetType()
	}
	return nil
}

// DeleteIP gives an address back. It is free at once; the deletion task it
// returns is the address's own uuid and names work that is already done.
func DeleteIP(tx *store.Tx, key string) (*apiv2.IP, error) {
	ip, err := records.IPs.Get(tx, key)
	if err != nil {
		return nil, err
	}
	if Machine(ip) != "" {
		return nil, invalid("ip with machine scope cannot be deleted")
	}
	if _, err := records.IPs.Delete(tx, key); err != nil {
		return nil, err
	}
	ip.Meta.DeletionTaskId = proto.String(ip.GetUuid())
	return ip, nil
}
