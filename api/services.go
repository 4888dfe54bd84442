package api

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/metal-stack/api/go/metalstack/admin/v2/adminv2connect"
	"github.com/metal-stack/api/go/metalstack/api/v2/apiv2connect"
	"github.com/metal-stack/api/go/metalstack/infra/v2/infrav2connect"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// services lists what is served, one line per service. The methods of the API
// that nothing here serves answer "unimplemented".
func (s *Server) services() []service {
	return []service{
		serve[adminv2connect.ComponentServiceHandler](adminv2connect.NewComponentServiceHandler, adminComponents{Server: s}),
		serve[adminv2connect.FilesystemServiceHandler](adminv2connect.NewFilesystemServiceHandler, adminFilesystems{Server: s}),
		serve[adminv2connect.IPServiceHandler](adminv2connect.NewIPServiceHandler, adminIPs{Server: s}),
		serve[adminv2connect.ImageServiceHandler](adminv2connect.NewImageServiceHandler, adminImages{Server: s}),
		serve[adminv2connect.MachineServiceHandler](adminv2connect.NewMachineServiceHandler, adminMachines{Server: s}),
		serve[adminv2connect.NetworkServiceHandler](adminv2connect.NewNetworkServiceHandler, adminNetworks{Server: s}),
		serve[adminv2connect.PartitionServiceHandler](adminv2connect.NewPartitionServiceHandler, adminPartitions{Server: s}),
		serve[adminv2connect.ProjectServiceHandler](adminv2connect.NewProjectServiceHandler, adminProjects{Server: s}),
		serve[adminv2connect.SizeImageConstraintServiceHandler](adminv2connect.NewSizeImageConstraintServiceHandler, adminSizeImageConstraints{Server: s}),
		serve[adminv2connect.SizeReservationServiceHandler](adminv2connect.NewSizeReservationServiceHandler, adminSizeReservations{Server: s}),
		serve[adminv2connect.SizeServiceHandler](adminv2connect.NewSizeServiceHandler, adminSizes{Server: s}),
		serve[adminv2connect.SwitchServiceHandler](adminv2connect.NewSwitchServiceHandler, adminSwitches{Server: s}),
		serve[adminv2connect.TenantServiceHandler](adminv2connect.NewTenantServiceHandler, adminTenants{Server: s}),
		serve[adminv2connect.TokenServiceHandler](adminv2connect.NewTokenServiceHandler, adminTokens{Server: s}),
		serve[apiv2connect.FilesystemServiceHandler](apiv2connect.NewFilesystemServiceHandler, filesystems{Server: s}),
		serve[apiv2connect.HealthServiceHandler](apiv2connect.NewHealthServiceHandler, healths{Server: s}),
		serve[apiv2connect.IPServiceHandler](apiv2connect.NewIPServiceHandler, ips{Server: s}),
		serve[apiv2connect.ImageServiceHandler](apiv2connect.NewImageServiceHandler, images{Server: s}),
		serve[apiv2connect.MachineServiceHandler](apiv2connect.NewMachineServiceHandler, machines{Server: s}),
		serve[apiv2connect.MethodServiceHandler](apiv2connect.NewMethodServiceHandler, methods{Server: s}),
		serve[apiv2connect.NetworkServiceHandler](apiv2connect.NewNetworkServiceHandler, networks{Server: s}),
		serve[apiv2connect.PartitionServiceHandler](apiv2connect.NewPartitionServiceHandler, partitions{Server: s}),
		serve[apiv2connect.ProjectServiceHandler](apiv2connect.NewProjectServiceHandler, projects{Server: s}),
		serve[apiv2connect.SizeImageConstraintServiceHandler](apiv2connect.NewSizeImageConstraintServiceHandler, sizeImageConstraints{Server: s}),
		serve[apiv2connect.SizeReservationServiceHandler](apiv2connect.NewSizeReservationServiceHandler, sizeReservations{Server: s}),
		serve[apiv2connect.SizeServiceHandler](apiv2connect.NewSizeServiceHandler, sizes{Server: s}),
		serve[apiv2connect.TenantServiceHandler](apiv2connect.NewTenantServiceHandler, tenants{Server: s}),
		serve[apiv2connect.TokenServiceHandler](apiv2connect.NewTokenServiceHandler, tokens{Server: s}),
		serve[apiv2connect.UserServiceHandler](apiv2connect.NewUserServiceHandler, users{Server: s}),
		serve[apiv2connect.VersionServiceHandler](apiv2connect.NewVersionServiceHandler, versions{Server: s}),
		serve[infrav2connect.BMCServiceHandler](infrav2connect.NewBMCServiceHandler, infraBMCs{Server: s}),
		serve[infrav2connect.BootServiceHandler](infrav2connect.NewBootServiceHandler, infraBoots{Server: s}),
		serve[infrav2connect.ComponentServiceHandler](infrav2connect.NewComponentServiceHandler, infraComponents{Server: s}),
		serve[infrav2connect.EventServiceHandler](infrav2connect.NewEventServiceHandler, events{Server: s}),
		serve[infrav2connect.SwitchServiceHandler](infrav2connect.NewSwitchServiceHandler, infraSwitches{Server: s}),
		serve[ingotv1connect.AgentServiceHandler](ingotv1connect.NewAgentServiceHandler, agents{Server: s}),
		serve[ingotv1connect.BMCServiceHandler](ingotv1connect.NewBMCServiceHandler, bmcs{Server: s}),
		serve[ingotv1connect.BootServiceHandler](ingotv1connect.NewBootServiceHandler, boots{Server: s}),
		serve[ingotv1connect.ConsoleServiceHandler](ingotv1connect.NewConsoleServiceHandler, consoles{Server: s}),
		serve[ingotv1connect.EnrolmentServiceHandler](ingotv1connect.NewEnrolmentServiceHandler, enrolments{Server: s}),
		serve[ingotv1connect.FabricServiceHandler](ingotv1connect.NewFabricServiceHandler, fabrics{Server: s}),
		serve[ingotv1connect.ImageSourceServiceHandler](ingotv1connect.NewImageSourceServiceHandler, imageSources{Server: s}),
		serve[ingotv1connect.LeafServiceHandler](ingotv1connect.NewLeafServiceHandler, leaves{Server: s}),
		serve[ingotv1connect.MachineServiceHandler](ingotv1connect.NewMachineServiceHandler, operatorMachines{Server: s}),
		serve[ingotv1connect.SiteServiceHandler](ingotv1connect.NewSiteServiceHandler, sites{Server: s}),
		serve[ingotv1connect.TimelineServiceHandler](ingotv1connect.NewTimelineServiceHandler, timelines{Server: s}),
		serve[ingotv1connect.WatchServiceHandler](ingotv1connect.NewWatchServiceHandler, watches{Server: s}),
		serve[ingotv1connect.WipeServiceHandler](ingotv1connect.NewWipeServiceHandler, wipes{Server: s}),
	}
}

