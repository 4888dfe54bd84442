package api_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	"github.com/metal-stack/api/go/metalstack/admin/v2/adminv2connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/metalstack/api/v2/apiv2connect"
	"github.com/metal-stack/api/go/tag"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// A netWorld is a world with partitions, projects and clients of networks.
type netWorld struct {
	*world
	p1, p2, p3 string

	admin adminv2connect.NetworkServiceClient // as an operator
	nets  apiv2connect.NetworkServiceClient   // as an editor of p1
	ips   apiv2connect.IPServiceClient        // as an editor of p1
	other apiv2connect.IPServiceClient        // as an editor of p2
}

func newNetWorld(t *testing.T) *netWorld {
	t.Helper()
	w := &netWorld{world: newWorld(t)}
	w.store(func(tx *store.Tx) error {
		for _, id := range []string{"partition-1", "partition-2"} {
			if err := records.Partitions.Insert(tx, &apiv2.Partition{Id: id}); err != nil {
				return err
			}
		}
		return nil
	})
	tenant := w.tenant("t1")
	w.p1, w.p2, w.p3 = w.project(tenant), w.project(tenant), w.project(tenant)
	editor := w.member(w.p1, apiv2.ProjectRole_PROJECT_ROLE_EDITOR)
	w.admin = dial(w.world, adminv2connect.NewNetworkServiceClient, w.world.admin)
	w.nets = dial(w.world, apiv2connect.NewNetworkServiceClient, editor)
	w.ips = dial(w.world, apiv2connect.NewIPServiceClient, editor)
	w.other = dial(w.world, apiv2connect.NewIPServiceClient, w.member(w.p2, apiv2.ProjectRole_PROJECT_ROLE_EDITOR))
	return w
}

// store writes records that no service here makes.
func (w *world) store(fn func(*store.Tx) error) {
	w.t.Helper()
	check(w.t, w.db.Update(w.t.Context(), fn))
}

func (w *netWorld) create(q *adminv2.NetworkServiceCreateRequest) (*apiv2.Network, error) {
	resp, err := w.admin.Create(w.t.Context(), q)
	return resp.GetNetwork(), err
}

func (w *netWorld) mustCreate(q *adminv2.NetworkServiceCreateRequest) *apiv2.Network {
	w.t.Helper()
	n, err := w.create(q)
	check(w.t, err)
	return n
}

func (w *netWorld) super(id, partition, prefix string, bits uint32) *apiv2.Network {
	w.t.Helper()
	q := &adminv2.NetworkServiceCreateRequest{
		Id: &id, Type: apiv2.NetworkType_NETWORK_TYPE_SUPER, Prefixes: []string{prefix}, DefaultChildPrefixLength: &apiv2.ChildPrefixLength{Ipv4: &bits},
	}
	if strings.Contains(prefix, ":") {
		q.DefaultChildPrefixLength = &apiv2.ChildPrefixLength{Ipv6: &bits}
	}
	if partition != "" {
		q.Partition = &partition
	}
	return w.mustCreate(q)
}

func (w *netWorld) internet() *apiv2.Network {
	w.t.Helper()
	return w.mustCreate(&adminv2.NetworkServiceCreateRequest{
		Id: proto.String("internet"), Type: apiv2.NetworkType_NETWORK_TYPE_EXTERNAL, Vrf: proto.Uint32(11), Prefixes: []string{"1.2.3.0/24"},
		NatType: apiv2.NATType_NAT_TYPE_IPV4_MASQUERADE.Enum(),
	})
}

func (w *netWorld) child(q *apiv2.NetworkServiceCreateRequest) *apiv2.Network {
	w.t.Helper()
	q.Project = w.p1
	resp, err := w.nets.Create(w.t.Context(), q)
	check(w.t, err)
	return resp.GetNetwork()
}

