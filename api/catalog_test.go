package api_test

import (
	"fmt"
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

	"github.com/ingot-cloud/ingot/machine"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// A catalog is what an admin sets up before there are machines.
type catalog struct {
	*world
	partitions   adminv2connect.PartitionServiceClient
	sizes        adminv2connect.SizeServiceClient
	images       adminv2connect.ImageServiceClient
	layouts      adminv2connect.FilesystemServiceClient
	constraints  adminv2connect.SizeImageConstraintServiceClient
	reservations adminv2connect.SizeReservationServiceClient
	read         struct {
		partitions   apiv2connect.PartitionServiceClient
		sizes        apiv2connect.SizeServiceClient
		images       apiv2connect.ImageServiceClient
		layouts      apiv2connect.FilesystemServiceClient
		constraints  apiv2connect.SizeImageConstraintServiceClient
		reservations apiv2connect.SizeReservationServiceClient
	}
}

func newCatalog(t *testing.T) *catalog {
	t.Helper()
	w := newWorld(t)
	c := &catalog{
		world:        w,
		partitions:   dial(w, adminv2connect.NewPartitionServiceClient, w.admin),
		sizes:        dial(w, adminv2connect.NewSizeServiceClient, w.admin),
		images:       dial(w, adminv2connect.NewImageServiceClient, w.admin),
		layouts:      dial(w, adminv2connect.NewFilesystemServiceClient, w.admin),
		constraints:  dial(w, adminv2connect.NewSizeImageConstraintServiceClient, w.admin),
		reservations: dial(w, adminv2connect.NewSizeReservationServiceClient, w.admin),
	}
	c.read.partitions = dial(w, apiv2connect.NewPartitionServiceClient, w.admin)
	c.read.sizes = dial(w, apiv2connect.NewSizeServiceClient, w.admin)
	c.read.images = dial(w, apiv2connect.NewImageServiceClient, w.admin)
	c.read.layouts = dial(w, apiv2connect.NewFilesystemServiceClient, w.admin)
	c.read.constraints = dial(w, apiv2connect.NewSizeImageConstraintServiceClient, w.admin)
	c.read.reservations = dial(w, apiv2connect.NewSizeReservationServiceClient, w.admin)
	return c
}

func (c *catalog) partition(id string) *apiv2.Partition {
	c.t.Helper()
	p, err := c.partitions.Create(c.t.Context(), &adminv2.PartitionServiceCreateRequest{Partition: &apiv2.Partition{
		Id: id, Description: "d", BootConfiguration: &apiv2.PartitionBootConfiguration{ImageUrl: "https://boot.example/initrd", KernelUrl: "https://boot.example/kernel"},
		Meta: &apiv2.Meta{Labels: &apiv2.Labels{Labels: map[string]string{"id": id}}},
	}})
	check(c.t, err)
	return p.GetPartition()
}

func cores(lo, hi uint64) *apiv2.SizeConstraint {
	return &apiv2.SizeConstraint{Type: apiv2.SizeConstraintType_SIZE_CONSTRAINT_TYPE_CORES, Min: lo, Max: hi}
}

func (c *catalog) size(id string, n uint64) {
	c.t.Helper()
	_, err := c.sizes.Create(c.t.Context(), &adminv2.SizeServiceCreateRequest{Size: newSize(id, n)})
	check(c.t, err)
}

func newSize(id string, n uint64) *apiv2.Size {
	return &apiv2.Size{Id: id, Constraints: []*apiv2.SizeConstraint{
		cores(n, n), {Type: apiv2.SizeConstraintType_SIZE_CONSTRAINT_TYPE_MEMORY, Min: 1024, Max: 1024},
		{Type: apiv2.SizeConstraintType_SIZE_CONSTRAINT_TYPE_STORAGE, Min: 1024, Max: 1024},
	}}
}

func newImage(id string) *apiv2.Image {
	return &apiv2.Image{
		Id: id, Url: "https://images.example/" + id + ".tar.zst", Features: []apiv2.ImageFeature{apiv2.ImageFeature_IMAGE_FEATURE_MACHINE},
		Classification: apiv2.ImageClassification_IMAGE_CLASSIFICATION_SUPPORTED,
	}
}

func (c *catalog) image(id string, edits ...func(*apiv2.Image)) *apiv2.Image {
	c.t.Helper()
	i := newImage(id)
	for _, e := range edits {
		e(i)
	}
	got, err := c.images.Create(c.t.Context(), &adminv2.ImageServiceCreateRequest{Image: i})
	check(c.t, err)
	return got.GetImage()
}

func newLayout(id, os, match string, sizes ...string) *apiv2.FilesystemLayout {
	return &apiv2.FilesystemLayout{
		Id: id,
		Disks: []*apiv2.Disk{{Device: "/dev/sda", Partitions: []*apiv2.DiskPartition{
			{Number: 1, Size: 1024, GptType: apiv2.GPTType_GPT_TYPE_LINUX.Enum()},
		}}},
		Filesystems: []*apiv2.Filesystem{{Device: "/dev/sda1", Format: apiv2.Format_FORMAT_EXT4, Path: new("/")}},
		Constraints: &apiv2.FilesystemLayoutConstraints{Sizes: sizes, Images: map[string]string{os: match}},
	}
}

// put writes records that no client can write yet.
func (c *catalog) put(fn func(tx *store.Tx) error) {
	c.t.Helper()
	check(c.t, c.db.Update(c.t.Context(), fn))
}

func (c *catalog) machine(n int, edit func(*privatev1.Machine)) string {
	c.t.Helper()
	uuid := fmt.Sprintf("00000000-0000-4000-8000-%012d", n)
	c.put(func(tx *store.Tx) error {
		m := machine.New(uuid, "partition-1", tx.Now())
		m.Condition = &apiv2.MachineCondition{State: apiv2.MachineState_MACHINE_STATE_AVAILABLE}
		m.Liveliness = apiv2.MachineLiveliness_MACHINE_LIVELINESS_ALIVE
		edit(m)
		return records.Machines.Insert(tx, m)
	})
	return uuid
}

func (c *catalog) allocate(uuid, project, size, image, layout string) {
	c.t.Helper()
	c.put(func(tx *store.Tx) error {
		if _, err := records.Machines.Change(tx, uuid, func(m *privatev1.Machine) error { m.Allocation = "a"; return nil }); err != nil {
			return err
		}
		return records.Allocations.Insert(tx, &privatev1.Allocation{
			Machine: uuid, Partition: "partition-1", Size: size, Allocation: &apiv2.MachineAllocation{
				Uuid: "a", Project: project, Image: &apiv2.Image{Id: image}, FilesystemLayout: &apiv2.FilesystemLayout{Id: layout},
			},
		})
	})
}

func serverSide() *apiv2.UpdateMeta {
	return &apiv2.UpdateMeta{LockingStrategy: apiv2.OptimisticLockingStrategy_OPTIMISTIC_LOCKING_STRATEGY_SERVER}
}

// Conformance case 39, partitions.
func TestPartitions(t *testing.T) {
	c := newCatalog(t)
	ctx := t.Context()
	p := c.partition("partition-4")
	if p.GetMeta().GetGeneration() != 0 || !proto.Equal(p.GetMeta().GetCreatedAt(), p.GetMeta().GetUpdatedAt()) {
		t.Errorf("created: %v", p.GetMeta())
	}
	_, err := c.partitions.Create(ctx, &adminv2.PartitionServiceCreateRequest{Partition: p})
	wantCode(t, err, connect.CodeAlreadyExists, "")
	_, err = c.partitions.Create(ctx, &adminv2.PartitionServiceCreateRequest{})
	wantCode(t, err, connect.CodeInvalidArgument, "partition must be given")

	update := func(m *apiv2.UpdateMeta) error {
		_, err := c.partitions.Update(ctx, &adminv2.PartitionServiceUpdateRequest{Id: p.GetId(), UpdateMeta: m, Description: new("new")})
		return err
	}
	stale := "cannot update partition (partition-4): the entity was already modified, please retry"
	saw := p.GetMeta().GetUpdatedAt().AsTime()
	wantCode(t, update(&apiv2.UpdateMeta{UpdatedAt: timestamppb.New(saw.Add(-time.Second))}), connect.CodeAborted, stale)
	wantCode(t, update(&apiv2.UpdateMeta{UpdatedAt: timestamppb.New(saw.Add(time.Second))}), connect.CodeAborted, stale)
	wantCode(t, update(&apiv2.UpdateMeta{}), connect.CodeAborted, stale)
	check(t, update(&apiv2.UpdateMeta{UpdatedAt: timestamppb.New(saw)}))
	check(t, update(serverSide()))
	wantCode(t, update(nil), connect.CodeInvalidArgument, "")

	full, err := c.partitions.Update(ctx, &adminv2.PartitionServiceUpdateRequest{
		Id: p.GetId(), UpdateMeta: serverSide(), DnsServers: []*apiv2.DNSServer{{Ip: "1.1.1.1"}}, NtpServers: []*apiv2.NTPServer{{Address: "ntp.example"}},
		Labels: &apiv2.UpdateLabels{Strategy: &apiv2.UpdateLabels_Patch{Patch: &apiv2.LabelsPatch{Update: &apiv2.Labels{Labels: map[string]string{"x": "y"}}}}},
	})
	check(t, err)
	got, err := c.read.partitions.Get(ctx, &apiv2.PartitionServiceGetRequest{Id: p.GetId()})
	check(t, err)
	if !proto.Equal(got.GetPartition(), full.GetPartition()) || got.GetPartition().GetMeta().GetGeneration() != 2 || got.GetPartition().GetDescription() != "new" {
		t.Errorf("after updates: %v", got)
	}
	_, err = c.partitions.Update(ctx, &adminv2.PartitionServiceUpdateRequest{
		Id: p.GetId(), UpdateMeta: serverSide(), BootConfiguration: &apiv2.PartitionBootConfiguration{ImageUrl: "file:///etc/passwd", KernelUrl: "https://k"},
	})
	wantCode(t, err, connect.CodeInvalidArgument, "")
	var six []*apiv2.NTPServer
	for i := range 6 {
		six = append(six, &apiv2.NTPServer{Address: fmt.Sprintf("10.0.0.%d", i)})
	}
	_, err = c.partitions.Update(ctx, &adminv2.PartitionServiceUpdateRequest{Id: p.GetId(), UpdateMeta: serverSide(), NtpServers: six})
	wantCode(t, err, connect.CodeInvalidArgument, "not more than 5 ntpservers must be specified")

	c.partition("partition-1")
	list, err := c.read.partitions.List(ctx, &apiv2.PartitionServiceListRequest{Query: &apiv2.PartitionQuery{
		Labels: &apiv2.Labels{Labels: map[string]string{"id": "partition-1"}},
	}})
	check(t, err)
	if len(list.GetPartitions()) != 1 || list.GetPartitions()[0].GetId() != "partition-1" {
		t.Errorf("by label: %v", list)
	}

	// What stands in a partition keeps it.
	c.put(func(tx *store.Tx) error {
		return records.Networks.Insert(tx, &apiv2.Network{Id: "net", Partition: new("partition-1")})
	})
	del := func(id string) (*adminv2.PartitionServiceDeleteResponse, error) {
		return c.partitions.Delete(ctx, &adminv2.PartitionServiceDeleteRequest{Id: id})
	}
	_, err = del("partition-1")
	wantCode(t, err, connect.CodeInvalidArgument, `there are still networks in "partition-1"`)
	c.put(func(tx *store.Tx) error { _, err := records.Networks.Delete(tx, "net"); return err })
	uuid := c.machine(1, func(*privatev1.Machine) {})
	_, err = del("partition-1")
	wantCode(t, err, connect.CodeInvalidArgument, `there are still machines in "partition-1"`)
	c.put(func(tx *store.Tx) error { _, err := records.Machines.Delete(tx, uuid); return err })
	c.size("n1-medium-x86", 2)
	c.reserve(c.project(c.tenant("t1")), "n1-medium-x86", 1, "partition-1")
	_, err = del("partition-1")
	wantCode(t, err, connect.CodeInvalidArgument, `there are still size reservations in "partition-1"`)
	// A delete that was refused leaves the door open.
	c.reserve(c.project("t1"), "n1-medium-x86", 1, "partition-1")

	gone, err := del("partition-4")
	check(t, err)
	if gone.GetPartition().GetId() != "partition-4" {
		t.Errorf("deleted: %v", gone)
	}
	_, err = del("partition-4")
	wantCode(t, err, connect.CodeNotFound, "")
}

func (c *catalog) reserve(project, size string, amount int32, partitions ...string) *apiv2.SizeReservation {
	c.t.Helper()
	r, err := c.reservations.Create(c.t.Context(), &adminv2.SizeReservationServiceCreateRequest{SizeReservation: &apiv2.SizeReservation{
		Name: "reservation", Project: project, Size: size, Amount: amount, Partitions: partitions,
	}})
	check(c.t, err)
	return r.GetSizeReservation()
}

// Conformance case 39, sizes.
func TestSizes(t *testing.T) {
	c := newCatalog(t)
	ctx := t.Context()
	c.partition("partition-1")
	c.size("n1-medium-x86", 2)
	c.size("c1-large-x86", 4)
	_, err := c.sizes.Create(ctx, &adminv2.SizeServiceCreateRequest{Size: newSize("other", 4)})
	wantCode(t, err, connect.CodeInvalidArgument, "given size other overlaps with existing sizes")
	_, err = c.sizes.Update(ctx, &adminv2.SizeServiceUpdateRequest{Id: "n1-medium-x86", UpdateMeta: serverSide(), Constraints: newSize("", 4).GetConstraints()})
	wantCode(t, err, connect.CodeInvalidArgument, "given size n1-medium-x86 overlaps with existing sizes")
	_, err = c.sizes.Update(ctx, &adminv2.SizeServiceUpdateRequest{Id: "n1-medium-x86", UpdateMeta: serverSide(), Constraints: []*apiv2.SizeConstraint{cores(3, 2)}})
	wantCode(t, err, connect.CodeInvalidArgument, "constraint at index 0 is invalid: max is smaller than min")
	got, err := c.sizes.Update(ctx, &adminv2.SizeServiceUpdateRequest{Id: "n1-medium-x86", UpdateMeta: serverSide(), Name: new("name")})
	check(t, err)
	list, err := c.read.sizes.List(ctx, &apiv2.SizeServiceListRequest{Query: &apiv2.SizeQuery{Name: new("name")}})
	check(t, err)
	if len(list.GetSizes()) != 1 || !proto.Equal(list.GetSizes()[0], got.GetSize()) {
		t.Errorf("by name: %v", list)
	}

	del := func() error {
		_, err := c.sizes.Delete(ctx, &adminv2.SizeServiceDeleteRequest{Id: "n1-medium-x86"})
		return err
	}
	uuid := c.machine(1, func(m *privatev1.Machine) { m.Size = "n1-medium-x86" })
	wantCode(t, del(), connect.CodeFailedPrecondition, "cannot remove size with existing machines of this size")
	c.put(func(tx *store.Tx) error { _, err := records.Machines.Delete(tx, uuid); return err })
	r := c.reserve(c.project(c.tenant("t1")), "n1-medium-x86", 1, "partition-1")
	wantCode(t, del(), connect.CodeFailedPrecondition, "cannot remove size with existing size reservations of this size")
	_, err = c.reservations.Delete(ctx, &adminv2.SizeReservationServiceDeleteRequest{Id: r.GetId()})
	check(t, err)
	c.constrain("n1-medium-x86", "debian", ">= 1")
	wantCode(t, del(), connect.CodeFailedPrecondition, "cannot remove size with existing size image constraints of this size")
	_, err = c.constraints.Delete(ctx, &adminv2.SizeImageConstraintServiceDeleteRequest{Size: "n1-medium-x86"})
	check(t, err)
	check(t, del())
	_, err = c.read.sizes.Get(ctx, &apiv2.SizeServiceGetRequest{Id: "n1-medium-x86"})
	wantCode(t, err, connect.CodeNotFound, "")
}

// Of many overlapping sizes created at a time, one is.
func TestSizesRace(t *testing.T) {
	c := newCatalog(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			_, err := c.sizes.Create(t.Context(), &adminv2.SizeServiceCreateRequest{Size: newSize(fmt.Sprintf("size-%d", i), 4)})
			if err != nil {
				wantCode(t, err, connect.CodeInvalidArgument, "")
			}
		})
	}
	all.Wait()
	list, err := c.read.sizes.List(t.Context(), &apiv2.SizeServiceListRequest{})
	check(t, err)
	if len(list.GetSizes()) != 1 {
		t.Errorf("sizes: %v", list)
	}
}