// A service makes the handler of all methods of a service, and says where they
// are: "/metalstack.api.v2.IPService/".
type service func(...connect.HandlerOption) (string, http.Handler)

// serve makes a service of a generated constructor and an implementation.
func serve[H any](construct func(H, ...connect.HandlerOption) (string, http.Handler), impl H) service {
	return func(opts ...connect.HandlerOption) (string, http.Handler) { return construct(impl, opts...) }
}

const (
	maxRequest = 4 << 20 // bytes of a message, uncompressed
	compressAt = 1 << 10
)

// mux returns the handler of everything.
func (s *Server) mux() http.Handler {
	opts := []connect.HandlerOption{
		connect.WithRequestGate(s.admit),
		connect.WithInterceptors(&interceptor{Server: s}),
		connect.WithReadMaxBytes(maxRequest),
		connect.WithCompressMinBytes(compressAt),
	}
	mux := http.NewServeMux()
	var names []string
	for _, sv := range s.services() {
		path, handler := sv(opts...)
		mux.Handle(path, handler)
		names = append(names, strings.Trim(path, "/"))
		s.served[strings.Trim(path, "/")] = true
	}
	for _, m := range access.Methods() {
		if !s.served[m.Service()] {
			mux.Handle(m.Name, unserved(m, opts))
		}
	}
	mux.Handle(grpchealth.NewHandler(health{s}, connect.WithReadMaxBytes(maxRequest)))
	reflector := grpcreflect.NewStaticReflector(append(names, grpchealth.HealthV1ServiceName)...)
	mux.Handle(grpcreflect.NewHandlerV1(reflector, connect.WithReadMaxBytes(maxRequest)))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector, connect.WithReadMaxBytes(maxRequest)))
	mux.HandleFunc("GET /livez", s.livez)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("GET /metrics", s.showMetrics)
	for pattern, h := range s.cfg.Pages {
		mux.Handle(pattern, h)
	}
	return crossOrigin(mux)
}

// unserved returns the handler of a method that this build does not serve. The
// caller must be allowed to call it to learn so.
func unserved(m *access.Method, opts []connect.HandlerOption) http.Handler {
	opts = append(slices.Clone(opts),
		connect.WithSchema(m.Desc),
		connect.WithRequestInitializer(func(spec connect.Spec, msg any) error {
			if d, ok := msg.(*dynamicpb.Message); ok {
				*d = *dynamicpb.NewMessage(spec.Schema.(protoreflect.MethodDescriptor).Input())
			}
			return nil
		}))
	err := fault.New(fault.Unimplemented, m.Name, "is not implemented", "")
	if m.Desc.IsStreamingServer() {
		return connect.NewServerStreamHandler(m.Name,
			func(context.Context, *connect.Request[dynamicpb.Message], *connect.ServerStream[dynamicpb.Message]) error {
				return err
			}, opts...)
	}
	return connect.NewUnaryHandler(m.Name,
		func(context.Context, *connect.Request[dynamicpb.Message]) (*connect.Response[dynamicpb.Message], error) {
			return nil, err
		}, opts...)
}
