package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"connectrpc.com/connect"

	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// A Script is what iPXE is told when it asks what to boot.
type Script struct {
	// Machine is the uuid of who asked, Files says which kernel and initrd it
	// is told, for people.
	Machine, Files string
	// Kernels and Initrds are https urls of the same two files, tried in order.
	Kernels, Initrds []string
	// CommandLine of the partition. Where metal-boot is, is added to it.
	CommandLine string
	// Boot is metal-boot's url in the boot network.
	Boot *url.URL
}

// Text returns the script. If one of its steps fails, iPXE goes back to the
// medium's own script.
func (s Script) Text() (string, error) {
	const object = "boot script"
	if err := plain(s.CommandLine); err != nil {
		return "", fault.Wrap(fault.Invalid, object, "the command line", err).Do("change the partition's boot configuration")
	}
	if len(s.Kernels) == 0 || len(s.Initrds) == 0 {
		return "", fault.New(fault.Unavailable, object, "there is no kernel or no initrd to load", "")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "#!ipxe\necho Ingot: %s for %s\n", s.Files, s.Machine)
	for _, f := range []struct {
		command string
		urls    []string
	}{{"kernel", s.Kernels}, {"initrd", s.Initrds}} {
		for _, from := range f.urls {
			if u, err := url.Parse(from); err != nil || u.Scheme != "https" || plain(from) != nil || strings.ContainsAny(from, " ") {
				return "", fault.New(fault.Invalid, object, "a "+f.command+" is not at an https url", "")
			}
			fmt.Fprintf(&b, "%[1]s --name %[1]s --timeout 60000 %[2]s || ", f.command, from)
		}
		b.WriteString("goto failed\n")
	}
	fmt.Fprintf(&b, "imgargs kernel initrd=initrd %s\nboot kernel ||\n:failed\nimgfree kernel ||\nimgfree initrd ||\nexit 1\n", commandLine(s.CommandLine, s.Boot))
	return b.String(), nil
}

// plain refuses what iPXE would not pass on as it stands.
func plain(line string) error {
	if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("has more than one line, or control characters")
	}
	if strings.Contains(line, "${") {
		return errors.New("holds ${, which iPXE would replace")
	}
	for _, word := range strings.Fields(line) {
		if word == "||" || word == "&&" || strings.HasPrefix(word, "#") {
			return fmt.Errorf("holds the word %q, at which iPXE would stop", word)
		}
	}
	return nil
}

// scriptPath is what iPXE asks for. It is the only thing that is served to
// clients without TLS 1.3, which iPXE does not speak.
const scriptPath = "/boot.ipxe"

// handleScript serves the boot script: what it says is asked of the control
// plane each time, so that a change is in effect at the next request.
func (s *Server) handleScript(mux *http.ServeMux, p place) {
	mux.HandleFunc("GET "+scriptPath, func(w http.ResponseWriter, r *http.Request) {
		text, err := s.script(r, p)
		if err != nil {
			s.Log.Warn("no boot script for a server", "from", r.RemoteAddr, "error", err)
			http.Error(w, err.Error(), statusOf(err))
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = io.WriteString(w, text)
	})
}

func (s *Server) script(r *http.Request, p place) (string, error) {
	uuid := strings.ToLower(r.URL.Query().Get("uuid"))
	answer, err := s.scriptFor(r.Context(), r.RemoteAddr, uuid)
	if err != nil {
		return "", err
	}
	files := answer.Msg.GetFiles()
	return Script{
		Machine: uuid, Files: short(files.GetKernelSha256()) + " and " + short(files.GetInitrdSha256()), Kernels: files.GetKernelUrls(), Initrds: files.GetInitrdUrls(),
		CommandLine: answer.Msg.GetCommandLine(), Boot: p.url(),
	}.Text()
}

// scriptFor asks the control plane what a server shall boot, and vouches for
// where the server is.
func (s *Server) scriptFor(ctx context.Context, peer, uuid string) (*connect.Response[ingotv1.BootServiceScriptResponse], error) {
	source, err := sourceOf(peer)
	if err != nil {
		return nil, err
	}
	return answer(s.Tokens.Script(ctx, connect.NewRequest(&ingotv1.BootServiceScriptRequest{
		Switch: s.Switch, Partition: s.Partition, SourceAddress: source, Uuid: uuid,
	})))
}

// short is the beginning of a digest, for people.
func short(digest string) string { return digest[:min(len(digest), 12)] }

// url is how servers in the boot network name metal-boot.
func (p place) url() *url.URL {
	if p.domain != "" {
		return URL(p.domain, "")
	}
	return URL("", p.address.String())
}

// URL is how servers in the boot network name metal-boot: by the one name of
// its zone or, without one, by its address.
func URL(domain, address string) *url.URL {
	if domain != "" {
		return &url.URL{Scheme: "https", Host: "boot." + domain}
	}
	return &url.URL{Scheme: "https", Host: "[" + address + "]"}
}

// statusOf is what a client without Connect is told.
func statusOf(err error) int {
	switch connect.CodeOf(err) {
	case connect.CodeInvalidArgument:
		return http.StatusBadRequest
	case connect.CodePermissionDenied:
		return http.StatusForbidden
	case connect.CodeNotFound:
		return http.StatusNotFound
	default: // it is worth asking again
		return http.StatusServiceUnavailable
	}
}
