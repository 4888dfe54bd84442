package network_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/network"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
	"github.com/ingot-cloud/ingot/store/storetest"
)

var update = flag.Bool("update", false, "write what happened into the scripts")

// A script is a file of testdata: lines that begin with ">" are commands, the
// lines below are what they answered, everything else is kept. A command is a
// verb and the request in protobuf's text format.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := newScript(t).play(string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			wantLines, gotLines := strings.Split(string(want), "\n"), strings.Split(got, "\n")
			for i := range max(len(wantLines), len(gotLines)) {
				if w, g := line(wantLines, i), line(gotLines, i); w != g {
					t.Fatalf("%s:%d:\n got %s\nwant %s\nrun the test with -update to see all", file, i+1, g, w)
				}
			}
		})
	}
}

func line(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(nothing)"
}

type script struct {
	t     *testing.T
	clock *storetest.Clock
	db    *store.DB
	ids   int
	out   strings.Builder
}

func newScript(t *testing.T) *script {
	s := &script{t: t, clock: storetest.NewClock()}
	s.db = storetest.OpenAt(t, s.clock, records.Tables()...)
	s.update(func(tx *store.Tx) error {
		for _, p := range []string{"partition-1", "partition-2"} {
			if err := records.Partitions.Insert(tx, &apiv2.Partition{Id: p}); err != nil {
				return err
			}
		}
		for _, p := range []string{"p1", "p2", "p3"} {
			if err := records.Projects.Insert(tx, &apiv2.Project{Uuid: p}); err != nil {
				return err
			}
		}
		return nil
	})
	return s
}

func (s *script) update(fn func(tx *store.Tx) error) {
	s.t.Helper()
	if err := s.db.Update(context.Background(), fn); err != nil {
		s.t.Fatal(err)
	}
}

// id returns "x1", "x2" and so on.
func (s *script) id() string {
	s.ids++
	return fmt.Sprintf("x%d", s.ids)
}

func (s *script) play(text string) string {
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		fmt.Fprintln(&s.out, lines[i])
		cmd, ok := strings.CutPrefix(lines[i], ">")
		if !ok {
			continue
		}
		for i+1 < len(lines) && strings.HasPrefix(lines[i+1], "  ") {
			i++ // the old answer
		}
		verb, req, _ := strings.Cut(strings.TrimSpace(cmd), " ")
		answer, err := s.do(verb, req)
		if err != nil {
			answer = []string{"! " + fault.KindOf(err).String() + ": " + strings.ReplaceAll(err.Error(), "\n", "; ")}
		}
		for _, a := range answer {
			fmt.Fprintln(&s.out, "  "+a)
		}
	}
	return strings.TrimSuffix(s.out.String(), "\n")
}

