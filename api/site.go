package api

import (
	"context"
	"net/netip"
	"slices"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/machine"
	"github.com/ingot-cloud/ingot/network"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// sites serves the management servers.
type sites struct{ *Server }

var _ ingotv1connect.SiteServiceHandler = sites{}

// siteInputs are the tables a site's wanted state is made of.
var siteInputs = []string{"allocation/", "bmc/", "bmc-status/", "fabric/", "image/", "imagesource/", "machine/", "operation/", "partition/", "secret/bmc/"}

// Wanted implements ingot.v1. The generation is the revision of the store that
// the state was made from: it grows, also over a restart, and is written
// nowhere.
func (s sites) Wanted(ctx context.Context, req *connect.Request[ingotv1.SiteServiceWantedRequest], stream *connect.ServerStream[ingotv1.SiteServiceWantedResponse]) error {
	var told *ingotv1.SiteWanted
	return s.follow(ctx, func(snap store.Snapshot, sign bool) error {
		if err := s.takeAll(ctx, snap, req.Msg.GetPartition()); err != nil {
			return err
		}
		snap = s.db.Snapshot()
		w, err := s.wanted(snap, req.Msg.GetPartition())
		if err != nil {
			return err
		}
		if proto.Equal(w, told) {
			if sign {
				return stream.Send(&ingotv1.SiteServiceWantedResponse{})
			}
			return nil
		}
		told = proto.CloneOf(w)
		w.Generation = &ingotv1.Generation{N: uint64(snap.Rev())}
		return stream.Send(&ingotv1.SiteServiceWantedResponse{Wanted: w})
	}, siteInputs...)
}

// listenerOf is the site of a partition as a listener for operations. A site
// that reconnects is the same one, and is told again.
func listenerOf(partition string) string { return "site/" + partition }

// takeAll takes the open operations on BMCs that the site of a partition knows
// for it.
func (s *Server) takeAll(ctx context.Context, r store.Reader, partition string) error {
	for o := range records.Operations.By(r, "open", partition) {
		b, ok := records.MachineBMCs.Peek(r, o.GetOperation().GetMachine())
		if o.GetTaken() != nil || !ok || b.GetBmc() == "" {
			continue
		}
		if err := s.db.Update(ctx, func(tx *store.Tx) error {
			_, _, err := machine.Take(tx, o.GetOperation().GetMachine(), listenerOf(partition))
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// wanted returns what a partition's management server shall bring about,
// without a generation.
func (s *Server) wanted(r store.Reader, partition string) (*ingotv1.SiteWanted, error) {
	p, err := records.Partitions.Get(r, partition)
	if err != nil {
		return nil, err
	}
	fabric, _ := records.Fabrics.Peek(r, partition)
	c := p.GetBootConfiguration()
	w := &ingotv1.SiteWanted{Fabric: fabric, KernelUrl: c.GetKernelUrl(), InitrdUrl: c.GetImageUrl(), CommandLine: c.GetCommandline(), Ca: string(s.CA()), Known: machine.Known(r, partition)}
	for b := range records.BMCs.By(r, "partition", partition) {
		if machine.Missing(r, b) != nil {
			continue
		}
		bmc := machine.Wanted(r, b)
		if o, ok := records.Operations.Peek(r, bmc.GetMachine()); ok && o.GetListener() != listenerOf(partition) {
			bmc.Operation = nil // somebody else carries it out
		}
		if bmc.GetBootMedium() == ingotv1.BootMedium_BOOT_MEDIUM_IPXE {
			bmc.Authority = w.GetCa() // everything else has it inside
		}
		if err := s.credentials(r, b, bmc); err != nil {
			return nil, err
		}
		w.Bmcs = append(w.Bmcs, bmc)
	}
	for i := range records.Images.All(r) {
		source, _ := records.ImageSources.Peek(r, i.GetId())
		if source != nil {
			source.Checks = nil // what a site says must not come back as news
		}
		w.Images = append(w.Images, &ingotv1.ImageWanted{Image: i.GetId(), Url: i.GetUrl(), Source: source})
	}
	return w, nil
}

// Report implements ingot.v1. One report that cannot be stored does not keep
// the others from being stored.
func (s sites) Report(ctx context.Context, req *connect.Request[ingotv1.SiteServiceReportRequest]) (*connect.Response[ingotv1.SiteServiceReportResponse], error) {
	var failed error
	for _, r := range req.Msg.GetReports() {
		if err := s.update(ctx, func(tx *store.Tx) error { return machine.Scanned(tx, req.Msg.GetPartition(), r) }); err != nil {
			failed = err
			s.log.WarnContext(ctx, "api: scan not stored", "bmc", r.GetId(), "partition", req.Msg.GetPartition(), "error", err)
		}
	}
	return connect.NewResponse(&ingotv1.SiteServiceReportResponse{}), failed
}

// Discovered implements ingot.v1. One BMC that cannot be taken in does not keep
// the others out.
func (s sites) Discovered(ctx context.Context, req *connect.Request[ingotv1.SiteServiceDiscoveredRequest]) (*connect.Response[ingotv1.SiteServiceDiscoveredResponse], error) {
	var failed error
	for _, d := range req.Msg.GetBmcs() {
		if err := s.update(ctx, func(tx *store.Tx) error { return machine.Discovered(tx, req.Msg.GetPartition(), d) }); err != nil {
			failed = err
			s.log.WarnContext(ctx, "api: discovery not stored", "mac", d.GetMac(), "partition", req.Msg.GetPartition(), "error", err)
		}
	}
	return connect.NewResponse(&ingotv1.SiteServiceDiscoveredResponse{}), failed
}

// Done implements ingot.v1. An operation that is not known any more was ended
// before.
func (s sites) Done(ctx context.Context, req *connect.Request[ingotv1.SiteServiceDoneRequest]) (*connect.Response[ingotv1.SiteServiceDoneResponse], error) {
	return connect.NewResponse(&ingotv1.SiteServiceDoneResponse{}), s.update(ctx, func(tx *store.Tx) error {
		if o, ok := machine.Lookup(tx, req.Msg.GetOperation()); ok && o.GetPartition() != req.Msg.GetPartition() {
			return fault.New(fault.NotFound, "operation "+req.Msg.GetOperation(), "not found", "")
		}
		return machine.Done(tx, machine.Result{ID: req.Msg.GetOperation(), Error: req.Msg.GetError(), PowerOff: req.Msg.GetPowerOffSeen()})
	})
}

// Cached implements ingot.v1.
func (s sites) Cached(ctx context.Context, req *connect.Request[ingotv1.SiteServiceCachedRequest]) (*connect.Response[ingotv1.SiteServiceCachedResponse], error) {
	for _, c := range req.Msg.GetImages() {
		if err := s.update(ctx, func(tx *store.Tx) error { return machine.Cached(tx, req.Msg.GetPartition(), c) }); err != nil {
			return nil, err
		}
	}
	return connect.NewResponse(&ingotv1.SiteServiceCachedResponse{}), s.update(ctx, func(tx *store.Tx) error {
		return machine.Served(tx, req.Msg.GetPartition(), req.Msg.GetMedium(), req.Msg.GetBootFiles())
	})
}

// Certificate implements ingot.v1. The addresses must be those of the
// partition's service ports: a management server does not speak for servers or
// for metal-boot.
func (s sites) Certificate(ctx context.Context, req *connect.Request[ingotv1.SiteServiceCertificateRequest]) (*connect.Response[ingotv1.SiteServiceCertificateResponse], error) {
	csr, err := requestOf(req.Msg.GetRequest())
	if err != nil {
		return nil, err
	}
	f, err := records.Fabrics.Get(s.view(ctx), req.Msg.GetPartition())
	if err != nil {
		return nil, err
	}
	var hosts []string
	for _, ip := range csr.IPAddresses {
		a, _ := netip.AddrFromSlice(ip)
		if !slices.ContainsFunc(network.Caches(s.view(ctx), f), func(p string) bool { return netip.MustParsePrefix(p).Contains(a) }) {
			return nil, fault.Newf(fault.Denied, "certificate request", "address %s is on none of the service ports of partition %s", a, req.Msg.GetPartition()).
				Do("name the ports to the management server in the partition's fabric")
		}
		hosts = append(hosts, a.String())
	}
	if len(hosts) == 0 {
		return nil, fault.New(fault.Invalid, "certificate request", "is for no address", "ask for those of the boot network")
	}
	chain, err := s.certify(csr.PublicKey, "site of "+req.Msg.GetPartition(), hosts, s.cfg.Now().Add(leafLife))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&ingotv1.SiteServiceCertificateResponse{Certificates: chain[:1]}), nil
}
