package network_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	infrav2 "github.com/metal-stack/api/go/metalstack/infra/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/network"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// doLeaf runs the commands about machines, switches and leaves.
func (s *script) doLeaf(verb, text string) ([]string, error) {
	args := strings.Fields(text)
	switch verb {
	case "attach":
		machine, rest, _ := strings.Cut(text, " ")
		partition, req, _ := strings.Cut(rest, " ")
		return s.attach(machine, partition, request(s, req, &apiv2.MachineServiceCreateRequest{}))
	case "connect":
		return s.run(func(tx *store.Tx) error {
			return records.Connections.Insert(tx, &privatev1.Connection{Switch: args[0], Port: args[1], Machine: args[2]})
		})
	case "installed":
		return s.run(func(tx *store.Tx) error {
			_, err := records.Allocations.Change(tx, args[0], func(a *privatev1.Allocation) error {
				a.Installed = timestamppb.New(tx.Now())
				return nil
			})
			return err
		})
	case "free":
		return s.run(func(tx *store.Tx) error {
			a, err := records.Allocations.Delete(tx, args[0])
			if err != nil {
				return err
			}
			if err := network.Detach(tx, a.GetAllocation().GetUuid(), args[0]); err != nil {
				return err
			}
			return records.Reclaims.Insert(tx, &privatev1.Reclaim{Machine: args[0], Allocation: a})
		})
	case "release":
		return s.run(func(tx *store.Tx) error {
			r, err := records.Reclaims.Delete(tx, args[0])
			if err != nil {
				return err
			}
			return network.Release(tx, r.GetAllocation().GetAllocation().GetUuid(), args[0])
		})
	case "moved":
		class := ingotv1.PortClass(ingotv1.PortClass_value["PORT_CLASS_"+args[1]])
		return []string{fmt.Sprint(network.Moved(s.db.Snapshot(), args[0], class))}, nil
	case "at":
		sw, port, machine, err := network.MachineAt(s.db.Snapshot(), netip.MustParseAddr(text))
		return []string{strings.TrimSpace(sw + " " + port + " " + machine)}, err
	case "pass":
		d, err := time.ParseDuration(text)
		s.clock.Advance(d)
		return nil, err
	case "ports":
		var out []string
		for p := range records.LeafPorts.Prefix(s.db.Snapshot(), "") {
			out = append(out, compact(p))
		}
		return out, nil
	case "sync":
		y, ok := records.SwitchSyncs.Peek(s.db.Snapshot(), text)
		if !ok {
			return []string{"none"}, nil
		}
		return []string{compact(y)}, nil
	}
	return s.doSwitch(verb, text)
}

func (s *script) doSwitch(verb, text string) ([]string, error) {
	args := strings.Fields(text)
	switch verb {
	case "fabric":
		q := request(s, text, &ingotv1.Fabric{})
		return tx(s, func(f *ingotv1.Fabric) string { f.Meta = nil; return compact(f) },
			func(tx *store.Tx) (*ingotv1.Fabric, error) { return network.PutFabric(tx, q) })
	case "leaf":
		q := request(s, text, &ingotv1.LeafServiceRegisterRequest{})
		return tx(s, compact[*privatev1.Leaf], func(tx *store.Tx) (*privatev1.Leaf, error) {
			if err := network.RegisterLeaf(tx, q); err != nil {
				return nil, err
			}
			return records.Leaves.Get(tx, q.GetSwitch().GetId())
		})
	case "switch":
		q := request(s, text, &apiv2.Switch{})
		return s.run(func(tx *store.Tx) error { return network.Register(tx, q) })
	case "switch-update":
		q := request(s, text, &adminv2.SwitchServiceUpdateRequest{})
		return s.run(func(tx *store.Tx) error {
			_, err := records.Switches.Change(tx, q.GetId(), func(sw *apiv2.Switch) error { return network.EditSwitch(tx, sw, q) })
			return err
		})
	case "switch-delete":
		return s.run(func(tx *store.Tx) error {
			_, err := network.DeleteSwitch(tx, args[0], len(args) > 1)
			return err
		})
	case "port":
		return s.run(func(tx *store.Tx) error {
			return network.SetPort(tx, args[0], args[1], apiv2.SwitchPortStatus(apiv2.SwitchPortStatus_value["SWITCH_PORT_STATUS_"+args[2]]))
		})
	case "migrate":
		return s.run(func(tx *store.Tx) error { return network.Migrate(tx, args[0], args[1]) })
	case "heartbeat":
		q := request(s, text, &infrav2.SwitchServiceHeartbeatRequest{})
		return s.run(func(tx *store.Tx) error {
			if _, err := network.Heartbeat(tx, q); err != nil {
				return err
			}
			sw, err := records.Switches.Get(tx, q.GetId())
			for _, n := range sw.GetNics() {
				if err == nil {
					err = network.HeartbeatPort(tx, q, n)
				}
			}
			return err
		})
	case "report":
		q := request(s, text, &ingotv1.LeafServiceReportRequest{})
		return s.run(func(tx *store.Tx) error {
			if err := network.Report(tx, q); err != nil {
				return err
			}
			for _, p := range q.GetPorts() {
				if err := network.ReportPort(tx, q.GetSwitch(), q.GetGeneration(), p); err != nil {
					return err
				}
			}
			return nil
		})
	case "config":
		return s.config(text)
	case "show":
		return s.show(text)
	}
	s.t.Fatalf("unknown command %q", verb)
	return nil, nil
}

