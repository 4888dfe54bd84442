package api

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	infrav2 "github.com/metal-stack/api/go/metalstack/infra/v2"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

const (
	// componentLife is how long a component is listed after its last ping.
	componentLife = 24 * time.Hour
	// componentNews is how old the last ping on record may be while nothing
	// else about the component changes: signs of life are not written singly.
	componentNews = time.Minute
)

type infraComponents struct{ *Server }

func (s infraComponents) Ping(ctx context.Context, req *infrav2.ComponentServicePingRequest) (*infrav2.ComponentServicePingResponse, error) {
	now := s.cfg.Now()
	told := &apiv2.Component{
		Type:       req.GetType(),
		Identifier: req.GetIdentifier(),
		StartedAt:  req.GetStartedAt(),
		Interval:   req.GetInterval(),
		Version:    req.GetVersion(),
		Token:      callerOf(ctx).Token.GetToken(),
		ReportedAt: timestamppb.New(now),
	}
	known, ok := records.Components.Peek(s.view(ctx), records.ComponentKey(req.GetType(), req.GetIdentifier()))
	if ok && now.Sub(known.GetReportedAt().AsTime()) < componentNews && sameComponent(known, told) {
		return &infrav2.ComponentServicePingResponse{}, nil
	}
	told.Uuid = newID()
	err := s.update(ctx, func(tx *store.Tx) error {
		if known, ok := records.Components.Peek(tx, records.ComponentKey(req.GetType(), req.GetIdentifier())); ok {
			told.Uuid, told.Meta = known.GetUuid(), known.GetMeta()
		}
		return records.Components.Put(tx, told)
	})
	return &infrav2.ComponentServicePingResponse{}, err
}

// sameComponent reports whether two pings differ in nothing but their time.
func sameComponent(a, b *apiv2.Component) bool {
	a, b = proto.CloneOf(a), proto.CloneOf(b)
	a.Uuid, a.Meta, a.ReportedAt = b.Uuid, b.Meta, b.ReportedAt
	return proto.Equal(a, b)
}

type adminComponents struct{ *Server }

var componentFilter = newFilter[*apiv2.ComponentQuery, *apiv2.Component](nil)

func (s adminComponents) Get(ctx context.Context, req *adminv2.ComponentServiceGetRequest) (*adminv2.ComponentServiceGetResponse, error) {
	c, err := s.component(s.view(ctx), req.GetUuid())
	return &adminv2.ComponentServiceGetResponse{Component: c}, err
}

func (s adminComponents) List(ctx context.Context, req *adminv2.ComponentServiceListRequest) (*adminv2.ComponentServiceListResponse, error) {
	resp := &adminv2.ComponentServiceListResponse{}
	for c := range records.Components.All(s.view(ctx)) {
		if s.alive(c) && componentFilter.match(req.GetQuery(), c) {
			resp.Components = append(resp.Components, c)
		}
	}
	slices.SortFunc(resp.Components, func(a, b *apiv2.Component) int { return strings.Compare(b.GetUuid(), a.GetUuid()) })
	return resp, nil
}

func (s adminComponents) Delete(ctx context.Context, req *adminv2.ComponentServiceDeleteRequest) (*adminv2.ComponentServiceDeleteResponse, error) {
	var c *apiv2.Component
	err := s.update(ctx, func(tx *store.Tx) (err error) {
		if c, err = s.component(tx, req.GetUuid()); err != nil {
			return err
		}
		c, err = records.Components.Delete(tx, records.ComponentKey(c.GetType(), c.GetIdentifier()))
		return err
	})
	return &adminv2.ComponentServiceDeleteResponse{Component: c}, err
}

func (s adminComponents) component(r store.Reader, uuid string) (*apiv2.Component, error) {
	for c := range records.Components.By(r, "uuid", uuid) {
		if s.alive(c) {
			return c, nil
		}
	}
	return nil, fault.New(fault.NotFound, "component "+uuid, "not found", "")
}

func (s adminComponents) alive(c *apiv2.Component) bool {
	return s.cfg.Now().Before(c.GetReportedAt().AsTime().Add(componentLife))
}
