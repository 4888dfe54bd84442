package api

import (
	"context"

	"connectrpc.com/connect"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/machine"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

type imageSources struct{ *Server }

// Get implements ingot.v1.
func (s imageSources) Get(ctx context.Context, req *connect.Request[ingotv1.ImageSourceServiceGetRequest]) (*connect.Response[ingotv1.ImageSourceServiceGetResponse], error) {
	source, err := records.ImageSources.Get(s.view(ctx), req.Msg.GetImage())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&ingotv1.ImageSourceServiceGetResponse{Source: source}), nil
}

// Put implements ingot.v1. A client that sends the time of the record it saw is
// held to it.
func (s imageSources) Put(ctx context.Context, req *connect.Request[ingotv1.ImageSourceServicePutRequest]) (*connect.Response[ingotv1.ImageSourceServicePutResponse], error) {
	source := req.Msg.GetSource()
	saw := &apiv2.UpdateMeta{UpdatedAt: source.GetMeta().GetUpdatedAt()}
	labels := source.GetMeta().GetLabels()
	err := s.update(ctx, func(tx *store.Tx) error {
		was, _ := records.ImageSources.Peek(tx, source.GetImage())
		if err := checkMetaIfGiven("imagesource", source.GetImage(), was.GetMeta(), saw); err != nil {
			return err
		}
		source.Meta = newMeta(labels)
		return machine.PutSource(tx, source)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&ingotv1.ImageSourceServicePutResponse{Source: source}), nil
}
