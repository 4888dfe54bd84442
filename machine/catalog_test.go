package machine

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"
	"pgregory.net/rapid"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
)

// A layout pair collides exactly if some version has both of them (MEP-8).
func TestMatchesCommonExactly(t *testing.T) {
	// The grid holds every version that can tell two operators with numbers
	// below 4 apart.
	var grid []*semver.Version
	for major := range uint64(6) {
		for minor := range uint64(6) {
			for patch := range uint64(6) {
				grid = append(grid, semver.New(major, minor, patch, "", ""))
			}
		}
	}
	var all []string
	for _, op := range operators {
		for major := range 3 {
			all = append(all, fmt.Sprintf("%s %d", op, major))
			for minor := range 3 {
				all = append(all, fmt.Sprintf("%s %d.%d", op, major, minor))
				for patch := range 3 {
					all = append(all, fmt.Sprintf("%s %d.%d.%d", op, major, minor, patch))
				}
			}
		}
	}
	all = append(all, "*")
	rapid.Check(t, func(t *rapid.T) {
		text := [2]string{rapid.SampledFrom(all).Draw(t, "a"), rapid.SampledFrom(all).Draw(t, "b")}
		a, errA := parseMatch(text[0])
		b, errB := parseMatch(text[1])
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		want := ""
		for _, v := range grid {
			if a.check(v) && b.check(v) {
				want = v.String()
				break
			}
		}
		if got := common(a, b); got != (want != "") || got != common(b, a) {
			t.Errorf("%q and %q: common %v, version in common %q", text[0], text[1], got, want)
		}
	})
}

