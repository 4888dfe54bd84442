package boot

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/ingot-cloud/ingot/fault"
)

// IPXE is a medium that loads everything else over the network, as MEP-20
// describes it: iPXE, and a script that asks metal-boot what to boot. It needs
// to be made anew only when iPXE or metal-boot's name changes.
//
// It carries no trust. The partition's authority comes from the firmware's own
// list, which the BMC can fill, or was built into iPXE.
type IPXE struct {
	Partition string
	// Program is iPXE for UEFI, with IPv6, HTTPS and ECDSA (2.0 and later).
	Program []byte
	// Boot is metal-boot's url in the boot network.
	Boot *url.URL
}

// ISO returns the medium as an image of a bootable CD. The same medium gives
// the same bytes.
func (m IPXE) ISO() ([]byte, error) {
	object := "boot medium of " + m.Partition
	switch {
	case m.Boot == nil || m.Boot.Scheme != "https":
		return nil, fault.New(fault.Invalid, object, "metal-boot has no https url", "")
	case len(m.Program) < 2 || string(m.Program[:2]) != "MZ":
		return nil, fault.New(fault.Invalid, object, "iPXE is not an EFI program", "name one with --ipxe-file")
	}
	iso, err := ISO("INGOT_BOOT", m.Program, File{Name: "autoexec.ipxe", Data: []byte(m.autoexec())})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", object, err)
	}
	return iso, nil
}

// autoexec is what iPXE does by itself: it asks on one network card after the
// other, with growing pauses, and restarts the server after a few minutes of
// that, for a firmware can be in a state that only this mends. It configures
// IPv6 only, and there is no way out of it into a shell: nobody watches.
func (m IPXE) autoexec() string {
	return strings.NewReplacer("PARTITION", m.Partition, "SCRIPT", m.Boot.JoinPath("boot.ipxe").String()).Replace(`#!ipxe
echo Ingot: boot medium of partition PARTITION, machine ${uuid}
set pause:int32 2
set round:int32 0
:round
set n:int32 0
:card
isset ${net${n}/mac} || goto pause
echo Ingot: net${n} ${net${n}/mac}
ifconf --configurator ipv6 --timeout 10000 net${n} || goto next
chain --autofree --timeout 30000 SCRIPT?uuid=${uuid} || echo Ingot: no boot through net${n}
:next
ifclose net${n} ||
inc n
goto card
:pause
inc round
iseq ${round} 7 && goto restart ||
echo Ingot: again in ${pause} seconds
sleep ${pause} ||
inc pause ${pause}
goto round
:restart
echo Ingot: nothing to boot was found, restarting
reboot ||
sleep 60 ||
goto restart
`)
}
