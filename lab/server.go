package lab

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
)

// A Server is a VM with firmware and its BMC, as one finds them in a rack.
type Server struct {
	VM  *VM
	BMC *BMC
}

// A ServerSpec says what a server is made of.
type ServerSpec struct {
	// Spec needs no firmware and no drive; it gets the lab's. Without memory
	// it has 512 MiB.
	Spec
	// User and Password are the BMC's account, BMCMAC is its address.
	User, Password, BMCMAC string
	// Roots verify the servers that the BMC fetches media from, the system's
	// when nil.
	Roots *x509.CertPool
}

// NewServer returns a server, powered off, that keeps its files in dir.
func (c *Cache) NewServer(ctx context.Context, dir string, s ServerSpec) (*Server, error) {
	fw, err := c.Firmware(ctx)
	if err != nil {
		return nil, err
	}
	s.Firmware, s.CDROM = &fw, true
	if s.Memory == 0 {
		s.Memory = 512
	}
	vm, err := NewVM(dir, s.Spec)
	if err != nil {
		return nil, err
	}
	board := Board{
		UUID: s.UUID, Serial: s.Serial, Manufacturer: s.Manufacturer, Model: s.Product,
		BIOS: fw.Version, Firmware: "1.0", MAC: s.BMCMAC,
	}
	for _, n := range s.NICs {
		board.NICs = append(board.NICs, n.MAC)
	}
	b, err := NewBMC(BMCConfig{
		Board: board, Power: vm, Order: vm, Media: vm, Trust: vm, User: s.User, Password: s.Password, Dir: vm.dir, Roots: s.Roots, Serial: vm.SerialLog(), Keyboard: vm.Console,
	})
	if err != nil {
		return nil, err
	}
	return &Server{VM: vm, BMC: b}, nil
}

// Run serves the BMC on l until ctx is done, and then takes the power away.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	err := s.BMC.Serve(ctx, l)
	if off := s.VM.Close(); off != nil {
		err = errors.Join(err, fmt.Errorf("server %s: %w", s.VM.spec.Name, off))
	}
	return err
}
