package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"slices"

	"connectrpc.com/connect"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/network"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

type leaves struct{ *Server }

func (s leaves) Register(ctx context.Context, req *connect.Request[ingotv1.LeafServiceRegisterRequest]) (*connect.Response[ingotv1.LeafServiceRegisterResponse], error) {
	if err := s.update(ctx, func(tx *store.Tx) error { return network.RegisterLeaf(tx, req.Msg) }); err != nil {
		return nil, err
	}
	sw, err := network.Switch(s.view(ctx), req.Msg.GetSwitch().GetId())
	return connect.NewResponse(&ingotv1.LeafServiceRegisterResponse{Switch: sw}), err
}

// Configure sends the newest configuration whenever its generation is another
// than the one sent last. The configuration is that of the very snapshot that
// has the generation; if it has moved on since it was counted, the next
// generation is on its way and only that is sent.
func (s leaves) Configure(ctx context.Context, req *connect.Request[ingotv1.LeafServiceConfigureRequest], stream *connect.ServerStream[ingotv1.LeafServiceConfigureResponse]) error {
	id, have := req.Msg.GetSwitch(), req.Msg.GetHave()
	if _, err := s.own(ctx, id); err != nil {
		return err
	}
	first := true // it tells the leaf that the stream is open
	return s.follow(ctx, func(snap store.Snapshot, sign bool) error {
		c, err := network.Counted(snap, id)
		if err != nil {
			return err
		}
		msg := &ingotv1.LeafServiceConfigureResponse{}
		switch {
		case network.CompareGenerations(c.GetGeneration(), have) > 0:
			have, msg.Configuration = c.GetGeneration(), c
		case !sign && !first:
			return nil
		}
		first = false
		return stream.Send(msg)
	}, "leafgeneration/"+id)
}

func (s leaves) Report(ctx context.Context, req *connect.Request[ingotv1.LeafServiceReportRequest]) (*connect.Response[ingotv1.LeafServiceReportResponse], error) {
	q := req.Msg
	if _, err := s.own(ctx, q.GetSwitch()); err != nil {
		return nil, err
	}
	if err := s.update(ctx, func(tx *store.Tx) error { return network.Report(tx, q) }); err != nil {
		return nil, err
	}
	for ports := range slices.Chunk(q.GetPorts(), network.PortBatch) {
		if err := s.update(ctx, func(tx *store.Tx) error {
			for _, p := range ports {
				if err := network.ReportPort(tx, q.GetSwitch(), q.GetGeneration(), p); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	for _, p := range q.GetPorts() { // whoever was heard lives
		if c, ok := records.Connections.Peek(s.view(ctx), records.PortKey(q.GetSwitch(), p.GetName())); ok && p.GetNeighbor() != nil {
			s.sightings.saw(c.GetMachine(), s.cfg.Now())
		}
	}
	return connect.NewResponse(&ingotv1.LeafServiceReportResponse{}), nil
}

// Certificate signs the key of a request for the addresses of the leaf's
// partition, and for no other key than one that the leaf has. The authority
// that signs is the root that the boot medium trusts, so nothing comes between.
func (s leaves) Certificate(ctx context.Context, req *connect.Request[ingotv1.LeafServiceCertificateRequest]) (*connect.Response[ingotv1.LeafServiceCertificateResponse], error) {
	l, err := s.own(ctx, req.Msg.GetSwitch())
	if err != nil {
		return nil, err
	}
	csr, err := requestOf(req.Msg.GetRequest())
	if err != nil {
		return nil, err
	}
	f, err := records.Fabrics.Get(s.view(ctx), l.GetPartition())
	if err != nil {
		return nil, err
	}
	chain, err := s.certify(csr.PublicKey, req.Msg.GetSwitch(), []string{f.GetBootAddress(), "boot." + f.GetBootDomain()}, s.cfg.Now().Add(leafLife))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&ingotv1.LeafServiceCertificateResponse{Certificates: chain[:1]}), nil
}

// requestOf reads a certificate request, whose signature proves that the sender
// has the key.
func requestOf(der []byte) (*x509.CertificateRequest, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, "certificate request", "is not one that its key has signed", err).Do("send PKCS #10 in DER form")
	}
	if _, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok {
		return nil, fault.Newf(fault.Invalid, "certificate request", "has a key of type %s", csr.PublicKeyAlgorithm).Do("make an ECDSA key")
	}
	return csr, nil
}

// own checks that a switch is a leaf, and one the caller may speak for.
func (s leaves) own(ctx context.Context, id string) (*privatev1.Leaf, error) {
	l, err := records.Leaves.Get(s.view(ctx), id)
	if err != nil {
		return nil, err
	}
	return l, callerOf(ctx).CheckFarEnd(l.GetPartition(), id)
}
