package bmc

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/stmcginnis/gofish/schemas"

	"github.com/ingot-cloud/ingot/fault"
)

// parse returns the base address of the service and its name in errors.
func (e Endpoint) parse() (base, object string, err error) {
	u, err := url.Parse(e.Address)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		// The address is not repeated: it may hold a password.
		return "", "", fault.New(fault.Invalid, "bmc address", "is not of the form https://host[:port]", "")
	}
	if u.User != nil || u.RawQuery != "" || strings.Trim(u.Path, "/") != "" {
		return "", "", fault.New(fault.Invalid, "bmc "+u.Host, "its address holds more than https://host[:port]", "give user and password in their own fields")
	}
	return u.Scheme + "://" + u.Host, "bmc " + u.Host, nil
}

// httpClient returns a client that trusts what e says, and goes to the BMC
// itself, not through a proxy.
func (e Endpoint) httpClient() (*http.Client, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	switch {
	case e.Insecure:
		config.InsecureSkipVerify = true
	case len(e.CA) > 0:
		known, err := certificates(e.CA)
		if err != nil {
			return nil, err
		}
		// The chain is verified below, where a BMC's own certificate passes
		// without regard to names.
		config.InsecureSkipVerify = true
		config.VerifyConnection = func(s tls.ConnectionState) error { return verify(s, known) }
	}
	return &http.Client{
		Transport: &http.Transport{
			DialContext:     (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			TLSClientConfig: config, TLSHandshakeTimeout: 20 * time.Second, // BMCs have slow processors
			MaxConnsPerHost: 1, IdleConnTimeout: time.Minute,
		},
		// A redirect would carry the session to wherever it points.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// certificates reads all certificates of a PEM file.
func certificates(b []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, errors.New("holds no certificate")
	}
	return all, nil
}

// verify accepts a peer whose certificate is known itself, or vouched for by a
// known one for the name we called.
func verify(s tls.ConnectionState, known []*x509.Certificate) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("shows no certificate")
	}
	roots := x509.NewCertPool()
	for _, k := range known {
		if bytes.Equal(k.Raw, s.PeerCertificates[0].Raw) {
			return nil
		}
		roots.AddCert(k)
	}
	return vouched(s.PeerCertificates, s.ServerName, roots)
}

// vouched reports whether roots, the system's if nil, vouch for a chain under
// a name.
func vouched(chain []*x509.Certificate, name string, roots *x509.CertPool) error {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: between})
	return err
}

// explain makes a fault of an error of the Redfish library: which BMC, what
// was tried, what it said and what to do. What the BMC says is cut short, and
// left out where it could repeat what we sent.
func explain(object, what string, err error) error {
	var explained *fault.Error
	if err == nil || errors.As(err, &explained) {
		return err
	}
	var said *schemas.Error
	if errors.As(err, &said) {
		kind, remedy := fault.Internal, ""
		switch code := said.HTTPReturnedStatusCode; {
		case code == http.StatusUnauthorized:
			return fault.New(fault.Unauthenticated, object, what+": refused", "check the BMC's user and password, or log in again")
		case code == http.StatusForbidden:
			kind, remedy = fault.Denied, "give the BMC's user the role of an administrator"
		case code == http.StatusNotFound:
			kind = fault.NotFound
		case code == http.StatusConflict, code == http.StatusPreconditionFailed:
			kind = fault.Precondition
		case code == http.StatusMethodNotAllowed, code == http.StatusNotImplemented:
			kind = fault.Unimplemented
		case code >= 400 && code < 500:
			kind = fault.Invalid
		case code >= 500:
			kind, remedy = fault.Unavailable, "if it stays so, restart the BMC"
		}
		message := said.Message
		for _, i := range said.ExtendedInfos {
			if i.Message != "" {
				message = i.Message
				break
			}
		}
		return fault.New(kind, object, what+": "+shorten(http.StatusText(said.HTTPReturnedStatusCode)+": "+message), remedy)
	}
	var certificate *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	if errors.As(err, &certificate) || errors.As(err, &unknown) || errors.As(err, &name) {
		return fault.Wrap(fault.Unavailable, object, what+": its certificate", err).Do("give the certificate that vouches for the BMC, or the BMC's own")
	}
	if errors.Is(err, context.Canceled) {
		return fault.Wrap(fault.Unavailable, object, what, context.Canceled)
	}
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return fault.Wrap(fault.Unavailable, object, what+": no answer in time", context.DeadlineExceeded)
	}
	var network *net.OpError
	if errors.As(err, &network) {
		return fault.Wrap(fault.Unavailable, object, what, network).Do("check that the BMC has power and its network is reachable from here")
	}
	return fault.Newf(fault.Unavailable, object, "%s: %s", what, shorten(err.Error()))
}

// shorten cuts what a BMC says to one line of a sensible length.
func shorten(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "..."
	}
	return strings.TrimSuffix(strings.TrimPrefix(s, ": "), ": ")
}
