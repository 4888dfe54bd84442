package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io/fs"
	"net"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/u-root/u-root/pkg/smbios"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/lldp"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// rootFS is where the kernel's files are. Tests hand in others.
var rootFS = os.DirFS("/")

// register looks at the hardware and reports it.
func (a *Agent) register(ctx context.Context) error {
	// The leaves introduce themselves every second. Registering without them
	// would leave the machine without its ports, so it is worth the wait.
	a.network.AwaitNeighbors(ctx, 5*time.Second)
	inventory, err := Look(rootFS)
	if err != nil {
		return err
	}
	inventory.AgentVersion = a.cfg.Version
	inventory.Hardware.Nics = nics(a.network.Ports, a.network.Neighbors(), rootFS)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	answer, err := a.api.agent.Register(ctx, connect.NewRequest(&ingotv1.AgentServiceRegisterRequest{
		Uuid: a.uuid, BootId: a.bootID, Inventory: inventory,
	}))
	if err != nil {
		return fault.Wrap(fault.Unavailable, "machine "+a.uuid, "cannot be registered", err)
	}
	a.disks, a.wipe, a.wipes, a.proven = inventory.GetDisks(), answer.Msg.GetWipe(), nil, 0
	a.cfg.Log.Info("registered", "size", answer.Msg.GetSize(), "partition", answer.Msg.GetPartition(), "wipe", a.wipe)
	return nil
}

// Look reads the hardware from the kernel's files below root, except for the
// network ports.
func Look(root fs.FS) (*ingotv1.Inventory, error) {
	entry, err := fs.ReadFile(root, "sys/firmware/dmi/tables/smbios_entry_point")
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "SMBIOS", "cannot be read", err)
	}
	table, err := fs.ReadFile(root, "sys/firmware/dmi/tables/DMI")
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "SMBIOS", "cannot be read", err)
	}
	info, err := smbios.ParseInfo(entry, table)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "SMBIOS", "cannot be understood", err)
	}
	disks, err := findDisks(root)
	if err != nil {
		return nil, err
	}
	cpus, err := findCPUs(root)
	if err != nil {
		return nil, err
	}
	inv := &ingotv1.Inventory{
		Hardware: &apiv2.MachineHardware{Memory: memory(info, root), Cpus: cpus},
		Disks:    disks,
		Firmware: firmware(root),
		Bios:     &apiv2.MachineBios{},
		Fru:      &apiv2.MachineFRU{},
	}
	for _, d := range disks {
		inv.Hardware.Disks = append(inv.Hardware.Disks, &apiv2.MachineBlockDevice{Name: "/dev/" + d.GetName(), Size: d.GetSize()})
	}
	describe(inv, info)
	return inv, nil
}

// describe fills in what SMBIOS says about the system as a whole. Firmware
// leaves out what it likes.
func describe(inv *ingotv1.Inventory, info *smbios.Info) {
	if b, err := info.GetBIOSInfo(); err == nil {
		inv.Bios = &apiv2.MachineBios{Vendor: clean(b.Vendor), Version: clean(b.Version), Date: clean(b.ReleaseDate)}
	}
	if s, err := info.GetSystemInfo(); err == nil {
		inv.Manufacturer, inv.Product, inv.Serial = clean(s.Manufacturer), clean(s.ProductName), clean(s.SerialNumber)
		inv.Fru.ProductManufacturer = some(s.Manufacturer)
		inv.Fru.ProductPartNumber = some(s.ProductName)
		inv.Fru.ProductSerial = some(s.SerialNumber)
	}
	if c, err := info.GetChassisInfo(); err == nil && len(c) > 0 {
		inv.Fru.ChassisPartSerial = some(c[0].SerialNumber)
		inv.Fru.ChassisPartNumber = some(c[0].AssetTagNumber)
	}
	if b, err := info.GetBaseboardInfo(); err == nil && len(b) > 0 {
		inv.Fru.BoardMfg = some(b[0].Manufacturer)
		inv.Fru.BoardPartNumber = some(b[0].Product)
		inv.Fru.BoardMfgSerial = some(b[0].SerialNumber)
	}
}

