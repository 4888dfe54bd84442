package agent

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
)

// A Layout is a file system layout that is being brought onto the disks.
type Layout struct {
	want *apiv2.FilesystemLayout
	// ids are the file systems' uuids by device, made before the file systems
	// are, so that fstab and boot loader can name them.
	ids map[string]string
}

// NewLayout checks that the boot image can make everything the layout names.
// It touches nothing.
func NewLayout(want *apiv2.FilesystemLayout) (*Layout, error) {
	object := "file system layout " + want.GetId()
	if len(want.GetRaid()) > 0 || len(want.GetVolumeGroups()) > 0 || len(want.GetLogicalVolumes()) > 0 {
		return nil, fault.New(fault.Invalid, object, "uses RAID or LVM, which this boot image does not make", "choose a layout of plain partitions")
	}
	l := &Layout{want: want, ids: map[string]string{}}
	root := false
	for _, f := range want.GetFilesystems() {
		root = root || f.GetPath() == "/"
		l.ids[f.GetDevice()] = newID(f.GetFormat())
		for _, option := range append(f.GetCreateOptions(), f.GetMountOptions()...) {
			if strings.ContainsFunc(option, unicode.IsSpace) {
				return nil, fault.Newf(fault.Invalid, object, "option %q has white space", option)
			}
		}
	}
	if !root {
		return nil, fault.New(fault.Invalid, object, "has no root file system", "add a file system with the path /")
	}
	return l, nil
}

// newID returns a file system uuid in the form its format has.
func newID(f apiv2.Format) string {
	id := uuid.New()
	if f == apiv2.Format_FORMAT_VFAT {
		return fmt.Sprintf("%04X-%04X", binary.BigEndian.Uint16(id[0:]), binary.BigEndian.Uint16(id[2:]))
	}
	return id.String()
}

var partitionTypes = map[apiv2.GPTType]gpt.Type{
	apiv2.GPTType_GPT_TYPE_BOOT:        gpt.EFISystemPartition,
	apiv2.GPTType_GPT_TYPE_LINUX:       gpt.LinuxFilesystem,
	apiv2.GPTType_GPT_TYPE_LINUX_RAID:  gpt.LinuxRAID,
	apiv2.GPTType_GPT_TYPE_LINUX_LVM:   gpt.LinuxLVM,
	apiv2.GPTType_GPT_TYPE_UNSPECIFIED: gpt.LinuxFilesystem,
}

// Partition writes a partition table onto every disk of the layout and waits
// until the kernel shows the partitions.
func (l *Layout) Partition(ctx context.Context) error {
	for _, d := range l.want.GetDisks() {
		if err := partitionDisk(d); err != nil {
			return fault.Wrap(fault.Unavailable, "disk "+d.GetDevice(), "cannot be partitioned", err)
		}
		for _, p := range d.GetPartitions() {
			if err := awaitDevice(ctx, partitionName(d.GetDevice(), int(p.GetNumber()))); err != nil {
				return err
			}
		}
	}
	return nil
}

const (
	mib   = 1 << 20
	align = mib // partitions begin at whole MiB, which suits every disk
)

func partitionDisk(d *apiv2.Disk) error {
	f, err := os.OpenFile(d.GetDevice(), os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	sector, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	if err != nil {
		return fmt.Errorf("sector size: %w", err)
	}
	table, err := plan(d, size, sector)
	if err != nil {
		return err
	}
	if err := writeTable(table, f, size); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0)
}

