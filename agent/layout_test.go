package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/google/go-cmp/cmp"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ingot-cloud/ingot/fault"
)

func layoutOf(t *testing.T, json string) *apiv2.FilesystemLayout {
	t.Helper()
	l := &apiv2.FilesystemLayout{}
	if err := protojson.Unmarshal([]byte(json), l); err != nil {
		t.Fatal(err)
	}
	return l
}

const plain = `{
	"id": "plain",
	"disks": [{"device": "/dev/vda", "partitions": [
		{"number": 2, "label": "root", "size": 1024, "gptType": "GPT_TYPE_LINUX"},
		{"number": 1, "label": "efi", "size": 256, "gptType": "GPT_TYPE_BOOT"},
		{"number": 3, "label": "var", "gptType": "GPT_TYPE_LINUX"}]}],
	"filesystems": [
		{"device": "/dev/vda3", "format": "FORMAT_EXT4", "path": "/var/lib", "mountOptions": ["noatime", "nodev"]},
		{"device": "/dev/vda1", "format": "FORMAT_VFAT", "path": "/boot/efi", "label": "efi"},
		{"device": "/dev/vda2", "format": "FORMAT_EXT4", "path": "/", "label": "root", "createOptions": ["-b", "4096"]},
		{"device": "tmp", "format": "FORMAT_TMPFS", "path": "/tmp", "mountOptions": ["size=64m"]},
		{"device": "/dev/vda4", "format": "FORMAT_SWAP"},
		{"device": "/dev/vda5", "format": "FORMAT_NONE", "path": "/raw"}]
}`

func TestPlan(t *testing.T) {
	const size = 4<<30 + 512*3 // not a whole number of MiB
	table, err := plan(layoutOf(t, plain).GetDisks()[0], size, 512)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range table.Partitions {
		got = append(got, fmt.Sprint(p.Index, " ", p.Name, " ", p.Start*512/mib, "+", (p.End+1-p.Start)*512/mib, " ", p.Type))
	}
	want := []string{
		fmt.Sprint("1 efi 1+256 ", gpt.EFISystemPartition),
		fmt.Sprint("2 root 257+1024 ", gpt.LinuxFilesystem),
		fmt.Sprint("3 var 1281+2814 ", gpt.LinuxFilesystem),
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}

	// What is written is a valid table that a reader finds again.
	name := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := writeTable(table, f, size); err != nil {
		t.Fatal(err)
	}
	read, err := gpt.Read(file.New(f, false), 512, 512)
	if err != nil {
		t.Fatal(err)
	}
	if len(read.Partitions) < 3 || read.Partitions[0].Name != "efi" || read.RecoveredFromBackup {
		t.Errorf("read back %+v", read.Partitions)
	}
}

func TestPlanRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		json string
		size int64
		want string
	}{
		"too big":  {`{"device": "/dev/a", "partitions": [{"number": 1, "size": 100}]}`, 64 * mib, "needs 100 MiB, 62 are left"},
		"no room":  {`{"device": "/dev/a", "partitions": [{"number": 1, "size": 62}, {"number": 2}]}`, 64 * mib, "partition: 2 needs"},
		"open end": {`{"device": "/dev/a", "partitions": [{"number": 1}, {"number": 2, "size": 1}]}`, 64 * mib, "has no size and is not the last"},
	} {
		d := &apiv2.Disk{}
		if err := protojson.Unmarshal([]byte(c.json), d); err != nil {
			t.Fatal(err)
		}
		if _, err := plan(d, c.size, 512); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLayoutFiles(t *testing.T) {
	l, err := NewLayout(layoutOf(t, plain))
	if err != nil {
		t.Fatal(err)
	}
	for d := range l.ids {
		l.ids[d] = "ID-" + filepath.Base(d)
	}
	want := "UUID=ID-vda3\t/var/lib\text4\tnoatime,nodev\t0\t2\n" +
		"UUID=ID-vda1\t/boot/efi\tvfat\tdefaults\t0\t2\n" +
		"UUID=ID-vda2\t/\text4\tdefaults\t0\t1\n" +
		"tmpfs\t/tmp\ttmpfs\tsize=64m\t0\t0\n" +
		"UUID=ID-vda4\tnone\tswap\tdefaults\t0\t0\n"
	if d := cmp.Diff(want, l.Fstab()); d != "" {
		t.Errorf("fstab (-want +got)\n%s", d)
	}
	var commands []string
	for _, f := range l.want.GetFilesystems() {
		if c := mkfs(f, l.ids[f.GetDevice()]); c != nil {
			commands = append(commands, strings.Join(c, " "))
		}
	}
	if d := cmp.Diff([]string{
		"mkfs.ext4 -q -F -E lazy_itable_init=1 -U ID-vda3 /dev/vda3",
		"mkfs.vfat -F 32 -i IDvda1 -n EFI /dev/vda1",
		"mkfs.ext4 -q -F -E lazy_itable_init=1 -U ID-vda2 -L root -b 4096 /dev/vda2",
		"mkswap -U ID-vda4 /dev/vda4",
	}, commands); d != "" {
		t.Errorf("commands (-want +got)\n%s", d)
	}
	var order []string
	for _, f := range l.mounts() {
		order = append(order, f.GetPath())
	}
	if d := cmp.Diff([]string{"/", "/var/lib", "/boot/efi"}, order); d != "" {
		t.Errorf("mounts (-want +got)\n%s", d)
	}
	if l.ESP() != "/boot/efi" || l.RootID() != "ID-vda2" {
		t.Errorf("boot from %q with root %q", l.ESP(), l.RootID())
	}
}

func TestLayoutRefuses(t *testing.T) {
	for name, json := range map[string]string{
		"no root":     `{"id": "x", "filesystems": [{"device": "/dev/a1", "format": "FORMAT_EXT4", "path": "/data"}]}`,
		"raid":        `{"id": "x", "raid": [{"arrayName": "/dev/md0"}], "filesystems": [{"device": "/dev/md0", "format": "FORMAT_EXT4", "path": "/"}]}`,
		"lvm":         `{"id": "x", "volumeGroups": [{"name": "v"}], "filesystems": [{"device": "/dev/v/r", "format": "FORMAT_EXT4", "path": "/"}]}`,
		"white space": `{"id": "x", "filesystems": [{"device": "/dev/a1", "format": "FORMAT_EXT4", "path": "/", "mountOptions": ["a b"]}]}`,
	} {
		if _, err := NewLayout(layoutOf(t, json)); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPartitionName(t *testing.T) {
	for disk, want := range map[string]string{"/dev/sda": "/dev/sda1", "/dev/nvme0n1": "/dev/nvme0n1p1", "/dev/vdb": "/dev/vdb1"} {
		if got := partitionName(disk, 1); got != want {
			t.Errorf("%s: %s", disk, got)
		}
	}
}

// mkfs runs for real on plain files: the options exist in the tools we ship.
func TestFormatRealTools(t *testing.T) {
	t.Setenv("PATH", searchPath)
	dir := t.TempDir()
	for _, f := range []string{"FORMAT_EXT4", "FORMAT_EXT3", "FORMAT_VFAT", "FORMAT_SWAP"} {
		device := filepath.Join(dir, f)
		if err := os.WriteFile(device, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(device, 64*mib); err != nil {
			t.Fatal(err)
		}
		l, err := NewLayout(layoutOf(t, fmt.Sprintf(`{"id": "x", "filesystems": [
			{"device": %q, "format": %q, "path": "/", "label": "a-very-long-label"}]}`, device, f)))
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Format(t.Context()); err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		b, err := os.ReadFile(device)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(b[:8192], make([]byte, 8192)) {
			t.Errorf("%s: nothing was written", f)
		}
	}
}