// A size never goes while something refers to it, however they race.
func TestSizeDeleteRace(t *testing.T) {
	c := newCatalog(t)
	ctx := t.Context()
	for i := range 20 {
		id := fmt.Sprintf("size-%d", i)
		c.size(id, uint64(i))
		var both sync.WaitGroup
		both.Go(func() { _, _ = c.sizes.Delete(ctx, &adminv2.SizeServiceDeleteRequest{Id: id}) })
		both.Go(func() {
			_, _ = c.constraints.Create(ctx, &adminv2.SizeImageConstraintServiceCreateRequest{
				Size: id, ImageConstraints: []*apiv2.ImageConstraint{{Image: "debian", SemverMatch: "*"}},
			})
		})
		both.Wait()
		_, size := records.Sizes.Peek(c.db.Snapshot(), id)
		_, constraint := records.SizeImageConstraints.Peek(c.db.Snapshot(), id)
		if constraint && !size {
			t.Fatalf("%s is gone and has a constraint", id)
		}
		if s, ok := records.Sizes.Peek(c.db.Snapshot(), id); ok && s.GetMeta().DeletionTaskId != nil {
			t.Fatalf("the door of %s stayed closed", id)
		}
	}
}

func (c *catalog) constrain(size, os, match string) {
	c.t.Helper()
	_, err := c.constraints.Create(c.t.Context(), &adminv2.SizeImageConstraintServiceCreateRequest{
		Size: size, ImageConstraints: []*apiv2.ImageConstraint{{Image: os, SemverMatch: match}},
	})
	check(c.t, err)
}

