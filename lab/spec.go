package lab

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// qemuProgram is found through PATH.
const qemuProgram = "qemu-system-x86_64"

// A Spec says what a VM is made of.
type Spec struct {
	// Name is for people.
	Name string
	// UUID, Serial, Manufacturer and Product are what the guest reads from
	// SMBIOS, each empty for QEMU's own.
	UUID, Serial, Manufacturer, Product string
	// Memory is in MiB; CPUs is 1 when zero.
	Memory, CPUs int
	// Firmware makes the VM start as a server does. Without it, QEMU starts
	// Kernel directly.
	Firmware *Firmware
	// Kernel, Initrds and Cmdline are started without firmware. Initrds are
	// unpacked one over the other and Files last.
	Kernel  string
	Initrds []string
	Cmdline string
	Files   map[string]File
	// Disks are the local disks, made on first use.
	Disks []Disk
	// CDROM adds a drive for virtual media.
	CDROM bool
	// Stick is a file of the host in a USB port, which the firmware tries
	// after the disks; empty without.
	Stick string
	// NICs are the network cards, in the order the guest finds them.
	NICs []NIC
}

// A Disk is a local disk.
type Disk struct {
	// Size is in bytes. Space is taken as it is written.
	Size int64
	// Serial is the disk's serial number.
	Serial string
	// Bus is how it is connected.
	Bus Bus
	// Worn makes it a disk that takes no writes any more, and says so.
	Worn bool
	// NoDiscard makes it a disk that has to be overwritten to be erased; only
	// virtio has such.
	NoDiscard bool
}

// A Bus connects disks.
type Bus string

// The buses of a VM, by the QEMU devices on them.
const (
	Virtio Bus = "" // the default
	NVMe   Bus = "nvme"
	SCSI   Bus = "scsi-hd"
	ATA    Bus = "ide-hd"
)

// A NIC is a network card, on a wire or on the user's network.
type NIC struct {
	// MAC is the address, as text.
	MAC string
	// Name is what a lab guest calls the port. Servers name theirs themselves.
	Name string
	// Port is the end of the wire it is plugged into.
	Port *Port
	// User connects the NIC to this machine's network as this process sees it,
	// when there is no Port. Without either the NIC has no carrier.
	User *User
	// MTU is the largest packet the guest may send, 1500 when zero.
	MTU int
}

// A User is a private network between one guest and this machine, which plays
// an IPv4 router: the guest is 10.0.2.15/24, this machine's loopback is
// 10.0.2.2. It needs no privilege, joins the guest to no other guest, and sends
// no router advertisements, which would compete with those of leaves.
type User struct {
	// Forward makes a TCP port of this machine (address and port) a port of
	// the guest.
	Forward map[netip.AddrPort]int
}