// Conformance cases 7, 8, 10 and 11: what a child network gets.
func TestChildNetworks(t *testing.T) {
	w := newNetWorld(t)
	w.super("super-1", "partition-1", "10.100.0.0/14", 22)
	for i, c := range []struct {
		length *apiv2.ChildPrefixLength
		want   string
	}{
		{nil, "10.100.0.0/22"},
		{&apiv2.ChildPrefixLength{}, "10.100.4.0/22"},
		{&apiv2.ChildPrefixLength{Ipv4: proto.Uint32(28)}, "10.100.8.0/28"},
	} {
		n := w.child(&apiv2.NetworkServiceCreateRequest{Partition: proto.String("partition-1"), Length: c.length})
		if got := n.GetPrefixes(); len(got) != 1 || got[0] != c.want || n.GetType() != apiv2.NetworkType_NETWORK_TYPE_CHILD || n.GetNatType() != apiv2.NATType_NAT_TYPE_NONE {
			t.Errorf("child %d: %v, want %s", i, n, c.want)
		}
	}

	w.super("super-6", "", "2001:db8::/96", 112)
	six := w.child(&apiv2.NetworkServiceCreateRequest{ParentNetwork: proto.String("super-6")})
	seven := w.child(&apiv2.NetworkServiceCreateRequest{ParentNetwork: proto.String("super-6"), Length: &apiv2.ChildPrefixLength{Ipv6: proto.Uint32(120)}})
	if six.GetPrefixes()[0] != "2001:db8::/112" || seven.GetPrefixes()[0] != "2001:db8::1:0/120" {
		t.Errorf("IPv6 children: %v, %v", six.GetPrefixes(), seven.GetPrefixes())
	}

	w.mustCreate(&adminv2.NetworkServiceCreateRequest{
		Id: proto.String("super-46"), Type: apiv2.NetworkType_NETWORK_TYPE_SUPER, Partition: proto.String("partition-2"), Vrf: proto.Uint32(46),
		Prefixes: []string{"10.104.0.0/14"}, DestinationPrefixes: []string{"1.2.3.0/24"}, DefaultChildPrefixLength: &apiv2.ChildPrefixLength{Ipv4: proto.Uint32(22)},
	})
	n := w.child(&apiv2.NetworkServiceCreateRequest{ParentNetwork: proto.String("super-46")})
	if n.GetVrf() != 46 || n.GetPartition() != "partition-2" || !slices.Equal(n.GetDestinationPrefixes(), []string{"1.2.3.0/24"}) || n.GetParentNetwork() != "super-46" {
		t.Errorf("inherited: %v", n)
	}

	w.mustCreate(&adminv2.NetworkServiceCreateRequest{
		Id: proto.String("super-ns"), Type: apiv2.NetworkType_NETWORK_TYPE_SUPER_NAMESPACED, Vrf: proto.Uint32(53), Prefixes: []string{"14.100.0.0/14"},
		DefaultChildPrefixLength: &apiv2.ChildPrefixLength{Ipv4: proto.Uint32(22)},
	})
	for i, c := range []struct{ project, want string }{{w.p1, "14.100.0.0/22"}, {w.p1, "14.100.4.0/22"}, {w.p2, "14.100.0.0/22"}, {w.p3, "14.100.0.0/22"}} {
		n := w.mustCreate(&adminv2.NetworkServiceCreateRequest{Type: apiv2.NetworkType_NETWORK_TYPE_CHILD, Project: &c.project, ParentNetwork: proto.String("super-ns")})
		if n.GetPrefixes()[0] != c.want || n.GetVrf() != 53 || n.GetNamespace() != c.project {
			t.Errorf("namespaced child %d: %v", i, n)
		}
	}
}

