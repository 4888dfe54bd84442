package machine

import (
	"cmp"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// The kinds of boot medium, by their short names.
const (
	ukiMedium  = ingotv1.BootMedium_BOOT_MEDIUM_UKI
	ipxeMedium = ingotv1.BootMedium_BOOT_MEDIUM_IPXE
	// A stick has one of the others on it.
	stickMedium = ingotv1.BootMedium_BOOT_MEDIUM_STICK
)

// fromMedium reports whether a boot override leads to the boot medium.
func fromMedium(target string) bool { return target == "Cd" || target == "Usb" }

// Medium returns which medium a partition's machines boot, or the one behind
// the given BMC, which may be nil.
func Medium(r store.Reader, partition string, b *ingotv1.BMC) ingotv1.BootMedium {
	if k := b.GetBootMedium(); k != ingotv1.BootMedium_BOOT_MEDIUM_UNSPECIFIED {
		return k
	}
	if f, ok := records.Fabrics.Peek(r, partition); ok && f.GetBootMedium() != ingotv1.BootMedium_BOOT_MEDIUM_UNSPECIFIED {
		return f.GetBootMedium()
	}
	return ukiMedium
}

// scriptStep is what a timeline calls a request for the boot script.
const scriptStep = "boot script"

// Script returns what iPXE on a server shall boot now, and tells the story of
// its machine that it asked. It is refused where a boot would be: to others
// than the machine behind the port, and to machines whose disks must not be
// touched.
func Script(tx *store.Tx, k Knock) (*ingotv1.BootServiceScriptResponse, error) {
	m, port, err := admit(tx, k)
	if err != nil {
		return nil, err
	}
	if err := mayBoot(tx, m); err != nil {
		return nil, err
	}
	p, err := records.Partitions.Get(tx, k.Partition)
	if err != nil {
		return nil, err
	}
	site, err := records.Sites.Get(tx, k.Partition)
	if err != nil && !isNotFound(err) {
		return nil, err
	}
	c, files := p.GetBootConfiguration(), site.GetBootFiles()
	for _, f := range []struct{ what, wanted, made string }{
		{"kernel", c.GetKernelUrl(), files.GetKernelSource()}, {"initrd", c.GetImageUrl(), files.GetInitrdSource()},
	} {
		if f.wanted != f.made || f.wanted == "" {
			return nil, fault.Newf(fault.Precondition, "partition "+k.Partition, "its management server has not made %s %q ready for iPXE yet", f.what, f.wanted).
				Do("wait; if it stays so, look at the site with 'ingot partition sites'")
		}
	}
	return &ingotv1.BootServiceScriptResponse{Files: files, CommandLine: c.GetCommandline()}, once(tx, k.UUID, Step{
		Source: fromBoot, Step: scriptStep, Message: "fetched by iPXE through " + port + " of " + k.Switch,
	})
}

// Served records which medium a site serves beside those of other kinds, and
// which files iPXE loads; nil says nothing of it.
func Served(tx *store.Tx, partition string, m *ingotv1.Medium, f *ingotv1.BootFiles) error {
	site, err := records.Sites.Get(tx, partition)
	if isNotFound(err) {
		site, err = &ingotv1.Site{Partition: partition}, nil
	}
	if err != nil {
		return err
	}
	if m != nil {
		m = proto.CloneOf(m)
		m.Kind = cmp.Or(m.GetKind(), ukiMedium)
		media := []*ingotv1.Medium{m}
		for _, old := range site.GetMedia() {
			if old.GetKind() != m.GetKind() {
				media = append(media, old)
			}
		}
		site.Media = media
		if m.GetKind() == Medium(tx, partition, nil) {
			site.Medium = m
		}
	}
	if f != nil {
		site.BootFiles = f
	}
	site.Seen = timestamppb.New(tx.Now())
	return records.Sites.Put(tx, site)
}

// authority: the firmware was given the authority that the medium needs.
func (s *signs) authority() {
	b := s.bmc()
	if b.GetMedium() == nil || s.kind() != ipxeMedium {
		return
	}
	detail := ""
	if !b.GetMedium().GetTrusted() {
		detail = "its BMC does not take certificates; iPXE itself must have been built with the authority"
	}
	s.add(fromBMC, "the partition's authority in its firmware", detail == "", b.GetMedium().GetChecked(), detail)
}

// script: iPXE has asked for its script. Only evidence of this phase counts.
func (s *signs) script() {
	if s.kind() != ipxeMedium {
		return
	}
	e, _ := records.Events.Peek(s.r, s.m.GetUuid())
	for _, step := range e.GetSteps() {
		if step.GetTime().AsTime().Before(s.since.Add(-scriptEarly)) {
			break
		}
		if step.GetStep() == scriptStep {
			s.add(fromBoot, "a request for the boot script", !step.GetFailed(), step.GetTime(), step.GetMessage())
			return
		}
	}
	s.add(fromBoot, "a request for the boot script", false, nil, s.refusal())
}

// scriptEarly is how long before a phase begins its boot script may have been
// asked for: the report of a power cycle may be slower than a firmware.
const scriptEarly = 10 * time.Second

// kind is which medium the machine boots.
func (s *signs) kind() ingotv1.BootMedium {
	for b := range records.BMCStatuses.By(s.r, "machine", s.m.GetUuid()) {
		known, _ := records.BMCs.Peek(s.r, records.BMCKey(b.GetPartition(), b.GetId()))
		return Medium(s.r, s.m.GetPartition(), known)
	}
	return Medium(s.r, s.m.GetPartition(), nil)
}
