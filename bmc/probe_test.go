package bmc_test

import (
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ingot-cloud/ingot/bmc"
	"github.com/ingot-cloud/ingot/fault"
)

func TestProbe(t *testing.T) {
	for name, x := range map[string]struct {
		answer http.HandlerFunc
		want   bmc.Service
		kind   fault.Kind
	}{
		"bmc": {answer: func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/redfish/v1/" || r.Header.Get("Authorization") != "" {
				t.Errorf("asked for %s with %q", r.URL, r.Header)
			}
			fmt.Fprint(w, `{"RedfishVersion":"1.6.0","Vendor":"ACME\u001b[2J","Product":" BMC 3000 "}`)
		}, want: bmc.Service{Version: "1.6.0", Vendor: "ACME[2J", Product: "BMC 3000"}},
		"old bmc": {answer: func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"RedfishVersion":"1.0.0"}`)
		}, want: bmc.Service{Version: "1.0.0"}},
		"long name": {answer: func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"RedfishVersion":"1","Vendor":%q}`, strings.Repeat("é", 300))
		}, want: bmc.Service{Version: "1", Vendor: strings.Repeat("é", 64)}},
		"switch":  {answer: func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>a switch</html>") }, kind: fault.NotFound},
		"other":   {answer: func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"name":"a power supply"}`) }, kind: fault.NotFound},
		"nothing": {answer: http.NotFound, kind: fault.NotFound},
		"elsewhere": {answer: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://198.51.100.1/redfish/v1/", http.StatusFound)
		}, kind: fault.NotFound},
		"endless": {answer: func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, strings.Repeat(" ", 1<<16)); err != nil {
					return
				}
			}
		}, kind: fault.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewTLSServer(x.answer)
			defer s.Close()
			defer s.CloseClientConnections()
			got, err := bmc.Probe(t.Context(), s.Listener.Addr().String())
			if x.kind != fault.Internal {
				if !errors.Is(err, x.kind) {
					t.Errorf("%+v, %v, want %v", got, err, x.kind)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if block, _ := pem.Decode(got.Certificate); block == nil || string(block.Bytes) != string(s.Certificate().Raw) {
				t.Errorf("certificate %q", got.Certificate)
			}
			if got.Certificate = nil; fmt.Sprint(got) != fmt.Sprint(x.want) {
				t.Errorf("%+v, want %+v", got, x.want)
			}
		})
	}
}

func TestProbeWithoutTLS(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	at := s.Listener.Addr().String()
	if _, err := bmc.Probe(t.Context(), at); !errors.Is(err, fault.Unavailable) {
		t.Errorf("a service without TLS: %v", err)
	}
	s.Close()
	if _, err := bmc.Probe(t.Context(), at); !errors.Is(err, fault.Unavailable) {
		t.Errorf("nobody: %v", err)
	}
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	old.TLS = &tls.Config{MaxVersion: tls.VersionTLS11}
	old.Config.ErrorLog = log.New(io.Discard, "", 0)
	old.StartTLS()
	defer old.Close()
	if _, err := bmc.Probe(t.Context(), old.Listener.Addr().String()); !errors.Is(err, fault.Unavailable) {
		t.Errorf("an old TLS: %v", err)
	}
}