// Conformance case 28.
func TestSizeImageConstraints(t *testing.T) {
	c := newCatalog(t)
	ctx := t.Context()
	c.size("c1-large-x86", 4)
	c.image("debian-12.0.20251220")
	c.image("debian-13.0.20260131")
	c.image("firewall-ubuntu-3.0.20260201")
	try := func(size, image string) error {
		_, err := c.read.constraints.Try(ctx, &apiv2.SizeImageConstraintServiceTryRequest{Size: size, Image: image})
		return err
	}
	wantCode(t, try("c1-large-x86", "debian-13.0.20260131"), connect.CodeNotFound, "")
	c.constrain("c1-large-x86", "debian", "<= 12.0")
	wantCode(t, try("c1-large-x86", "debian-13.0.20260131"), connect.CodeInvalidArgument,
		"given size:c1-large-x86 with image:debian-13.0.20260131 does violate image constraint:debian <=12.0")
	check(t, try("c1-large-x86", "debian-12.0.20251220"))
	check(t, try("c1-large-x86", "firewall-ubuntu-3.0.20260201"))
	wantCode(t, try("c1-large-x86", "unknown-1.0"), connect.CodeNotFound, "no image for os:unknown version:1.0.0 found")

	_, err := c.constraints.Update(ctx, &adminv2.SizeImageConstraintServiceUpdateRequest{
		Size: "c1-large-x86", UpdateMeta: serverSide(), ImageConstraints: []*apiv2.ImageConstraint{{Image: "debian", SemverMatch: ">= 13.0"}},
	})
	check(t, err)
	wantCode(t, try("c1-large-x86", "debian-12.0.20251220"), connect.CodeInvalidArgument,
		"given size:c1-large-x86 with image:debian-12.0.20251220 does violate image constraint:debian >=13.0")

	create := func(size, match string) error {
		_, err := c.constraints.Create(ctx, &adminv2.SizeImageConstraintServiceCreateRequest{
			Size: size, ImageConstraints: []*apiv2.ImageConstraint{{Image: "debian", SemverMatch: match}},
		})
		return err
	}
	wantCode(t, create("c1-large-x86", ">= 1"), connect.CodeAlreadyExists, "")
	wantCode(t, create("no-size", ">= 1"), connect.CodeNotFound, "")
	wantCode(t, create("c1-large-x86", "newest"), connect.CodeInvalidArgument, "")
	got, err := c.constraints.Get(ctx, &adminv2.SizeImageConstraintServiceGetRequest{Size: "c1-large-x86"})
	check(t, err)
	list, err := c.constraints.List(ctx, &adminv2.SizeImageConstraintServiceListRequest{Query: &apiv2.SizeImageConstraintQuery{Size: new("c1-large-x86")}})
	check(t, err)
	if len(list.GetSizeImageConstraints()) != 1 || !proto.Equal(list.GetSizeImageConstraints()[0], got.GetSizeImageConstraint()) {
		t.Errorf("list: %v", list)
	}
}

