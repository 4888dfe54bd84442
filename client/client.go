// Package client dials the API: it trusts one certificate authority, sends a
// token that may change under way, tries again what may be tried again, and
// keeps streams open. It works with every generated client:
//
//	c, err := client.New(client.Config{URL: url, CAFile: "ca.crt", TokenFile: "token"})
//	ips := client.Of(c, apiv2connect.NewIPServiceClient)
package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/ingot-cloud/ingot/fault"
)

// Config says how to reach an API. URL is required; the zero value of the
// others means what their comment says.
type Config struct {
	URL string // "https://host:port"

	CA     []byte         // PEM of the authorities to trust, and no others; those of the system
	CAFile string         // the same, from a file
	Roots  *x509.CertPool // the same, as it is; then CA and CAFile do not count

	Token     string // sent with every call; none
	TokenFile string // the same, from a file that is read again whenever it changes

	// Dial opens connections; that of net.Dialer. Far ends use it to choose
	// an interface or a routing instance.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	Retry Retry
}

// Retry says how often and how long to try again. Waits grow from Min to Max,
// each cut at random, so that clients of a server that comes back do not come
// all at once.
type Retry struct {
	Min time.Duration // 100 ms
	Max time.Duration // 10 s
	// For is how long one call is repeated; 30 s. Less than zero is never. The
	// call's context ends it in any case.
	For time.Duration
}

func (r Retry) withDefaults() Retry {
	if r.Min == 0 {
		r.Min = 100 * time.Millisecond
	}
	if r.Max == 0 {
		r.Max = 10 * time.Second
	}
	if r.For == 0 {
		r.For = 30 * time.Second
	}
	return r
}

// pingAfter is how long a connection may be silent until it is asked for a sign
// of life; without an answer it is given up, and its streams with it.
const pingAfter = 15 * time.Second

// A Client holds the connections to one API. It may be used by many
// goroutines.
type Client struct {
	url   string
	http  *http.Client
	token tokenSource
	retry Retry
}

// New returns a Client. It reads the files, and connects when it is used.
func New(c Config) (*Client, error) {
	if u, err := url.Parse(c.URL); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fault.New(fault.Invalid, "API url "+strconv.Quote(c.URL), "is not like https://host:port", "")
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.Roots}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fault.Wrap(fault.Precondition, "certificate authority", "cannot be read", err)
		}
		c.CA = append(c.CA, pem...)
	}
	if len(c.CA) > 0 && c.Roots == nil {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(c.CA) {
			return nil, fault.New(fault.Invalid, "certificate authority", "is no certificate in PEM", "use the server's ca.crt")
		}
	}
	out := &Client{url: strings.TrimSuffix(c.URL, "/"), token: tokenSource{file: c.TokenFile, text: c.Token}, retry: c.Retry.withDefaults()}
	if _, err := out.token.get(); err != nil {
		return nil, err
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: pingAfter}).DialContext
	}
	out.http = &http.Client{Transport: &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         c.Dial,
		TLSClientConfig:     conf,
		TLSHandshakeTimeout: 10 * time.Second,
		IdleConnTimeout:     90 * time.Second,
		ForceAttemptHTTP2:   true,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingAfter},
	}}
	return out, nil
}

// Of returns a generated client that uses the Client's connections.
func Of[C any](c *Client, construct func(connect.HTTPClient, string, ...connect.ClientOption) C, opts ...connect.ClientOption) C {
	return construct(c.http, c.url, append([]connect.ClientOption{connect.WithInterceptors(interceptor{c})}, opts...)...)
}

// SetToken is the token of all calls that begin from now on, for those who
// keep it in memory only.
func (c *Client) SetToken(token string) { c.token.set(token) }

// Transport returns the Client's connections without its token.
func (c *Client) Transport() http.RoundTripper { return c.http.Transport }

// Close closes connections that are not in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Revision returns the revision of the store that an answer shows, from its
// headers; 0 if there is none.
func Revision(h http.Header) int64 {
	rev, err := strconv.ParseInt(h.Get("Ingot-Revision"), 10, 64)
	if err != nil {
		return 0
	}
	return rev
}

// A tokenSource is a token or a file that holds one.
type tokenSource struct {
	file string

	mu   sync.Mutex
	text string
	seen os.FileInfo // of the file that held text
}

// get returns the token; empty if there is none.
func (s *tokenSource) get() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == "" {
		return s.text, nil
	}
	st, err := os.Stat(s.file)
	// Two files in a row may be of the same moment, as file systems tell it.
	if err == nil && s.text != "" && os.SameFile(st, s.seen) && st.ModTime().Equal(s.seen.ModTime()) {
		return s.text, nil
	}
	var content []byte
	if err == nil {
		content, err = os.ReadFile(s.file)
	}
	if err != nil {
		return "", fault.Wrap(fault.Precondition, "token", "cannot be read", err)
	}
	s.text, s.seen = strings.TrimSpace(string(content)), st
	return s.text, nil
}

// set replaces a token that no file holds.
func (s *tokenSource) set(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = token
}
