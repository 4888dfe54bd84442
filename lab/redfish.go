package lab

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ingot-cloud/ingot/fault"
)

// A Board describes the server a BMC is in.
type Board struct {
	UUID, Serial, Manufacturer, Model string
	// BIOS and Firmware are the versions of the server's and the BMC's own
	// firmware.
	BIOS, Firmware string
	// MAC is the BMC's own address, NICs those of the server.
	MAC  string
	NICs []string
}

// BMCConfig is what a BMC is made of.
type BMCConfig struct {
	Board Board
	// Power, Order and Media are the server; a VM is all three, and so is a
	// Shell.
	Power Power
	Order Order
	Media Media
	// User and Password are the BMC's only account.
	User, Password string
	// Dir is where inserted media are kept.
	Dir string
	// Roots verify the servers that media come from over https, the system's
	// when nil.
	Roots *x509.CertPool
	// Delay is how long each answer takes at least.
	Delay time.Duration
	// Setup says that the server's firmware has a menu that can be asked for.
	Setup bool
	// Trust is the server whose firmware takes certificates; nil if it takes
	// none.
	Trust Trust
	// Serial is a file with everything that the server prints on its serial
	// console, which the BMC then serves over SSH; empty if it does not.
	Serial string
	// Keyboard connects to the server's serial port, to type there; nil if
	// nothing can be typed.
	Keyboard func(context.Context) (net.Conn, error)
}

// A BMC is a Redfish service (DMTF DSP0266) in front of one server: it knows
// sessions and basic authentication, ETags, $expand on collections and the
// error messages of the Base registry, and fetches media by itself.
type BMC struct {
	cfg  BMCConfig
	cert tls.Certificate
	ca   []byte
	uart *uart // nil if there is none

	requests atomic.Int64
	logins   atomic.Int64

	mu        sync.Mutex // guards what follows
	sessions  map[string]session
	quirks    map[Quirk]bool
	led       bool
	refused   bool // the last change, while Busy
	accounts  map[string]account
	tasks     map[string]func(http.ResponseWriter, *http.Request)
	pretended Override // what is shown while IgnoresOverride
	resets    []ResetType

	media  drive
	trusts authorities
}

// A session is a client that has logged in.
type session struct {
	id   string
	used time.Time
}

const (
	// sessionTimeout is how long an idle session lives.
	sessionTimeout = 30 * time.Minute
	// maxSessions is few, as on real BMCs: a client that forgets to log out
	// locks itself out.
	maxSessions = 16
	// maxBody is more than any request needs.
	maxBody = 1 << 20
)

// NewBMC returns a BMC that serves nobody yet.
func NewBMC(cfg BMCConfig) (*BMC, error) {
	cert, ca, err := selfSigned("bmc-" + cfg.Board.Serial)
	if err != nil {
		return nil, fmt.Errorf("bmc %s: %w", cfg.Board.Serial, err)
	}
	b := &BMC{cfg: cfg, cert: cert, ca: ca, sessions: map[string]session{}, quirks: map[Quirk]bool{}, tasks: map[string]func(http.ResponseWriter, *http.Request){}}
	b.FactoryReset()
	if cfg.Serial != "" {
		if b.uart, err = newUART(cfg.Serial, cfg.Keyboard, b.known); err != nil {
			return nil, fmt.Errorf("bmc %s: %w", cfg.Board.Serial, err)
		}
	}
	return b, nil
}

// CA returns the certificate, in PEM, that vouches for the BMC. Like a real
// one's it is the BMC's own.
func (b *BMC) CA() []byte { return b.ca }

// Requests returns how many requests the BMC has served.
func (b *BMC) Requests() int { return int(b.requests.Load()) }

// Logins returns how many sessions the BMC has given out.
func (b *BMC) Logins() int { return int(b.logins.Load()) }

// Resets returns what was asked of the server's power, in order.
func (b *BMC) Resets() []ResetType {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.resets)
}

// Forget ends all sessions without telling anybody, as a restart of the BMC
// does.
func (b *BMC) Forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.sessions)
}

// Sessions returns how many clients are logged in.
func (b *BMC) Sessions() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expire()
	return len(b.sessions)
}

