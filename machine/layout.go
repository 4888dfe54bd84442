package machine

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// layoutsGuard is bumped by whoever changes the set of layouts: whether two of
// them are for the same machines depends on all.
const layoutsGuard = "filesystemlayouts"

const mebibyte = 1 << 20

// CreateLayout adds a layout that can be carried out, for machines that no
// other layout is for.
func CreateLayout(tx *store.Tx, l *apiv2.FilesystemLayout) error {
	if err := checkLayout(tx, l); err != nil {
		return err
	}
	return records.FilesystemLayouts.Insert(tx, l)
}

// ChangeLayout edits a layout. Machines that are allocated keep what they have.
func ChangeLayout(tx *store.Tx, id string, edit func(*apiv2.FilesystemLayout) error) (*apiv2.FilesystemLayout, error) {
	return records.FilesystemLayouts.Change(tx, id, func(l *apiv2.FilesystemLayout) error {
		if err := edit(l); err != nil {
			return err
		}
		return checkLayout(tx, l)
	})
}

func checkLayout(tx *store.Tx, l *apiv2.FilesystemLayout) error {
	if err := CheckLayout(l); err != nil {
		return err
	}
	tx.Bump(layoutsGuard)
	for other := range records.FilesystemLayouts.All(tx) {
		if other.GetId() == l.GetId() {
			continue
		}
		if size, os := collision(l.GetConstraints(), other.GetConstraints()); size != "" {
			return fault.Newf(fault.Invalid, "filesystemlayout "+l.GetId(), "size %s with image %s %s is taken by filesystemlayout %s with %s",
				size, os, l.GetConstraints().GetImages()[os], other.GetId(), other.GetConstraints().GetImages()[os]).Do("make the constraints exclude each other")
		}
	}
	return nil
}

// LayoutUnused returns an error if a machine is allocated with a layout.
func LayoutUnused(r store.Reader, id string) error {
	if records.Allocations.Count(r, "layout", id) > 0 {
		return fault.New(fault.Precondition, "", "cannot remove filesystemlayout with existing machine allocations", "")
	}
	return nil
}

// ResolveLayout returns the layout for a size and an image; there is at most
// one.
func ResolveLayout(r store.Reader, size string, i *apiv2.Image) (*apiv2.FilesystemLayout, error) {
	os, v, _, err := ParseImage(i.GetId())
	if err != nil {
		return nil, err
	}
	for l := range records.FilesystemLayouts.All(r) {
		c := l.GetConstraints()
		match, ok := c.GetImages()[os]
		if !ok || v == nil || !slices.Contains(c.GetSizes(), size) {
			continue
		}
		if accepts, err := parseMatch(match); err == nil && accepts.check(v) {
			return access.Open(r, records.FilesystemLayouts, l.GetId())
		}
	}
	return nil, fault.Newf(fault.NotFound, "", "could not find a matching filesystemlayout for size:%s and image:%s", size, i.GetId())
}

// FitLayout returns an error if hardware does not have the disks of a layout.
func FitLayout(l *apiv2.FilesystemLayout, h *apiv2.MachineHardware) error {
	sizes := map[string]uint64{}
	for _, d := range h.GetDisks() {
		sizes[path.Base(d.GetName())] = d.GetSize() / mebibyte
	}
	for _, d := range l.GetDisks() {
		has, ok := sizes[path.Base(d.GetDevice())]
		if !ok {
			return invalid("device:%s does not exist on given hardware", d.GetDevice())
		}
		need := uint64(0)
		for _, p := range d.GetPartitions() {
			need += p.GetSize()
		}
		if need > has {
			return invalid("device:%s is not big enough required:%dMiB, existing:%dMiB", d.GetDevice(), need, has)
		}
	}
	return nil
}

// CheckLayout checks a layout by itself: everything is made of devices that a
// layer below provides, and nothing is used twice.
func CheckLayout(l *apiv2.FilesystemLayout) error {
	if err := checkLayoutConstraints(l.GetConstraints()); err != nil {
		return err
	}
	d := devices{}
	for _, step := range []func(*apiv2.FilesystemLayout, devices) error{layDisks, layRaids, layGroups, layVolumes, layFilesystems} {
		if err := step(l, d); err != nil {
			return err
		}
	}
	return nil
}

// devices are those provided so far, and who uses them.
type devices map[string]string

func (d devices) provide(name string) error {
	if _, ok := d[name]; ok {
		return invalid("device:%s is defined twice", name)
	}
	d[name] = ""
	return nil
}

func (d devices) use(name, by string) error {
	user, ok := d[name]
	switch {
	case !ok:
		return invalid("device:%s for %s is not provided by any disk, raid or volume of this layout", name, by)
	case user != "":
		return invalid("device:%s for %s is used by %s already", name, by, user)
	}
	d[name] = by
	return nil
}

// PartitionDevice returns the device of a disk's partition as the kernel names
// it: with a p after a name that ends in a digit.
func PartitionDevice(disk string, number uint32) string {
	if n := len(disk); n > 0 && disk[n-1] >= '0' && disk[n-1] <= '9' {
		disk += "p"
	}
	return disk + strconv.FormatUint(uint64(number), 10)
}

