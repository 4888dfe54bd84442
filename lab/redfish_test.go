package lab

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// service is a BMC in front of a shell, without TLS.
type service struct {
	*BMC
	shell *Shell
	url   string
}

func newService(t *testing.T) service {
	t.Helper()
	shell := &Shell{}
	b, err := NewBMC(BMCConfig{
		Board: Board{UUID: "6a1f9a4e-3a57-4a2b-9d6e-0b9d3c5e7f01", Serial: "SN1", Manufacturer: "Ingot", Model: "Lab", NICs: []string{"02:00:00:00:00:01"}},
		Power: shell, Order: shell, Media: shell, User: "admin", Password: "secret", Dir: t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(b)
	t.Cleanup(s.Close)
	return service{b, shell, s.URL}
}

// do sends a request with the password, and returns the status, the headers
// and the document.
func (s service) do(t *testing.T, method, path, body string, headers ...string) (int, http.Header, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("admin", "secret")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
		if headers[i] == "X-Auth-Token" {
			req.Header.Del("Authorization")
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if len(b) > 0 {
		if err := json.Unmarshal(b, &doc); err != nil {
			t.Fatalf("%s %s: %v in %s", method, path, err, b)
		}
	}
	return resp.StatusCode, resp.Header, doc
}

// TestRedfishTree walks every link of the service and checks what DSP0266
// demands of each resource.
func TestRedfishTree(t *testing.T) {
	s := newService(t)
	seen := map[string]bool{}
	var walk func(path string)
	walk = func(path string) {
		path = strings.TrimSuffix(path, "/")
		if seen[path] {
			return
		}
		seen[path] = true
		status, header, doc := s.do(t, "GET", path, "")
		if status != http.StatusOK {
			t.Errorf("%s: %d", path, status)
			return
		}
		if header.Get("OData-Version") != "4.0" || header.Get("ETag") == "" || !strings.HasPrefix(header.Get("Content-Type"), "application/json") {
			t.Errorf("%s: headers %v", path, header)
		}
		if strings.TrimSuffix(fmt.Sprint(doc["@odata.id"]), "/") != path || !strings.HasPrefix(fmt.Sprint(doc["@odata.type"]), "#") || doc["Name"] == nil {
			t.Errorf("%s: id %v, type %v, name %v", path, doc["@odata.id"], doc["@odata.type"], doc["Name"])
		}
		if members, ok := doc["Members"].([]any); ok && float64(len(members)) != doc["Members@odata.count"] {
			t.Errorf("%s: counts %v members of %d", path, doc["Members@odata.count"], len(members))
		}
		linked(doc, walk)
	}
	walk("/redfish/v1")
	if len(seen) < 15 {
		t.Errorf("only %d resources are linked: %v", len(seen), seen)
	}
}

// TestRedfishSessions plays the life of a session.
func TestRedfishSessions(t *testing.T) {
	s := newService(t)
	if status, _, _ := s.do(t, "GET", systemPath, "", "X-Auth-Token", "guess"); status != http.StatusUnauthorized {
		t.Errorf("with a guessed token: %d", status)
	}
	if status, _, _ := s.do(t, "POST", sessionsPath, `{"UserName":"admin","Password":"wrong"}`, "X-Auth-Token", ""); status != http.StatusUnauthorized {
		t.Errorf("with a wrong password: %d", status)
	}
	status, header, _ := s.do(t, "POST", sessionsPath, `{"UserName":"admin","Password":"secret"}`, "X-Auth-Token", "")
	token, at := header.Get("X-Auth-Token"), header.Get("Location")
	if status != http.StatusCreated || token == "" || at == "" {
		t.Fatalf("log in: %d, headers %v", status, header)
	}
	if status, _, doc := s.do(t, "GET", at, "", "X-Auth-Token", token); status != http.StatusOK || doc["UserName"] != "admin" {
		t.Errorf("the session itself: %d %v", status, doc)
	}
	if status, _, _ := s.do(t, "DELETE", at, "", "X-Auth-Token", token); status != http.StatusNoContent {
		t.Errorf("log out: %d", status)
	}
	if status, _, _ := s.do(t, "GET", systemPath, "", "X-Auth-Token", token); status != http.StatusUnauthorized {
		t.Errorf("after logging out: %d", status)
	}
	for i := range maxSessions + 1 {
		status, _, doc := s.do(t, "POST", sessionsPath, `{"UserName":"admin","Password":"secret"}`)
		if full := i >= maxSessions; full != (status == http.StatusServiceUnavailable) {
			t.Errorf("session %d: %d %v", i+1, status, doc)
		}
	}
}

// TestRedfishAnswers checks single requests: what comes back and, of errors,
// which message.
func TestRedfishAnswers(t *testing.T) {
	image := httptest.NewServer(http.FileServerFS(nil))
	image.Close() // an address where nobody is
	insert, reset := mediaPath+"/Actions/VirtualMedia.InsertMedia", systemPath+"/Actions/ComputerSystem.Reset"
	for _, c := range []struct {
		method, path, body string
		headers            []string
		status             int
		message            string
	}{
		{"GET", "/redfish", "", nil, 200, ""},
		{"GET", systemPath + "/EthernetInterfaces/2", "", nil, 404, "ResourceMissingAtURI"},
		{"PUT", systemPath, "{}", nil, 405, "OperationNotAllowed"},
		{"PATCH", chassisPath, "{}", nil, 405, "OperationNotAllowed"},
		{"PATCH", systemPath, `{"Boot":{"BootSourceOverrideTarget":"Cd","BootSourceOverrideEnabled":"Once"}}`, nil, 204, ""},
		{"PATCH", systemPath, `{"Boot":{"BootSourceOverrideTarget":"Cd"}}`, []string{"If-Match", `"stale"`}, 412, "PreconditionFailed"},
		{"PATCH", systemPath, `{"Boot":{"BootSourceOverrideTarget":"Cd"}}`, []string{"If-Match", "*"}, 204, ""},
		{"PATCH", systemPath, `{"Boot":{"BootSourceOverrideTarget":"Pxe"}}`, nil, 400, "PropertyValueNotInList"},
		{"PATCH", systemPath, `{"Boot":{"BootSourceOverrideEnabled":"Sometimes"}}`, nil, 400, "PropertyValueNotInList"},
		{"PATCH", systemPath, `{"Boot":{"BootSourceOverrideMode":"Legacy"}}`, nil, 400, "PropertyValueNotInList"},
		{"PATCH", systemPath, `{"Boot":"Cd"}`, nil, 400, "PropertyValueTypeError"},
		{"PATCH", systemPath, `{"UUID":"x"}`, nil, 400, "PropertyNotWritable"},
		{"PATCH", systemPath, `{`, nil, 400, "MalformedJSON"},
		{"POST", reset, `{"ResetType":"Explode"}`, nil, 400, "ActionParameterNotSupported"},
		{"POST", reset, `{"ResetType":"ForceRestart"}`, nil, 409, "ResourceInStandby"},
		{"POST", reset, `{"ResetType":"On"}`, nil, 204, ""},
		{"POST", insert, `{"Image":"tftp://h/i"}`, nil, 400, "ActionParameterValueFormatError"},
		{"POST", insert, `{"Image":"http://h/i","Inserted":false}`, nil, 400, "ActionParameterNotSupported"},
		{"POST", insert, `{"Image":"` + image.URL + `/i.iso"}`, nil, 400, "CouldNotEstablishConnection"},
		{"POST", mediaPath + "/Actions/VirtualMedia.EjectMedia", `{}`, nil, 204, ""},
		{"POST", systemPath + "/Actions/Nothing", `{}`, nil, 404, "ResourceMissingAtURI"},
	} {
		s := newService(t)
		status, _, doc := s.do(t, c.method, c.path, c.body, c.headers...)
		message := ""
		if e, ok := doc["error"].(map[string]any); ok {
			message = fmt.Sprint(e["code"])
			message = message[strings.LastIndex(message, ".")+1:]
		}
		if status != c.status || message != c.message {
			t.Errorf("%s %s %s %v: %d %s, want %d %s", c.method, c.path, c.body, c.headers, status, message, c.status, c.message)
		}
	}
}

func TestRedfishETags(t *testing.T) {
	s := newService(t)
	_, header, _ := s.do(t, "GET", systemPath, "")
	tag := header.Get("ETag")
	if status, _, _ := s.do(t, "GET", systemPath, "", "If-None-Match", tag); status != http.StatusNotModified {
		t.Errorf("unchanged: %d", status)
	}
	change := `{"Boot":{"BootSourceOverrideTarget":"Cd","BootSourceOverrideEnabled":"Continuous"}}`
	if status, _, _ := s.do(t, "PATCH", systemPath, change, "If-Match", tag); status != http.StatusNoContent {
		t.Errorf("change of what was read: %d", status)
	}
	if status, _, _ := s.do(t, "PATCH", systemPath, change, "If-Match", tag); status != http.StatusPreconditionFailed {
		t.Errorf("change of what is no more: %d", status)
	}
}

// linked calls visit for every link in a document.
func linked(v any, visit func(string)) {
	switch v := v.(type) {
	case map[string]any:
		if at, ok := v["@odata.id"].(string); ok && len(v) == 1 {
			visit(at)
		}
		for _, e := range v {
			linked(e, visit)
		}
	case []any:
		for _, e := range v {
			linked(e, visit)
		}
	}
}