func TestParseMatch(t *testing.T) {
	for _, bad := range []string{"", "12.0", ">=12.0", ">= 12.0, < 13", ">= 12.x", "* ", ">> 1", ">= 1.2.3.4", ">= -1", ">= 1.0-rc1", "= 99999999999999999999"} {
		if _, err := parseMatch(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func FuzzParseMatch(f *testing.F) {
	for _, op := range operators {
		f.Add(op + " 12.0")
	}
	f.Add("*")
	f.Fuzz(func(t *testing.T, text string) {
		if m, err := parseMatch(text); err == nil {
			common(m, m)
		}
	})
}

func size(id string, cs ...*apiv2.SizeConstraint) *apiv2.Size {
	return &apiv2.Size{Id: id, Constraints: cs}
}

func limit(kind apiv2.SizeConstraintType, lo, hi uint64, id ...string) *apiv2.SizeConstraint {
	c := &apiv2.SizeConstraint{Type: kind, Min: lo, Max: hi}
	if len(id) > 0 {
		c.Identifier = &id[0]
	}
	return c
}

func hardware(cores uint32, memory uint64, more ...func(*apiv2.MachineHardware)) *apiv2.MachineHardware {
	h := &apiv2.MachineHardware{Memory: memory, Cpus: []*apiv2.MetalCPU{{Model: "Xeon", Cores: cores}}}
	for _, m := range more {
		m(h)
	}
	return h
}

func disk(name string, bytes uint64) func(*apiv2.MachineHardware) {
	return func(h *apiv2.MachineHardware) {
		h.Disks = append(h.Disks, &apiv2.MachineBlockDevice{Name: name, Size: bytes})
	}
}

func gpu(model string) func(*apiv2.MachineHardware) {
	return func(h *apiv2.MachineHardware) { h.Gpus = append(h.Gpus, &apiv2.MetalGPU{Model: model}) }
}

func TestMatches(t *testing.T) {
	small := size("small", limit(coresType, 2, 2), limit(memoryType, 1024, 2048), limit(storageType, 10, 20, "sd?"))
	for _, c := range []struct {
		name string
		s    *apiv2.Size
		h    *apiv2.MachineHardware
		want bool
	}{
		{"fits", small, hardware(2, 1024, disk("sda", 12)), true},
		{"disks add up", small, hardware(2, 2048, disk("sda", 12), disk("sdb", 8)), true},
		{"disks add up to too much", small, hardware(2, 2048, disk("sda", 12), disk("sdb", 9)), false},
		{"memory", small, hardware(2, 2049, disk("sda", 12)), false},
		{"cores", small, hardware(4, 1024, disk("sda", 12)), false},
		{"no disk", small, hardware(2, 1024), false},
		{"a disk that nothing covers", small, hardware(2, 1024, disk("sda", 12), disk("nvme0n1", 1)), false},
		{"a gpu that nothing covers", small, hardware(2, 1024, disk("sda", 12), gpu("H100")), false},
		{"gpu", size("gpu", limit(coresType, 2, 2), limit(memoryType, 0, 9), limit(gpuType, 2, 2, "AD102*")), hardware(2, 9, gpu("AD102GL"), gpu("AD102")), true},
		{"other gpu", size("gpu", limit(coresType, 2, 2), limit(memoryType, 0, 9), limit(gpuType, 1, 1, "AD102*")), hardware(2, 9, gpu("H100")), false},
		{"two cpus", size("two", limit(coresType, 4, 4, "Xe*"), limit(memoryType, 0, 9)), func() *apiv2.MachineHardware {
			h := hardware(2, 9)
			h.Cpus = append(h.Cpus, &apiv2.MetalCPU{Model: "Xeon 2", Cores: 2})
			return h
		}(), true},
		{"no constraints", size("none"), hardware(2, 9), false},
	} {
		if got := Matches(c.s, c.h); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestCheckSize(t *testing.T) {
	for want, cs := range map[string][]*apiv2.SizeConstraint{
		"":                           {limit(coresType, 1, 1), limit(storageType, 1, 2, "sd*"), limit(storageType, 1, 2, "nvme*")},
		"0 is invalid: max is sm":    {limit(coresType, 2, 1)},
		"1 is invalid: only one":     {limit(coresType, 1, 1), limit(coresType, 1, 1)},
		"0 is invalid: for gpu":      {limit(gpuType, 1, 1)},
		"0 is invalid: memory has":   {limit(memoryType, 1, 1, "x")},
		"0 is invalid: identifier":   {limit(storageType, 1, 1, "[")},
		"0 is invalid: type is not ": {limit(0, 1, 1)},
	} {
		err := CheckSize(size("s", cs...))
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), "constraint at index "+want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}

// Sizes that some hardware matches both of overlap.
func TestOverlapMissesNothing(t *testing.T) {
	globs := []string{"", "sd*", "nvme*", "*a", "sda", "s?a", "[sx]da"}
	disks := []string{"sda", "sdb", "nvme0", "nvmea", "xda"}
	draw := func(t *rapid.T, h *apiv2.MachineHardware, id string) *apiv2.Size {
		s := size(id, limit(coresType, 0, 0), limit(memoryType, 0, 0))
		for range rapid.IntRange(0, 3).Draw(t, "storages") {
			s.Constraints = append(s.Constraints, limit(storageType, 0, 0, rapid.SampledFrom(globs).Draw(t, "glob")))
		}
		for _, c := range s.GetConstraints() { // ranges around what is there, and at times beside it
			sum := uint64(0)
			for _, p := range partsOf(h) {
				if covers(c, p) {
					sum += p.amount
				}
			}
			sum += rapid.SampledFrom([]uint64{0, 0, 0, 1}).Draw(t, "beside")
			c.Min, c.Max = sum-min(sum, rapid.Uint64Range(0, 2).Draw(t, "below")), sum+rapid.Uint64Range(0, 2).Draw(t, "above")
		}
		return s
	}
	kinds := func(s *apiv2.Size) string {
		seen := map[apiv2.SizeConstraintType]bool{}
		for _, c := range s.GetConstraints() {
			seen[c.GetType()] = true
		}
		return fmt.Sprint(seen)
	}
	matched := 0
	rapid.Check(t, func(t *rapid.T) {
		h := hardware(rapid.Uint32Range(1, 5).Draw(t, "cores"), rapid.Uint64Range(1, 5).Draw(t, "memory"))
		for _, d := range rapid.SliceOfN(rapid.SampledFrom(disks), 1, 3).Draw(t, "disks") {
			disk(d, rapid.Uint64Range(1, 3).Draw(t, "bytes"))(h)
		}
		a, b := draw(t, h, "a"), draw(t, h, "b")
		if Overlap(a, b) != Overlap(b, a) {
			t.Error("not symmetric")
		}
		if kinds(a) == kinds(b) && Matches(a, h) && Matches(b, h) {
			matched++
			if !Overlap(a, b) {
				t.Errorf("%v matches %v and %v, which do not overlap", h, a, b)
			}
		}
	})
	if matched == 0 {
		t.Error("no hardware matched two sizes: the test shows nothing")
	}
}

func TestOverlapTellsApart(t *testing.T) {
	base := []*apiv2.SizeConstraint{limit(coresType, 4, 4), limit(memoryType, 10, 20)}
	with := func(c ...*apiv2.SizeConstraint) *apiv2.Size { return size("s", slices.Concat(base, c)...) }
	for _, c := range []struct {
		name string
		a, b *apiv2.Size
		want bool
	}{
		{"same", with(), with(), true},
		{"another kind", with(), with(limit(storageType, 1, 1)), false},
		{"disjoint numbers", with(limit(storageType, 1, 2)), with(limit(storageType, 3, 4)), false},
		{"touching numbers", with(limit(storageType, 1, 2)), with(limit(storageType, 2, 4)), true},
		{"other disks", with(limit(storageType, 1, 2, "sd*")), with(limit(storageType, 1, 2, "nvme*")), false},
		{"perhaps the same disks", with(limit(storageType, 1, 2, "sd*")), with(limit(storageType, 1, 2, "*1")), true},
		{"other gpus", with(limit(gpuType, 1, 1, "AD102*")), with(limit(gpuType, 1, 1, "H100")), false},
		{"more gpus", with(limit(gpuType, 1, 1, "AD102*")), with(limit(gpuType, 2, 2, "AD102*")), false},
		{"no constraints", size("s"), with(), true},
	} {
		if got := Overlap(c.a, c.b); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// Patterns meet if a name matches both.
func TestMeetMissesNothing(t *testing.T) {
	letters := rapid.StringOfN(rapid.RuneFrom([]rune("ab/*?")), 1, 5, -1)
	names := rapid.StringOfN(rapid.RuneFrom([]rune("ab/")), 0, 5, -1)
	rapid.Check(t, func(t *rapid.T) {
		a, b, name := letters.Draw(t, "a"), letters.Draw(t, "b"), names.Draw(t, "name")
		inA, _ := path.Match(a, name)
		inB, _ := path.Match(b, name)
		if inA && inB && !meet(a, b) {
			t.Errorf("%q matches %q and %q", name, a, b)
		}
	})
	if meet("sd*", "nvme*") || meet("a?", "b?") || meet("a", "aa") || meet("*x", "*y") {
		t.Error("patterns meet that do not")
	}
}

// Who may take a machine does not depend on the order of the reservations.
func TestSharesHaveNoOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rs := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *apiv2.SizeReservation {
			return &apiv2.SizeReservation{
				Project:    rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "project"),
				Partitions: rapid.SampledFrom([][]string{{"p"}, {"p", "q"}, {"q"}}).Draw(t, "partitions"),
				Amount:     rapid.Int32Range(1, 5).Draw(t, "amount"),
			}
		}), 0, 6).Draw(t, "reservations")
		used := map[string]int{"a": rapid.IntRange(0, 8).Draw(t, "a"), "b": rapid.IntRange(0, 8).Draw(t, "b")}
		free := rapid.IntRange(0, 12).Draw(t, "free")
		shares := Shares(slices.Values(rs), "p", func(p string) int { return used[p] })
		mixed := Shares(slices.Values(rapid.Permutation(rs).Draw(t, "order")), "p", func(p string) int { return used[p] })
		kept := 0
		for _, p := range []string{"a", "b", "c", "d"} {
			if MayTake(shares, p, free) != MayTake(mixed, p, free) {
				t.Errorf("%s: depends on the order", p)
			}
			if s := shares[p]; s.Remaining() < 0 || s.Used > used[p] {
				t.Errorf("%s: %+v with %d used", p, s, used[p])
			}
			kept += shares[p].Remaining()
		}
		// As long as what is kept is there, whoever has a share gets a machine,
		// and afterwards what is kept is there for the others.
		if free >= kept {
			for p, s := range shares {
				if s.Remaining() > 0 && !MayTake(shares, p, free) {
					t.Errorf("%s has %+v and gets nothing of %d", p, s, free)
				}
			}
			if MayTake(shares, "d", free) != (free > kept) {
				t.Errorf("one without a share, %d free, %d kept", free, kept)
			}
		}
	})
}

func TestParseImage(t *testing.T) {
	for id, want := range map[string]string{
		"debian-13.0.20260131": "debian 13.0.20260131 3", "firewall-ubuntu-3.0.20260201": "firewall-ubuntu 3.0.20260201 3",
		"ubuntu-24.04": "ubuntu 24.4.0 2", "debian-12": "debian 12.0.0 1", "firewall-ubuntu": "firewall-ubuntu <nil> 0", "a": "a <nil> 0",
		"": "error", "-1.0": "error", "debian 12": "error", "debian-1.0-rc1": "debian-1.0-rc1 <nil> 0",
	} {
		os, v, n, err := ParseImage(id)
		got := fmt.Sprintf("%s %v %d", os, v, n)
		if v == nil {
			got = fmt.Sprintf("%s <nil> %d", os, n)
		}
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: %s, want %s", id, got, want)
		}
	}
}
