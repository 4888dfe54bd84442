package api

import (
	"context"
	"crypto/rand"

	"connectrpc.com/connect"

	"github.com/ingot-cloud/ingot/access"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/store"
)

type enrolments struct{ *Server }

func (s enrolments) Create(ctx context.Context, req *connect.Request[ingotv1.EnrolmentServiceCreateRequest]) (*connect.Response[ingotv1.EnrolmentServiceCreateResponse], error) {
	secret := rand.Text() + rand.Text()
	var e *privatev1.Enrolment
	err := s.update(ctx, func(tx *store.Tx) (err error) {
		e, err = access.Enrol(tx, callerOf(ctx), secret, req.Msg)
		return err
	})
	return connect.NewResponse(&ingotv1.EnrolmentServiceCreateResponse{Secret: secret, Expires: e.GetExpires()}), err
}

func (s enrolments) Redeem(ctx context.Context, req *connect.Request[ingotv1.EnrolmentServiceRedeemRequest]) (*connect.Response[ingotv1.EnrolmentServiceRedeemResponse], error) {
	id := newID()
	resp := &ingotv1.EnrolmentServiceRedeemResponse{}
	t, secret, err := s.issue(ctx, func(tx *store.Tx) (*privatev1.Token, error) {
		t, err := access.Redeem(tx, req.Msg.GetSecret(), id)
		resp.Partition, resp.FarEnd, resp.Id = t.GetPartition(), t.GetKind(), t.GetFarEnd()
		return t, err
	})
	resp.Token, resp.Expires = secret, t.GetExpires()
	return connect.NewResponse(resp), err
}
