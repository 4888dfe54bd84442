package api

import (
	"context"
	"errors"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// watched lists what can be watched, one line per table. A table whose records
// are wire messages is a line with watch. Where records are parts of a wire
// message, each of their tables is a watchable of its own with the message's
// name and a function that joins the view.
func (s *Server) watched() []watchable {
	return []watchable{
		{"allocation", nameOf[*apiv2.Machine](), allocationChange},
		watch("component", records.Components, (*apiv2.Component).GetUuid, nil),
		{"connection", nameOf[*apiv2.Switch](), switchChange},
		{"event", nameOf[*apiv2.Machine](), machineChange},
		watch("fabric", records.Fabrics, (*ingotv1.Fabric).GetPartition, nil),
		watch("filesystemlayout", records.FilesystemLayouts, (*apiv2.FilesystemLayout).GetId, nil),
		{"hardware", nameOf[*apiv2.Machine](), machineChange},
		watch("image", records.Images, (*apiv2.Image).GetId, nil),
		watch("imagesource", records.ImageSources, (*ingotv1.ImageSource).GetImage, nil),
		watch("ip", records.IPs, (*apiv2.IP).GetUuid, (*apiv2.IP).GetProject),
		{"leafport", nameOf[*apiv2.Switch](), switchChange},
		{"machine", nameOf[*apiv2.Machine](), machineChange},
		{"machine-bmc", nameOf[*apiv2.Machine](), machineChange},
		{"network", nameOf[*apiv2.Network](), networkChange},
		watch("partition", records.Partitions, (*apiv2.Partition).GetId, nil),
		watch("project", records.Projects, (*apiv2.Project).GetUuid, (*apiv2.Project).GetUuid),
		watch("site", records.Sites, (*ingotv1.Site).GetPartition, nil),
		watch("size", records.Sizes, (*apiv2.Size).GetId, nil),
		watch("sizeimageconstraint", records.SizeImageConstraints, (*apiv2.SizeImageConstraint).GetSize, nil),
		watch("sizereservation", records.SizeReservations, (*apiv2.SizeReservation).GetId, (*apiv2.SizeReservation).GetProject),
		{"switch", nameOf[*apiv2.Switch](), switchChange},
		{"switchsync", nameOf[*apiv2.Switch](), switchChange},
		watch("tenant", records.Tenants, (*apiv2.Tenant).GetLogin, nil),
		{"token", nameOf[*apiv2.Token](), tokenChange},
	}
}

// A watchable is a table, and what its changes look like outside.
type watchable struct {
	table  string
	name   string // of the message that is shown
	change func(store.Reader, store.Event) (change, error)
}

// A change is what became of one resource.
type change struct {
	id     string
	now    proto.Message // as the get call returns it; nil if it is gone
	in     string        // the project it is in; empty if only operators see it
	before string        // the project it was in
}

func nameOf[M proto.Message]() string {
	var m M
	return string(m.ProtoReflect().Descriptor().FullName())
}

// watch makes a watchable of a table whose records are shown as they are. id
// is the identity of a record. project is the project it belongs to; nil if
// only operators see it.
func watch[M proto.Message](name string, t *store.Table[M], id, project func(M) string) watchable {
	return watchable{name, nameOf[M](), func(_ store.Reader, e store.Event) (c change, err error) {
		if e.Old != nil {
			old, err := t.Decode(e.Old)
			if err != nil {
				return c, err
			}
			c.id = id(old)
			if project != nil {
				c.before = project(old)
			}
		}
		if e.Deleted {
			return c, nil
		}
		now, err := t.Decode(e.Value)
		if err != nil {
			return c, err
		}
		c.id, c.now = id(now), now
		if project != nil {
			c.in = project(now)
		}
		return c, nil
	}}
}

func tokenChange(_ store.Reader, e store.Event) (change, error) {
	c := change{id: e.Key}
	if e.Deleted {
		return c, nil
	}
	t, err := records.Tokens.Decode(e.Value)
	c.now = (*privatev1.Token).GetToken(t)
	return c, err
}

type watches struct{ *Server }

func (s watches) All(ctx context.Context, req *connect.Request[ingotv1.WatchServiceAllRequest], stream *connect.ServerStream[ingotv1.WatchServiceAllResponse]) error {
	return s.run(ctx, req.Msg.GetTypes(), req.Msg.GetAfter(),
		func(c change) (proto.Message, bool) { return c.now, true },
		func(c *ingotv1.Change) error { return stream.Send(&ingotv1.WatchServiceAllResponse{Change: c}) })
}

// Project shows what leaves the project as gone.
func (s watches) Project(ctx context.Context, req *connect.Request[ingotv1.WatchServiceProjectRequest], stream *connect.ServerStream[ingotv1.WatchServiceProjectResponse]) error {
	project := req.Msg.GetProject()
	return s.run(ctx, req.Msg.GetTypes(), req.Msg.GetAfter(),
		func(c change) (proto.Message, bool) {
			if c.in != project {
				return nil, c.before == project
			}
			return c.now, true
		},
		func(c *ingotv1.Change) error { return stream.Send(&ingotv1.WatchServiceProjectResponse{Change: c}) })
}

// watchIdle is how often a watcher hears something, if only the revision.
const watchIdle = 10 * time.Second

// run sends what happens after a revision. show returns what the caller may
// see of a change, and whether that is anything.
func (s watches) run(ctx context.Context, types []string, after store.Rev, show func(change) (proto.Message, bool), send func(*ingotv1.Change) error) error {
	tables, prefixes, err := s.choose(types)
	if err != nil {
		return err
	}
	if after == 0 {
		after = s.view(ctx).Rev()
	}
	// The stream is open, and this is where to resume.
	if err := send(&ingotv1.Change{Revision: after}); err != nil {
		return err
	}
	sent := time.Now()
	pending := &ingotv1.Change{}
	for e, err := range s.db.Watch(ctx, store.WatchOptions{After: after, Prefixes: prefixes, Idle: watchIdle}) {
		if errors.Is(err, fault.Conflict) {
			return connect.NewError(connect.CodeOutOfRange, err)
		}
		if err != nil {
			return err
		}
		for _, w := range tables[e.Table] {
			c, err := w.change(s.db.Snapshot(), e)
			if err != nil {
				return err
			}
			if now, visible := show(c); visible {
				if err := add(pending, w.name, c.id, now); err != nil {
					return err
				}
			}
		}
		if e.Table != "" && (!e.Last || len(pending.Resources) == 0 && time.Since(sent) < watchIdle) {
			continue
		}
		pending.Revision = e.Rev
		if err := send(pending); err != nil {
			return err
		}
		pending, sent = &ingotv1.Change{}, time.Now()
	}
	return ctx.Err()
}

// add puts a resource into a change, once: parts of one resource may change
// together.
func add(c *ingotv1.Change, name, id string, now proto.Message) error {
	r := &ingotv1.ResourceChange{Type: name, Id: id}
	if now != nil {
		var err error
		if r.Resource, err = anypb.New(now); err != nil {
			return err
		}
	}
	if i := slices.IndexFunc(c.Resources, func(r *ingotv1.ResourceChange) bool { return r.Type == name && r.Id == id }); i >= 0 {
		c.Resources[i] = r
		return nil
	}
	c.Resources = append(c.Resources, r)
	return nil
}

// choose returns the tables behind some types, all if there are none.
func (s watches) choose(types []string) (map[string][]watchable, []string, error) {
	tables := map[string][]watchable{}
	var known, prefixes []string
	for _, w := range s.watched() {
		known = append(known, w.name)
		if len(types) > 0 && !slices.Contains(types, w.name) {
			continue
		}
		if tables[w.table] == nil {
			prefixes = append(prefixes, w.table+"/")
		}
		tables[w.table] = append(tables[w.table], w)
	}
	for _, t := range types {
		if !slices.Contains(known, t) {
			return nil, nil, fault.Newf(fault.Invalid, "type "+t, "cannot be watched")
		}
	}
	return tables, prefixes, nil
}