func layDisks(l *apiv2.FilesystemLayout, d devices) error {
	for _, disk := range l.GetDisks() {
		if err := d.provide(disk.GetDevice()); err != nil {
			return err
		}
		total, last := uint64(0), len(disk.GetPartitions())-1
		for i, p := range disk.GetPartitions() {
			if p.GetNumber() < 1 || p.GetNumber() > 128 {
				return invalid("device:%s partition:%d has no number between 1 and 128", disk.GetDevice(), p.GetNumber())
			}
			if p.GetSize() == 0 && (i != last || slices.ContainsFunc(disk.GetPartitions(), func(o *apiv2.DiskPartition) bool { return o.GetNumber() > p.GetNumber() })) {
				return invalid("device:%s variable sized partition not the last one", disk.GetDevice())
			}
			if total += p.GetSize(); total > 1<<43 {
				return invalid("device:%s partitions are larger than any disk", disk.GetDevice())
			}
			if err := d.provide(PartitionDevice(disk.GetDevice(), p.GetNumber())); err != nil {
				return invalid("device:%s partition number:%d given more than once", disk.GetDevice(), p.GetNumber())
			}
		}
		if last >= 0 {
			d[disk.GetDevice()] = "its partitions"
		}
	}
	return nil
}

func layRaids(l *apiv2.FilesystemLayout, d devices) error {
	for _, r := range l.GetRaid() {
		by := "raid:" + r.GetArrayName()
		switch {
		case r.GetLevel() != apiv2.RaidLevel_RAID_LEVEL_0 && r.GetLevel() != apiv2.RaidLevel_RAID_LEVEL_1:
			return invalid("%s has a level that is not 0 or 1", by)
		case r.GetSpares() < 0 || len(r.GetDevices())-int(r.GetSpares()) < 2:
			return invalid("%s needs two devices that are no spares", by)
		}
		if err := noBlanks(by, r.GetCreateOptions()); err != nil {
			return err
		}
		for _, name := range r.GetDevices() {
			if err := d.use(name, by); err != nil {
				return err
			}
		}
		if err := d.provide(r.GetArrayName()); err != nil {
			return err
		}
	}
	return nil
}

func layGroups(l *apiv2.FilesystemLayout, d devices) error {
	names := map[string]bool{}
	for _, g := range l.GetVolumeGroups() {
		by := "volumegroup:" + g.GetName()
		switch {
		case names[g.GetName()]:
			return invalid("%s is defined twice", by)
		case len(g.GetDevices()) == 0:
			return invalid("%s has no devices", by)
		}
		names[g.GetName()] = true
		for _, name := range g.GetDevices() {
			if err := d.use(name, by); err != nil {
				return err
			}
		}
	}
	return nil
}

func layVolumes(l *apiv2.FilesystemLayout, d devices) error {
	rest := map[string]string{} // by group: the volume that takes what is left
	for _, v := range l.GetLogicalVolumes() {
		name := v.GetName()
		at := slices.IndexFunc(l.GetVolumeGroups(), func(g *apiv2.VolumeGroup) bool { return g.GetName() == v.GetVolumeGroup() })
		if at < 0 {
			return invalid("volumegroup:%s not configured for logicalvolume:%s", v.GetVolumeGroup(), name)
		}
		spread := v.GetLvmType() == apiv2.LVMType_LVM_TYPE_STRIPED || v.GetLvmType() == apiv2.LVMType_LVM_TYPE_RAID1
		if spread && len(l.GetVolumeGroups()[at].GetDevices()) < 2 {
			return invalid("fsl:%q lv:%s in vg:%s is configured for lvmtype:%s but has only 1 disk, consider linear instead",
				l.GetId(), name, v.GetVolumeGroup(), strings.ToLower(strings.TrimPrefix(v.GetLvmType().String(), "LVM_TYPE_")))
		}
		if taken := rest[v.GetVolumeGroup()]; taken != "" {
			return invalid("lv:%s in vg:%s, variable sized lv must be the last", taken, v.GetVolumeGroup())
		}
		if v.GetSize() == 0 {
			rest[v.GetVolumeGroup()] = name
		}
		if err := d.provide("/dev/" + v.GetVolumeGroup() + "/" + name); err != nil {
			return err
		}
	}
	return nil
}

func layFilesystems(l *apiv2.FilesystemLayout, d devices) error {
	paths := map[string]bool{}
	for _, f := range l.GetFilesystems() {
		by := "filesystem:" + f.GetPath()
		if f.Path != nil {
			if !path.IsAbs(f.GetPath()) || path.Clean(f.GetPath()) != f.GetPath() {
				return invalid("%s is not a clean absolute path", by)
			}
			if paths[f.GetPath()] {
				return invalid("%s is defined twice", by)
			}
			paths[f.GetPath()] = true
		}
		if err := noBlanks(by, f.GetCreateOptions()); err != nil {
			return err
		}
		if f.GetFormat() == apiv2.Format_FORMAT_TMPFS {
			continue
		}
		if err := d.use(f.GetDevice(), by); err != nil {
			return err
		}
	}
	return nil
}

func noBlanks(by string, options []string) error {
	for _, o := range options {
		if strings.ContainsAny(o, " \t\n") {
			return invalid("the createoption %q of %s contains blanks, split it into several", o, by)
		}
	}
	return nil
}

func checkLayoutConstraints(c *apiv2.FilesystemLayoutConstraints) error {
	seen := map[string]bool{}
	for _, s := range c.GetSizes() {
		switch {
		case strings.ContainsAny(s, "*?[") || s == "":
			return invalid("size %q is no literal size id", s)
		case seen[s]:
			return invalid("size %s is configured more than once", s)
		}
		seen[s] = true
	}
	for os, match := range c.GetImages() {
		if !osName.MatchString(os) {
			return invalid("image os %q is no literal name of an operating system", os)
		}
		if _, err := parseMatch(match); err != nil {
			return fmt.Errorf("image os %s: %w", os, err)
		}
	}
	return nil
}
