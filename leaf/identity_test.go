package leaf_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"connectrpc.com/connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/metalstack/api/v2/apiv2connect"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/leaf"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// registry gives out tokens that hold for three hours from noon.
type registry struct {
	ingotv1connect.UnimplementedEnrolmentServiceHandler
	noon      time.Time
	refreshed string // the token that was replaced
	far       ingotv1.FarEnd
}

func (r *registry) token(from time.Time) string {
	claims := fmt.Sprintf(`{"iat":%d,"exp":%d}`, from.Unix(), from.Add(3*time.Hour).Unix())
	return "h." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".s"
}

func (r *registry) Redeem(_ context.Context, q *connect.Request[ingotv1.EnrolmentServiceRedeemRequest]) (*connect.Response[ingotv1.EnrolmentServiceRedeemResponse], error) {
	if q.Msg.GetSecret() != "only-once" {
		return nil, connect.NewError(connect.CodeUnauthenticated, errors.New("unknown secret"))
	}
	return connect.NewResponse(&ingotv1.EnrolmentServiceRedeemResponse{Token: r.token(r.noon), Partition: "lab", FarEnd: r.far, Id: "leaf01"}), nil
}

// tokens is the registry's other service.
type tokens struct {
	apiv2connect.UnimplementedTokenServiceHandler
	*registry
}

func (r tokens) Refresh(ctx context.Context, _ *apiv2.TokenServiceRefreshRequest) (*apiv2.TokenServiceRefreshResponse, error) {
	info, _ := connect.CallInfoForHandlerContext(ctx)
	r.refreshed = info.RequestHeader().Get("Authorization")
	return &apiv2.TokenServiceRefreshResponse{Secret: r.token(r.noon.Add(2 * time.Hour))}, nil
}

func TestIdentity(t *testing.T) {
	r := &registry{noon: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC), far: ingotv1.FarEnd_FAR_END_LEAF}
	mux := http.NewServeMux()
	mux.Handle(ingotv1connect.NewEnrolmentServiceHandler(r))
	mux.Handle(apiv2connect.NewTokenServiceHandler(tokens{registry: r}))
	s := httptest.NewServer(mux)
	defer s.Close()
	c := ingotv1connect.NewEnrolmentServiceClient(s.Client(), s.URL)
	path := leaf.TokenFile(t.TempDir())

	if _, err := leaf.OpenIdentity(path); !errors.Is(err, fault.NotFound) {
		t.Errorf("before the enrolment: %v", err)
	}
	if _, err := leaf.Enrol(t.Context(), c, "guess", "leaf01", "lab", path); err == nil {
		t.Error("enrolled with a wrong secret")
	}
	if _, err := leaf.Enrol(t.Context(), c, "only-once", "leaf02", "lab", path); !errors.Is(err, fault.Invalid) {
		t.Errorf("enrolled with another leaf's secret: %v", err)
	}
	r.far = ingotv1.FarEnd_FAR_END_SITE
	if _, err := leaf.Enrol(t.Context(), c, "only-once", "leaf01", "lab", path); !errors.Is(err, fault.Invalid) {
		t.Errorf("enrolled as a management server: %v", err)
	}
	r.far = ingotv1.FarEnd_FAR_END_LEAF
	if _, err := leaf.Enrol(t.Context(), c, " only-once\n", "leaf01", "lab", path); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("the token's file: %v, %v", info, err)
	}

	i, err := leaf.OpenIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	client := apiv2connect.NewTokenServiceClient(s.Client(), s.URL, connect.WithInterceptors(i.Authorize()))
	if err := i.Refresh(t.Context(), client, r.noon.Add(time.Hour)); err != nil || r.refreshed != "" {
		t.Errorf("refreshed with two thirds left: %q, %v", r.refreshed, err)
	}
	if err := i.Refresh(t.Context(), client, r.noon.Add(2*time.Hour)); err != nil || r.refreshed != "Bearer "+r.token(r.noon) {
		t.Errorf("refreshed with %q: %v", r.refreshed, err)
	}
	b, err := os.ReadFile(path)
	if err != nil || string(b) != r.token(r.noon.Add(2*time.Hour))+"\n" {
		t.Errorf("kept %s, %v", b, err)
	}
}
