package machine_test

import (
	"errors"
	"fmt"
	"strings"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/machine"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// mediumVerbs are the commands of scripts about boot media.
var mediumVerbs = map[string]func(s *script, args string) (string, error){
	"config": func(s *script, args string) (string, error) { // kernel initrd command-line
		f := strings.SplitN(args, " ", 3)
		return "", s.do(func(tx *store.Tx) error {
			_, err := records.Partitions.Change(tx, "p1", func(p *apiv2.Partition) error {
				p.BootConfiguration = &apiv2.PartitionBootConfiguration{KernelUrl: f[0], ImageUrl: f[1], Commandline: f[2]}
				return nil
			})
			return err
		})
	},
	"partition-boots": func(s *script, args string) (string, error) { // kind
		return "", s.do(func(tx *store.Tx) error {
			_, err := records.Fabrics.Change(tx, "p1", func(f *ingotv1.Fabric) error {
				f.BootMedium = kindOf(args)
				return nil
			})
			return err
		})
	},
	"bmc-boots": func(s *script, args string) (string, error) { // bmc kind
		id, kind, _ := strings.Cut(args, " ")
		return "", s.do(func(tx *store.Tx) error {
			_, err := records.BMCs.Change(tx, records.BMCKey("p1", id), func(b *ingotv1.BMC) error {
				b.BootMedium = kindOf(kind)
				return nil
			})
			return err
		})
	},
	"boots": func(s *script, args string) (string, error) { // bmc
		b, err := records.BMCs.Get(s.db.Snapshot(), records.BMCKey("p1", args))
		return kindName(machine.Wanted(s.db.Snapshot(), b).GetBootMedium()), err
	},
	"presents": func(s *script, args string) (string, error) { // bmc machine [trusted]
		f := append(strings.Fields(args), "")
		r := &ingotv1.BMCReport{Id: f[0], Machine: f[1], Status: &ingotv1.BMCStatus{PowerState: "On", Medium: &ingotv1.BootMediumStatus{
			Inserted: true, OverrideTarget: "Cd", OverrideEnabled: "Continuous", Trusted: f[2] != "",
		}}}
		return "", s.do(func(tx *store.Tx) error { return machine.Scanned(tx, "p1", r) })
	},
	"serves": func(s *script, args string) (string, error) { // kind url
		kind, url, _ := strings.Cut(args, " ")
		err := s.do(func(tx *store.Tx) error {
			return machine.Served(tx, "p1", &ingotv1.Medium{Kind: kindOf(kind), Url: url}, nil)
		})
		site, _ := records.Sites.Peek(s.db.Snapshot(), "p1")
		var all []string
		for _, m := range site.GetMedia() {
			all = append(all, kindName(m.GetKind())+"="+m.GetUrl())
		}
		return fmt.Sprintf("%s; the partition's: %s", strings.Join(all, " "), site.GetMedium().GetUrl()), err
	},
	"offers": func(s *script, args string) (string, error) { // kernel initrd: the site has fetched them
		kernel, initrd, _ := strings.Cut(args, " ")
		return "", s.do(func(tx *store.Tx) error {
			return machine.Served(tx, "p1", nil, &ingotv1.BootFiles{
				KernelSource: kernel, InitrdSource: initrd, KernelUrls: []string{"https://[fd00::9]/" + kernel}, InitrdUrls: []string{"https://[fd00::9]/" + initrd},
			})
		})
	},
	"script": func(s *script, args string) (string, error) { // machine leaf port
		k := s.knock(args)
		var out *ingotv1.BootServiceScriptResponse
		err := s.do(func(tx *store.Tx) (err error) {
			out, err = machine.Script(tx, k)
			return err
		})
		if errors.Is(err, fault.Denied) || errors.Is(err, fault.Precondition) { // as the API does
			err = errors.Join(s.do(func(tx *store.Tx) error { return machine.Refused(tx, k.UUID, err.Error()) }), err)
		}
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%s %s: %s", out.GetFiles().GetKernelUrls(), out.GetFiles().GetInitrdUrls(), out.GetCommandLine()), nil
	},
}

func kindOf(name string) ingotv1.BootMedium {
	return ingotv1.BootMedium(ingotv1.BootMedium_value["BOOT_MEDIUM_"+strings.ToUpper(name)])
}

func kindName(k ingotv1.BootMedium) string {
	return strings.ToLower(strings.TrimPrefix(k.String(), "BOOT_MEDIUM_"))
}
