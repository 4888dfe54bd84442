package api

import (
	"context"

	"connectrpc.com/connect"

	"github.com/ingot-cloud/ingot/network"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

type fabrics struct{ *Server }

func (s fabrics) Get(ctx context.Context, req *connect.Request[ingotv1.FabricServiceGetRequest]) (*connect.Response[ingotv1.FabricServiceGetResponse], error) {
	f, err := records.Fabrics.Get(s.view(ctx), req.Msg.GetPartition())
	return connect.NewResponse(&ingotv1.FabricServiceGetResponse{Fabric: f}), err
}

func (s fabrics) Put(ctx context.Context, req *connect.Request[ingotv1.FabricServicePutRequest]) (*connect.Response[ingotv1.FabricServicePutResponse], error) {
	var f *ingotv1.Fabric
	err := s.update(ctx, func(tx *store.Tx) (err error) {
		f, err = network.PutFabric(tx, req.Msg.GetFabric())
		return err
	})
	return connect.NewResponse(&ingotv1.FabricServicePutResponse{Fabric: f}), err
}

// Sites implements ingot.v1.
func (s fabrics) Sites(ctx context.Context, req *connect.Request[ingotv1.FabricServiceSitesRequest]) (*connect.Response[ingotv1.FabricServiceSitesResponse], error) {
	out := &ingotv1.FabricServiceSitesResponse{}
	for site := range records.Sites.All(s.view(ctx)) {
		if req.Msg.Partition == nil || site.GetPartition() == req.Msg.GetPartition() {
			out.Sites = append(out.Sites, site)
		}
	}
	return connect.NewResponse(out), nil
}