// plan computes the partition table: partitions by number, one after the
// other, the one without a size taking the rest.
func plan(d *apiv2.Disk, size int64, sector int) (*gpt.Table, error) {
	parts := slices.Clone(d.GetPartitions())
	slices.SortFunc(parts, func(a, b *apiv2.DiskPartition) int { return cmp.Compare(a.GetNumber(), b.GetNumber()) })
	table := &gpt.Table{LogicalSectorSize: sector, PhysicalSectorSize: sector, ProtectiveMBR: true, GUID: uuid.NewString()}
	at, end := int64(align), size/align*align-align // the second table takes the last MiB
	for i, p := range parts {
		length := int64(p.GetSize()) * mib
		if length == 0 {
			if i != len(parts)-1 {
				return nil, fault.Newf(fault.Invalid, "partition", "%d has no size and is not the last", p.GetNumber())
			}
			length = end - at
		}
		if length <= 0 || at+length > end {
			return nil, fault.Newf(fault.Invalid, "partition", "%d needs %d MiB, %d are left", p.GetNumber(), p.GetSize(), (end-at)/mib)
		}
		table.Partitions = append(table.Partitions, &gpt.Partition{
			Index: int(p.GetNumber()),
			Start: uint64(at / int64(sector)),
			End:   uint64((at+length)/int64(sector)) - 1,
			Type:  partitionTypes[p.GetGptType()],
			Name:  p.GetLabel(),
			GUID:  uuid.NewString(),
		})
		at += length
	}
	return table, nil
}

func writeTable(t *gpt.Table, disk *os.File, size int64) error {
	w, err := file.New(disk, false).Writable()
	if err != nil {
		return err
	}
	return t.Write(w, size)
}

// partitionName returns the device of a partition: sda1, but nvme0n1p1.
func partitionName(disk string, number int) string {
	if last := disk[len(disk)-1]; last >= '0' && last <= '9' {
		return fmt.Sprintf("%sp%d", disk, number)
	}
	return fmt.Sprintf("%s%d", disk, number)
}

func awaitDevice(ctx context.Context, device string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		if _, err := os.Stat(device); err == nil {
			return nil
		}
		if !sleep(ctx, 5*time.Millisecond) {
			return fault.New(fault.Unavailable, "partition "+device, "did not appear", "")
		}
	}
}

// Format makes the file systems.
func (l *Layout) Format(ctx context.Context) error {
	for _, f := range l.want.GetFilesystems() {
		args := mkfs(f, l.ids[f.GetDevice()])
		if args == nil {
			continue
		}
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return fault.Wrap(fault.Unavailable, "file system on "+f.GetDevice(),
				fmt.Sprintf("%s failed with %q", path.Base(args[0]), strings.TrimSpace(string(out))), err)
		}
	}
	return nil
}

// mkfs returns the command that makes a file system, nil if there is none to
// make.
func mkfs(f *apiv2.Filesystem, id string) []string {
	var args []string
	switch f.GetFormat() {
	case apiv2.Format_FORMAT_VFAT:
		args = []string{"mkfs.vfat", "-F", "32", "-i", strings.ReplaceAll(id, "-", "")}
		if f.GetLabel() != "" {
			args = append(args, "-n", strings.ToUpper(f.GetLabel()[:min(11, len(f.GetLabel()))]))
		}
	case apiv2.Format_FORMAT_EXT3, apiv2.Format_FORMAT_EXT4:
		// The kernel initializes the inode tables while the file system is in use;
		// mke2fs leaves them to it only if it is asked, or ext4 is loaded already.
		args = []string{"mkfs." + format(f.GetFormat()), "-q", "-F", "-E", "lazy_itable_init=1", "-U", id}
		if f.GetLabel() != "" {
			args = append(args, "-L", f.GetLabel()[:min(16, len(f.GetLabel()))])
		}
	case apiv2.Format_FORMAT_SWAP:
		args = []string{"mkswap", "-U", id}
		if f.GetLabel() != "" {
			args = append(args, "-L", f.GetLabel()[:min(15, len(f.GetLabel()))])
		}
	default:
		return nil
	}
	args = append(args, f.GetCreateOptions()...)
	return append(args, f.GetDevice())
}

// format is the name of a file system in fstab and mount.
func format(f apiv2.Format) string {
	return strings.ToLower(strings.TrimPrefix(f.String(), "FORMAT_"))
}