func TestSizeReservations(t *testing.T) {
	c := newCatalog(t)
	ctx := t.Context()
	c.partition("partition-1")
	c.partition("partition-2")
	c.size("c1-large-x86", 4)
	p1, p2 := c.project(c.tenant("t1")), c.project("t1")
	r1 := c.reserve(p1, "c1-large-x86", 3, "partition-1", "partition-2")
	r2 := c.reserve(p2, "c1-large-x86", 1, "partition-2")
	create := func(edit func(*apiv2.SizeReservation)) error {
		r := &apiv2.SizeReservation{Name: "reservation", Project: p1, Size: "c1-large-x86", Amount: 1, Partitions: []string{"partition-1"}}
		edit(r)
		_, err := c.reservations.Create(ctx, &adminv2.SizeReservationServiceCreateRequest{SizeReservation: r})
		return err
	}
	wantCode(t, create(func(r *apiv2.SizeReservation) { r.Id = r1.GetId() }), connect.CodeInvalidArgument, "id must be empty")
	wantCode(t, create(func(r *apiv2.SizeReservation) { r.Size = "none" }), connect.CodeFailedPrecondition, "")
	wantCode(t, create(func(r *apiv2.SizeReservation) { r.Partitions = []string{"none"} }), connect.CodeFailedPrecondition, "")
	wantCode(t, create(func(r *apiv2.SizeReservation) { r.Project = r1.GetId() }), connect.CodeFailedPrecondition, "")
	wantCode(t, create(func(r *apiv2.SizeReservation) { r.Amount = 0 }), connect.CodeInvalidArgument, "")

	up, err := c.reservations.Update(ctx, &adminv2.SizeReservationServiceUpdateRequest{
		Id: r1.GetId(), UpdateMeta: serverSide(), Amount: new(int32(4)), Partitions: []string{"partition-1"},
	})
	check(t, err)
	if up.GetSizeReservation().GetAmount() != 4 || len(up.GetSizeReservation().GetPartitions()) != 1 {
		t.Errorf("updated: %v", up)
	}
	all, err := c.reservations.List(ctx, &adminv2.SizeReservationServiceListRequest{Query: &apiv2.SizeReservationQuery{Partition: new("partition-2")}})
	check(t, err)
	if len(all.GetSizeReservations()) != 1 || all.GetSizeReservations()[0].GetId() != r2.GetId() {
		t.Errorf("in partition-2: %v", all)
	}

	// A project sees its own only.
	viewer := dial(c.world, apiv2connect.NewSizeReservationServiceClient, c.member(p1, apiv2.ProjectRole_PROJECT_ROLE_VIEWER))
	mine, err := viewer.List(ctx, &apiv2.SizeReservationServiceListRequest{Project: p1})
	check(t, err)
	if len(mine.GetSizeReservations()) != 1 || mine.GetSizeReservations()[0].GetId() != r1.GetId() {
		t.Errorf("of p1: %v", mine)
	}
	_, err = viewer.Get(ctx, &apiv2.SizeReservationServiceGetRequest{Id: r1.GetId(), Project: p1})
	check(t, err)
	_, others := viewer.Get(ctx, &apiv2.SizeReservationServiceGetRequest{Id: r2.GetId(), Project: p1})
	_, nobodys := viewer.Get(ctx, &apiv2.SizeReservationServiceGetRequest{Id: p1, Project: p1})
	wantCode(t, others, connect.CodeNotFound, strings.Replace(strings.TrimPrefix(nobodys.Error(), "not_found: "), p1, r2.GetId(), 1))
	_, err = viewer.List(ctx, &apiv2.SizeReservationServiceListRequest{Project: p2})
	wantCode(t, err, connect.CodePermissionDenied, "")

	_, err = c.reservations.Delete(ctx, &adminv2.SizeReservationServiceDeleteRequest{Id: r1.GetId()})
	check(t, err)
	_, err = dial(c.world, apiv2connect.NewProjectServiceClient, c.admin).Delete(ctx, &apiv2.ProjectServiceDeleteRequest{Project: p2})
	wantCode(t, err, connect.CodeFailedPrecondition, "there are still size reservations associated with this project, you need to delete them first")
}