func some(s string) *string {
	if s = clean(s); s == "" {
		return nil
	}
	return &s
}

// clean drops what firmware vendors write when they have nothing to say.
func clean(s string) string {
	s = strings.TrimSpace(s)
	switch strings.ToLower(s) {
	case "not specified", "to be filled by o.e.m.", "default string", "none", "unknown", "n/a":
		return ""
	}
	const most = 250
	return s[:min(len(s), most)]
}

// memory returns the installed memory in bytes: the sum of the modules, or
// what the kernel can use where the firmware lists none.
func memory(info *smbios.Info, root fs.FS) uint64 {
	var sum uint64
	if modules, err := info.GetMemoryDevices(); err == nil {
		for _, m := range modules {
			if n := m.GetSizeBytes(); n > 0 {
				sum += n
			}
		}
	}
	if sum > 0 {
		return sum
	}
	b, err := fs.ReadFile(root, "proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if kb, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			n, _ := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kb), "kB")), 10, 64)
			return n * 1024
		}
	}
	return 0
}

// systemUUID returns the system's uuid the way the kernel prints it, which
// has the byte order of SMBIOS 2.6 and later right.
func systemUUID(root fs.FS) (string, error) {
	s := strings.ToLower(line(root, "sys/class/dmi/id/product_uuid"))
	if len(s) != 36 || strings.Trim(s, "0-") == "" || strings.Trim(s, "f-") == "" {
		return "", fault.Newf(fault.Invalid, "server", "the firmware gives no usable uuid: %q", s).Do("set the system uuid in the firmware or with the BMC")
	}
	return s, nil
}

// findCPUs lists the processor packages of /proc/cpuinfo.
func findCPUs(root fs.FS) ([]*apiv2.MetalCPU, error) {
	b, err := fs.ReadFile(root, "proc/cpuinfo")
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "processors", "cannot be listed", err)
	}
	type core struct{ pkg, id string }
	cpus, order := map[string]*apiv2.MetalCPU{}, []string{}
	cores := map[core]bool{}
	for _, block := range strings.Split(string(b), "\n\n") {
		field := map[string]string{}
		for s := bufio.NewScanner(strings.NewReader(block)); s.Scan(); {
			k, v, _ := strings.Cut(s.Text(), ":")
			field[strings.TrimSpace(k)] = strings.TrimSpace(v)
		}
		if field["processor"] == "" {
			continue
		}
		pkg := field["physical id"]
		cpu := cpus[pkg]
		if cpu == nil {
			cpu = &apiv2.MetalCPU{Vendor: field["vendor_id"], Model: field["model name"]}
			cpus[pkg], order = cpu, append(order, pkg)
		}
		cpu.Threads++
		id := field["core id"]
		if id == "" {
			id = field["processor"]
		}
		if c := (core{pkg, id}); !cores[c] {
			cores[c] = true
			cpu.Cores++
		}
	}
	var out []*apiv2.MetalCPU
	for _, pkg := range order {
		out = append(out, cpus[pkg])
	}
	return out, nil
}