// Conformance cases 12, 14 and 15: what is refused, in which words.
func TestNetworkErrors(t *testing.T) {
	w := newNetWorld(t)
	w.internet()
	w.super("super-15", "", "15.100.0.0/16", 22)
	w.mustCreate(&adminv2.NetworkServiceCreateRequest{
		Id: proto.String("super-with-project"), Type: apiv2.NetworkType_NETWORK_TYPE_SUPER, Project: &w.p1, Prefixes: []string{"10.200.0.0/14"},
		DefaultChildPrefixLength: &apiv2.ChildPrefixLength{Ipv4: proto.Uint32(22)},
	})
	ext, under, super, child := apiv2.NetworkType_NETWORK_TYPE_EXTERNAL, apiv2.NetworkType_NETWORK_TYPE_UNDERLAY, apiv2.NetworkType_NETWORK_TYPE_SUPER, apiv2.NetworkType_NETWORK_TYPE_CHILD
	id := func(s string) *string { return &s }
	for _, c := range []struct {
		q    *adminv2.NetworkServiceCreateRequest
		code connect.Code
		want string
	}{
		{&adminv2.NetworkServiceCreateRequest{Type: child, Project: &w.p1}, connect.CodeInvalidArgument, "no parent network found"},
		{&adminv2.NetworkServiceCreateRequest{Type: child, Project: &w.p2, ParentNetwork: id("super-with-project")}, connect.CodeInvalidArgument,
			"not allowed to create child network with project " + w.p2 + " in network super-with-project scoped to project " + w.p1},
		{&adminv2.NetworkServiceCreateRequest{Id: id("internet-2"), Type: ext, Vrf: proto.Uint32(12), Prefixes: []string{"1.2.3.0/24"}}, connect.CodeAlreadyExists,
			"1.2.3.0/24 overlaps 1.2.3.0/24"},
		{&adminv2.NetworkServiceCreateRequest{Id: id("super-16"), Type: super, Prefixes: []string{"15.100.0.0/14"}, DefaultChildPrefixLength: &apiv2.ChildPrefixLength{Ipv4: proto.Uint32(22)}},
			connect.CodeAlreadyExists, "15.100.0.0/14 overlaps 15.100.0.0/16"},
		{&adminv2.NetworkServiceCreateRequest{Id: id("internet"), Type: ext, Vrf: proto.Uint32(12), Prefixes: []string{"1.2.4.0/24"}}, connect.CodeAlreadyExists,
			"network with id:internet already exists"},
		{&adminv2.NetworkServiceCreateRequest{Id: id("form"), Type: ext, Vrf: proto.Uint32(12), Prefixes: []string{"1.2.3.0/22"}}, connect.CodeInvalidArgument,
			`expecting canonical form of prefix "1.2.3.0/22", please specify it as "1.2.0.0/22"`},
		{&adminv2.NetworkServiceCreateRequest{Id: id("form"), Type: ext, Vrf: proto.Uint32(12), Prefixes: []string{"1.2.4.0/24"}, DestinationPrefixes: []string{"::/0"}},
			connect.CodeInvalidArgument, "addressfamily:IPv6 of destination prefixes is not present in existing prefixes"},
		{&adminv2.NetworkServiceCreateRequest{Id: id("form"), Type: under, Partition: id("partition-1"), Prefixes: []string{"fd00::/64"}}, connect.CodeInvalidArgument,
			"underlay can only contain ipv4 prefixes"},
		{&adminv2.NetworkServiceCreateRequest{Id: id("form"), Type: under, Partition: id("partition-1"), Project: &w.p1, Prefixes: []string{"10.253.0.0/16"}},
			connect.CodeInvalidArgument, "project must be nil"},
		{&adminv2.NetworkServiceCreateRequest{Id: id("form"), Type: under, Partition: id("nowhere"), Prefixes: []string{"10.253.0.0/16"}}, connect.CodeNotFound, ""},
	} {
		_, err := w.create(c.q)
		wantCode(t, err, c.code, c.want)
	}
}

// Conformance case 17: what keeps a network, and whose it is.
func TestNetworkDelete(t *testing.T) {
	w := newNetWorld(t)
	ctx := t.Context()
	w.super("super-1", "partition-1", "10.100.0.0/14", 22)
	n := w.child(&apiv2.NetworkServiceCreateRequest{Partition: proto.String("partition-1")})
	ip, err := w.ips.Create(ctx, &apiv2.IPServiceCreateRequest{Network: n.GetId(), Project: w.p1})
	check(t, err)

	del := func(id string) error {
		_, err := w.nets.Delete(ctx, &apiv2.NetworkServiceDeleteRequest{Id: id, Project: w.p1})
		return err
	}
	wantCode(t, del(n.GetId()), connect.CodeFailedPrecondition, "there are still 1 ips present in prefix: 10.100.0.0/22")
	_, err = w.admin.Delete(ctx, &adminv2.NetworkServiceDeleteRequest{Id: "super-1"})
	wantCode(t, err, connect.CodeFailedPrecondition, "cannot remove network with existing child networks")
	theirs := w.mustCreate(&adminv2.NetworkServiceCreateRequest{Type: apiv2.NetworkType_NETWORK_TYPE_CHILD, Project: &w.p2, Partition: proto.String("partition-1")})
	wantCode(t, del(theirs.GetId()), connect.CodeNotFound, "")
	wantCode(t, del("unknown"), connect.CodeNotFound, "")

	// It is open again, and what was refused above changed nothing.
	if _, err := w.ips.Delete(ctx, &apiv2.IPServiceDeleteRequest{Ip: ip.GetIp().GetIp(), Project: w.p1}); err != nil {
		t.Fatal(err)
	}
	w.store(func(tx *store.Tx) error {
		return records.Allocations.Insert(tx, &privatev1.Allocation{Machine: "m1", Allocation: &apiv2.MachineAllocation{
			Project: w.p1, Networks: []*apiv2.MachineNetwork{{Network: n.GetId(), NetworkType: apiv2.NetworkType_NETWORK_TYPE_CHILD}},
		}})
	})
	wantCode(t, del(n.GetId()), connect.CodeFailedPrecondition, "cannot remove network with existing machine allocations")
	w.store(func(tx *store.Tx) error { _, err := records.Allocations.Delete(tx, "m1"); return err })
	resp, err := w.nets.Delete(ctx, &apiv2.NetworkServiceDeleteRequest{Id: n.GetId(), Project: w.p1})
	check(t, err)
	if resp.GetNetwork().GetMeta().GetDeletionTaskId() == "" {
		t.Errorf("deleted without a task: %v", resp.GetNetwork())
	}
	if again := w.child(&apiv2.NetworkServiceCreateRequest{Partition: proto.String("partition-1")}); again.GetPrefixes()[0] != "10.100.0.0/22" || again.GetVrf() != n.GetVrf() {
		t.Errorf("what was given back is not taken again: %v", again)
	}
}

