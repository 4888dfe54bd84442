package cli_test

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"connectrpc.com/connect"
	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	"github.com/metal-stack/api/go/metalstack/admin/v2/adminv2connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/metalstack/api/v2/apiv2connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// world is what the test's server keeps. It serves a few services with the
// handlers of the wire contract.
type world struct {
	mu     sync.Mutex
	clock  int64
	images map[string]*apiv2.Image
	ips    map[string]*apiv2.IP
	watch  watches
}

const token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ0ZXN0ZXIiLCJqdGkiOiJ0MSIsImV4cCI6NDA3MDkwODgwMH0.c2ln"

func (w *world) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(apiv2connect.NewImageServiceHandler(images{world: w}))
	mux.Handle(adminv2connect.NewImageServiceHandler(adminImages{world: w}))
	mux.Handle(apiv2connect.NewIPServiceHandler(ips{world: w}))
	mux.Handle(adminv2connect.NewIPServiceHandler(adminIPs{world: w}))
	mux.Handle(apiv2connect.NewMethodServiceHandler(methodService{}))
	mux.Handle(apiv2connect.NewVersionServiceHandler(versionService{}))
	mux.Handle(adminv2connect.NewMachineServiceHandler(machines{}))
	mux.Handle(ingotv1connect.NewTimelineServiceHandler(timelines{}))
	mux.Handle(ingotv1connect.NewWatchServiceHandler(w.watch))
	mux.Handle(ingotv1connect.NewEnrolmentServiceHandler(enrolments{}))
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token && !strings.HasSuffix(r.URL.Path, "VersionService/Get") {
			e := connect.NewErrorWriter()
			_ = e.Write(rw, r, connect.NewError(connect.CodeUnauthenticated, errors.New("token: not valid")))
			return
		}
		rw.Header().Set("Ingot-Revision", "7")
		mux.ServeHTTP(rw, r)
	})
}

func (w *world) meta(m *apiv2.Meta, fresh bool) *apiv2.Meta {
	w.clock++
	now := timestamppb.New(timestamppb.Now().AsTime().Truncate(0))
	if fresh || m == nil {
		return &apiv2.Meta{Labels: m.GetLabels(), CreatedAt: now, UpdatedAt: now}
	}
	m.UpdatedAt, m.Generation = now, m.Generation+1
	return m
}

func fail(code connect.Code, text string) error { return connect.NewError(code, errors.New(text)) }

func checkLock(lock *apiv2.UpdateMeta, m *apiv2.Meta) error {
	if lock == nil {
		return fail(connect.CodeInvalidArgument, "update meta must be set")
	}
	if !proto.Equal(lock.UpdatedAt, m.UpdatedAt) {
		return fail(connect.CodeAborted, "the entity was already modified, please retry")
	}
	return nil
}

func setLabels(m *apiv2.Meta, l *apiv2.UpdateLabels) {
	if r := l.GetReplace(); r != nil {
		m.Labels = r
	}
	if p := l.GetPatch(); p != nil {
		if m.Labels == nil {
			m.Labels = &apiv2.Labels{Labels: map[string]string{}}
		}
		maps.Copy(m.Labels.Labels, p.GetUpdate().GetLabels())
		for _, k := range p.GetRemove() {
			delete(m.Labels.Labels, k)
		}
	}
}

type images struct {
	*world
	apiv2connect.UnimplementedImageServiceHandler
}

func (s images) Get(_ context.Context, r *apiv2.ImageServiceGetRequest) (*apiv2.ImageServiceGetResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.world.images[r.Id]
	if i == nil {
		return nil, fail(connect.CodeNotFound, "image "+r.Id+": not found")
	}
	return &apiv2.ImageServiceGetResponse{Image: i}, nil
}

func (s images) List(_ context.Context, r *apiv2.ImageServiceListRequest) (*apiv2.ImageServiceListResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*apiv2.Image
	for _, id := range slices.Sorted(maps.Keys(s.world.images)) {
		i := s.world.images[id]
		if c := r.Query.Classification; c == nil || *c == i.Classification {
			out = append(out, i)
		}
	}
	return &apiv2.ImageServiceListResponse{Images: out}, nil
}

