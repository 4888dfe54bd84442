package machine

import (
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// maxNTP is how many time servers a partition may have. The wire allows more,
// metal-stack does not.
const maxNTP = 5

// CheckPartition checks a partition by itself. Nothing is fetched from its
// urls: the partition's own cache does that.
func CheckPartition(p *apiv2.Partition) error {
	if len(p.GetNtpServers()) > maxNTP {
		return invalid("not more than %d ntpservers must be specified", maxNTP)
	}
	if len(p.GetDnsServers()) > 3 {
		return invalid("not more than 3 dnsservers must be specified")
	}
	if b := p.GetBootConfiguration(); b != nil {
		for what, u := range map[string]string{"image": b.GetImageUrl(), "kernel": b.GetKernelUrl()} {
			if err := CheckURL(u); err != nil {
				return invalid("partition %s: boot %s: %s", p.GetId(), what, err)
			}
		}
	}
	return nil
}

// PartitionUnused returns an error if something stands in a partition.
func PartitionUnused(r store.Reader, id string) error {
	for _, h := range []struct {
		plural string
		n      int
	}{
		{"machines", records.Machines.Count(r, "partition", id)},
		{"networks", records.Networks.Count(r, "partition", id)},
		{"size reservations", records.SizeReservations.Count(r, "partition", id)},
		{"switches", records.Switches.Count(r, "partition", id)},
		{"bmcs", records.BMCs.Count(r, "partition", id)},
	} {
		if h.n > 0 {
			return invalid("there are still %s in %q", h.plural, id)
		}
	}
	return nil
}