// Serve serves HTTPS on l, and the serial console over SSH on another port of
// the same address, until ctx is done, and closes l.
func (b *BMC) Serve(ctx context.Context, l net.Listener) error {
	if b.uart == nil {
		return b.serveHTTPS(ctx, l)
	}
	beside, err := b.uart.listen(ctx, l.Addr())
	if err != nil {
		return fmt.Errorf("bmc %s: %w", b.cfg.Board.Serial, errors.Join(err, l.Close()))
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return b.uart.serve(ctx, beside) })
	g.Go(func() error { return b.serveHTTPS(ctx, l) })
	return g.Wait()
}

func (b *BMC) serveHTTPS(ctx context.Context, l net.Listener) error {
	s := &http.Server{
		Handler: b, ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{b.cert}, MinVersion: tls.VersionTLS12},
		ErrorLog:  log.New(io.Discard, "", 0), // clients that distrust the certificate are not our business
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("bmc %s: %w", b.cfg.Board.Serial, err)
	}
	return nil
}

// ServeHTTP answers one request.
func (b *BMC) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.requests.Add(1)
	w.Header().Set("OData-Version", "4.0")
	w.Header().Set("Cache-Control", "no-cache")
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	path := strings.TrimSuffix(r.URL.Path, "/")
	public := path == "/redfish" || path == "/redfish/v1" || r.Method == http.MethodPost && path == sessionsPath
	if !public && !b.authenticated(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="redfish"`)
		b.fail(w, http.StatusUnauthorized, "NoValidSession", "There is no valid session established with the implementation.")
		return
	}
	if b.cfg.Delay > 0 {
		time.Sleep(b.cfg.Delay)
	}
	if b.moody(w, r) {
		return
	}
	switch r.Method {
	case http.MethodGet:
		if b.taskAnswers(w, r, path) {
			return
		}
		b.get(w, r, path)
	case http.MethodPatch:
		b.patch(w, r, path)
	case http.MethodPost:
		b.post(w, r, path)
	case http.MethodDelete:
		if strings.HasPrefix(path, accountsPath+"/") {
			b.deleteAccount(w, path)
			return
		}
		b.logout(w, path)
	default:
		b.fail(w, http.StatusMethodNotAllowed, "OperationNotAllowed", "The HTTP method is not allowed on this resource.")
	}
}

// get serves a document, with its members when it is a collection and they are
// asked for.
func (b *BMC) get(w http.ResponseWriter, r *http.Request, path string) {
	doc := b.document(path)
	if doc == nil {
		b.missing(w, path)
		return
	}
	if members, ok := doc["Members"].([]any); ok && r.URL.Query().Get("$expand") != "" {
		for i, m := range members {
			members[i] = b.document(m.(object)["@odata.id"].(string))
		}
	}
	body, etag := render(doc)
	w.Header().Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	write(w, http.StatusOK, body)
}

// patch changes a resource.
func (b *BMC) patch(w http.ResponseWriter, r *http.Request, path string) {
	doc := b.document(path)
	if doc == nil {
		b.missing(w, path)
		return
	}
	changes := map[string]func(json.RawMessage) *refusal{}
	if path == systemPath {
		changes = map[string]func(json.RawMessage) *refusal{"Boot": b.changeBoot, "LocationIndicatorActive": b.changeLED}
	}
	id, isAccount := strings.CutPrefix(path, accountsPath+"/")
	if len(changes) == 0 && !isAccount {
		b.fail(w, http.StatusMethodNotAllowed, "OperationNotAllowed", "The HTTP method is not allowed on this resource.")
		return
	}
	if b.has(WantsTag) && r.Header.Get("If-Match") == "" {
		b.fail(w, http.StatusPreconditionRequired, "PreconditionRequired", "A precondition header or annotation is required to change this resource.")
		return
	}
	if _, etag := render(doc); !matches(r.Header.Get("If-Match"), etag) {
		b.fail(w, http.StatusPreconditionFailed, "PreconditionFailed", "The ETag supplied did not match the ETag required to change this resource.")
		return
	}
	var body map[string]json.RawMessage
	if !b.read(w, r, &body) {
		return
	}
	var no *refusal
	if isAccount {
		no = b.changeAccount(id, body)
	} else {
		no = change(changes, body)
	}
	if no != nil {
		b.fail(w, no.status, no.id, no.message)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// change changes properties of a resource, each by its function.
func change(by map[string]func(json.RawMessage) *refusal, body map[string]json.RawMessage) *refusal {
	for property := range body {
		if by[property] == nil {
			return notWritable(property)
		}
	}
	for property, value := range body {
		if no := by[property](value); no != nil {
			return no
		}
	}
	return nil
}

// notWritable refuses to change a property.
func notWritable(property string) *refusal {
	return &refusal{http.StatusBadRequest, "PropertyNotWritable", "The property " + property + " is a read-only property and cannot be assigned a value."}
}

// A refusal is why something is not changed, as the Base registry has it.
type refusal struct {
	status      int
	id, message string
}

// wrongType refuses a value that cannot be that of a property.
func wrongType(property string) *refusal {
	return &refusal{http.StatusBadRequest, "PropertyValueTypeError", "The value of the property " + property + " is of a different type than the property can accept."}
}

func (b *BMC) changeBoot(value json.RawMessage) *refusal {
	var change bootChange
	if err := json.Unmarshal(value, &change); err != nil {
		return wrongType("Boot")
	}
	if b.has(OnlyOnce) && change.Enabled != nil && *change.Enabled == "Continuous" {
		return &refusal{http.StatusBadRequest, "PropertyValueNotInList", "The value 'Continuous' for the property BootSourceOverrideEnabled is not in the list of acceptable values."}
	}
	o, err := change.apply(b.override(), b.targets())
	if err != nil {
		return &refusal{http.StatusBadRequest, "PropertyValueNotInList", err.Error()}
	}
	if err := b.setOverride(o); err != nil {
		return &refusal{http.StatusInternalServerError, "InternalError", "The request failed due to an internal service error: " + err.Error()}
	}
	return nil
}

func (b *BMC) changeLED(value json.RawMessage) *refusal {
	var on bool
	if err := json.Unmarshal(value, &on); err != nil {
		return wrongType("LocationIndicatorActive")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.led = on
	return nil
}

// Lit reports whether the LED shines that shows where the server is.
func (b *BMC) Lit() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.led
}

// A bootChange is what a client may say about the boot override; what it does
// not mention stays.
type bootChange struct {
	Target  *string `json:"BootSourceOverrideTarget"`
	Enabled *string `json:"BootSourceOverrideEnabled"`
	Mode    *string `json:"BootSourceOverrideMode"`
}

func (c bootChange) apply(o Override, allowed []Target) (Override, error) {
	notInList := func(value, property string) error {
		return fmt.Errorf("The value '%s' for the property %s is not in the list of acceptable values.", value, property) //nolint:revive,staticcheck // the Base registry's own sentence
	}
	if c.Mode != nil && *c.Mode != "UEFI" {
		return o, notInList(*c.Mode, "BootSourceOverrideMode")
	}
	if c.Target != nil {
		if o.Target = Target(*c.Target); !slices.Contains(allowed, o.Target) {
			return o, notInList(*c.Target, "BootSourceOverrideTarget")
		}
	}
	if c.Enabled != nil {
		switch *c.Enabled {
		case "Once":
			o.Once = true
		case "Continuous":
			o.Once = false
		case "Disabled":
			o = Override{}
		default:
			return o, notInList(*c.Enabled, "BootSourceOverrideEnabled")
		}
	}
	if o.Target == OwnOrder {
		o = Override{}
	}
	return o, nil
}

// post runs an action or opens a session.
func (b *BMC) post(w http.ResponseWriter, r *http.Request, path string) {
	switch path {
	case sessionsPath:
		b.login(w, r)
	case accountsPath:
		b.createAccount(w, r)
	case systemPath + "/Actions/ComputerSystem.Reset":
		b.reset(w, r)
	case mediaPath + "/Actions/VirtualMedia.InsertMedia", systemMediaPath + "/Actions/VirtualMedia.InsertMedia":
		b.insert(w, r)
	case mediaPath + "/Actions/VirtualMedia.EjectMedia", systemMediaPath + "/Actions/VirtualMedia.EjectMedia":
		b.eject(w)
	case bootCertificatesPath:
		b.addCertificate(w, r)
	default:
		b.missing(w, path)
	}
}

func (b *BMC) reset(w http.ResponseWriter, r *http.Request) {
	var body struct{ ResetType ResetType }
	if !b.read(w, r, &body) {
		return
	}
	err := b.setPower(r, body.ResetType)
	switch {
	case err == nil:
		b.mu.Lock()
		b.resets = append(b.resets, body.ResetType)
		b.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, fault.Invalid):
		b.fail(w, http.StatusBadRequest, "ActionParameterNotSupported", "The parameter ResetType for the action ComputerSystem.Reset is not supported on the target resource: "+string(body.ResetType))
	case errors.Is(err, fault.Precondition):
		b.fail(w, http.StatusConflict, "ResourceInStandby", "The request could not be performed because the resource is in standby.")
	default:
		b.internal(w, err)
	}
}

func (b *BMC) login(w http.ResponseWriter, r *http.Request) {
	var body struct{ UserName, Password string }
	if !b.read(w, r, &body) {
		return
	}
	if !b.known(body.UserName, body.Password) {
		b.fail(w, http.StatusUnauthorized, "NoValidSession", "There is no valid session established with the implementation.")
		return
	}
	b.mu.Lock()
	b.expire()
	full := len(b.sessions) >= maxSessions
	token, id := rand.Text(), rand.Text()[:8]
	if !full {
		b.sessions[token] = session{id: id, used: time.Now()}
	}
	b.mu.Unlock()
	if full {
		b.fail(w, http.StatusServiceUnavailable, "SessionLimitExceeded", "The session establishment failed due to the number of simultaneous sessions exceeding the limit of the implementation.")
		return
	}
	b.logins.Add(1)
	at := sessionsPath + "/" + id
	w.Header().Set("X-Auth-Token", token)
	w.Header().Set("Location", at)
	doc, _ := render(b.sessionDocument(at, id))
	write(w, http.StatusCreated, doc)
}

func (b *BMC) logout(w http.ResponseWriter, path string) {
	if b.dropCertificate(w, path) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for token, s := range b.sessions {
		if path == sessionsPath+"/"+s.id {
			delete(b.sessions, token)
			w.WriteHeader(http.StatusNoContent)
			return
		}
	}
	b.missing(w, path)
}

// authenticated reports whether the request has a session or the password.
func (b *BMC) authenticated(r *http.Request) bool {
	if user, password, ok := r.BasicAuth(); ok {
		return b.known(user, password)
	}
	token := r.Header.Get("X-Auth-Token")
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expire()
	s, ok := b.sessions[token]
	if ok {
		s.used = time.Now()
		b.sessions[token] = s
	}
	return ok
}

// expire ends idle sessions. b.mu is held.
func (b *BMC) expire() {
	for token, s := range b.sessions {
		if time.Since(s.used) > sessionTimeout {
			delete(b.sessions, token)
		}
	}
}

// read decodes a request, or answers that it cannot.
func (b *BMC) read(w http.ResponseWriter, r *http.Request, into any) bool {
	err := json.NewDecoder(r.Body).Decode(into)
	if err != nil && !errors.Is(err, io.EOF) {
		b.fail(w, http.StatusBadRequest, "MalformedJSON", "The request body submitted was malformed JSON and could not be parsed by the receiving service.")
		return false
	}
	return true
}

func (b *BMC) missing(w http.ResponseWriter, path string) {
	b.fail(w, http.StatusNotFound, "ResourceMissingAtURI", "The resource at the URI '"+path+"' was not found.")
}

func (b *BMC) internal(w http.ResponseWriter, err error) {
	b.fail(w, http.StatusInternalServerError, "InternalError", "The request failed due to an internal service error: "+err.Error())
}

// fail answers with a message of the Base registry (DSP8011).
func (b *BMC) fail(w http.ResponseWriter, status int, id, message string) {
	id = "Base.1.18." + id
	body, _ := render(object{"error": object{
		"code": id, "message": message,
		"@Message.ExtendedInfo": []any{object{"@odata.type": "#Message.v1_1_2.Message", "MessageId": id, "Message": message, "Severity": "Critical"}},
	}})
	write(w, status, body)
}

// render returns a document as JSON and the ETag of that.
func render(doc object) (body []byte, etag string) {
	body, err := json.Marshal(doc)
	if err != nil {
		panic(fmt.Sprintf("redfish document is not JSON: %v", err)) // made of strings and numbers only
	}
	sum := sha256.Sum256(body)
	return body, `"` + hex.EncodeToString(sum[:8]) + `"`
}

func write(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// matches reports whether a change may be made under an If-Match header.
func matches(header, etag string) bool {
	if header == "" || header == "*" {
		return true
	}
	for _, h := range strings.Split(header, ",") {
		if strings.TrimPrefix(strings.TrimSpace(h), "W/") == etag {
			return true
		}
	}
	return false
}