func (s images) Latest(_ context.Context, r *apiv2.ImageServiceLatestRequest) (*apiv2.ImageServiceLatestResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := slices.Sorted(maps.Keys(s.world.images))
	for i := len(ids) - 1; i >= 0; i-- {
		if strings.HasPrefix(ids[i], r.Os) {
			return &apiv2.ImageServiceLatestResponse{Image: s.world.images[ids[i]]}, nil
		}
	}
	return nil, fail(connect.CodeNotFound, "image "+r.Os+": not found")
}

type adminImages struct {
	*world
	adminv2connect.UnimplementedImageServiceHandler
}

func (s adminImages) Create(_ context.Context, r *adminv2.ImageServiceCreateRequest) (*adminv2.ImageServiceCreateResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := r.Image
	if s.world.images[i.Id] != nil {
		return nil, fail(connect.CodeAlreadyExists, "image "+i.Id+": exists")
	}
	if i.Url == "" {
		return nil, fail(connect.CodeInvalidArgument, "image "+i.Id+": url is empty; give --url")
	}
	i.Meta = s.meta(i.Meta, true)
	s.world.images[i.Id] = i
	return &adminv2.ImageServiceCreateResponse{Image: i}, nil
}

func (s adminImages) Update(_ context.Context, r *adminv2.ImageServiceUpdateRequest) (*adminv2.ImageServiceUpdateResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := proto.CloneOf(s.world.images[r.Id])
	if err := checkLock(r.UpdateMeta, i.GetMeta()); err != nil {
		return nil, err
	}
	if r.Url != nil {
		i.Url = *r.Url
	}
	if r.Name != nil {
		i.Name = r.Name
	}
	if r.Description != nil {
		i.Description = r.Description
	}
	if r.ExpiresAt != nil {
		i.ExpiresAt = r.ExpiresAt
	}
	if len(r.Features) > 0 {
		i.Features = r.Features
	}
	if i.Classification = r.Classification; i.Classification == 0 { // as metal-stack does
		i.Classification = apiv2.ImageClassification_IMAGE_CLASSIFICATION_PREVIEW
	}
	setLabels(i.Meta, r.Labels)
	i.Meta = s.meta(i.Meta, false)
	s.world.images[i.Id] = i
	return &adminv2.ImageServiceUpdateResponse{Image: i}, nil
}

func (s adminImages) Delete(_ context.Context, r *adminv2.ImageServiceDeleteRequest) (*adminv2.ImageServiceDeleteResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.world.images[r.Id]
	if i == nil {
		return nil, fail(connect.CodeNotFound, "image "+r.Id+": not found")
	}
	delete(s.world.images, r.Id)
	return &adminv2.ImageServiceDeleteResponse{Image: i}, nil
}

type ips struct {
	*world
	apiv2connect.UnimplementedIPServiceHandler
}

func (s ips) Create(_ context.Context, r *apiv2.IPServiceCreateRequest) (*apiv2.IPServiceCreateResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Ip == nil {
		return nil, fail(connect.CodeResourceExhausted, "network "+r.Network+": no address left; add a prefix")
	}
	ip := &apiv2.IP{
		Ip: r.GetIp(), Network: r.Network, Project: r.Project, Name: r.GetName(), Description: r.GetDescription(),
		Type: r.GetType(), Meta: s.meta(&apiv2.Meta{Labels: r.Labels}, true),
	}
	s.world.ips[ip.Ip] = ip
	return &apiv2.IPServiceCreateResponse{Ip: ip}, nil
}

func (s ips) Get(_ context.Context, r *apiv2.IPServiceGetRequest) (*apiv2.IPServiceGetResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ip := s.world.ips[r.Ip]
	if ip == nil || ip.Project != r.Project {
		return nil, fail(connect.CodeNotFound, "ip "+r.Ip+": not found")
	}
	return &apiv2.IPServiceGetResponse{Ip: ip}, nil
}

func (s ips) List(_ context.Context, r *apiv2.IPServiceListRequest) (*apiv2.IPServiceListResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &apiv2.IPServiceListResponse{Ips: s.find(r.Project)}, nil
}

func (w *world) find(project string) []*apiv2.IP {
	var out []*apiv2.IP
	for _, k := range slices.Sorted(maps.Keys(w.ips)) {
		if ip := w.ips[k]; project == "" || ip.Project == project {
			out = append(out, ip)
		}
	}
	return out
}

