package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]string{
		"2026-01-31T13:00:00+01:00": "2026-01-31T12:00:00Z",
		"2026-02-01":                "2026-02-01T00:00:00Z",
		"1d12h":                     "2026-02-02T00:00:00Z",
		"+30m":                      "2026-01-31T12:30:00Z",
		"-8h":                       "2026-01-31T04:00:00Z",
		"-1d1h":                     "2026-01-30T11:00:00Z",
		"soon":                      "",
		"d":                         "",
		"1dd":                       "",
		"99999999d":                 "",
	} {
		got, err := parseTime(in, now)
		if text := got.UTC().Format(time.RFC3339); (err != nil) != (want == "") || (err == nil && text != want) {
			t.Errorf("%q: %s, %v; want %q", in, text, err, want)
		}
	}
}

func TestShort(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0s": 0, "30ms": 30 * time.Millisecond, "1.2s": 1234 * time.Millisecond, "59s": 59 * time.Second, "1m": time.Minute,
		"5m10s": 310 * time.Second, "2h": 2 * time.Hour, "1d1h": 25*time.Hour + time.Minute, "400d": 9600 * time.Hour, "-2h": -2 * time.Hour,
	} {
		if got := short(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func TestNatural(t *testing.T) {
	sorted := []string{"", "a", "a1", "a2", "a010", "a10b", "a10c", "b"}
	for i, a := range sorted {
		for j, b := range sorted {
			if a == "a010" && strings.HasPrefix(b, "a10") || b == "a010" && strings.HasPrefix(a, "a10") {
				continue
			}
			if c := natural(a, b); (c < 0) != (i < j) || (c > 0) != (i > j) {
				t.Errorf("natural(%q, %q) = %d", a, b, c)
			}
		}
	}
}

// TestFlagsBecomeRequests sets flags of real requests and compares the JSON.
func TestFlagsBecomeRequests(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		method protoreflect.FullName
		flags  [][2]string
		want   string
	}{
		{"metalstack.api.v2.MachineService.Create", [][2]string{
			{"name", "m"}, {"networks", "internet"}, {"networks", "network=private,ips=10.0.0.1,ips=10.0.0.2"},
			{"dns-servers", "1.1.1.1"}, {"allocation-type", "Machine"}, {"placement-tags", "a,b"}, {"placement-tags", "c"},
			{"ssh-public-keys", "ssh-ed25519 AAAA me@here, or there"}, {"labels", "a=b,c=d=e"},
			{"firewall-spec.firewall-rules.egress", "protocol=tcp,ports=443,to=0.0.0.0/0,comment=web"},
		}, `{"name":"m","sshPublicKeys":["ssh-ed25519 AAAA me@here, or there"],"labels":{"labels":{"a":"b","c":"d=e"}},
			"networks":[{"network":"internet"},{"network":"private","ips":["10.0.0.1","10.0.0.2"]}],"placementTags":["a","b","c"],
			"dnsServers":[{"ip":"1.1.1.1"}],"allocationType":"MACHINE_ALLOCATION_TYPE_MACHINE",
			"firewallSpec":{"firewallRules":{"egress":[{"protocol":"IP_PROTOCOL_TCP","ports":[443],"to":["0.0.0.0/0"],"comment":"web"}]}}}`},
		{"metalstack.admin.v2.TokenService.Create", [][2]string{
			{"user", "u"}, {"description", "d"}, {"expires", "1d"}, {"project-roles", "p=owner,*=viewer"}, {"admin-role", "editor"},
			{"permissions", `{"self":{"methods":["/a/B"]}}`}, {"permissions", "project.project=p,project.methods=/a/C,project.methods=/a/D"},
		}, `{"user":"u","tokenCreateRequest":{"description":"d","expires":"86400s","projectRoles":{"*":"PROJECT_ROLE_VIEWER","p":"PROJECT_ROLE_OWNER"},
			"adminRole":"ADMIN_ROLE_EDITOR","permissions":[{"self":{"methods":["/a/B"]}},{"project":{"project":"p","methods":["/a/C","/a/D"]}}]}}`},
		{"metalstack.admin.v2.ImageService.Create", [][2]string{{"id", "i"}, {"expires-at", "90d"}, {"features", "machine,firewall"}, {"labels", "x="}},
			`{"image":{"id":"i","meta":{"labels":{"labels":{"x":""}}},"features":["IMAGE_FEATURE_MACHINE","IMAGE_FEATURE_FIREWALL"],"expiresAt":"2026-05-01T12:00:00Z"}}`},
		{"metalstack.admin.v2.ImageService.Update", [][2]string{{"labels", "a=b"}, {"remove-labels", "c,d"}},
			`{"labels":{"patch":{"update":{"labels":{"a":"b"}},"remove":["c","d"]}}}`},
		{"metalstack.admin.v2.SizeService.Create", [][2]string{{"id", "s"}, {"constraints", "type=cores,min=1,max=4"}, {"constraints", "type=gpu,min=1,max=1,identifier=A*"}},
			`{"size":{"id":"s","constraints":[{"type":"SIZE_CONSTRAINT_TYPE_CORES","min":"1","max":"4"},{"type":"SIZE_CONSTRAINT_TYPE_GPU","min":"1","max":"1","identifier":"A*"}]}}`},
		{"metalstack.admin.v2.MachineService.List", [][2]string{{"partition", "p"}, {"allocation.project", "x"}, {"not-allocated", "true"}, {"disk.sizes", "1,2"}},
			`{"query":{"partition":"p","allocation":{"project":"x"},"disk":{"sizes":["1","2"]},"notAllocated":true}}`},
		{"metalstack.admin.v2.SwitchService.Update", [][2]string{{"nics", "name=e0,mac=00:00:00:00:00:01,state.desired=down"}, {"os.vendor", "sonic"}},
			`{"nics":[{"name":"e0","mac":"00:00:00:00:00:01","state":{"desired":"SWITCH_PORT_STATUS_DOWN"}}],"os":{"vendor":"SWITCH_OS_VENDOR_SONIC"}}`},
	} {
		m := mustMethod(c.method)
		req := newMessage(m.Input())
		for _, f := range c.flags {
			found := false
			for _, p := range paramsOf(m) {
				if p.name == f[0] {
					found = true
					if err := p.set(req, []string{f[1]}, now); err != nil {
						t.Errorf("%s: --%s %s: %v", c.method, f[0], f[1], err)
					}
				}
			}
			if !found {
				t.Errorf("%s has no --%s", c.method, f[0])
			}
		}
		want := newMessage(m.Input())
		if err := protojson.Unmarshal([]byte(c.want), want.Interface()); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(want.Interface(), req.Interface()) {
			t.Errorf("%s:\n%s\nwant\n%s", c.method, protojson.Format(req.Interface()), protojson.Format(want.Interface()))
		}
	}
}

// TestMask checks that no field with a secret survives.
func TestMask(t *testing.T) {
	m := &apiv2.MachineBMCReport{Bmc: &apiv2.MachineBMC{User: "admin", Password: "hunter2"}}
	mask(m.ProtoReflect())
	if m.Bmc.Password != "***" || m.Bmc.User != "admin" {
		t.Errorf("%v", m)
	}
}

// FuzzDocuments: whatever is in a file, it is an error or an object.
func FuzzDocuments(f *testing.F) {
	f.Add("kind: IP\nip: 10.0.0.1\nlabels: {a: b}\n")
	f.Add("- id: x\n  features: [machine]\n  expiresAt: 2030-01-01\n---\nid: y\nmeta: {labels: {labels: {a: b}}}\n")
	f.Add("partition: {id: p}\nconstraints:\n- {type: cores, min: 1}\n")
	w := &writer{app: &app{now: time.Now}}
	f.Fuzz(func(t *testing.T, text string) {
		docs, err := parseDocuments("fuzz", strings.NewReader(text))
		if err != nil {
			return
		}
		for _, d := range docs {
			for _, k := range kinds() {
				if k.create == nil || k.knows(d) != nil {
					continue
				}
				m, req, err := w.creation(k, d, asMember)
				if err == nil && req.Descriptor() != m.Input() {
					t.Errorf("%s: a request of %s", k.name, req.Descriptor().FullName())
				}
			}
		}
	})
}

// FuzzInline: what does not fit a message is refused.
func FuzzInline(f *testing.F) {
	for _, s := range []string{"internet", "network=a,ips=1,ips=2", `{"network":"a"}`, "a.b.c=d", "=", ",", "{"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.Contains(s, "@") {
			return // reads files
		}
		m := newMessage((&apiv2.MachineAllocationNetwork{}).ProtoReflect().Descriptor())
		if err := setInline(m, s, time.Time{}); err == nil && proto.Size(m.Interface()) == 0 && strings.Trim(s, "networkips=,{} \t\r\n") != "" {
			t.Errorf("%q was taken and lost", s)
		}
	})
}