// Conformance case 39, images.
func TestImages(t *testing.T) {
	c := newCatalog(t)
	ctx := t.Context()
	class := func(k apiv2.ImageClassification) func(*apiv2.Image) {
		return func(i *apiv2.Image) { i.Classification = k }
	}
	c.image("debian-12.0.20251220")
	c.image("debian-13.0.20260131")
	c.image("debian-13.1.20260401", class(apiv2.ImageClassification_IMAGE_CLASSIFICATION_PREVIEW))
	c.image("debian-13.0.20260201", class(apiv2.ImageClassification_IMAGE_CLASSIFICATION_DEPRECATED))
	fw := c.image("firewall-ubuntu-3.0.20260201", class(0), func(i *apiv2.Image) {
		i.Features = []apiv2.ImageFeature{apiv2.ImageFeature_IMAGE_FEATURE_FIREWALL}
	})
	if fw.GetClassification() != apiv2.ImageClassification_IMAGE_CLASSIFICATION_PREVIEW || !fw.GetExpiresAt().AsTime().Equal(c.clock.Now().Add(90*24*time.Hour)) {
		t.Errorf("defaults: %v", fw)
	}

	supported := apiv2.ImageClassification_IMAGE_CLASSIFICATION_SUPPORTED.Enum()
	for _, l := range []struct {
		os    string
		class *apiv2.ImageClassification
		want  string
	}{
		{"debian", nil, "debian-13.1.20260401"},
		{"debian-13", nil, "debian-13.1.20260401"},
		{"debian-13.0", nil, "debian-13.0.20260201"},
		{"debian-13.0", supported, "debian-13.0.20260131"},
		{"debian-13", supported, "debian-13.0.20260131"},
		{"debian-13.0.20260131", nil, "debian-13.0.20260131"},
		{"firewall-ubuntu", nil, "firewall-ubuntu-3.0.20260201"},
		{"firewall-ubuntu-3", nil, "firewall-ubuntu-3.0.20260201"},
	} {
		got, err := c.read.images.Latest(ctx, &apiv2.ImageServiceLatestRequest{Os: l.os, Classification: l.class})
		if err != nil || got.GetImage().GetId() != l.want {
			t.Errorf("latest %s %v: %v, %v; want %s", l.os, l.class, got, err, l.want)
		}
	}
	_, err := c.read.images.Latest(ctx, &apiv2.ImageServiceLatestRequest{Os: "unknown-11.0"})
	wantCode(t, err, connect.CodeNotFound, "no image for os:unknown version:11.0.0 found")

	list := func(q *apiv2.ImageQuery) string {
		t.Helper()
		all, err := c.read.images.List(ctx, &apiv2.ImageServiceListRequest{Query: q})
		check(t, err)
		var ids []string
		for _, i := range all.GetImages() {
			ids = append(ids, i.GetId())
		}
		return strings.Join(ids, " ")
	}
	for _, l := range []struct {
		q    *apiv2.ImageQuery
		want string
	}{
		{nil, "debian-13.1.20260401 debian-13.0.20260201 debian-13.0.20260131 debian-12.0.20251220 firewall-ubuntu-3.0.20260201"},
		{&apiv2.ImageQuery{Os: new("firewall-ubuntu")}, "firewall-ubuntu-3.0.20260201"},
		{&apiv2.ImageQuery{Version: new("12.0.20251220")}, "debian-12.0.20251220"},
		{&apiv2.ImageQuery{Feature: apiv2.ImageFeature_IMAGE_FEATURE_FIREWALL.Enum()}, "firewall-ubuntu-3.0.20260201"},
		{&apiv2.ImageQuery{Url: new("https://images.example/debian-12.0.20251220.tar.zst")}, "debian-12.0.20251220"},
		{&apiv2.ImageQuery{Classification: supported}, "debian-13.0.20260131 debian-12.0.20251220"},
	} {
		if got := list(l.q); got != l.want {
			t.Errorf("%v: %s; want %s", l.q, got, l.want)
		}
	}

	for fact, edit := range map[string]func(*apiv2.Image){
		"needs a version":       func(i *apiv2.Image) { i.Id = "debian" },
		"needs a version, like": func(i *apiv2.Image) { i.Id = "debian-12" },
		"features must be":      func(i *apiv2.Image) { i.Features = nil },
		"past":                  func(i *apiv2.Image) { i.ExpiresAt = timestamppb.New(c.clock.Now().Add(-time.Second)) },
		"not http":              func(i *apiv2.Image) { i.Url = "oci://ghcr.example/debian" },
		"password":              func(i *apiv2.Image) { i.Url = "https://me:secret@images.example/debian" },
	} {
		i := newImage("new-1.0.1")
		edit(i)
		_, err := c.images.Create(ctx, &adminv2.ImageServiceCreateRequest{Image: i})
		wantCode(t, err, connect.CodeInvalidArgument, "")
		if err != nil && (!strings.Contains(err.Error(), fact) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%v does not say %q", err, fact)
		}
	}
	up, err := c.images.Update(ctx, &adminv2.ImageServiceUpdateRequest{Id: "debian-12.0.20251220", UpdateMeta: serverSide(), Name: new("bookworm")})
	check(t, err)
	if up.GetImage().GetClassification() != apiv2.ImageClassification_IMAGE_CLASSIFICATION_PREVIEW || up.GetImage().GetName() != "bookworm" {
		t.Errorf("updated: %v", up)
	}

	uuid := c.machine(1, func(*privatev1.Machine) {})
	c.allocate(uuid, "p", "s", "debian-12.0.20251220", "l")
	_, err = c.images.Delete(ctx, &adminv2.ImageServiceDeleteRequest{Id: "debian-12.0.20251220"})
	wantCode(t, err, connect.CodeFailedPrecondition, "cannot remove image with existing machine allocations")
	usage, err := c.images.Usage(ctx, &adminv2.ImageServiceUsageRequest{Query: &apiv2.ImageQuery{Os: new("debian")}})
	check(t, err)
	if n := len(usage.GetImageUsage()); n != 4 || !slices.Equal(usage.GetImageUsage()[3].GetUsedBy(), []string{uuid}) {
		t.Errorf("usage: %v", usage)
	}
	_, err = c.images.Delete(ctx, &adminv2.ImageServiceDeleteRequest{Id: "debian-13.0.20260131"})
	check(t, err)
}

