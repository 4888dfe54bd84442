package agent

import (
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/lldp"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// structure is one SMBIOS structure (DSP0134): header, formatted area, strings.
func structure(kind byte, formatted []byte, texts ...string) []byte {
	b := append([]byte{kind, byte(4 + len(formatted)), kind, 0}, formatted...)
	for _, t := range texts {
		b = append(append(b, t...), 0)
	}
	if len(texts) == 0 {
		b = append(b, 0)
	}
	return append(b, 0)
}

// tables returns an SMBIOS 3 entry point and its table.
func tables() (entry, table []byte) {
	memory := make([]byte, 0x22-4)
	binary.LittleEndian.PutUint16(memory[0x0c-4:], 512) // MiB
	table = append(table, structure(0, append([]byte{1, 2, 0, 0, 3, 0}, make([]byte, 14)...), "EDK II", "2025.02", "03/02/2025")...)
	table = append(table, structure(1, append([]byte{1, 2, 0, 3}, make([]byte, 19)...), "Acme", "Rack One", "SN0001")...)
	table = append(table, structure(2, append([]byte{1, 2, 0, 3}, make([]byte, 7)...), "Acme", "Board", "B1")...)
	table = append(table, structure(3, append([]byte{1, 1, 0, 2}, make([]byte, 13)...), "Acme", "Not Specified")...)
	table = append(table, structure(17, memory)...)
	table = append(table, structure(17, memory)...)
	table = append(table, structure(127, nil)...)
	entry = make([]byte, 24)
	copy(entry, "_SM3_")
	entry[6], entry[7], entry[8], entry[10] = 24, 3, 3, 1
	binary.LittleEndian.PutUint32(entry[12:], uint32(len(table)))
	binary.LittleEndian.PutUint64(entry[16:], 0x1000)
	var sum byte
	for _, b := range entry {
		sum += b
	}
	entry[5] = -sum
	return entry, table
}

func server() fstest.MapFS {
	entry, table := tables()
	root := fstest.MapFS{}
	for name, text := range map[string]string{
		"sys/firmware/dmi/tables/smbios_entry_point": string(entry),
		"sys/firmware/dmi/tables/DMI":                string(table),
		"sys/class/dmi/id/product_uuid":              "4C4C4544-0051-3710-8052-B4C04F443732\n",
		"proc/cpuinfo": "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: EPYC\nphysical id\t: 0\ncore id\t: 0\n\n" +
			"processor\t: 1\nvendor_id\t: AuthenticAMD\nmodel name\t: EPYC\nphysical id\t: 0\ncore id\t: 0\n\n" +
			"processor\t: 2\nvendor_id\t: AuthenticAMD\nmodel name\t: EPYC\nphysical id\t: 1\ncore id\t: 0\n\n",
		"sys/block/nvme0n1/size":                     "2048\n",
		"sys/block/nvme0n1/queue/logical_block_size": "4096\n",
		"sys/block/nvme0n1/queue/rotational":         "0\n",
		"sys/block/nvme0n1/device/serial":            "S1 \n",
		"sys/block/nvme0n1/device/model":             "Fast\n",
		"sys/block/nvme0n1/wwid":                     "eui.01\n",
		"sys/block/sda/size":                         "4096\n",
		"sys/block/sda/queue/logical_block_size":     "512\n",
		"sys/block/sda/queue/rotational":             "1\n",
		"sys/block/sda/device/vpd_pg80":              "\x00\x80\x00\x04WD42",
		"sys/block/sda/device/wwid":                  "naa.5000\n",
		"sys/block/sr0/size":                         "4096\n",
		"sys/block/loop0/size":                       "4096\n",
		"sys/block/sdb/size":                         "4096\n",
		"sys/block/sdb/removable":                    "1\n",
		"sys/block/sdc/size":                         "0\n",
		"sys/firmware/efi/fw_platform_size":          "64\n",
		"sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c": "\x06\x00\x00\x00\x01",
		"sys/class/tpm/tpm0/tpm_version_major":                                     "2\n",
		"sys/class/net/eth0/device/vendor":                                         "0x15b3\n",
		"sys/class/net/eth0/speed":                                                 "25000\n",
		"sys/class/net/eth1/speed":                                                 "-1\n",
	} {
		root[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return root
}

func TestLook(t *testing.T) {
	got, err := Look(server())
	if err != nil {
		t.Fatal(err)
	}
	want := &ingotv1.Inventory{}
	if err := protojson.Unmarshal([]byte(`{
		"manufacturer": "Acme", "product": "Rack One", "serial": "SN0001",
		"bios": {"vendor": "EDK II", "version": "2025.02", "date": "03/02/2025"},
		"fru": {"productManufacturer": "Acme", "productPartNumber": "Rack One", "productSerial": "SN0001",
			"boardMfg": "Acme", "boardPartNumber": "Board", "boardMfgSerial": "B1"},
		"firmware": {"uefi": true, "secureBoot": true, "tpmVersion": "2.0"},
		"hardware": {"memory": 1073741824,
			"cpus": [{"vendor": "AuthenticAMD", "model": "EPYC", "cores": 1, "threads": 2}, {"vendor": "AuthenticAMD", "model": "EPYC", "cores": 1, "threads": 1}],
			"disks": [{"name": "/dev/nvme0n1", "size": 1048576}, {"name": "/dev/sda", "size": 2097152}]},
		"disks": [
			{"name": "nvme0n1", "serial": "S1", "wwn": "eui.01", "size": 1048576, "sectorSize": 4096, "type": "DISK_TYPE_NVME", "model": "Fast"},
			{"name": "sda", "serial": "WD42", "wwn": "naa.5000", "size": 2097152, "sectorSize": 512, "type": "DISK_TYPE_HDD"}]
	}`), want); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestLookSaysWhatIsMissing(t *testing.T) {
	for missing, object := range map[string]string{
		"sys/firmware/dmi/tables/DMI": "SMBIOS",
		"proc/cpuinfo":                "processors",
	} {
		root := server()
		delete(root, missing)
		if _, err := Look(root); err == nil || !strings.HasPrefix(err.Error(), object+": ") {
			t.Errorf("without %s: %v", missing, err)
		}
	}
}

func TestSystemUUID(t *testing.T) {
	root := server()
	if got, err := systemUUID(root); err != nil || got != "4c4c4544-0051-3710-8052-b4c04f443732" {
		t.Errorf("got %q, %v", got, err)
	}
	for _, bad := range []string{"", "00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "x"} {
		root["sys/class/dmi/id/product_uuid"] = &fstest.MapFile{Data: []byte(bad)}
		if got, err := systemUUID(root); !errors.Is(err, fault.Invalid) {
			t.Errorf("%q was accepted as %q", bad, got)
		}
	}
}

func TestNICs(t *testing.T) {
	mac := net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}
	ports := []net.Interface{{Name: "eth0", HardwareAddr: mac}, {Name: "eth1", HardwareAddr: mac}}
	heard := map[string]lldp.Frame{"eth0": {ChassisID: "02:00:00:00:00:01", PortID: "Ethernet0", SystemName: "leaf1", TTL: time.Minute}}
	got := nics(ports, heard, server())
	want := []*apiv2.MachineNic{
		{
			Mac: mac.String(), Name: "eth0", Identifier: mac.String(), Vendor: "0x15b3", Speed: 25000,
			Neighbors: []*apiv2.MachineNic{{Mac: "02:00:00:00:00:01", Name: "Ethernet0", Identifier: "Ethernet0", Hostname: "leaf1"}},
		},
		{Mac: mac.String(), Name: "eth1", Identifier: mac.String()},
	}
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func FuzzLook(f *testing.F) {
	entry, table := tables()
	f.Add(entry, table, "processor\t: 0\n")
	f.Fuzz(func(_ *testing.T, entry, table []byte, cpuinfo string) {
		root := server()
		root["sys/firmware/dmi/tables/smbios_entry_point"] = &fstest.MapFile{Data: entry}
		root["sys/firmware/dmi/tables/DMI"] = &fstest.MapFile{Data: table}
		root["proc/cpuinfo"] = &fstest.MapFile{Data: []byte(cpuinfo)}
		_, _ = Look(root) // must not panic
	})
}
