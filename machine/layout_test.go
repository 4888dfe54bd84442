package machine

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
)

// raidLVM is a layout with every layer.
const raidLVM = `
id: "raid-lvm"
disks { device: "/dev/sda" partitions { number: 1 size: 500 gpt_type: GPT_TYPE_BOOT } partitions { number: 2 size: 5000 } partitions { number: 3 } }
disks { device: "/dev/nvme0n1" partitions { number: 1 size: 500 } partitions { number: 2 size: 5000 } partitions { number: 3 } }
disks { device: "/dev/sdc" }
raid { array_name: "/dev/md1" level: RAID_LEVEL_1 devices: "/dev/sda2" devices: "/dev/nvme0n1p2" create_options: "--metadata=1.0" }
volume_groups { name: "vg00" devices: "/dev/sda3" devices: "/dev/nvme0n1p3" }
volume_groups { name: "vg01" devices: "/dev/sdc" }
logical_volumes { name: "root" volume_group: "vg00" size: 1000 lvm_type: LVM_TYPE_RAID1 }
logical_volumes { name: "data" volume_group: "vg01" lvm_type: LVM_TYPE_LINEAR }
logical_volumes { name: "var" volume_group: "vg00" lvm_type: LVM_TYPE_STRIPED }
filesystems { device: "/dev/sda1" format: FORMAT_VFAT path: "/boot/efi" create_options: "-F" create_options: "32" }
filesystems { device: "/dev/md1" format: FORMAT_EXT4 path: "/boot" }
filesystems { device: "/dev/vg00/root" format: FORMAT_EXT4 path: "/" }
filesystems { device: "/dev/vg00/var" format: FORMAT_EXT4 path: "/var" }
filesystems { device: "/dev/vg01/data" format: FORMAT_NONE }
filesystems { device: "tmpfs" format: FORMAT_TMPFS path: "/tmp" }
constraints { sizes: "c1" images { key: "debian" value: ">= 12.0" } }`