// Conformance case 19, and the scopes of Get, List and Update.
func TestNetworkScopes(t *testing.T) {
	w := newNetWorld(t)
	ctx := t.Context()
	w.internet()
	w.super("super-1", "partition-1", "10.100.0.0/14", 22)
	w.mustCreate(&adminv2.NetworkServiceCreateRequest{Id: proto.String("p2-net"), Type: apiv2.NetworkType_NETWORK_TYPE_EXTERNAL, Project: &w.p2, Vrf: proto.Uint32(12), Prefixes: []string{"1.2.4.0/24"}})
	w.mustCreate(&adminv2.NetworkServiceCreateRequest{Id: proto.String("p1-net"), Type: apiv2.NetworkType_NETWORK_TYPE_EXTERNAL, Project: &w.p1, Vrf: proto.Uint32(13), Prefixes: []string{"1.2.5.0/24"}})
	w.mustCreate(&adminv2.NetworkServiceCreateRequest{Id: proto.String("underlay"), Type: apiv2.NetworkType_NETWORK_TYPE_UNDERLAY, Partition: proto.String("partition-1"), Prefixes: []string{"10.253.0.0/16"}})
	shared := w.mustCreate(&adminv2.NetworkServiceCreateRequest{Type: apiv2.NetworkType_NETWORK_TYPE_CHILD_SHARED, Project: &w.p1, Partition: proto.String("partition-1")})
	own := w.child(&apiv2.NetworkServiceCreateRequest{Partition: proto.String("partition-1"), Name: proto.String("mine")})

	base, err := w.nets.ListBaseNetworks(ctx, &apiv2.NetworkServiceListBaseNetworksRequest{Project: w.p1, Query: &apiv2.NetworkQuery{}})
	check(t, err)
	want := []string{shared.GetId(), "internet", "p1-net", "super-1"}
	slices.Sort(want)
	if got := ids(base.GetNetworks()); !slices.Equal(got, want) {
		t.Errorf("base networks %v, want %v", got, want)
	}
	for _, n := range base.GetNetworks() {
		if (n.Consumption != nil) != (n.Project != nil) {
			t.Errorf("consumption of %s: %v", n.GetId(), n.GetConsumption())
		}
	}
	list, err := w.nets.List(ctx, &apiv2.NetworkServiceListRequest{Project: w.p1, Query: &apiv2.NetworkQuery{Name: proto.String("mine")}})
	check(t, err)
	if got := ids(list.GetNetworks()); !slices.Equal(got, []string{own.GetId()}) {
		t.Errorf("list by name: %v", got)
	}
	all, err := w.admin.List(ctx, &adminv2.NetworkServiceListRequest{Query: &apiv2.NetworkQuery{
		Prefixes: []string{"10.100.0.0/14"}, AddressFamily: apiv2.NetworkAddressFamily_NETWORK_ADDRESS_FAMILY_V4.Enum(),
	}})
	check(t, err)
	if got := ids(all.GetNetworks()); !slices.Equal(got, []string{"super-1"}) {
		t.Errorf("list by prefix: %v", got)
	}
	if u := all.GetNetworks()[0].GetConsumption().GetIpv4(); u.GetUsedPrefixes() != 2 || u.GetAvailableIps() != 1<<18 {
		t.Errorf("consumption: %v", u)
	}
	_, err = w.nets.Get(ctx, &apiv2.NetworkServiceGetRequest{Id: "p2-net", Project: w.p1})
	wantCode(t, err, connect.CodeNotFound, "network p2-net: not found")
	_, err = w.nets.Get(ctx, &apiv2.NetworkServiceGetRequest{Id: "unknown", Project: w.p1})
	wantCode(t, err, connect.CodeNotFound, "network unknown: not found")

	up := &apiv2.NetworkServiceUpdateRequest{Id: own.GetId(), Project: w.p1, Name: proto.String("renamed"), UpdateMeta: &apiv2.UpdateMeta{
		UpdatedAt: timestamppb.New(own.GetMeta().GetUpdatedAt().AsTime().Add(-time.Second)),
	}}
	_, err = w.nets.Update(ctx, up)
	wantCode(t, err, connect.CodeAborted, "cannot update network ("+own.GetId()+"): the entity was already modified, please retry")
	up.UpdateMeta.UpdatedAt = own.GetMeta().GetUpdatedAt()
	up.Labels = &apiv2.UpdateLabels{Strategy: &apiv2.UpdateLabels_Patch{Patch: &apiv2.LabelsPatch{Update: &apiv2.Labels{Labels: map[string]string{"a": "b"}}}}}
	renamed, err := w.nets.Update(ctx, up)
	check(t, err)
	if n := renamed.GetNetwork(); n.GetName() != "renamed" || n.GetMeta().GetGeneration() != 1 || n.GetMeta().GetLabels().GetLabels()["a"] != "b" || !slices.Equal(n.GetPrefixes(), own.GetPrefixes()) {
		t.Errorf("updated: %v", n)
	}
	up.Id = "p2-net"
	_, err = w.nets.Update(ctx, up)
	wantCode(t, err, connect.CodeNotFound, "network p2-net: not found")
}

