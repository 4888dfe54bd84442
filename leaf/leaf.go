// Package leaf says what a leaf switch shall hold, and makes it so. It decides
// nothing.
//
// Render turns a configuration into what FRR, the kernel and nftables shall
// hold; it is a pure function.
package leaf

import (
	"fmt"
	"strings"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// Files is what a switch shall hold, one part per subsystem.
type Files struct {
	// FRR is the part of FRR's integrated configuration that Ingot owns, in
	// the very words in which `show running-config` prints it.
	FRR string
	// Kernel is what the kernel's network shall look like.
	Kernel Kernel
	// ACLs are the ingress filters of the ports, in the order of the ports.
	ACLs []ACL
}

// An ACL is the ingress filter of one port.
type ACL struct {
	Port  string
	Class ingotv1.PortClass
	// rules are the bodies of the chains by class. Besides the one for Class
	// there is always the one for the boot network: it stays bound until the
	// port has left the boot VRF.
	rules map[ingotv1.PortClass][]string
}

// An FRRVersion is a release of FRR, without its patch level.
type FRRVersion struct{ Major, Minor int }

// OldestFRR is the oldest release whose words Render speaks.
var OldestFRR = FRRVersion{8, 4}

// ParseFRRVersion reads what `vtysh -c 'show version'` or --version prints
// after "FRRouting" or "version": "8.4.4", "10.1_git".
func ParseFRRVersion(s string) (FRRVersion, error) {
	var v FRRVersion
	if _, err := fmt.Sscanf(s, "%d.%d", &v.Major, &v.Minor); err != nil || v.Major < 0 || v.Minor < 0 {
		return FRRVersion{}, invalid("frr version "+s, "is not a number with a dot")
	}
	return v, nil
}

// String returns the release as FRR writes it.
func (v FRRVersion) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

func (v FRRVersion) less(w FRRVersion) bool {
	return v.Major < w.Major || v.Major == w.Major && v.Minor < w.Minor
}

// className is a class in lower-case letters: "boot", "machine", "down".
func className(c ingotv1.PortClass) string {
	return strings.ToLower(strings.TrimPrefix(c.String(), "PORT_CLASS_"))
}