// What an allocation would get.
func TestResolveImage(t *testing.T) {
	c := newCatalog(t)
	c.image("debian-13.0.1")
	c.image("debian-13.0.2", func(i *apiv2.Image) { i.ExpiresAt = timestamppb.New(c.clock.Now().Add(time.Hour)) })
	c.image("debian-13.0.3", func(i *apiv2.Image) { i.Classification = apiv2.ImageClassification_IMAGE_CLASSIFICATION_PREVIEW })
	resolve := func(name string) string {
		var got string
		c.put(func(tx *store.Tx) error {
			i, err := machine.ResolveImage(tx, name)
			got = i.GetId()
			if err != nil {
				got = err.Error()
			}
			return nil
		})
		return got
	}
	for name, want := range map[string]string{"debian-13": "debian-13.0.2", "debian-13.0": "debian-13.0.2", "debian-13.0.3": "debian-13.0.3"} {
		if got := resolve(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	c.clock.Advance(2 * time.Hour)
	if got := resolve("debian-13"); got != "debian-13.0.1" {
		t.Errorf("after the end of .2: %s", got)
	}
	if got := resolve("debian-13.0.2"); !strings.Contains(got, "expired at") {
		t.Errorf("by its full name: %s", got)
	}
}

func TestImageSources(t *testing.T) {
	c := newCatalog(t)
	ctx := t.Context()
	sources := dial(c.world, ingotv1connect.NewImageSourceServiceClient, c.admin)
	put := func(s *ingotv1.ImageSource) (*ingotv1.ImageSource, error) {
		got, err := sources.Put(ctx, connect.NewRequest(&ingotv1.ImageSourceServicePutRequest{Source: s}))
		if err != nil {
			return nil, err
		}
		return got.Msg.GetSource(), nil
	}
	pin := &ingotv1.ImageSource{Image: "debian-13.0.1", Sha256: strings.Repeat("a", 64), Checks: []*ingotv1.ImageCheck{{Partition: "made-up"}}}
	_, err := put(pin)
	wantCode(t, err, connect.CodeNotFound, "")
	c.image("debian-13.0.1")
	_, err = put(&ingotv1.ImageSource{Image: "debian-13.0.1", Size: 1})
	wantCode(t, err, connect.CodeInvalidArgument, "")
	_, err = put(&ingotv1.ImageSource{Image: "debian-13.0.1", Sha256: "A"})
	wantCode(t, err, connect.CodeInvalidArgument, "")
	got, err := put(pin)
	check(t, err)
	if got.GetSha256() != pin.GetSha256() || len(got.GetChecks()) != 0 {
		t.Errorf("put: %v", got)
	}

	report := func(partition, failure string) {
		t.Helper()
		c.put(func(tx *store.Tx) error {
			return machine.Checked(tx, partition, "debian-13.0.1", &ingotv1.ImageCheck{Error: failure, Time: timestamppb.New(tx.Now())})
		})
	}
	checks := func() string {
		t.Helper()
		got, err := sources.Get(ctx, connect.NewRequest(&ingotv1.ImageSourceServiceGetRequest{Image: "debian-13.0.1"}))
		check(t, err)
		var s []string
		for _, k := range got.Msg.GetSource().GetChecks() {
			s = append(s, k.GetPartition()+":"+k.GetError())
		}
		return strings.Join(s, " ")
	}
	report("one", "")
	report("two", "404")
	rev := c.db.Snapshot().Rev()
	c.clock.Advance(time.Minute)
	report("two", "404")
	if c.db.Snapshot().Rev() != rev {
		t.Error("a check without news was written")
	}
	report("one", "wrong digest")
	if got := checks(); got != "one:wrong digest two:404" {
		t.Errorf("checks: %s", got)
	}
	_, err = put(pin) // the same pin keeps them
	check(t, err)
	if got := checks(); got != "one:wrong digest two:404" {
		t.Errorf("checks: %s", got)
	}
	_, err = c.images.Update(ctx, &adminv2.ImageServiceUpdateRequest{Id: "debian-13.0.1", UpdateMeta: serverSide(), Url: new("https://elsewhere.example/i")})
	check(t, err)
	if got := checks(); got != "" {
		t.Errorf("checks of another url: %s", got)
	}
	report("one", "")
	pin.Sha256 = strings.Repeat("b", 64)
	again, err := put(pin)
	check(t, err)
	if got := checks(); got != "" {
		t.Errorf("checks of another pin: %s", got)
	}
	pin.Meta = got.GetMeta() // of an older generation
	_, err = put(pin)
	wantCode(t, err, connect.CodeAborted, "")
	pin.Meta = again.GetMeta()
	_, err = put(pin)
	check(t, err)

	_, err = c.images.Delete(ctx, &adminv2.ImageServiceDeleteRequest{Id: "debian-13.0.1"})
	check(t, err)
	_, err = sources.Get(ctx, connect.NewRequest(&ingotv1.ImageSourceServiceGetRequest{Image: "debian-13.0.1"}))
	wantCode(t, err, connect.CodeNotFound, "")
	c.put(func(tx *store.Tx) error { return machine.Checked(tx, "one", "debian-13.0.1", &ingotv1.ImageCheck{}) })
}

func TestFilesystemLayouts(t *testing.T) {
	c := newCatalog(t)
	ctx := t.Context()
	c.partition("partition-1")
	c.size("n1-medium-x86", 2)
	c.size("c1-large-x86", 4)
	c.image("debian-13.0.20260131")
	c.image("debian-11.0.1")
	create := func(l *apiv2.FilesystemLayout) error {
		_, err := c.layouts.Create(ctx, &adminv2.FilesystemServiceCreateRequest{FilesystemLayout: l})
		return err
	}
	check(t, create(newLayout("debian", "debian", ">= 12.0", "n1-medium-x86", "c1-large-x86")))
	check(t, create(newLayout("firewall", "firewall-ubuntu", ">= 3.0", "n1-medium-x86")))
	check(t, create(newLayout("old", "debian", "< 12.0", "n1-medium-x86")))
	wantCode(t, create(newLayout("again", "debian", ">= 12.0", "c1-large-x86")), connect.CodeInvalidArgument, "")
	wantCode(t, create(newLayout("partly", "debian", "~ 12.1", "c1-large-x86")), connect.CodeInvalidArgument, "")
	check(t, create(newLayout("develop", "debian", "*")))
	_, err := c.layouts.Update(ctx, &adminv2.FilesystemServiceUpdateRequest{
		Id: "old", UpdateMeta: serverSide(), Constraints: newLayout("", "debian", "<= 12.0", "n1-medium-x86").GetConstraints(),
	})
	wantCode(t, err, connect.CodeInvalidArgument,
		"filesystemlayout old: size n1-medium-x86 with image debian <= 12.0 is taken by filesystemlayout debian with >= 12.0; make the constraints exclude each other")

	match := func(size, image string) (string, error) {
		got, err := c.layouts.Match(ctx, &adminv2.FilesystemServiceMatchRequest{Match: &adminv2.FilesystemServiceMatchRequest_SizeAndImage{
			SizeAndImage: &adminv2.MatchImageAndSize{Size: size, Image: image},
		}})
		return got.GetFilesystemLayout().GetId(), err
	}
	for image, want := range map[string]string{"debian-13.0.20260131": "debian", "debian-11.0.1": "old"} {
		if got, err := match("n1-medium-x86", image); err != nil || got != want {
			t.Errorf("%s: %s, %v", image, got, err)
		}
	}
	_, err = match("c1-large-x86", "debian-11.0.1")
	wantCode(t, err, connect.CodeNotFound, "could not find a matching filesystemlayout for size:c1-large-x86 and image:debian-11.0.1")

	uuid := c.machine(1, func(*privatev1.Machine) {})
	fit := func(disks ...*apiv2.MachineBlockDevice) error {
		t.Helper()
		c.put(func(tx *store.Tx) error {
			return records.Hardware.Put(tx, &privatev1.Hardware{Uuid: uuid, Inventory: &ingotv1.Inventory{Hardware: &apiv2.MachineHardware{Disks: disks}}})
		})
		_, err := c.layouts.Match(ctx, &adminv2.FilesystemServiceMatchRequest{Match: &adminv2.FilesystemServiceMatchRequest_MachineAndFilesystemlayout{
			MachineAndFilesystemlayout: &adminv2.MatchMachineAndFilesystemLayout{Machine: uuid, FilesystemLayout: "debian"},
		}})
		return err
	}
	wantCode(t, fit(), connect.CodeInvalidArgument, "device:/dev/sda does not exist on given hardware")
	wantCode(t, fit(&apiv2.MachineBlockDevice{Name: "/dev/sda", Size: 1023 << 20}), connect.CodeInvalidArgument,
		"device:/dev/sda is not big enough required:1024MiB, existing:1023MiB")
	check(t, fit(&apiv2.MachineBlockDevice{Name: "/dev/sda", Size: 1024 << 20}))

	c.allocate(uuid, "p", "s", "i", "debian")
	_, err = c.layouts.Delete(ctx, &adminv2.FilesystemServiceDeleteRequest{Id: "debian"})
	wantCode(t, err, connect.CodeFailedPrecondition, "cannot remove filesystemlayout with existing machine allocations")
	_, err = c.layouts.Delete(ctx, &adminv2.FilesystemServiceDeleteRequest{Id: "old"})
	check(t, err)
	list, err := c.read.layouts.List(ctx, &apiv2.FilesystemServiceListRequest{})
	check(t, err)
	one, err := c.read.layouts.List(ctx, &apiv2.FilesystemServiceListRequest{Id: new("firewall")})
	check(t, err)
	if len(list.GetFilesystemLayouts()) != 3 || len(one.GetFilesystemLayouts()) != 1 {
		t.Errorf("lists: %v, %v", list, one)
	}
	_, err = c.read.layouts.Get(ctx, &apiv2.FilesystemServiceGetRequest{Id: "old"})
	wantCode(t, err, connect.CodeNotFound, "")
}

func TestCapacity(t *testing.T) {
	c := newCatalog(t)
	ctx := t.Context()
	c.partition("partition-1")
	c.partition("partition-2")
	c.size("small", 2)
	p1, p2 := c.project(c.tenant("t1")), c.project("t1")
	waiting := func(m *privatev1.Machine) {
		m.Size, m.Phase, m.BootId = "small", ingotv1.MachinePhase_MACHINE_PHASE_WAITING, "boot"
	}
	for i := range 5 {
		c.machine(i, waiting)
	}
	locked := c.machine(5, func(m *privatev1.Machine) {
		waiting(m)
		m.Condition.State = apiv2.MachineState_MACHINE_STATE_LOCKED
	})
	booting := c.machine(6, func(m *privatev1.Machine) { m.Size, m.Phase = "small", ingotv1.MachinePhase_MACHINE_PHASE_BOOTING })
	c.machine(7, func(m *privatev1.Machine) {})
	home := c.machine(8, func(m *privatev1.Machine) { m.Size, m.Phase = "small", ingotv1.MachinePhase_MACHINE_PHASE_PHONED_HOME })
	c.allocate(home, p1, "small", "i", "l")
	c.reserve(p1, "small", 2, "partition-1")
	c.reserve(p1, "small", 1, "partition-1")
	c.reserve(p2, "small", 1, "partition-1", "partition-2")

	capacity := func(req *adminv2.PartitionServiceCapacityRequest) []*adminv2.PartitionCapacity {
		t.Helper()
		got, err := c.partitions.Capacity(ctx, req)
		check(t, err)
		return got.GetPartitionCapacity()
	}
	all := capacity(&adminv2.PartitionServiceCapacityRequest{})
	if len(all) != 2 || len(all[0].GetMachineSizeCapacities()) != 2 || all[0].GetMachineSizeCapacities()[1].GetSize() != "unknown" {
		t.Fatalf("all: %v", all)
	}
	got := all[0].GetMachineSizeCapacities()[0]
	want := &adminv2.MachineSizeCapacity{
		Size: "small", Total: 8, Waiting: 6, PhonedHome: 1, Other: 1, OtherMachines: []string{booting}, Allocated: 1, Allocatable: 5,
		Free: 2, Unavailable: 2, Faulty: 2, FaultyMachines: []string{locked, booting}, // they have no events
		Reservations: 4, UsedReservations: 1, RemainingReservations: 3,
	}
	if !proto.Equal(got, want) {
		t.Errorf("small: %v\nwant %v", got, want)
	}
	if two := all[1].GetMachineSizeCapacities(); len(two) != 1 || two[0].GetReservations() != 1 || two[0].GetFree() != 0 {
		t.Errorf("partition-2: %v", two)
	}
	mine := capacity(&adminv2.PartitionServiceCapacityRequest{Id: new("partition-1"), Size: new("small"), Project: &p1})
	if len(mine) != 1 || len(mine[0].GetMachineSizeCapacities()) != 1 || mine[0].GetMachineSizeCapacities()[0].GetFree() != 4 {
		t.Errorf("for p1: %v", mine)
	}
	_, err := c.partitions.Capacity(ctx, &adminv2.PartitionServiceCapacityRequest{Id: new("none")})
	wantCode(t, err, connect.CodeNotFound, "")
}