// findDisks lists the disks that can hold an operating system or data: no
// optical, removable or stacked devices.
func findDisks(root fs.FS) ([]*ingotv1.Disk, error) {
	names, err := fs.ReadDir(root, "sys/block")
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "disks", "cannot be listed", err)
	}
	var out []*ingotv1.Disk
	for _, e := range names {
		name := e.Name()
		dir := path.Join("sys/block", name)
		stacked := slices.ContainsFunc([]string{"loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd"}, func(p string) bool { return strings.HasPrefix(name, p) })
		sectors, _ := strconv.ParseUint(line(root, path.Join(dir, "size")), 10, 64)
		if stacked || sectors == 0 || line(root, path.Join(dir, "removable")) == "1" || line(root, path.Join(dir, "ro")) == "1" {
			continue
		}
		sector, _ := strconv.ParseUint(line(root, path.Join(dir, "queue/logical_block_size")), 10, 32)
		d := &ingotv1.Disk{
			Name:       name,
			Size:       sectors * 512, // the unit of this file, whatever the disk's sectors are
			SectorSize: uint32(sector),
			Model:      clean(line(root, path.Join(dir, "device/model"))),
			Serial:     first(line(root, path.Join(dir, "device/serial")), line(root, path.Join(dir, "serial")), vpdSerial(root, dir)),
			Wwn:        first(line(root, path.Join(dir, "device/wwid")), line(root, path.Join(dir, "wwid"))),
			Type:       diskType(root, name, dir),
		}
		out = append(out, d)
	}
	return out, nil
}

func diskType(root fs.FS, name, dir string) ingotv1.DiskType {
	switch {
	case strings.HasPrefix(name, "nvme"):
		return ingotv1.DiskType_DISK_TYPE_NVME
	case strings.HasPrefix(name, "vd"), strings.HasPrefix(name, "xvd"):
		return ingotv1.DiskType_DISK_TYPE_VIRTUAL
	case line(root, path.Join(dir, "queue/rotational")) == "1":
		return ingotv1.DiskType_DISK_TYPE_HDD
	default:
		return ingotv1.DiskType_DISK_TYPE_SSD
	}
}

// vpdSerial reads the unit serial number page of a SCSI disk (SPC-5, 7.7.19).
func vpdSerial(root fs.FS, dir string) string {
	b, err := fs.ReadFile(root, path.Join(dir, "device/vpd_pg80"))
	if err != nil || len(b) < 4 {
		return ""
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	return clean(string(bytes.Trim(b[4:min(len(b), 4+n)], "\x00 ")))
}

func firmware(root fs.FS) *ingotv1.Firmware {
	f := &ingotv1.Firmware{TpmVersion: tpmVersion(root)}
	if _, err := fs.Stat(root, "sys/firmware/efi"); err == nil {
		f.Uefi = true
	}
	// Four bytes of attributes, then the value (UEFI 2.10, 32.4).
	if b, err := fs.ReadFile(root, "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"); err == nil && len(b) == 5 {
		f.SecureBoot = b[4] == 1
	}
	return f
}

func tpmVersion(root fs.FS) string {
	switch line(root, "sys/class/tpm/tpm0/tpm_version_major") {
	case "2":
		return "2.0"
	case "1":
		return "1.2"
	default:
		return ""
	}
}

// nics describes the ports with the neighbour heard on each.
func nics(ports []net.Interface, heard map[string]lldp.Frame, root fs.FS) []*apiv2.MachineNic {
	var out []*apiv2.MachineNic
	for _, p := range ports {
		dir := path.Join("sys/class/net", p.Name)
		nic := &apiv2.MachineNic{
			Mac: p.HardwareAddr.String(), Name: p.Name, Identifier: p.HardwareAddr.String(),
			Vendor: line(root, path.Join(dir, "device/vendor")), Model: line(root, path.Join(dir, "device/device")),
		}
		if mbit, err := strconv.ParseInt(line(root, path.Join(dir, "speed")), 10, 64); err == nil && mbit > 0 {
			nic.Speed = uint64(mbit)
		}
		if f, ok := heard[p.Name]; ok {
			nic.Neighbors = append(nic.Neighbors, &apiv2.MachineNic{
				Mac: f.ChassisID, Name: f.PortID, Identifier: f.PortID, Hostname: f.SystemName,
			})
		}
		out = append(out, nic)
	}
	return out
}

// line returns the trimmed content of a small file, "" if there is none.
func line(root fs.FS, name string) string {
	b, err := fs.ReadFile(root, name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(bytes.Trim(b, "\x00")))
}

func first(values ...string) string {
	for _, v := range values {
		if v = clean(v); v != "" {
			return v
		}
	}
	return ""
}