func ids(ns []*apiv2.Network) []string {
	var out []string
	for _, n := range ns {
		out = append(out, n.GetId())
	}
	return out
}

// Conformance cases 20, 22 and 23.
func TestIPs(t *testing.T) {
	w := newNetWorld(t)
	ctx := t.Context()
	w.internet()
	create := func(q *apiv2.IPServiceCreateRequest) (*apiv2.IP, error) {
		if q.Project == "" {
			q.Project = w.p1
		}
		if q.Network == "" {
			q.Network = "internet"
		}
		resp, err := w.ips.Create(ctx, q)
		return resp.GetIp(), err
	}
	first, err := create(&apiv2.IPServiceCreateRequest{})
	check(t, err)
	if first.GetIp() != "1.2.3.1" || first.GetType() != apiv2.IPType_IP_TYPE_EPHEMERAL {
		t.Errorf("first address: %v", first)
	}
	_, err = create(&apiv2.IPServiceCreateRequest{Ip: proto.String("1.2.3.99")})
	check(t, err)
	_, err = create(&apiv2.IPServiceCreateRequest{Ip: proto.String("1.2.3.100"), Type: apiv2.IPType_IP_TYPE_STATIC.Enum(), Labels: &apiv2.Labels{Labels: map[string]string{"a": "1", "b": "2"}}})
	check(t, err)
	_, err = create(&apiv2.IPServiceCreateRequest{Ip: proto.String("1.2.3.1")})
	wantCode(t, err, connect.CodeInvalidArgument, `given ip "1.2.3.1" is already allocated`)
	_, err = create(&apiv2.IPServiceCreateRequest{Ip: proto.String("1.3.0.1")})
	wantCode(t, err, connect.CodeInvalidArgument, `specific ip "1.3.0.1" is not contained in any of the prefixes of network "internet"`)
	_, err = create(&apiv2.IPServiceCreateRequest{Labels: &apiv2.Labels{Labels: map[string]string{tag.MachineID: "x"}}})
	wantCode(t, err, connect.CodeInvalidArgument, "")
	_, err = create(&apiv2.IPServiceCreateRequest{Machine: proto.String("00000000-0000-0000-0000-000000000001")})
	wantCode(t, err, connect.CodeNotFound, "")

	t.Run("scopes", func(t *testing.T) { w.testIPScopes(t) })

	update := func(q *apiv2.IPServiceUpdateRequest) (*apiv2.IP, error) {
		q.Project = w.p1
		q.UpdateMeta = &apiv2.UpdateMeta{LockingStrategy: apiv2.OptimisticLockingStrategy_OPTIMISTIC_LOCKING_STRATEGY_SERVER}
		resp, err := w.ips.Update(ctx, q)
		return resp.GetIp(), err
	}
	_, err = update(&apiv2.IPServiceUpdateRequest{Ip: "1.2.3.100", Type: apiv2.IPType_IP_TYPE_EPHEMERAL.Enum()})
	wantCode(t, err, connect.CodeInvalidArgument, "cannot change type of ip address from static to ephemeral")
	ip, err := update(&apiv2.IPServiceUpdateRequest{Ip: "1.2.3.100", Labels: &apiv2.UpdateLabels{Strategy: &apiv2.UpdateLabels_Patch{
		Patch: &apiv2.LabelsPatch{Update: &apiv2.Labels{Labels: map[string]string{"c": "3"}}, Remove: []string{"a"}},
	}}})
	check(t, err)
	if l := ip.GetMeta().GetLabels().GetLabels(); len(l) != 2 || l["b"] != "2" || l["c"] != "3" || ip.GetMeta().GetGeneration() != 1 {
		t.Errorf("patched: %v", ip.GetMeta())
	}
	gone, err := w.ips.Delete(ctx, &apiv2.IPServiceDeleteRequest{Ip: "1.2.3.100", Project: w.p1})
	check(t, err)
	if gone.GetIp().GetMeta().GetDeletionTaskId() == "" {
		t.Error("deleted without a task")
	}
	_, err = create(&apiv2.IPServiceCreateRequest{Ip: proto.String("1.2.3.100")})
	check(t, err)

	// An address of a machine: users can neither delete it nor say it is not.
	w.store(func(tx *store.Tx) error {
		_, err := records.IPs.Change(tx, records.IPKey("", addr("1.2.3.99")), func(ip *apiv2.IP) error {
			ip.Meta.Labels = &apiv2.Labels{Labels: map[string]string{tag.MachineID: "m1"}}
			return nil
		})
		return err
	})
	_, err = w.ips.Delete(ctx, &apiv2.IPServiceDeleteRequest{Ip: "1.2.3.99", Project: w.p1})
	wantCode(t, err, connect.CodeInvalidArgument, "ip with machine scope cannot be deleted")
	ip, err = update(&apiv2.IPServiceUpdateRequest{Ip: "1.2.3.99", Labels: &apiv2.UpdateLabels{Strategy: &apiv2.UpdateLabels_Replace{Replace: &apiv2.Labels{}}}})
	check(t, err)
	if ip.GetMeta().GetLabels().GetLabels()[tag.MachineID] != "m1" {
		t.Errorf("the machine's address lost its label: %v", ip)
	}
	_, err = update(&apiv2.IPServiceUpdateRequest{Ip: "1.2.3.99", Labels: &apiv2.UpdateLabels{Strategy: &apiv2.UpdateLabels_Replace{Replace: &apiv2.Labels{Labels: map[string]string{tag.MachineID: "m2"}}}}})
	wantCode(t, err, connect.CodeInvalidArgument, "")
}