func (s ips) Update(_ context.Context, r *apiv2.IPServiceUpdateRequest) (*apiv2.IPServiceUpdateResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ip := s.world.ips[r.Ip]
	if err := checkLock(r.UpdateMeta, ip.GetMeta()); err != nil {
		return nil, err
	}
	if r.Name != nil {
		ip.Name = *r.Name
	}
	if r.Type != nil {
		ip.Type = *r.Type
	}
	setLabels(ip.Meta, r.Labels)
	ip.Meta = s.meta(ip.Meta, false)
	return &apiv2.IPServiceUpdateResponse{Ip: ip}, nil
}

type adminIPs struct {
	*world
	adminv2connect.UnimplementedIPServiceHandler
}

func (s adminIPs) List(context.Context, *adminv2.IPServiceListRequest) (*adminv2.IPServiceListResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &adminv2.IPServiceListResponse{Ips: s.find("")}, nil
}

type methodService struct {
	apiv2connect.UnimplementedMethodServiceHandler
}

func (methodService) TokenScopedList(context.Context, *apiv2.MethodServiceTokenScopedListRequest) (*apiv2.MethodServiceTokenScopedListResponse, error) {
	return &apiv2.MethodServiceTokenScopedListResponse{AdminRole: apiv2.AdminRole_ADMIN_ROLE_EDITOR.Enum()}, nil
}

type versionService struct{}

func (versionService) Get(context.Context, *apiv2.VersionServiceGetRequest) (*apiv2.VersionServiceGetResponse, error) {
	return &apiv2.VersionServiceGetResponse{Version: &apiv2.Version{Version: "v0.1.0", Revision: "abc"}}, nil
}

type machines struct {
	adminv2connect.UnimplementedMachineServiceHandler
}

func (machines) List(ctx context.Context, _ *adminv2.MachineServiceListRequest) (*adminv2.MachineServiceListResponse, error) {
	<-ctx.Done() // a server that does not answer
	return nil, ctx.Err()
}

type timelines struct {
	ingotv1connect.UnimplementedTimelineServiceHandler
}

func (timelines) GetAny(_ context.Context, r *connect.Request[ingotv1.TimelineServiceGetAnyRequest]) (*connect.Response[ingotv1.TimelineServiceGetAnyResponse], error) {
	at := timestamppb.Now()
	at.Seconds -= 95
	return connect.NewResponse(&ingotv1.TimelineServiceGetAnyResponse{Timeline: &ingotv1.Timeline{
		Uuid: r.Msg.Uuid, PhaseSince: at,
		Entries: []*ingotv1.TimelineEntry{{Time: at, Source: ingotv1.TimelineSource_TIMELINE_SOURCE_BMC, Step: "power", Message: "powered on"}},
		Waiting: &ingotv1.Waiting{What: "the agent", Since: at, OverdueAt: &timestamppb.Timestamp{Seconds: at.Seconds + 30}, Remedy: "look at the console"},
	}}), nil
}

// watches answers one stream after the other from a script.
type watches struct {
	ingotv1connect.UnimplementedWatchServiceHandler
	steps chan func(context.Context, *ingotv1.WatchServiceAllRequest, func(*ingotv1.Change) error) error
}

func (w watches) All(ctx context.Context, r *connect.Request[ingotv1.WatchServiceAllRequest], s *connect.ServerStream[ingotv1.WatchServiceAllResponse]) error {
	select {
	case step := <-w.steps:
		return step(ctx, r.Msg, func(c *ingotv1.Change) error { return s.Send(&ingotv1.WatchServiceAllResponse{Change: c}) })
	case <-ctx.Done():
		return ctx.Err()
	}
}

type enrolments struct {
	ingotv1connect.UnimplementedEnrolmentServiceHandler
}

func (enrolments) Create(_ context.Context, r *connect.Request[ingotv1.EnrolmentServiceCreateRequest]) (*connect.Response[ingotv1.EnrolmentServiceCreateResponse], error) {
	if r.Msg.FarEnd != ingotv1.FarEnd_FAR_END_LEAF || r.Msg.Partition != "p1" || r.Msg.Id != "leaf1" || r.Msg.ValidFor.GetSeconds() != 7200 {
		return nil, fail(connect.CodeInvalidArgument, r.Msg.String())
	}
	return connect.NewResponse(&ingotv1.EnrolmentServiceCreateResponse{Secret: "once"}), nil
}
