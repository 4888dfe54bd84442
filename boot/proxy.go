package boot

import (
	"io"
	"log"
	"net/http"
	"net/http/httputil"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// Procedures are what metal-boot passes on to the control plane: the calls of
// AgentService, and nothing else.
func Procedures() []string {
	var all []string
	service := ingotv1.File_ingot_v1_agent_proto.Services().ByName("AgentService")
	for i := range service.Methods().Len() {
		m := service.Methods().Get(i)
		all = append(all, "/"+string(service.FullName())+"/"+string(m.Name()))
	}
	return all
}

// handleProxy forwards the allowed procedures as they are, streams included.
// It vouches for where each call came from: whatever the server says about that
// is overwritten.
func (s *Server) handleProxy(mux *http.ServeMux) {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(s.API)
			r.Out.Header.Del("Cookie")
			r.Out.Header.Del(ingotv1.LeafHeader)
			r.Out.Header.Del(ingotv1.SourceHeader)
			if source, err := sourceOf(r.In.RemoteAddr); err == nil {
				r.Out.Header.Set(ingotv1.SourceHeader, source)
			}
		},
		Transport:     s.Upstream,
		FlushInterval: -1, // each message at once
		ErrorLog:      log.New(io.Discard, "", 0),
		ErrorHandler:  s.unavailable,
	}
	for _, p := range Procedures() {
		mux.Handle("POST "+p, proxy)
	}
}

// unavailable tells a client that it has to try again, in words that Connect
// and gRPC clients take for code "unavailable".
func (s *Server) unavailable(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == nil {
		s.Log.Warn("control plane not reached for a server", "procedure", r.URL.Path, "error", err)
	}
	w.Header().Set("Retry-After", "1")
	w.WriteHeader(http.StatusServiceUnavailable)
}
