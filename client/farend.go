package client

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
	"time"

	"connectrpc.com/connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/metalstack/api/v2/apiv2connect"

	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// A FarEnd is a leaf or a management server that acts under its own name.
type FarEnd struct {
	Kind          ingotv1.FarEnd
	ID, Partition string
}

func (f FarEnd) object() string {
	return strings.ToLower(strings.TrimPrefix(f.Kind.String(), "FAR_END_")) + " " + f.ID
}

// Join returns a Client with the far end's token from cfg.TokenFile. If there
// is none yet, it redeems the one-time secret in secretFile and keeps the
// token it brings; failed hears why that does not work yet, once for each
// reason. Join returns when it worked or ctx ends.
func Join(ctx context.Context, cfg Config, f FarEnd, secretFile string, failed func(error)) (*Client, error) {
	_, err := os.Stat(cfg.TokenFile)
	if errors.Is(err, fs.ErrNotExist) {
		if secretFile == "" {
			return nil, fault.New(fault.NotFound, "token "+cfg.TokenFile, "does not exist", "enrol the "+f.object()+": 'ingot partition enroll' gives a secret")
		}
		err = f.enrolUntilItWorks(ctx, cfg, secretFile, failed)
	}
	if err != nil {
		return nil, err
	}
	return New(cfg)
}

func (f FarEnd) enrolUntilItWorks(ctx context.Context, cfg Config, secretFile string, failed func(error)) error {
	anonymous := cfg
	anonymous.TokenFile = ""
	for said := ""; ; {
		err := f.enrol(ctx, anonymous, secretFile, cfg.TokenFile)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if err.Error() != said {
			said = err.Error()
			failed(err)
		}
		if !sleep(ctx, time.Second) {
			return err
		}
	}
}

// enrol redeems the secret, which must have been made for this far end, and
// keeps the token.
func (f FarEnd) enrol(ctx context.Context, cfg Config, secretFile, tokenFile string) error {
	secret, err := os.ReadFile(secretFile)
	if err != nil {
		return fault.Wrap(fault.Precondition, "secret", "cannot be read", err)
	}
	c, err := New(cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	a, err := Of(c, ingotv1connect.NewEnrolmentServiceClient).Redeem(ctx, connect.NewRequest(&ingotv1.EnrolmentServiceRedeemRequest{
		Secret: strings.TrimSpace(string(secret)),
	}))
	if err != nil {
		return fault.Wrap(fault.Unavailable, f.object(), "cannot be enrolled", err).Do("the secret may be used up; make another with 'ingot partition enroll'")
	}
	if m := a.Msg; m.GetFarEnd() != f.Kind || m.GetId() != f.ID || m.GetPartition() != f.Partition {
		return fault.Newf(fault.Invalid, f.object(), "the secret is for %s in partition %s", FarEnd{m.GetFarEnd(), m.GetId(), ""}.object(), m.GetPartition())
	}
	return writeFile(tokenFile, []byte(a.Msg.GetToken()+"\n"))
}

// Newer reports whether generation g is after h, by epoch and then by number.
// An absent one is before all. Far ends refuse a wanted state that is not
// newer than theirs.
func Newer(g, h *ingotv1.Generation) bool {
	if h == nil {
		return true
	}
	if g.GetEpoch() != h.GetEpoch() {
		return g.GetEpoch() > h.GetEpoch()
	}
	return g.GetN() > h.GetN()
}

// renewEvery is how often the token's age is looked at.
const renewEvery = time.Minute

// KeepToken replaces the token in the Client's token file when a third of its
// life is left, until ctx ends. As long as that fails, the old one is used.
func (c *Client) KeepToken(ctx context.Context, failed func(error)) error {
	for {
		if err := c.renewToken(ctx, time.Now()); err != nil && ctx.Err() == nil {
			failed(err)
		}
		if !sleep(ctx, renewEvery) {
			return nil
		}
	}
}

// renewToken replaces the token if it is due at that time.
func (c *Client) renewToken(ctx context.Context, now time.Time) error {
	token, err := c.token.get()
	if err != nil {
		return err
	}
	issued, expires, err := lifetime(token)
	if err != nil || expires.Sub(now) > expires.Sub(issued)/3 {
		return err
	}
	a, err := Of(c, apiv2connect.NewTokenServiceClient).Refresh(ctx, &apiv2.TokenServiceRefreshRequest{})
	if err != nil {
		return fault.Wrap(fault.Unavailable, "token "+c.token.file, "cannot be refreshed", err)
	}
	return writeFile(c.token.file, []byte(a.GetSecret()+"\n"))
}

// lifetime reads from when and until when a JWT holds (RFC 7519, 4.1). Only
// the control plane can verify it.
func lifetime(token string) (issued, expires time.Time, err error) {
	malformed := fault.New(fault.Invalid, "token", "is not a JWT", "enrol again")
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

// Vouching returns the Client's connections for passing on the calls of others:
// its token goes beside theirs, and says who vouches for them.
func (c *Client) Vouching() http.RoundTripper { return vouching{c} }

type vouching struct{ *Client }

// RoundTrip implements http.RoundTripper.
func (v vouching) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := v.token.get()
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Header.Set(ingotv1.LeafHeader, token)
	return v.http.Transport.RoundTrip(r)
}

// writeFile writes a file that only its owner can read, whole or not at all.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
