package leaf

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/metalstack/api/v2/apiv2connect"

	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// An Identity is the leaf's own token, kept in a file that only root can read.
type Identity struct {
	path  string
	token atomic.Pointer[string]
}

// OpenIdentity reads the token of a leaf. It fails with fault.NotFound if the
// leaf is not enrolled yet.
func OpenIdentity(path string) (*Identity, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, "token "+path, "does not exist", "enrol the leaf: 'ingot partition enroll' gives a secret")
	}
	if err != nil {
		return nil, err
	}
	i := &Identity{path: path}
	i.set(string(b))
	return i, nil
}

func (i *Identity) set(token string) {
	token = strings.TrimSpace(token)
	i.token.Store(&token)
}

// TokenFile is where a leaf that enrolled itself keeps its token.
func TokenFile(dir string) string { return filepath.Join(dir, "token") }

// Enrol redeems a one-time secret and keeps the token it brings in path. The
// secret must have been made for this leaf and this partition.
func Enrol(ctx context.Context, c ingotv1connect.EnrolmentServiceClient, secret, id, partition, path string) (*Identity, error) {
	object := "leaf " + id
	a, err := c.Redeem(ctx, connect.NewRequest(&ingotv1.EnrolmentServiceRedeemRequest{Secret: strings.TrimSpace(secret)}))
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, object, "cannot be enrolled", err).Do("the secret may be used up; make another with 'ingot partition enroll'")
	}
	if m := a.Msg; m.GetFarEnd() != ingotv1.FarEnd_FAR_END_LEAF || m.GetId() != id || m.GetPartition() != partition {
		return nil, fault.Newf(fault.Invalid, object, "the secret is for %s in partition %s", m.GetId(), m.GetPartition())
	}
	if err := writeFile(path, []byte(a.Msg.GetToken()+"\n")); err != nil {
		return nil, err
	}
	i := &Identity{path: path}
	i.set(a.Msg.GetToken())
	return i, nil
}

// refreshEvery is how often the token's age is looked at.
const refreshEvery = time.Minute

// Run replaces the token when a third of its life is left, until ctx ends. As
// long as that fails, the old one is used.
func (i *Identity) Run(ctx context.Context, c apiv2connect.TokenServiceClient, failed func(error)) error {
	for {
		if err := i.Refresh(ctx, c, time.Now()); err != nil && ctx.Err() == nil {
			failed(err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(refreshEvery):
		}
	}
}

// Refresh replaces the token if it is due at that time.
func (i *Identity) Refresh(ctx context.Context, c apiv2connect.TokenServiceClient, now time.Time) error {
	issued, expires, err := lifetime(*i.token.Load())
	if err != nil {
		return err
	}
	if expires.Sub(now) > expires.Sub(issued)/3 {
		return nil
	}
	a, err := c.Refresh(ctx, &apiv2.TokenServiceRefreshRequest{})
	if err != nil {
		return fault.Wrap(fault.Unavailable, "token of this leaf", "cannot be refreshed", err)
	}
	if err := writeFile(i.path, []byte(a.GetSecret()+"\n")); err != nil {
		return err
	}
	i.set(a.GetSecret())
	return nil
}

// lifetime reads from when and until when a JWT holds (RFC 7519, 4.1). Only
// the control plane can verify it.
func lifetime(token string) (issued, expires time.Time, err error) {
	malformed := fault.New(fault.Invalid, "token of this leaf", "is not a JWT", "enrol the leaf again")
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return issued, expires, malformed
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return issued, expires, malformed
	}
	var claims struct {
		Issued  int64 `json:"iat"`
		Expires int64 `json:"exp"`
	}
	if json.Unmarshal(b, &claims) != nil || claims.Expires == 0 {
		return issued, expires, malformed
	}
	return time.Unix(claims.Issued, 0), time.Unix(claims.Expires, 0), nil
}

// Authorize returns what adds the token to every call of a client.
func (i *Identity) Authorize() connect.Interceptor { return bearer{i} }

type bearer struct{ *Identity }

func (b bearer) set(h http.Header) { h.Set("Authorization", "Bearer "+*b.token.Load()) }

// WrapUnary authorizes a call.
func (b bearer) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		b.set(r.Header())
		return next(ctx, r)
	}
}

// WrapStreamingClient authorizes a stream.
func (b bearer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, s connect.Spec) connect.StreamingClientConn {
		c := next(ctx, s)
		b.set(c.RequestHeader())
		return c
	}
}

// WrapStreamingHandler leaves handlers alone; there are none.
func (b bearer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}
