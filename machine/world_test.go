package machine_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"testing"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/network"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
	"github.com/ingot-cloud/ingot/store/storetest"
)

// newScript returns a script in a partition p1 with two leaves, each with ports
// Ethernet0 to Ethernet3; BMCs b1 to b4; a size, two images, two layouts; projects a and b with a network each, and the internet.
func newScript(t *testing.T) *script {
	s := &script{t: t, clock: storetest.NewClock(), keys: map[string]ed25519.PrivateKey{}}
	s.db = storetest.OpenAt(t, s.clock, records.Tables()...)
	must := func(fn func(tx *store.Tx) error) {
		t.Helper()
		if err := s.db.Update(context.Background(), fn); err != nil {
			t.Fatal(err)
		}
	}
	must(func(tx *store.Tx) error {
		return all(
			records.Partitions.Insert(tx, &apiv2.Partition{Id: "p1", DnsServers: []*apiv2.DNSServer{{Ip: "10.0.0.53"}}}),
			records.Sizes.Insert(tx, &apiv2.Size{Id: "c1", Constraints: []*apiv2.SizeConstraint{
				{Type: apiv2.SizeConstraintType_SIZE_CONSTRAINT_TYPE_CORES, Min: 4, Max: 4},
				{Type: apiv2.SizeConstraintType_SIZE_CONSTRAINT_TYPE_MEMORY, Min: 1, Max: 2 << 30},
				{Type: apiv2.SizeConstraintType_SIZE_CONSTRAINT_TYPE_STORAGE, Min: 1, Max: 1 << 40},
			}}),
			records.Images.Insert(tx, image("debian-12.0.20251220", apiv2.ImageFeature_IMAGE_FEATURE_MACHINE)),
			records.Images.Insert(tx, image("debian-12.1.20260301", apiv2.ImageFeature_IMAGE_FEATURE_MACHINE)),
			records.ImageSources.Insert(tx, &ingotv1.ImageSource{Image: "debian-12.1.20260301", Sha256: "5e"}),
			records.Images.Insert(tx, image("debian-12.2.20260401", apiv2.ImageFeature_IMAGE_FEATURE_MACHINE)),
			records.ImageSources.Insert(tx, &ingotv1.ImageSource{Image: "debian-12.2.20260401", Sha512: "6e"}),
			records.Images.Insert(tx, image("firewall-3.0.20260201", apiv2.ImageFeature_IMAGE_FEATURE_FIREWALL)),
			records.FilesystemLayouts.Insert(tx, layout("debian", "debian", ">= 12.0")),
			records.FilesystemLayouts.Insert(tx, layout("firewall", "firewall", ">= 3.0")),
			records.Projects.Insert(tx, &apiv2.Project{Uuid: "a"}),
			records.Projects.Insert(tx, &apiv2.Project{Uuid: "b"}),
		)
	})
	must(func(tx *store.Tx) error {
		if _, err := network.PutFabric(tx, &ingotv1.Fabric{
			Partition: "p1", BootSupernet: "fd00::/48", BootVni: 9000, BootAddress: "fd00:0:0:ff00::1", Loopbacks: "10.255.0.0/24", FirstAsn: 4200000000, AsnCount: 16,
		}); err != nil {
			return err
		}
		for _, leaf := range []string{"leaf1", "leaf2"} {
			sw := &apiv2.Switch{
				Id: leaf, Partition: "p1", Rack: proto.String("r1"), ManagementIp: "10.1.0.1",
				Os: &apiv2.SwitchOS{Vendor: apiv2.SwitchOSVendor_SWITCH_OS_VENDOR_SONIC},
			}
			for p := range 4 {
				port := fmt.Sprintf("Ethernet%d", p)
				sw.Nics = append(sw.Nics, &apiv2.SwitchNic{Name: port, Identifier: port, Mac: fmt.Sprintf("cc:cc:cc:cc:cc:%02d", p)})
			}
			if err := network.RegisterLeaf(tx, &ingotv1.LeafServiceRegisterRequest{Switch: sw}); err != nil {
				return err
			}
		}
		for _, id := range []string{"b1", "b2", "b3", "b4"} {
			if err := records.BMCs.Insert(tx, &ingotv1.BMC{Partition: "p1", Id: id, Address: "10.1.1." + id[1:] + ":443", User: "root"}); err != nil {
				return err
			}
		}
		return nil
	})
	for _, q := range []*adminv2.NetworkServiceCreateRequest{
		{Id: proto.String("internet"), Type: apiv2.NetworkType_NETWORK_TYPE_EXTERNAL, Prefixes: []string{"1.2.3.0/24"}, Vrf: proto.Uint32(11), NatType: apiv2.NATType_NAT_TYPE_IPV4_MASQUERADE.Enum()},
		{Id: proto.String("underlay"), Type: apiv2.NetworkType_NETWORK_TYPE_UNDERLAY, Partition: proto.String("p1"), Prefixes: []string{"10.253.0.0/16"}},
		{Id: proto.String("tenants"), Type: apiv2.NetworkType_NETWORK_TYPE_SUPER, Partition: proto.String("p1"), Prefixes: []string{"10.0.0.0/16"},
			DefaultChildPrefixLength: &apiv2.ChildPrefixLength{Ipv4: proto.Uint32(22)}},
		{Project: proto.String("a"), Type: apiv2.NetworkType_NETWORK_TYPE_CHILD, ParentNetwork: proto.String("tenants")},
		{Project: proto.String("b"), Type: apiv2.NetworkType_NETWORK_TYPE_CHILD, ParentNetwork: proto.String("tenants")},
	} {
		id := "net-" + q.GetProject()
		must(func(tx *store.Tx) error { _, err := network.Create(tx, q, id); return err })
	}
	return s
}

// all returns the first error.
func all(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func image(id string, feature apiv2.ImageFeature) *apiv2.Image {
	return &apiv2.Image{
		Id: id, Url: "https://images.example/" + id + ".tar.zst", Features: []apiv2.ImageFeature{feature},
		ExpiresAt:      timestamppb.New(storetest.Start.AddDate(1, 0, 0)),
		Classification: apiv2.ImageClassification_IMAGE_CLASSIFICATION_SUPPORTED,
	}
}

func layout(id, os, version string) *apiv2.FilesystemLayout {
	return &apiv2.FilesystemLayout{
		Id: id,
		Disks: []*apiv2.Disk{{Device: "/dev/sda", Partitions: []*apiv2.DiskPartition{
			{Number: 1, Size: 512, GptType: apiv2.GPTType_GPT_TYPE_BOOT.Enum()}, {Number: 2, GptType: apiv2.GPTType_GPT_TYPE_LINUX.Enum()},
		}}},
		Constraints: &apiv2.FilesystemLayoutConstraints{Sizes: []string{"c1"}, Images: map[string]string{os: version}},
	}
}
