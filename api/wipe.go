package api

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"iter"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/machine"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// wipes serves the proofs of wiped disks.
type wipes struct{ *Server }

var _ ingotv1connect.WipeServiceHandler = wipes{}

const (
	// wipeKeyUse keeps the keys of proofs apart from those of tokens, which are
	// deleted with the last token that they signed, and from the certificate
	// authority's, which signs certificates only.
	wipeKeyUse = "wipe"
	// wipeKeyLife is how long a key signs proofs.
	wipeKeyLife = 365 * 24 * time.Hour
	// proofLife is how long a key is published: a proof is worth nothing
	// without it.
	proofLife = 100 * 365 * 24 * time.Hour
)

// ensureWipeKey makes a key to sign proofs with if there is none or the last one
// has retired.
func (s *Server) ensureWipeKey(ctx context.Context) error {
	if _, ok := signingKey(s.db.Snapshot(), wipeKeyUse, s.cfg.Now()); ok {
		return nil
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	return s.insertSigningKey(ctx, wipeKeyUse, private, wipeKeyLife, proofLife)
}

// Wiped implements ingot.v1. The control plane says when it heard of it, and
// signs.
func (s agents) Wiped(ctx context.Context, req *connect.Request[ingotv1.AgentServiceWipedRequest]) (*connect.Response[ingotv1.AgentServiceWipedResponse], error) {
	if err := inBoot(ctx, req.Msg.GetBootId()); err != nil {
		return nil, err
	}
	w := req.Msg.GetWipe()
	if w.GetUuid() != req.Msg.GetUuid() || w.GetBootId() != req.Msg.GetBootId() {
		return nil, fault.New(fault.Invalid, "machine "+req.Msg.GetUuid(), "reports the wipe of another machine or boot", "")
	}
	s.sightings.saw(w.GetUuid(), s.cfg.Now())
	m, err := records.Machines.Get(s.view(ctx), w.GetUuid())
	if err != nil {
		return nil, err
	}
	w.Partition, w.Recorded = m.GetPartition(), timestamppb.New(s.cfg.Now())
	k, ok := signingKey(s.db.Snapshot(), wipeKeyUse, s.cfg.Now())
	if !ok {
		return nil, fault.New(fault.Unavailable, "key for proofs", "not found", "try again")
	}
	private, err := s.openKey(k)
	if err != nil {
		return nil, err
	}
	if err := ingotv1.SignWipe(w, k.GetId(), private); err != nil {
		return nil, err
	}
	if err := s.update(ctx, func(tx *store.Tx) error { return machine.Wiped(tx, w) }); err != nil {
		return nil, s.troubled(ctx, w.GetUuid(), w.GetBootId(), err)
	}
	return connect.NewResponse(&ingotv1.AgentServiceWipedResponse{}), nil
}

// List implements ingot.v1.
func (s wipes) List(ctx context.Context, req *connect.Request[ingotv1.WipeServiceListRequest]) (*connect.Response[ingotv1.WipeServiceListResponse], error) {
	q, out := cmp.Or(req.Msg.GetQuery(), &ingotv1.WipeQuery{}), &ingotv1.WipeServiceListResponse{}
	for w := range pickWipes(s.view(ctx), q) {
		switch {
		case q.Uuid != nil && w.GetUuid() != q.GetUuid():
		case q.Serial != nil && w.GetDisk().GetSerial() != q.GetSerial():
		case q.Partition != nil && w.GetPartition() != q.GetPartition():
		case q.Result != nil && w.GetResult() != q.GetResult():
		default:
			out.Wipes = append(out.Wipes, w)
		}
	}
	slices.SortStableFunc(out.Wipes, func(a, b *ingotv1.Wipe) int {
		return cmp.Or(b.GetStart().AsTime().Compare(a.GetStart().AsTime()), cmp.Compare(a.GetDisk().GetName(), b.GetDisk().GetName()))
	})
	return connect.NewResponse(out), nil
}

// pickWipes yields at least the wipes that a query asks for.
func pickWipes(r store.Reader, q *ingotv1.WipeQuery) iter.Seq[*ingotv1.Wipe] {
	switch {
	case q.GetUuid() != "":
		return records.Wipes.Prefix(r, records.Key(q.GetUuid(), ""))
	case q.GetSerial() != "":
		return records.Wipes.By(r, "serial", q.GetSerial())
	default:
		return records.Wipes.All(r)
	}
}

// Keys implements ingot.v1.
func (s wipes) Keys(ctx context.Context, _ *connect.Request[ingotv1.WipeServiceKeysRequest]) (*connect.Response[ingotv1.WipeServiceKeysResponse], error) {
	out := &ingotv1.WipeServiceKeysResponse{}
	for k := range records.Keys.Prefix(s.view(ctx), records.Key(wipeKeyUse, "")) {
		out.Keys = append(out.Keys, wipeKey(k))
	}
	slices.SortFunc(out.Keys, func(a, b *ingotv1.WipeKey) int { return b.GetCreated().AsTime().Compare(a.GetCreated().AsTime()) })
	return connect.NewResponse(out), nil
}

// wipeKey returns the public half of a key. It is kept as x509 encodes it.
func wipeKey(k *privatev1.Key) *ingotv1.WipeKey {
	return &ingotv1.WipeKey{
		Id: k.GetId(), Created: k.GetCreated(), Retired: k.GetRetired(),
		Pem: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.GetPublic()})),
	}
}
