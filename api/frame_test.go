package api_test

import (
	"testing"

	"connectrpc.com/connect"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	"github.com/metal-stack/api/go/metalstack/admin/v2/adminv2connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/metalstack/api/v2/apiv2connect"
)

// Case 1 of the conformance list.
func TestAnonymous(t *testing.T) {
	w := newWorld(t)
	v, err := dial(w, apiv2connect.NewVersionServiceClient, "").Get(t.Context(), &apiv2.VersionServiceGetRequest{})
	check(t, err)
	if v.GetVersion().GetVersion() != "v0.0.0-test" {
		t.Errorf("version %v", v)
	}
	h, err := dial(w, apiv2connect.NewHealthServiceClient, "").Get(t.Context(), &apiv2.HealthServiceGetRequest{})
	check(t, err)
	for _, s := range h.GetHealth().GetServices() {
		if s.GetStatus() != apiv2.ServiceStatus_SERVICE_STATUS_HEALTHY {
			t.Errorf("%v", s)
		}
	}
	_, err = dial(w, apiv2connect.NewImageServiceClient, "").List(t.Context(), &apiv2.ImageServiceListRequest{})
	wantCode(t, err, connect.CodePermissionDenied,
		`access to:"/metalstack.api.v2.ImageService/List" is not allowed because it is not part of the token permissions`)
}

func TestUnserved(t *testing.T) {
	w := newWorld(t)
	_, err := dial(w, adminv2connect.NewTaskServiceClient, w.admin).Queues(t.Context(), &adminv2.TaskServiceQueuesRequest{})
	wantCode(t, err, connect.CodeUnimplemented, "/metalstack.admin.v2.TaskService/Queues: is not implemented")
}
