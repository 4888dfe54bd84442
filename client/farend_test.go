package client

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/metalstack/api/v2/apiv2connect"

	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// registry gives out tokens that hold for three hours from noon.
type registry struct {
	ingotv1connect.UnimplementedEnrolmentServiceHandler
	noon      time.Time
	refreshed string // the token that was replaced
}

func (r *registry) token(from time.Time) string {
	claims := fmt.Sprintf(`{"iat":%d,"exp":%d}`, from.Unix(), from.Add(3*time.Hour).Unix())
	return "h." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".s"
}

func (r *registry) Redeem(_ context.Context, q *connect.Request[ingotv1.EnrolmentServiceRedeemRequest]) (*connect.Response[ingotv1.EnrolmentServiceRedeemResponse], error) {
	if q.Msg.GetSecret() != "only-once" || q.Header().Get("Authorization") != "" {
		return nil, connect.NewError(connect.CodeUnauthenticated, errors.New("unknown secret"))
	}
	return connect.NewResponse(&ingotv1.EnrolmentServiceRedeemResponse{Token: r.token(r.noon), Partition: "lab", FarEnd: ingotv1.FarEnd_FAR_END_LEAF, Id: "leaf01"}), nil
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

func TestFarEnd(t *testing.T) {
	r := &registry{noon: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)}
	mux := http.NewServeMux()
	mux.Handle(ingotv1connect.NewEnrolmentServiceHandler(r))
	mux.Handle(apiv2connect.NewTokenServiceHandler(tokens{registry: r}))
	s := httptest.NewServer(mux)
	defer s.Close()
	dir := t.TempDir()
	cfg := Config{URL: s.URL, TokenFile: filepath.Join(dir, "token")}
	secretFile := filepath.Join(dir, "secret")
	leaf := FarEnd{ingotv1.FarEnd_FAR_END_LEAF, "leaf01", "lab"}

	if _, err := Join(t.Context(), cfg, leaf, "", nil); !errors.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "enrol the leaf leaf01") {
		t.Errorf("without a secret: %v", err)
	}
	// A secret that cannot be redeemed is tried until there is a better one.
	for name, x := range map[string]struct {
		far    FarEnd
		secret string
		want   string
	}{
		"wrong secret": {leaf, "guess", "cannot be enrolled"},
		"another leaf": {FarEnd{leaf.Kind, "leaf02", "lab"}, "only-once", "is for leaf leaf01 in partition lab"},
		"another kind": {FarEnd{ingotv1.FarEnd_FAR_END_SITE, "leaf01", "lab"}, "only-once", "is for leaf leaf01"},
		"elsewhere":    {FarEnd{leaf.Kind, "leaf01", "p2"}, "only-once", "in partition lab"},
	} {
		if err := os.WriteFile(secretFile, []byte(x.secret), 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var heard error
		if _, err := Join(ctx, cfg, x.far, secretFile, func(err error) { heard = err; cancel() }); err == nil || !strings.Contains(heard.Error(), x.want) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
		if heard != nil && strings.Contains(heard.Error(), x.secret) {
			t.Errorf("%s: the secret is in the error %v", name, heard)
		}
	}
	if err := os.WriteFile(secretFile, []byte(" only-once\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Join(t.Context(), cfg, leaf, secretFile, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(cfg.TokenFile); err != nil || info.Mode() != 0o600 {
		t.Errorf("the token's file: %v, %v", info, err)
	}

	if err := c.renewToken(t.Context(), r.noon.Add(time.Hour)); err != nil || r.refreshed != "" {
		t.Errorf("renewed with two thirds left: %q, %v", r.refreshed, err)
	}
	if err := c.renewToken(t.Context(), r.noon.Add(2*time.Hour)); err != nil || r.refreshed != "Bearer "+r.token(r.noon) {
		t.Errorf("renewed with %q: %v", r.refreshed, err)
	}
	b, err := os.ReadFile(cfg.TokenFile)
	if err != nil || string(b) != r.token(r.noon.Add(2*time.Hour))+"\n" {
		t.Errorf("kept %s, %v", b, err)
	}
	if token, err := c.token.get(); err != nil || token != strings.TrimSpace(string(b)) {
		t.Errorf("uses %q, %v", token, err)
	}
}

// A far end that passes a call on vouches for it beside what the call brings.
func TestVouching(t *testing.T) {
	var got http.Header
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	defer srv.Close()
	c, err := New(Config{URL: srv.URL, Token: "the-leaf's"})
	if err != nil {
		t.Fatal(err)
	}
	q := httptest.NewRequest(http.MethodPost, srv.URL, nil)
	q.RequestURI = ""
	q.Header.Set("Authorization", "Bearer the-machine's")
	q.Header.Set(ingotv1.LeafHeader, "forged")
	a, err := (&http.Client{Transport: c.Vouching()}).Do(q)
	if err != nil {
		t.Fatal(err)
	}
	a.Body.Close()
	if b, l := got.Values("Authorization"), got.Values(ingotv1.LeafHeader); len(b) != 1 || b[0] != "Bearer the-machine's" || len(l) != 1 || l[0] != "the-leaf's" {
		t.Errorf("passed on as %q, vouched for by %q", b, l)
	}
	if q.Header.Get(ingotv1.LeafHeader) != "forged" {
		t.Error("the request itself was changed")
	}
}

func TestLifetimeRefuses(t *testing.T) {
	for _, bad := range []string{"", "a.b", "a.!.c", "a.e30.c"} {
		if _, _, err := lifetime(bad); !errors.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestNewer(t *testing.T) {
	g := func(epoch, n uint64) *ingotv1.Generation { return &ingotv1.Generation{Epoch: epoch, N: n} }
	for _, c := range []struct {
		g, h *ingotv1.Generation
		want bool
	}{
		{g(1, 1), nil, true}, {nil, nil, true}, {nil, g(1, 1), false},
		{g(1, 2), g(1, 1), true}, {g(1, 1), g(1, 1), false}, {g(1, 1), g(1, 2), false},
		{g(2, 1), g(1, 9), true}, {g(1, 9), g(2, 1), false},
	} {
		if got := Newer(c.g, c.h); got != c.want {
			t.Errorf("%v after %v: %v", c.g, c.h, got)
		}
	}
}