func layoutOf(t testing.TB, text string) *apiv2.FilesystemLayout {
	t.Helper()
	l := &apiv2.FilesystemLayout{}
	if err := prototext.Unmarshal([]byte(text), l); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestCheckLayout(t *testing.T) {
	if err := CheckLayout(layoutOf(t, raidLVM)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, want string }{
		{`device: "/dev/sdc"`, `device: "/dev/sda"`, "device:/dev/sda is defined twice"},
		{`partitions { number: 3 } }
disks { device: "/dev/nvme0n1"`, `partitions { number: 2 } }
disks { device: "/dev/nvme0n1"`, "device:/dev/sda partition number:2 given more than once"},
		{`number: 1 size: 500 gpt_type: GPT_TYPE_BOOT`, `number: 1`, "device:/dev/sda variable sized partition not the last one"},
		{`number: 1 size: 500 gpt_type: GPT_TYPE_BOOT`, `number: 4 size: 500`, "device:/dev/sda variable sized partition not the last one"},
		{`number: 1 size: 500 gpt_type: GPT_TYPE_BOOT`, `number: 129 size: 500`, "has no number between 1 and 128"},
		{`size: 500 gpt_type`, `size: 18446744073709551615 gpt_type`, "larger than any disk"},
		{`"/dev/nvme0n1p2"`, `"/dev/nvme0n12"`, "device:/dev/nvme0n12 for raid:/dev/md1 is not provided"},
		{`devices: "/dev/nvme0n1p2"`, ``, "raid:/dev/md1 needs two devices"},
		{`RAID_LEVEL_1`, `RAID_LEVEL_UNSPECIFIED`, "level that is not 0 or 1"},
		{`--metadata=1.0`, `--metadata 1.0`, "contains blanks"},
		{`"-F"`, `"-F 32"`, "contains blanks"},
		{`devices: "/dev/sdc"`, `devices: "/dev/sdd"`, "device:/dev/sdd for volumegroup:vg01 is not provided"},
		{`devices: "/dev/sdc"`, `devices: "/dev/sda2"`, "device:/dev/sda2 for volumegroup:vg01 is used by raid:/dev/md1"},
		{`devices: "/dev/sdc"`, `devices: "/dev/sda"`, "device:/dev/sda for volumegroup:vg01 is used by its partitions"},
		{`name: "vg01" devices: "/dev/sdc"`, `name: "vg01"`, "volumegroup:vg01 has no devices"},
		{`name: "vg01" devices`, `name: "vg00" devices`, "volumegroup:vg00 is defined twice"},
		{`name: "data" volume_group: "vg01" lvm_type: LVM_TYPE_LINEAR`, `name: "data" volume_group: "vg01" lvm_type: LVM_TYPE_STRIPED`, "has only 1 disk"},
		{`name: "root" volume_group: "vg00" size: 1000`, `name: "root" volume_group: "vg00"`, "variable sized lv must be the last"},
		{`name: "data" volume_group: "vg01"`, `name: "data" volume_group: "vg02"`, "volumegroup:vg02 not configured for logicalvolume:data"},
		{`device: "/dev/md1" format`, `device: "/dev/md2" format`, "device:/dev/md2 for filesystem:/boot is not provided"},
		{`device: "/dev/md1" format`, `device: "/dev/sda2" format`, "is used by raid:/dev/md1 already"},
		{`path: "/var"`, `path: "/boot"`, "filesystem:/boot is defined twice"},
		{`path: "/var"`, `path: "/../etc"`, "not a clean absolute path"},
		{`sizes: "c1"`, `sizes: "*"`, "no literal size id"},
		{`sizes: "c1"`, `sizes: "c1" sizes: "c1"`, "size c1 is configured more than once"},
		{`key: "debian"`, `key: "*"`, "no literal name"},
		{`">= 12.0"`, `">=12.0"`, `given image constraint ">=12.0" is not valid`},
	} {
		if !strings.Contains(raidLVM, c.old) {
			t.Fatalf("the layout has no %q", c.old)
		}
		err := CheckLayout(layoutOf(t, strings.Replace(raidLVM, c.old, c.new, 1)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %s", c.new, err, c.want)
		}
	}
}

// No layout crashes the server (MEP-8, A-8.4).
func FuzzCheckLayout(f *testing.F) {
	b, err := proto.Marshal(layoutOf(f, raidLVM))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(_ *testing.T, b []byte) {
		var l apiv2.FilesystemLayout
		if proto.Unmarshal(b, &l) != nil {
			return
		}
		_ = CheckLayout(&l) // must only return
		_ = FitLayout(&l, &apiv2.MachineHardware{Disks: []*apiv2.MachineBlockDevice{{Name: "/dev/sda", Size: 1 << 40}}})
		collision(l.GetConstraints(), l.GetConstraints())
	})
}

func TestFitLayout(t *testing.T) {
	l := layoutOf(t, raidLVM)
	disks := func(sda uint64, names ...string) *apiv2.MachineHardware {
		h := &apiv2.MachineHardware{}
		for _, n := range names {
			h.Disks = append(h.Disks, &apiv2.MachineBlockDevice{Name: n, Size: sda})
		}
		return h
	}
	for _, c := range []struct {
		h    *apiv2.MachineHardware
		want string
	}{
		{disks(5500<<20, "/dev/sda", "/dev/nvme0n1", "/dev/sdc"), ""},
		{disks(5500<<20, "sda", "nvme0n1", "sdc"), ""}, // kernel names
		{disks(5500<<20, "sda", "sdc"), "device:/dev/nvme0n1 does not exist on given hardware"},
		{disks(5500<<20-1, "sda", "nvme0n1", "sdc"), "device:/dev/sda is not big enough required:5500MiB, existing:5499MiB"},
	} {
		got := ""
		if err := FitLayout(l, c.h); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%v: %q, want %q", c.h, got, c.want)
		}
	}
}