func TestSelect(t *testing.T) {
	var p printer
	var b strings.Builder
	p.to, p.now, p.format = &b, time.Unix(1000, 0), "name"
	list := &apiv2.SizeServiceListResponse{}
	for _, id := range []string{"s10", "s2", "s1"} {
		list.Sizes = append(list.Sizes, &apiv2.Size{Id: id, Constraints: []*apiv2.SizeConstraint{{Min: uint64(len(id))}}})
	}
	f := list.ProtoReflect().Descriptor().Fields().ByName("sizes")
	p.sortBy, p.filters = "constraints.0.min,-id", []string{"constraints.0.min>=2"}
	if err := p.many(f.Message(), entries(list.ProtoReflect().Get(f), f), false); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff("s2\ns1\ns10\n", b.String()); d != "" {
		t.Error(d)
	}
}

func TestWidths(t *testing.T) {
	lines := [][]string{{"ID", "DESCRIPTION", "AGE"}, {"short", strings.Repeat("x", 60), "1d"}}
	if d := cmp.Diff([]int{5, 60, 3}, widths(lines, 0)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]int{5, 28, 3}, widths(lines, 40)); d != "" {
		t.Error(d)
	}
	if got := cut("abcdef", 4); got != "abc…" {
		t.Error(got)
	}
}
