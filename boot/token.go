package boot

import (
	"context"
	"errors"
	"net/http"
	"net/netip"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// tokens passes a server's calls of BootService on and vouches for where they
// came from: whatever the server says about that is overwritten.
type tokens struct{ s *Server }

// handleTokens serves BootService: over plain HTTP only Begin, since a token
// is a secret.
func (s *Server) handleTokens(mux *http.ServeMux, secure bool) {
	path, h := ingotv1connect.NewBootServiceHandler(tokens{s}, connect.WithReadMaxBytes(64<<10))
	if secure {
		mux.Handle(path, h)
		return
	}
	mux.Handle(ingotv1connect.BootServiceBeginProcedure, h)
}

// Begin starts a boot.
func (t tokens) Begin(ctx context.Context, r *connect.Request[ingotv1.BootServiceBeginRequest]) (*connect.Response[ingotv1.BootServiceBeginResponse], error) {
	source, err := sourceOf(r.Peer().Addr)
	if err != nil {
		return nil, err
	}
	m := proto.CloneOf(r.Msg)
	m.Switch, m.Partition, m.SourceAddress = t.s.Switch, t.s.Partition, source
	return answer(t.s.Tokens.Begin(ctx, connect.NewRequest(m)))
}

// Token exchanges a boot id for a token.
func (t tokens) Token(ctx context.Context, r *connect.Request[ingotv1.BootServiceTokenRequest]) (*connect.Response[ingotv1.BootServiceTokenResponse], error) {
	source, err := sourceOf(r.Peer().Addr)
	if err != nil {
		return nil, err
	}
	m := proto.CloneOf(r.Msg)
	m.Switch, m.Partition, m.SourceAddress = t.s.Switch, t.s.Partition, source
	return answer(t.s.Tokens.Token(ctx, connect.NewRequest(m)))
}

// Script tells what iPXE shall boot.
func (t tokens) Script(ctx context.Context, r *connect.Request[ingotv1.BootServiceScriptRequest]) (*connect.Response[ingotv1.BootServiceScriptResponse], error) {
	return t.s.scriptFor(ctx, r.Peer().Addr, r.Msg.GetUuid())
}

// answer passes on a message without the headers it came with, and of an
// error what the control plane said.
func answer[T any](r *connect.Response[T], err error) (*connect.Response[T], error) {
	if err == nil {
		return connect.NewResponse(r.Msg), nil
	}
	code, text := connect.CodeOf(err), err.Error()
	var e *connect.Error
	if errors.As(err, &e) {
		text = e.Message()
	}
	if code == connect.CodeUnauthenticated {
		// It is the leaf that was not recognised; the server can only wait.
		code, text = connect.CodeUnavailable, "the leaf is not known to the control plane"
	}
	return nil, connect.NewError(code, errors.New(text))
}

// sourceOf is the address of a server as this switch saw it.
func sourceOf(peer string) (string, error) {
	a, err := netip.ParseAddrPort(peer)
	if err != nil || !a.Addr().Is6() || a.Addr().IsLinkLocalUnicast() {
		return "", connect.NewError(connect.CodeInvalidArgument, errors.New("a boot begins from the global IPv6 address of a port"))
	}
	return a.Addr().WithZone("").String(), nil
}
