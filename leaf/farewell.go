package leaf

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/ndp"
)

// withdrawRouter sends a router advertisement on a port which says that
// neither router nor prefix hold any longer (RFC 4861, 6.2.5 and 6.2.8). It
// comes after FRR's last one, which says it of the router only.
func withdrawRouter(port string, prefix netip.Prefix) error {
	iface, err := net.InterfaceByName(port)
	if err != nil {
		return err
	}
	c, _, err := ndp.Listen(iface, ndp.LinkLocal)
	if err != nil {
		return fmt.Errorf("port %s: %w", port, err)
	}
	defer c.Close()
	return c.WriteTo(&ndp.RouterAdvertisement{
		CurrentHopLimit: 64,
		Options: []ndp.Option{
			&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: iface.HardwareAddr},
			&ndp.PrefixInformation{Prefix: prefix.Addr(), PrefixLength: uint8(prefix.Bits()), OnLink: true, AutonomousAddressConfiguration: true},
		},
	}, nil, netip.IPv6LinkLocalAllNodes())
}