// prepare makes the files that s names and lays out in dir.
func (s *Spec) prepare(dir string) error {
	for i, d := range s.Disks {
		f, err := os.OpenFile(diskFile(dir, i), os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			return err
		}
		if info, err := f.Stat(); err != nil || info.Size() != d.Size {
			err = errors.Join(err, f.Truncate(d.Size))
			if err != nil {
				return errors.Join(err, f.Close())
			}
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	if s.Firmware != nil {
		return s.Firmware.copyVars(filepath.Join(dir, varsFile))
	}
	files := map[string]File{"/etc/nics": Text(s.nics()), "/etc/hostname": Text(s.Name + "\n")}
	for path, f := range s.Files {
		files[path] = f
	}
	return appendInitrd(filepath.Join(dir, initrdFile), s.Initrds, files)
}

// nics is the guest's list of ports: MAC address and name.
func (s *Spec) nics() string {
	var b strings.Builder
	for _, n := range s.NICs {
		if n.Name != "" {
			fmt.Fprintf(&b, "%s %s\n", n.Name, strings.ToLower(n.MAC))
		}
	}
	return b.String()
}

// Files of a VM in its folder. QEMU runs there, so that their names stay short
// whatever the folder's is: a socket's name may have 107 bytes.
const (
	varsFile     = "vars.fd"
	initrdFile   = "initrd"
	serialFile   = "serial.log"
	serialSocket = "serial.sock"
)

func diskFile(dir string, i int) string { return filepath.Join(dir, "disk"+strconv.Itoa(i)+".raw") }

// copyVars gives a VM its own variable store, once.
func (f *Firmware) copyVars(to string) error {
	in, err := os.Open(f.Vars)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// A placed device has a place among those that the firmware tries.
type placed struct {
	id    string
	index int
}

// removable are the devices whose place an override changes; disks are at 2 and
// up. The one that comes first is last, since no two may have one place.
func (s *Spec) removable(o Override) []placed {
	var all []placed
	if s.CDROM {
		all = append(all, placed{"cdrom", 100})
	}
	if s.Stick != "" {
		all = append(all, placed{"stick", 99})
	}
	first := map[Target]string{FromCD: "cdrom", FromUSB: "stick"}[o.Target]
	for i, d := range all {
		if d.id == first {
			all = append(slices.Delete(all, i, i+1), placed{first, 0})
			break
		}
	}
	return all
}

// place returns the place of a removable device.
func (s *Spec) place(id string, o Override) string {
	for _, d := range s.removable(o) {
		if d.id == id {
			return strconv.Itoa(d.index)
		}
	}
	return ""
}

// firstFile is the descriptor of the first file a VM's process inherits: the
// monitor, then the NICs on wires in their order.
const firstFile = 3

// arguments renders s for QEMU, run in dir with the monitor and the NICs on
// wires as inherited files.
func (s *Spec) arguments(dir, media string, order Override) []string {
	a := []string{
		"-name", s.Name, "-machine", "q35", "-smp", strconv.Itoa(max(s.CPUs, 1)), "-m", strconv.Itoa(s.Memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-S",
		"-chardev", "socket,id=monitor,fd=" + strconv.Itoa(firstFile), "-mon", "chardev=monitor,mode=control",
		"-chardev", "socket,id=serial,path=" + serialSocket + ",server=on,wait=off,logfile=" + serialFile + ",logappend=on",
		"-serial", "chardev:serial",
		"-device", "virtio-rng-pci",
	}
	a = append(a, accelerator()...)
	if s.UUID != "" {
		a = append(a, "-uuid", s.UUID)
	}
	smbios := ""
	for _, f := range [][2]string{{"manufacturer", s.Manufacturer}, {"product", s.Product}, {"serial", s.Serial}} {
		if f[1] != "" {
			smbios += "," + f[0] + "=" + escape(f[1])
		}
	}
	if smbios != "" {
		a = append(a, "-smbios", "type=1"+smbios)
	}
	a = append(a, s.start()...)
	a = append(a, trusted(dir)...)
	a = append(a, s.storage(dir, media, order)...)
	return append(a, s.network()...)
}

// start renders what the processor runs first.
func (s *Spec) start() []string {
	if s.Firmware == nil {
		return []string{"-kernel", s.Kernel, "-initrd", initrdFile, "-append", strings.TrimSpace("console=ttyS0,115200 quiet panic=5 " + KernelArguments() + " " + s.Cmdline)}
	}
	return []string{
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=" + escape(s.Firmware.Code),
		"-drive", "if=pflash,format=raw,unit=1,file=" + varsFile,
		// The firmware shall not use the network by itself: nothing of Ingot
		// boots over PXE.
		"-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n",
		"-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n",
	}
}

func (s *Spec) storage(dir, media string, order Override) []string {
	var a []string
	if s.CDROM || slices.ContainsFunc(s.Disks, func(d Disk) bool { return d.Bus == SCSI }) {
		a = append(a, "-device", "virtio-scsi-pci,id=scsi")
	}
	if s.CDROM {
		file := ""
		if media != "" {
			file = ",format=raw,file=" + escape(media)
		}
		a = append(a,
			"-drive", "if=none,id=cd,media=cdrom,readonly=on"+file,
			"-device", "scsi-cd,id=cdrom,drive=cd,bus=scsi.0,bootindex="+s.place("cdrom", order))
	}
	ata := 0 // places on the controller in use, of four
	if s.Stick != "" {
		a = append(a,
			"-drive", "if=none,id=usb,format=raw,readonly=on,file="+escape(s.Stick),
			"-device", "qemu-xhci", "-device", "usb-storage,id=stick,drive=usb,removable=on,bootindex="+s.place("stick", order))
	}
	for i, d := range s.Disks {
		id, device := "disk"+strconv.Itoa(i), string(d.Bus)
		switch {
		case d.Bus == SCSI:
			device += ",bus=scsi.0"
		case d.Bus == ATA:
			// The guests' kernel does not know the chip set's own controller.
			if ata == 0 {
				a = append(a, "-device", "piix3-ide,id=ata")
			}
			device += fmt.Sprintf(",bus=ata.%d,unit=%d", ata/2, ata%2)
			ata++
		case d.Bus == Virtio && d.NoDiscard:
			device = "virtio-blk-pci,discard=off,write-zeroes=off"
		case d.Bus == Virtio:
			device = "virtio-blk-pci"
		}
		serial := d.Serial
		if serial == "" {
			serial = id
		}
		a = append(a,
			"-drive", "if=none,id="+id+",format=raw,cache=unsafe,discard=unmap,"+d.backend(filepath.Base(diskFile(dir, i))),
			"-device", fmt.Sprintf("%s,drive=%s,serial=%s,bootindex=%d", device, id, escape(serial), 2+i))
	}
	return a
}

// backend renders the file behind a disk, with an error for every write to a
// worn one.
func (d *Disk) backend(file string) string {
	if !d.Worn {
		return "file=" + escape(file)
	}
	b := "file.driver=blkdebug,file.image.driver=file,file.image.filename=" + escape(file)
	for i, kind := range []string{"write", "write-zeroes", "discard"} {
		b += fmt.Sprintf(",file.inject-error.%d.event=none,file.inject-error.%d.iotype=%s,file.inject-error.%d.errno=5", i, i, kind, i)
	}
	return b
}

func (s *Spec) network() []string {
	var a []string
	fd := firstFile + 1
	for i, n := range s.NICs {
		id := nicID(i)
		var backend string
		switch {
		case n.Port != nil:
			backend = fmt.Sprintf("dgram,id=%s,local.type=fd,local.str=%d", id, fd)
			fd++
		case n.User != nil:
			backend = "user,id=" + id + ",ipv4=on,net=10.0.2.0/24,ipv6=off"
			for host, port := range n.User.Forward {
				backend += fmt.Sprintf(",hostfwd=tcp:%s:%d-10.0.2.15:%d", host.Addr(), host.Port(), port)
			}
		default:
			backend = "hubport,id=" + id + ",hubid=" + strconv.Itoa(1000+i)
		}
		device := fmt.Sprintf("virtio-net-pci,id=card%d,netdev=%s,mac=%s,romfile=,rombar=0", i, id, n.MAC)
		if n.MTU != 0 {
			device += fmt.Sprintf(",host_mtu=%d", n.MTU)
		}
		a = append(a, "-netdev", backend, "-device", device)
	}
	return a
}

// escape doubles the commas of a value in a QEMU option.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
