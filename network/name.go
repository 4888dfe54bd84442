package network

import (
	"strconv"

	"github.com/metal-stack/api/go/enum"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// typeName returns the type as v2 spells it: "super", "child-shared".
func typeName(t apiv2.NetworkType) string { return enumName(t) }

// enumName returns a value as v2 spells it: "SONiC", "up".
func enumName[E protoreflect.Enum](e E) string {
	s, err := enum.GetStringValue(e)
	if err != nil || s == nil {
		return string(e.Descriptor().Values().ByNumber(e.Number()).Name())
	}
	return *s
}

// VRF returns the name of the routing instance with a VNI, as Linux, FRR and
// v2's switches call it.
func VRF(vni uint32) string { return "vrf" + strconv.FormatUint(uint64(vni), 10) }