func (s *script) run(rule func(tx *store.Tx) error) ([]string, error) {
	before := s.db.Snapshot().Rev()
	if err := s.db.Update(context.Background(), rule); err != nil {
		return nil, err
	}
	if s.db.Snapshot().Rev() == before {
		return []string{"nothing to write"}, nil
	}
	return []string{"ok"}, nil
}

func (s *script) attach(machine, partition string, q *apiv2.MachineServiceCreateRequest) ([]string, error) {
	var a *privatev1.Allocation
	id := s.id()
	err := s.db.Update(context.Background(), func(tx *store.Tx) error {
		networks, err := network.Attach(tx, network.Attachment{
			Machine: machine, Allocation: id, Name: q.GetName(), Project: q.GetProject(), Partition: partition,
			Type: q.GetAllocationType(), Networks: q.GetNetworks(), NewID: s.id,
		})
		if err != nil {
			return err
		}
		a = &privatev1.Allocation{Machine: machine, Allocation: &apiv2.MachineAllocation{
			Uuid: id, Project: q.GetProject(), Networks: networks, AllocationType: q.GetAllocationType(),
		}}
		return records.Allocations.Insert(tx, a)
	})
	var out []string
	for _, n := range a.GetAllocation().GetNetworks() {
		out = append(out, fmt.Sprintf("%s %v vrf=%d asn=%d", n.GetNetwork(), n.GetIps(), n.GetVrf(), n.GetAsn()))
	}
	return out, err
}

// config counts and shows what a leaf is to be.
func (s *script) config(id string) ([]string, error) {
	if err := s.db.Update(context.Background(), func(tx *store.Tx) error {
		_, err := network.NextGeneration(tx, id)
		return err
	}); err != nil {
		return nil, err
	}
	c, err := network.Leaf(s.db.Snapshot(), id)
	if err != nil {
		return nil, err
	}
	g, err := records.LeafGenerations.Get(s.db.Snapshot(), id)
	out := []string{
		fmt.Sprintf("generation %d.%d asn=%d loopback=%s uplinks=%v", g.GetGeneration().GetEpoch(), g.GetGeneration().GetN(), c.GetAsn(), c.GetLoopback(), c.GetUplinks()),
		"boot " + compact(c.GetBoot()),
	}
	for _, v := range c.GetVrfs() {
		out = append(out, fmt.Sprintf("vrf %s vni=%d", v.GetName(), v.GetVni()))
	}
	for _, p := range c.GetPorts() {
		out = append(out, strings.TrimRight(fmt.Sprintf("%s %s vrf=%s %s %s %s", p.GetName(), strings.TrimPrefix(p.GetClass().String(), "PORT_CLASS_"), p.GetVrf(),
			p.GetBootPrefix(), p.GetMachine(), strings.Join(p.GetAccept(), ",")), " "))
	}
	return out, err
}

func (s *script) show(id string) ([]string, error) {
	sw, err := network.Switch(s.db.Snapshot(), id)
	if err != nil {
		return nil, err
	}
	out := []string{fmt.Sprintf("%s rack=%s %s %s", sw.GetId(), sw.GetRack(), sw.GetOs().GetVendor(), sw.GetReplaceMode())}
	for _, n := range sw.GetNics() {
		out = append(out, compact(n))
	}
	for _, c := range sw.GetMachineConnections() {
		out = append(out, c.GetNic().GetName()+" -> "+c.GetMachineId())
	}
	slices.Sort(out[1:])
	return out, nil
}
