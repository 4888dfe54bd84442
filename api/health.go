package api

import (
	"context"
	"net/http"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/fault"
)

type healths struct{ *Server }

// Get tells the state of what exists: the v2 API has names for parts that
// Ingot has not got, and of those nothing is said.
func (h healths) Get(context.Context, *apiv2.HealthServiceGetRequest) (*apiv2.HealthServiceGetResponse, error) {
	// IPAM is the one part of the list that is nothing but the store.
	status := &apiv2.HealthStatus{Name: apiv2.Service_SERVICE_IPAM, Status: apiv2.ServiceStatus_SERVICE_STATUS_HEALTHY}
	if err := h.db.Fresh(); err != nil {
		status.Status, status.Message = apiv2.ServiceStatus_SERVICE_STATUS_UNHEALTHY, err.Error()
	}
	return &apiv2.HealthServiceGetResponse{Health: &apiv2.Health{Services: []*apiv2.HealthStatus{status}}}, nil
}

// health answers gRPC's health checks.
type health struct{ *Server }

// Check implements grpchealth.Checker. A service that is served is as healthy
// as the store.
func (h health) Check(_ context.Context, req *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	if req.Service != "" && !h.served[req.Service] {
		return nil, connect.NewError(connect.CodeNotFound, fault.Newf(fault.NotFound, "service "+req.Service, "is not served"))
	}
	if h.db.Stale() {
		return &grpchealth.CheckResponse{Status: grpchealth.StatusNotServing}, nil
	}
	return &grpchealth.CheckResponse{Status: grpchealth.StatusServing}, nil
}

// livez says that the process answers.
func (s *Server) livez(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok") }

// readyz says whether calls can be served.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	if err := s.db.Fresh(); err != nil {
		answer(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	answer(w, http.StatusOK, "ok")
}

// showMetrics serves Prometheus. Metrics tell what goes on in the whole cloud,
// so they are for those who may see the whole cloud.
func (s *Server) showMetrics(w http.ResponseWriter, r *http.Request) {
	snap := s.db.Snapshot()
	c, err := s.identify(snap, r.Header)
	if err == nil && c.AdminRole(snap) == 0 {
		err = fault.New(fault.Denied, "metrics", "are for admins", "send a token with an admin role")
	}
	switch {
	case err == nil:
		promhttp.HandlerFor(s.cfg.Metrics, promhttp.HandlerOpts{}).ServeHTTP(w, r)
	case c == access.Caller{}:
		answer(w, http.StatusUnauthorized, err.Error())
	default:
		answer(w, http.StatusForbidden, err.Error())
	}
}

func answer(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text + "\n")) // who asked may be gone
}