// tx runs a rule that returns one record and shows it.
func tx[T any](s *script, show func(T) string, rule func(tx *store.Tx) (T, error)) ([]string, error) {
	var got T
	err := s.db.Update(context.Background(), func(tx *store.Tx) (err error) {
		got, err = rule(tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return []string{show(got)}, nil
}

// compact shows a message in one line.
func compact[T proto.Message](m T) string {
	b, err := prototext.MarshalOptions{}.Marshal(m)
	if err != nil {
		return err.Error()
	}
	return strings.Join(strings.Fields(string(b)), " ")
}

func request[T proto.Message](s *script, text string, q T) T {
	s.t.Helper()
	if err := prototext.Unmarshal([]byte(text), q); err != nil {
		s.t.Fatalf("%s: %v", text, err)
	}
	return q
}

func (s *script) do(verb, text string) ([]string, error) {
	switch verb {
	case "network":
		q, id := request(s, text, &adminv2.NetworkServiceCreateRequest{}), s.id()
		return tx(s, s.network, func(tx *store.Tx) (*apiv2.Network, error) { return network.Create(tx, q, id) })
	case "network-update":
		q := request(s, text, &adminv2.NetworkServiceUpdateRequest{})
		return tx(s, s.network, func(tx *store.Tx) (*apiv2.Network, error) {
			return records.Networks.Change(tx, q.GetId(), func(n *apiv2.Network) error { return network.Edit(tx, n, q) })
		})
	case "network-delete":
		return s.deleteNetwork(text)
	case "ip", "admin-ip":
		q, id := request(s, text, &apiv2.IPServiceCreateRequest{}), s.id()
		return tx(s, showIP, func(tx *store.Tx) (*apiv2.IP, error) { return network.CreateIP(tx, q, id, verb == "admin-ip") })
	case "ip-update":
		q := request(s, text, &apiv2.IPServiceUpdateRequest{})
		return tx(s, showIP, func(tx *store.Tx) (*apiv2.IP, error) {
			key, err := network.FindIP(tx, q.GetProject(), q.GetIp(), nil)
			if err != nil {
				return nil, err
			}
			return records.IPs.Change(tx, key, func(ip *apiv2.IP) error { return network.EditIP(ip, q) })
		})
	case "ip-delete":
		q := request(s, text, &apiv2.IPServiceDeleteRequest{})
		return tx(s, showIP, func(tx *store.Tx) (*apiv2.IP, error) {
			key, err := network.FindIP(tx, q.GetProject(), q.GetIp(), nil)
			if err != nil {
				return nil, err
			}
			return network.DeleteIP(tx, key)
		})
	case "pools":
		return s.pools(), nil
	}
	return s.doLeaf(verb, text)
}

func (s *script) deleteNetwork(id string) ([]string, error) {
	ctx, task := context.Background(), s.id()
	if err := s.db.Update(ctx, func(tx *store.Tx) error { return access.Close(tx, records.Networks, id, task) }); err != nil {
		return nil, err
	}
	out, err := tx(s, s.network, func(tx *store.Tx) (*apiv2.Network, error) { return network.Remove(tx, id, task) })
	if err != nil {
		s.update(func(tx *store.Tx) error { return access.Reopen(tx, records.Networks, id, task) })
	}
	return out, err
}

// network shows a network in one line.
func (s *script) network(n *apiv2.Network) string {
	out := []string{n.GetId(), strings.TrimPrefix(n.GetType().String(), "NETWORK_TYPE_"), strings.Join(n.GetPrefixes(), ",")}
	for _, f := range []struct {
		name  string
		value any
		given bool
	}{
		{"vrf", n.GetVrf(), n.Vrf != nil},
		{"partition", n.GetPartition(), n.Partition != nil},
		{"project", n.GetProject(), n.Project != nil},
		{"namespace", n.GetNamespace(), n.Namespace != nil},
		{"parent", n.GetParentNetwork(), n.ParentNetwork != nil},
		{"dest", strings.Join(n.GetDestinationPrefixes(), ","), len(n.GetDestinationPrefixes()) > 0},
		{"nat", strings.TrimPrefix(n.GetNatType().String(), "NAT_TYPE_"), n.GetNatType() != apiv2.NATType_NAT_TYPE_NONE},
		{"announce", strings.Join(n.GetAdditionalAnnouncableCidrs(), ","), len(n.GetAdditionalAnnouncableCidrs()) > 0},
	} {
		if f.given {
			out = append(out, fmt.Sprintf("%s=%v", f.name, f.value))
		}
	}
	u := network.Usage(s.db.Snapshot(), n)
	for _, f := range []struct {
		name string
		u    *apiv2.NetworkUsage
	}{{"v4", u.GetIpv4()}, {"v6", u.GetIpv6()}} {
		if f.u != nil {
			out = append(out, fmt.Sprintf("%s=%d/%d,%d/%d", f.name, f.u.UsedIps, f.u.AvailableIps, f.u.UsedPrefixes, f.u.AvailablePrefixes))
		}
	}
	return strings.Join(out, " ")
}

func showIP(ip *apiv2.IP) string {
	out := []string{ip.GetIp(), strings.TrimPrefix(ip.GetType().String(), "IP_TYPE_"), "network=" + ip.GetNetwork(), "project=" + ip.GetProject()}
	if ip.Namespace != nil {
		out = append(out, "namespace="+ip.GetNamespace())
	}
	if ip.GetName() != "" {
		out = append(out, "name="+ip.GetName())
	}
	if m := network.Machine(ip); m != "" {
		out = append(out, "machine="+m)
	}
	if ip.GetMeta().DeletionTaskId != nil {
		out = append(out, "deleted-by="+ip.GetMeta().GetDeletionTaskId())
	}
	return strings.Join(out, " ")
}

// pools shows every key that is taken.
func (s *script) pools() []string {
	var out []string
	r := s.db.Snapshot()
	for t := range records.ASNs.All(r) {
		out = append(out, "asn "+strings.TrimLeft(t.GetKey(), "0")+" "+t.GetOwner())
	}
	for t := range records.BootPrefixes.All(r) {
		out = append(out, "bootprefix "+t.GetKey()+" "+t.GetOwner())
	}
	for t := range records.Loopbacks.All(r) {
		out = append(out, "loopback "+t.GetKey()+" "+t.GetOwner())
	}
	for t := range records.VNIs.All(r) {
		scope, n, _ := strings.Cut(t.GetKey(), "/")
		out = append(out, fmt.Sprintf("vni %s/%s %s", scope, strings.TrimLeft(n, "0"), t.GetOwner()))
	}
	for t := range records.ChildPrefixes.All(r) {
		out = append(out, "childprefix "+t.GetKey()+" "+t.GetOwner())
	}
	for t := range records.Claims.All(r) {
		out = append(out, "claim "+t.GetKey()+" "+t.GetOwner())
	}
	for ip := range records.IPs.All(r) {
		out = append(out, "ip "+showIP(ip))
	}
	slices.Sort(out)
	return out
}