// mounts returns the file systems that are mounted during the installation,
// outer ones first.
func (l *Layout) mounts() []*apiv2.Filesystem {
	var out []*apiv2.Filesystem
	for _, f := range l.want.GetFilesystems() {
		switch f.GetFormat() {
		case apiv2.Format_FORMAT_VFAT, apiv2.Format_FORMAT_EXT3, apiv2.Format_FORMAT_EXT4:
			if strings.HasPrefix(f.GetPath(), "/") {
				out = append(out, f)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b *apiv2.Filesystem) int {
		return cmp.Compare(strings.Count(path.Clean(a.GetPath()), "/")+len(path.Clean(a.GetPath())), strings.Count(path.Clean(b.GetPath()), "/")+len(path.Clean(b.GetPath())))
	})
	return out
}

// Mount mounts the file systems below target.
func (l *Layout) Mount(target string) error {
	for _, f := range l.mounts() {
		at := filepath.Join(target, f.GetPath())
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(f.GetDevice(), at, format(f.GetFormat()), unix.MS_NOATIME, ""); err != nil {
			return fault.Wrap(fault.Unavailable, "file system on "+f.GetDevice(), "cannot be mounted", err)
		}
	}
	return nil
}

// Unmount undoes Mount, as far as it got.
func (l *Layout) Unmount(target string) error {
	var first error
	for _, f := range slices.Backward(l.mounts()) {
		at := filepath.Join(target, f.GetPath())
		if err := unix.Unmount(at, 0); err != nil && err != unix.EINVAL && err != unix.ENOENT && first == nil {
			first = fmt.Errorf("unmount %s: %w", at, err)
		}
	}
	return first
}

// Sync has the disks of the layout write what is in their caches.
func (l *Layout) Sync() error {
	for _, d := range l.want.GetDisks() {
		f, err := os.Open(d.GetDevice())
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return fault.Wrap(fault.Unavailable, "disk "+d.GetDevice(), "did not write what it was given", err)
		}
	}
	return nil
}

// Fstab returns the file system table of the installed system (fstab(5)).
func (l *Layout) Fstab() string {
	var b strings.Builder
	for _, f := range l.want.GetFilesystems() {
		what := "UUID=" + l.ids[f.GetDevice()]
		where, pass := f.GetPath(), 2
		switch f.GetFormat() {
		case apiv2.Format_FORMAT_TMPFS:
			what, pass = "tmpfs", 0
		case apiv2.Format_FORMAT_SWAP:
			where, pass = "none", 0
		case apiv2.Format_FORMAT_NONE, apiv2.Format_FORMAT_UNSPECIFIED:
			continue
		}
		if where == "" {
			continue
		}
		if where == "/" {
			pass = 1
		}
		options := "defaults"
		if len(f.GetMountOptions()) > 0 {
			options = strings.Join(f.GetMountOptions(), ",")
		}
		fmt.Fprintf(&b, "%s\t%s\t%s\t%s\t0\t%d\n", what, where, format(f.GetFormat()), options, pass)
	}
	return b.String()
}

// RootID returns the uuid of the root file system.
func (l *Layout) RootID() string {
	for _, f := range l.want.GetFilesystems() {
		if f.GetPath() == "/" {
			return l.ids[f.GetDevice()]
		}
	}
	return ""
}

// ESP returns where the EFI system partition is mounted, "" if the layout has
// none.
func (l *Layout) ESP() string {
	boot := map[string]bool{}
	for _, d := range l.want.GetDisks() {
		for _, p := range d.GetPartitions() {
			if p.GetGptType() == apiv2.GPTType_GPT_TYPE_BOOT {
				boot[partitionName(d.GetDevice(), int(p.GetNumber()))] = true
			}
		}
	}
	for _, f := range l.want.GetFilesystems() {
		if f.GetFormat() == apiv2.Format_FORMAT_VFAT && boot[f.GetDevice()] {
			return f.GetPath()
		}
	}
	return ""
}
