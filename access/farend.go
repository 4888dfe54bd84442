package access

import (
	"slices"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// farEnds says which calls an enrolled program has: those of these services
// that an infra role may call, and the single methods.
var farEnds = map[ingotv1.FarEnd][]string{
	ingotv1.FarEnd_FAR_END_LEAF: {
		"ingot.v1.BootService",
		"ingot.v1.LeafService",
		"metalstack.infra.v2.ComponentService",
		"metalstack.infra.v2.SwitchService",
		refresh,
	},
	ingotv1.FarEnd_FAR_END_SITE: {
		"ingot.v1.ConsoleService",
		"ingot.v1.FabricService",
		"ingot.v1.SiteService",
		"metalstack.infra.v2.BMCService",
		"metalstack.infra.v2.ComponentService",
		refresh,
	},
}

const (
	refresh = "/metalstack.api.v2.TokenService/Refresh"
	ping    = "/metalstack.infra.v2.ComponentService/Ping"
)

func ofKind(k ingotv1.FarEnd, m *Method) bool {
	calls := farEnds[k]
	return m.Public || slices.Contains(calls, m.Name) || m.Infra != 0 && slices.Contains(calls, m.Service())
}

// authorizeFarEnd is Authorize for a token that was enrolled.
func authorizeFarEnd(t *privatev1.Token, m *Method, req protoreflect.Message) error {
	if !ofKind(t.GetKind(), m) {
		return denied(m, "", nil)
	}
	if m.Public || within(t, m, req) {
		return nil
	}
	s := scopeOf(m, req)
	if s.partition != t.GetPartition() {
		return denied(m, s.partition, []string{t.GetPartition()})
	}
	return denied(m, s.leaf, []string{t.GetFarEnd()})
}

// A scope is what a request of the infrastructure is about.
type scope struct{ partition, leaf string }

// scopeOf reads the scope out of a request: its fields "partition" and
// "switch", be that a name or the whole switch, and the "id" of calls about
// switches.
func scopeOf(m *Method, req protoreflect.Message) scope {
	var s scope
	if req == nil {
		return s
	}
	text := func(msg protoreflect.Message, name protoreflect.Name) string {
		if f := msg.Descriptor().Fields().ByName(name); f != nil && f.Kind() == protoreflect.StringKind && !f.IsList() {
			return msg.Get(f).String()
		}
		return ""
	}
	s.partition, s.leaf = text(req, "partition"), text(req, "switch")
	if f := req.Descriptor().Fields().ByName("switch"); f != nil && f.Message() != nil {
		s.partition, s.leaf = text(req.Get(f).Message(), "partition"), text(req.Get(f).Message(), "id")
	}
	if m.Service() == "metalstack.infra.v2.SwitchService" && s.leaf == "" {
		s.leaf = text(req, "id")
	}
	return s
}

// within reports whether a request stays in the partition, and for a leaf with
// the switch, that a token is bound to. A request that names neither does not,
// unless it is about the caller alone.
func within(t *privatev1.Token, m *Method, req protoreflect.Message) bool {
	if m.Self || m.Name == ping {
		return true
	}
	s := scopeOf(m, req)
	if t.GetKind() == ingotv1.FarEnd_FAR_END_LEAF {
		return s.leaf == t.GetFarEnd() && (s.partition == "" || s.partition == t.GetPartition())
	}
	if m.Machine != 0 && s.partition == "" {
		return true // the machine the token is for is in its partition
	}
	return s.partition == t.GetPartition()
}

// CheckFarEnd returns fault.Denied if the caller is bound to another partition,
// or to another leaf or site. Calls check with it what a request names
// otherwise than by its fields "partition" and "switch". An empty id stands for
// any.
func (c Caller) CheckFarEnd(partition, id string) error {
	t := c.Token
	if t.GetPartition() != "" && t.GetPartition() != partition {
		return fault.Newf(fault.Denied, "partition "+partition, "the token is bound to partition %q", t.GetPartition())
	}
	if t.GetFarEnd() != "" && id != "" && t.GetFarEnd() != id {
		return fault.Newf(fault.Denied, id, "the token is bound to %q", t.GetFarEnd())
	}
	return nil
}
