package leaf

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/ndp"
)

const (
	// farewells are sent so often and this far apart: nobody acknowledges them
	// (RFC 4861, 6.2.5: MAX_FINAL_RTR_ADVERTISEMENTS).
	farewells     = 3
	farewellPause = 30 * time.Millisecond
)

// withdrawRouter sends router advertisements on a port which say that neither
// router nor prefix hold any longer (RFC 4861, 6.2.5 and 6.2.8). They come
// after FRR's last one, which says it of the router only.
func withdrawRouter(ctx context.Context, port string, prefix netip.Prefix) error {
	iface, err := net.InterfaceByName(port)
	if err != nil {
		return err
	}
	c, _, err := ndp.Listen(iface, ndp.LinkLocal)
	if err != nil {
		return fmt.Errorf("port %s: %w", port, err)
	}
	defer c.Close()
	for i := range farewells {
		if i > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(farewellPause):
			}
		}
		err := c.WriteTo(&ndp.RouterAdvertisement{
			CurrentHopLimit: 64,
			Options: []ndp.Option{
				&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: iface.HardwareAddr},
				&ndp.PrefixInformation{Prefix: prefix.Addr(), PrefixLength: uint8(prefix.Bits()), OnLink: true, AutonomousAddressConfiguration: true},
			},
		}, nil, netip.IPv6LinkLocalAllNodes())
		if err != nil {
			return fmt.Errorf("port %s: %w", port, err)
		}
	}
	return nil
}
