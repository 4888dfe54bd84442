package network

import (
	"strconv"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/metal-stack/api/go/enum"
)

// typeName returns the type as v2 spells it: "super", "child-shared".
func typeName(t apiv2.NetworkType) string {
	s, err := enum.GetStringValue(t)
	if err != nil || s == nil {
		return t.String()
	}
	return *s
}

// VRF returns the name of the routing instance with a VNI, as Linux, FRR and
// v2's switches call it.
func VRF(vni uint32) string { return "vrf" + strconv.FormatUint(uint64(vni), 10) }
