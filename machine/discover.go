package machine

import (
	"encoding/hex"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// bmcGuard is bumped by whoever changes what tells the BMCs of a partition
// apart: their network cards and addresses.
func bmcGuard(partition string) string { return "bmc/" + partition }

// Missing says what a BMC lacks before its site can scan it: credentials or an
// address. Without either it is not told to the site.
func Missing(r store.Reader, b *ingotv1.BMC) error {
	if _, sealed := records.Secrets.Peek(r, records.BMCPasswordKey(b.GetPartition(), b.GetId())); b.GetUser() == "" || !sealed {
		return fault.New(fault.Precondition, "bmc "+b.GetId(), "has no credentials", fmt.Sprintf("compare its fingerprint, then give them with "+
			"'ingot bmc update %s --partition %s --user USER --password @FILE'", b.GetId(), b.GetPartition()))
	}
	if b.GetAddress() == "" {
		return fault.New(fault.Precondition, "bmc "+b.GetId(), "has no address, and no lease of "+b.GetMac()+" led to a BMC",
			"check the lease files of the partition's management server, or give the BMC its address")
	}
	return nil
}

// Identify brings the network card and the address of a BMC into canonical
// form before it is stored, and refuses those of another BMC: two records are
// never one BMC.
func Identify(tx *store.Tx, b *ingotv1.BMC) error {
	b.Mac, b.Address = strings.ToLower(b.GetMac()), canonical(b.GetAddress())
	if b.GetMac() == "" && b.GetAddress() == "" {
		return fault.New(fault.Invalid, "bmc "+b.GetId(), "has neither an address nor a mac", "give one of them")
	}
	tx.Bump(bmcGuard(b.GetPartition()))
	if b.GetMac() != "" {
		if other := withCard(tx, b.GetPartition(), b.GetMac(), b.GetId()); other != nil {
			return fault.Newf(fault.Exists, "bmc "+b.GetId(), "%s is the network card of bmc %s", b.GetMac(), other.GetId()).Do("update that one, or delete it first")
		}
	}
	for other := range atHost(tx, b) {
		if other.GetAddress() == b.GetAddress() && other.GetId() != b.GetId() {
			return fault.Newf(fault.Exists, "bmc "+b.GetId(), "%s is the address of bmc %s", b.GetAddress(), other.GetId()).Do("update that one, or delete it first")
		}
	}
	return nil
}

// canonical returns host:port in its one spelling.
func canonical(address string) string {
	if a, err := netip.ParseAddrPort(address); err == nil {
		return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String()
	}
	return strings.ToLower(address)
}

// atHost yields the BMCs that have the same host as b in their addresses.
func atHost(r store.Reader, b *ingotv1.BMC) iter.Seq[*ingotv1.BMC] {
	if b.GetAddress() == "" {
		return func(func(*ingotv1.BMC) bool) {}
	}
	return records.BMCs.By(r, "host", records.BMCKey(b.GetPartition(), records.BMCHost(b)))
}

// withCard returns the BMC that a network card is known to be of, except for
// one; nil if there is none.
func withCard(r store.Reader, partition, mac, except string) *ingotv1.BMC {
	key := records.BMCKey(partition, mac)
	for b := range records.BMCs.By(r, "mac", key) {
		if b.GetId() != except {
			return b
		}
	}
	for s := range records.BMCStatuses.By(r, "mac", key) {
		if b, ok := records.BMCs.Peek(r, records.BMCKey(partition, s.GetId())); ok && b.GetId() != except {
			return b
		}
	}
	return nil
}

// Discovered records that a BMC answered at the address of its lease. The
// address of one whose card is known follows. One that the operator told of
// without its card is known by its address, and has the card from now on. Any
// other becomes a BMC without credentials, whose certificate is trusted on
// first use: an operator compares it before he gives them. The certificate of
// a BMC that is known stays what it was.
func Discovered(tx *store.Tx, partition string, d *ingotv1.BMCDiscovered) error {
	found := &ingotv1.BMC{
		Partition: partition, Mac: strings.ToLower(d.GetMac()), Address: canonical(d.GetAddress()), Ca: d.GetCertificate(),
	}
	tx.Bump(bmcGuard(partition))
	known := withCard(tx, partition, found.GetMac(), "")
	if known == nil {
		known = cardless(tx, found)
	}
	switch {
	case known == nil:
		return welcome(tx, found, d)
	case known.GetMac() != "" && known.GetMac() != found.GetMac():
		return nil // its address follows another of its cards
	}
	moved := records.BMCHost(known) != records.BMCHost(found)
	if !moved && known.GetMac() == found.GetMac() {
		return nil
	}
	if _, err := records.BMCs.Change(tx, records.BMCKey(partition, known.GetId()), func(b *ingotv1.BMC) error {
		b.Mac = found.GetMac()
		if moved {
			b.Address = found.GetAddress()
		}
		return nil
	}); err != nil || !moved {
		return err
	}
	return noteMove(tx, known, found)
}

// cardless returns the BMC without a known card that is meant by an address:
// the one that has it, or the only one that has its host, whose port was
// chosen by the operator.
func cardless(r store.Reader, found *ingotv1.BMC) *ingotv1.BMC {
	var all []*ingotv1.BMC
	for b := range atHost(r, found) {
		switch {
		case b.GetMac() != "":
		case b.GetAddress() == found.GetAddress():
			return b
		default:
			all = append(all, b)
		}
	}
	if len(all) == 1 {
		return all[0]
	}
	return nil
}

// welcome makes a BMC of one that nobody told of.
func welcome(tx *store.Tx, found *ingotv1.BMC, d *ingotv1.BMCDiscovered) error {
	if _, err := access.Open(tx, records.Partitions, found.GetPartition()); err != nil {
		return err
	}
	found.Id = "bmc-" + strings.ReplaceAll(found.GetMac(), ":", "")
	if err := records.BMCs.Insert(tx, found); err != nil {
		return err
	}
	return records.BMCStatuses.Put(tx, &privatev1.BMCStatus{Partition: found.GetPartition(), Id: found.GetId(), Status: &ingotv1.BMCStatus{
		LastSeen: timestamppb.New(tx.Now()), Vendor: d.GetVendor(), Model: d.GetProduct(), Hostname: d.GetHostname(),
	}})
}

// noteMove tells the machine behind a BMC, if one is known, where the BMC is.
func noteMove(tx *store.Tx, b, to *ingotv1.BMC) error {
	status, _ := records.BMCStatuses.Peek(tx, records.BMCKey(b.GetPartition(), b.GetId()))
	uuid := status.GetStatus().GetMachine()
	if _, ok := records.Machines.Peek(tx, uuid); !ok {
		return nil
	}
	return Note(tx, uuid, Step{
		Source: fromBMC, Step: "bmc-moved",
		Message: fmt.Sprintf("its BMC's lease moved from %s to %s", records.BMCHost(b), records.BMCHost(to)),
	})
}

// learn takes in which network cards a BMC says are its own. A BMC that was
// discovered before its own was known is this one, and goes.
func learn(tx *store.Tx, b *ingotv1.BMC, macs []string) error {
	tx.Bump(bmcGuard(b.GetPartition()))
	mac, taken := b.GetMac(), false
	for _, m := range macs {
		other := withCard(tx, b.GetPartition(), m, b.GetId())
		switch {
		case other == nil:
		case other.GetUser() != "":
			taken = true // an operator has told of both
		default:
			if err := RemoveBMC(tx, other.GetPartition(), other.GetId()); err != nil {
				return err
			}
			if mac == "" {
				mac = other.GetMac()
			}
		}
	}
	if mac == "" && len(macs) == 1 && !taken {
		mac = macs[0]
	}
	if mac == b.GetMac() {
		return nil
	}
	_, err := records.BMCs.Change(tx, records.BMCKey(b.GetPartition(), b.GetId()), func(b *ingotv1.BMC) error {
		b.Mac = mac
		return nil
	})
	return err
}

// RemoveBMC deletes a BMC with its status and its password. The machine behind
// it stays.
func RemoveBMC(tx *store.Tx, partition, id string) error {
	if _, err := records.BMCs.Delete(tx, records.BMCKey(partition, id)); err != nil {
		return err
	}
	if _, err := records.BMCStatuses.Delete(tx, records.BMCKey(partition, id)); err != nil && !isNotFound(err) {
		return err
	}
	for _, key := range []string{records.BMCPasswordKey(partition, id), records.BMCOwnKey(partition, id), records.BMCFormerKey(partition, id)} {
		if _, err := records.Secrets.Delete(tx, key); err != nil && !isNotFound(err) {
			return err
		}
	}
	return nil
}

// Known says where the BMCs of a partition that are known by a network card
// are.
func Known(r store.Reader, partition string) []*ingotv1.BMCKnown {
	var all []*ingotv1.BMCKnown
	for b := range records.BMCs.By(r, "partition", partition) {
		if b.GetMac() == "" {
			continue
		}
		status, _ := records.BMCStatuses.Peek(r, records.BMCKey(partition, b.GetId()))
		others := slices.DeleteFunc(slices.Clone(status.GetStatus().GetMacs()), func(m string) bool { return m == b.GetMac() })
		all = append(all, &ingotv1.BMCKnown{Mac: b.GetMac(), Address: b.GetAddress(), Others: others})
	}
	return all
}

// keep carries on what a scan does not say: one that failed says nothing.
func keep(status, was *ingotv1.BMCStatus) {
	status.Hostname, status.Macs = was.GetHostname(), cards(status.GetMacs())
	if status.GetVendor() == "" {
		status.Vendor = was.GetVendor()
	}
	if status.GetModel() == "" {
		status.Model = was.GetModel()
	}
	if status.GetFirmwareVersion() == "" {
		status.FirmwareVersion = was.GetFirmwareVersion()
	}
	if len(status.GetMacs()) == 0 {
		status.Macs = slices.Clone(was.GetMacs())
	}
	status.Fingerprint = "" // of the record, not of the scan
}

// cards returns the addresses that can be those of network cards, each once
// and in lower case: firmware also tells what it was never given.
func cards(macs []string) []string {
	var all []string
	for _, mac := range macs {
		mac = strings.ToLower(mac)
		b, err := hex.DecodeString(strings.ReplaceAll(mac, ":", ""))
		if err != nil || len(b) != 6 || len(mac) != 17 || b[0]&1 != 0 || [6]byte(b) == [6]byte{} || slices.Contains(all, mac) {
			continue
		}
		all = append(all, mac)
	}
	return all
}
