package bmc

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/ingot-cloud/ingot/fault"
)

// A Service is what a Redfish service tells anybody (DMTF DSP0266, service
// root). Nothing vouches for it but the certificate.
type Service struct {
	// Version is that of Redfish. Vendor and Product are empty if the service
	// does not tell; all are printable and at most 128 bytes.
	Version, Vendor, Product string
	// Certificate is what the service presented, in PEM. Trusted reports
	// whether the system's roots vouch for it under the address asked.
	Certificate []byte
	Trusted     bool
}

const (
	// probeDial is short: most of what is probed and not there is on the same
	// network.
	probeDial = 3 * time.Second
	// probeTimeout bounds a probe whose context has no deadline.
	probeTimeout = 20 * time.Second
	// rootSize is more than a service root needs.
	rootSize = 256 << 10
)

// Probe asks whether there is a Redfish service at an address, host:port, and
// shows nobody's credentials. fault.Unavailable is that nothing answers over
// TLS, fault.NotFound that something else does.
func Probe(ctx context.Context, address string) (Service, error) {
	ctx, cancel := bounded(ctx, probeTimeout)
	defer cancel()
	object := "bmc " + address
	transport := &http.Transport{
		DialContext: (&net.Dialer{Timeout: probeDial}).DialContext,
		// Who it is that answers is what we ask; it is judged below.
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true},
		DisableKeepAlives: true,
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/redfish/v1/", nil)
	if err != nil {
		return Service{}, fault.New(fault.Invalid, object, "is not of the form host:port", "")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("OData-Version", "4.0")
	resp, err := client.Do(req)
	if err != nil {
		return Service{}, explain(object, "look for Redfish", err)
	}
	defer resp.Body.Close()
	var root struct{ RedfishVersion, Vendor, Product string }
	if resp.StatusCode != http.StatusOK {
		return Service{}, fault.Newf(fault.NotFound, object, "has no Redfish service: it answers %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, rootSize))
	if err != nil {
		return Service{}, explain(object, "look for Redfish", err)
	}
	if json.Unmarshal(body, &root) != nil || root.RedfishVersion == "" {
		return Service{}, fault.New(fault.NotFound, object, "has no Redfish service: its answer is no service root", "")
	}
	s := Service{Version: printable(root.RedfishVersion), Vendor: printable(root.Vendor), Product: printable(root.Product)}
	leaf := resp.TLS.PeerCertificates[0] // TLS servers show one
	s.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})
	name, _, _ := net.SplitHostPort(address)
	s.Trusted = vouched(resp.TLS.PeerCertificates, name, nil) == nil
	return s, nil
}

// printable cuts what a stranger says to one line that is safe to show.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, s)
	for len(s) > 128 {
		s = strings.ToValidUTF8(s[:128], "")
	}
	return strings.TrimSpace(s)
}
