// Command lldpsender tells the leaves that an installed system runs: it sends
// LLDP frames (IEEE 802.1AB-2016) on every port of the machine. Images of the
// lab that have no LLDP daemon start it; real ones use lldpd, whose
// configuration Ingot's agent writes too.
package main

import (
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/ingot-cloud/ingot/lldp"
)

// A new sender speaks faster at first (IEEE 802.1AB-2016, 9.2.5.5 and 9.2.5.19).
const (
	interval     = 5 * time.Second
	fastInterval = time.Second
	fastFrames   = 4
)

// The agent's files in the installed system: the machine's uuid, and a name and
// a MAC address per port.
const (
	machineFile = "/etc/ingot/machine"
	portsFile   = "/etc/ingot/ports"
)

func main() {
	if err := send(); err != nil {
		fmt.Fprintln(os.Stderr, "lldpsender:", err)
		os.Exit(1)
	}
}

// send sends frames on all ports for as long as it can.
func send() error {
	machine, err := os.ReadFile(machineFile)
	if err != nil {
		return err
	}
	ports, err := os.ReadFile(portsFile)
	if err != nil {
		return err
	}
	uuid := strings.TrimSpace(string(machine))
	frame := lldp.Frame{ChassisID: uuid, SystemName: uuid, SystemDescription: "provisioned by Ingot", TTL: 4 * interval}
	conns := map[string]*lldp.Conn{}
	for line := range strings.Lines(string(ports)) {
		name, _, _ := strings.Cut(line, " ")
		iface, err := net.InterfaceByName(name)
		if err != nil {
			return fmt.Errorf("port %s: %w", name, err)
		}
		if conns[name], err = lldp.Open(*iface); err != nil {
			return fmt.Errorf("port %s: %w", name, err)
		}
	}
	for sent := 0; ; sent++ {
		for name, c := range conns {
			frame.PortID, frame.PortDescription = name, name
			// A port without link refuses; it may have one the next time.
			_ = c.Send(frame)
		}
		if sent < fastFrames {
			time.Sleep(fastInterval)
		} else {
			time.Sleep(interval)
		}
	}
}
