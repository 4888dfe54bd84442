package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"net/http"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/ingot-cloud/ingot/client"
	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// api is the agent's side of the two services that metal-boot passes on: the
// one that gives it an identity and the one it uses that identity for.
type api struct {
	client *client.Client
	http   *http.Client // for what needs no identity
	boot   ingotv1connect.BootServiceClient
	agent  ingotv1connect.AgentServiceClient
	key    ed25519.PrivateKey
	token  atomic.Pointer[bearer]
}

// bearer is the machine's token. It is kept in memory only.
type bearer struct {
	id      string
	expires time.Time
}

// patience is how long one call is repeated while metal-boot or what is behind
// it cannot be reached. After that the stage has failed, and is tried again.
const patience = 5 * time.Second

func dial(cfg Config) (*api, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	c, err := client.New(client.Config{URL: cfg.Boot.String(), Roots: cfg.CA, Retry: client.Retry{For: patience}})
	if err != nil {
		return nil, err
	}
	return &api{
		client: c, http: &http.Client{Transport: c.Transport()}, key: key,
		boot:  client.Of(c, ingotv1connect.NewBootServiceClient),
		agent: client.Of(c, ingotv1connect.NewAgentServiceClient),
	}, nil
}

// known reports whether the agent has a token.
func (a *api) known() bool { return a.token.Load() != nil }

func (a *api) report(ctx context.Context, r *ingotv1.AgentServiceReportRequest) error {
	_, err := a.agent.Report(ctx, connect.NewRequest(r))
	return err
}

// identify begins a boot and obtains the machine's token.
func (a *Agent) identify(ctx context.Context) error {
	if a.api == nil {
		var err error
		if a.api, err = dial(a.cfg); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if a.uuid == "" {
		uuid, err := systemUUID(rootFS)
		if err != nil {
			return err
		}
		a.uuid = uuid
	}
	// A boot id whose token request got no answer may be used up: begin again.
	begun, err := a.api.boot.Begin(ctx, connect.NewRequest(&ingotv1.BootServiceBeginRequest{Uuid: a.uuid}))
	if err != nil {
		a.heed(err)
		return fault.Wrap(fault.Unavailable, "boot", "metal-boot gave no boot id", err)
	}
	id := begun.Msg.GetBootId()
	answer, err := a.api.boot.Token(ctx, connect.NewRequest(&ingotv1.BootServiceTokenRequest{
		Uuid:      a.uuid,
		BootId:    id,
		PublicKey: a.api.key.Public().(ed25519.PublicKey),
		Signature: ed25519.Sign(a.api.key, []byte("ingot boot "+id)),
	}))
	if err != nil {
		a.heed(err)
		return fault.Wrap(fault.Unavailable, "boot "+id, "the machine got no token", err)
	}
	a.bootID = id
	return a.api.keep(answer.Msg.GetToken(), answer.Msg.GetExpires().AsTime())
}

// heed has the machine reboot when this boot is not what it needs: it is
// installed, and its firmware has not noticed yet.
func (a *Agent) heed(err error) {
	if connect.CodeOf(err) == connect.CodeFailedPrecondition {
		a.reboot = err.Error()
	}
}

// refresh replaces the token when less than half of its life is left.
func (a *Agent) refresh(ctx context.Context, issued time.Time) error {
	t := a.api.token.Load()
	if time.Until(t.expires) > t.expires.Sub(issued)/2 {
		return nil
	}
	answer, err := a.api.agent.Refresh(ctx, connect.NewRequest(&ingotv1.AgentServiceRefreshRequest{
		Uuid:      a.uuid,
		Signature: ed25519.Sign(a.api.key, []byte("ingot refresh "+t.id)),
	}))
	if err != nil {
		return fault.Wrap(fault.Unavailable, "machine "+a.uuid, "the token cannot be refreshed", err)
	}
	return a.api.keep(answer.Msg.GetToken(), answer.Msg.GetExpires().AsTime())
}

func (a *api) keep(secret string, expires time.Time) error {
	id, err := tokenID(secret)
	if err != nil {
		return err
	}
	a.client.SetToken(secret)
	a.token.Store(&bearer{id: id, expires: expires})
	return nil
}