func (w *netWorld) testIPScopes(t *testing.T) {
	ctx := t.Context()
	w.mustCreate(&adminv2.NetworkServiceCreateRequest{
		Id: proto.String("ns"), Type: apiv2.NetworkType_NETWORK_TYPE_SUPER_NAMESPACED, Prefixes: []string{"10.100.0.0/16"}, DefaultChildPrefixLength: &apiv2.ChildPrefixLength{Ipv4: proto.Uint32(22)},
	})
	own := w.child(&apiv2.NetworkServiceCreateRequest{ParentNetwork: proto.String("ns")})
	theirs := w.mustCreate(&adminv2.NetworkServiceCreateRequest{Type: apiv2.NetworkType_NETWORK_TYPE_CHILD, Project: &w.p2, ParentNetwork: proto.String("ns")})
	resp, err := w.ips.Create(ctx, &apiv2.IPServiceCreateRequest{Network: own.GetId(), Project: w.p1})
	check(t, err)
	if ip := resp.GetIp(); ip.GetIp() != "10.100.0.1" || ip.GetNamespace() != w.p1 {
		t.Errorf("namespaced address: %v", ip)
	}
	_, err = w.other.Create(ctx, &apiv2.IPServiceCreateRequest{Network: theirs.GetId(), Project: w.p2})
	check(t, err)
	_, err = w.ips.Create(ctx, &apiv2.IPServiceCreateRequest{Network: theirs.GetId(), Project: w.p1})
	wantCode(t, err, connect.CodeInvalidArgument, `not allowed to create ip in network "`+theirs.GetId()+`"`)
	w.mustCreate(&adminv2.NetworkServiceCreateRequest{Id: proto.String("p1-only"), Type: apiv2.NetworkType_NETWORK_TYPE_EXTERNAL, Project: &w.p1, Vrf: proto.Uint32(12), Prefixes: []string{"1.2.4.0/24"}})
	_, err = w.other.Create(ctx, &apiv2.IPServiceCreateRequest{Network: "p1-only", Project: w.p2})
	wantCode(t, err, connect.CodeInvalidArgument, `not allowed to create ip in network "p1-only"`)
	w.mustCreate(&adminv2.NetworkServiceCreateRequest{Id: proto.String("underlay"), Type: apiv2.NetworkType_NETWORK_TYPE_UNDERLAY, Partition: proto.String("partition-1"), Prefixes: []string{"4.5.6.0/24"}})
	_, err = w.ips.Create(ctx, &apiv2.IPServiceCreateRequest{Network: "underlay", Project: w.p1})
	wantCode(t, err, connect.CodePermissionDenied, "only admin editors can allocate ips from an underlay network")
	resp, err = dial(w.world, apiv2connect.NewIPServiceClient, w.world.admin).Create(ctx, &apiv2.IPServiceCreateRequest{Network: "underlay", Project: w.p1})
	check(t, err)
	if resp.GetIp().GetIp() != "4.5.6.1" {
		t.Errorf("underlay address: %v", resp.GetIp())
	}

	// Owners reach their namespaced addresses.
	for _, ns := range []*string{nil, &w.p1} {
		got, err := w.ips.Get(ctx, &apiv2.IPServiceGetRequest{Ip: "10.100.0.1", Project: w.p1, Namespace: ns})
		check(t, err)
		if got.GetIp().GetProject() != w.p1 {
			t.Errorf("namespaced address: %v", got)
		}
	}
	_, err = w.ips.Get(ctx, &apiv2.IPServiceGetRequest{Ip: "10.100.0.1", Project: w.p1, Namespace: &w.p2})
	wantCode(t, err, connect.CodeNotFound, "")
	_, err = w.ips.Delete(ctx, &apiv2.IPServiceDeleteRequest{Ip: "10.100.0.1", Project: w.p1})
	check(t, err)
	all, err := dial(w.world, adminv2connect.NewIPServiceClient, w.world.admin).List(ctx, &adminv2.IPServiceListRequest{Query: &apiv2.IPQuery{
		ParentPrefixCidr: proto.String("10.100.0.0/16"), AddressFamily: apiv2.IPAddressFamily_IP_ADDRESS_FAMILY_V4.Enum(),
	}})
	check(t, err)
	if got := all.GetIps(); len(got) != 1 || got[0].GetProject() != w.p2 {
		t.Errorf("addresses left in the namespaced network: %v", got)
	}
}

// Rivals for one network all get an address of their own, over the wire.
func TestIPRivals(t *testing.T) {
	w := newNetWorld(t)
	w.internet()
	var (
		mu   sync.Mutex
		wg   sync.WaitGroup
		seen = map[string]bool{}
	)
	for range 16 {
		wg.Go(func() {
			for range 8 {
				resp, err := w.ips.Create(context.WithoutCancel(t.Context()), &apiv2.IPServiceCreateRequest{Network: "internet", Project: w.p1})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if seen[resp.GetIp().GetIp()] {
					t.Errorf("%s was given out twice", resp.GetIp().GetIp())
				}
				seen[resp.GetIp().GetIp()] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != 128 {
		t.Errorf("%d addresses, want 128", len(seen))
	}
}
