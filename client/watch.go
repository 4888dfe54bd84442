package client

import (
	"context"

	"connectrpc.com/connect"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// A Watch keeps a copy of what the API lists.
type Watch struct {
	Project string   // watch this project; everything an operator may see
	Types   []string // full names of messages; all
	Follower

	// List lists everything afresh, replaces the copy, and returns the revision
	// of the (first) answer. It is called at the start and whenever the server
	// no longer has what came after the last change seen.
	List func(ctx context.Context) (int64, error)
	// Apply brings one change into the copy. A change may show what List has
	// shown already.
	Apply func(*ingotv1.Change) error
}

// Watch keeps w's copy current until ctx ends, List or Apply fails, or the
// server refuses.
func (c *Client) Watch(ctx context.Context, w Watch) error {
	for {
		after, err := w.List(ctx)
		if err != nil {
			return err
		}
		apply := func(change *ingotv1.Change) error {
			if err := w.Apply(change); err != nil {
				return err
			}
			after = change.GetRevision()
			return nil
		}
		if err := c.follow(ctx, w, &after, apply); connect.CodeOf(err) != connect.CodeOutOfRange {
			return err
		}
	}
}

func (c *Client) follow(ctx context.Context, w Watch, after *int64, apply func(*ingotv1.Change) error) error {
	service := Of(c, ingotv1connect.NewWatchServiceClient)
	if w.Project == "" {
		return Follow(ctx, w.Follower, func(ctx context.Context) (*connect.ServerStreamForClient[ingotv1.WatchServiceAllResponse], error) {
			return service.All(ctx, connect.NewRequest(&ingotv1.WatchServiceAllRequest{Types: w.Types, After: *after}))
		}, func(m *ingotv1.WatchServiceAllResponse) error { return apply(m.GetChange()) })
	}
	return Follow(ctx, w.Follower, func(ctx context.Context) (*connect.ServerStreamForClient[ingotv1.WatchServiceProjectResponse], error) {
		return service.Project(ctx, connect.NewRequest(&ingotv1.WatchServiceProjectRequest{Project: w.Project, Types: w.Types, After: *after}))
	}, func(m *ingotv1.WatchServiceProjectResponse) error { return apply(m.GetChange()) })
}
