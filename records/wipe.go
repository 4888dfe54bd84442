package records

import (
	"cmp"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/store"
)

// Wipes are the proofs that disks were erased and the failures to erase them,
// by machine, start, boot and disk: in the order of time within a machine. They stay
// when their machine is forgotten.
var Wipes = store.NewTable(store.Table[*ingotv1.Wipe]{
	Name: "wipe",
	Key:  WipeKey,
	Indexes: map[string]func(*ingotv1.Wipe) []string{
		"boot": func(w *ingotv1.Wipe) []string { return []string{w.GetBootId()} },
		"disk": func(w *ingotv1.Wipe) []string { return []string{WipedDiskKey(w)} },
		"failed": func(w *ingotv1.Wipe) []string {
			if w.GetResult() != ingotv1.WipeResult_WIPE_RESULT_FAILED {
				return nil
			}
			return []string{w.GetUuid()}
		},
		"serial": func(w *ingotv1.Wipe) []string { return []string{w.GetDisk().GetSerial()} },
	},
})

// WipeKey returns the key of a record in Wipes.
func WipeKey(w *ingotv1.Wipe) string {
	return Key(w.GetUuid(), w.GetStart().AsTime().UTC().Format("2006-01-02T15:04:05.000000000Z07:00"), w.GetBootId(), w.GetDisk().GetName())
}

// DiskKey returns the value of the index "disk": the machine, and what the disk
// goes by over reboots, its serial number, else its world wide name, else what
// the kernel calls it.
func DiskKey(machine string, d *ingotv1.Disk) string {
	return Key(machine, cmp.Or(d.GetSerial(), d.GetWwn(), d.GetName()))
}

// WipedDiskKey is DiskKey of the disk that a wipe is about.
func WipedDiskKey(w *ingotv1.Wipe) string { return DiskKey(w.GetUuid(), w.GetDisk()) }
