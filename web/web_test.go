package web_test

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/ingot-cloud/ingot/web"
)

func serve(t *testing.T) http.Handler {
	t.Helper()
	mux := http.NewServeMux()
	for pattern, h := range web.Pages() {
		mux.Handle(pattern, h)
	}
	return mux
}

func ask(h http.Handler, method, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestPages(t *testing.T) {
	h := serve(t)
	for _, tt := range []struct {
		name, method, path string
		header             []string
		status             int
		want               map[string]string // headers
	}{
		{"the page", "GET", "/ui/", nil, 200, map[string]string{"Content-Type": "text/html; charset=utf-8"}},
		{"a module", "GET", "/ui/main.js", nil, 200, map[string]string{"Content-Type": "text/javascript; charset=utf-8"}},
		{"the style", "GET", "/ui/style.css", nil, 200, map[string]string{"Content-Type": "text/css; charset=utf-8"}},
		{"a picture", "GET", "/ui/ingot.svg", nil, 200, map[string]string{"Content-Type": "image/svg+xml"}},
		{"only the headers", "HEAD", "/ui/main.js", nil, 200, map[string]string{"Content-Type": "text/javascript; charset=utf-8"}},
		{"without the slash", "GET", "/ui", nil, 307, map[string]string{"Location": "/ui/"}},
		{"nothing", "GET", "/ui/nothing", nil, 404, nil},
		{"a folder above", "GET", "/ui/../web.go", nil, 307, map[string]string{"Location": "/web.go"}},
		{"a folder above, encoded", "GET", "/ui/..%2fweb.go", nil, 404, nil},
		{"a change", "POST", "/ui/", nil, 405, map[string]string{"Allow": "GET, HEAD"}},
		{"the root, for a browser", "GET", "/", []string{"Accept", "text/html,application/xhtml+xml"}, 303, map[string]string{"Location": "/ui/", "Vary": "Accept"}},
		{"the root, for a program", "GET", "/", []string{"Accept", "application/json"}, 404, map[string]string{"Vary": "Accept"}},
		{"the root, changed", "POST", "/", nil, 405, nil},
		{"elsewhere", "GET", "/else", []string{"Accept", "text/html"}, 404, nil},
	} {
		resp := ask(h, tt.method, tt.path, tt.header...)
		if resp.Code != tt.status {
			t.Errorf("%s: status %d, want %d", tt.name, resp.Code, tt.status)
		}
		for name, want := range tt.want {
			if got := resp.Header().Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", tt.name, name, got, want)
			}
		}
		if tt.method == http.MethodHead && (resp.Body.Len() > 0 || resp.Header().Get("Content-Length") == "") {
			t.Errorf("%s: %d bytes, announced %q", tt.name, resp.Body.Len(), resp.Header().Get("Content-Length"))
		}
	}
}

// Every answer under the page's path carries what keeps the page to itself.
func TestHeaders(t *testing.T) {
	h := serve(t)
	for _, path := range []string{"/ui/", "/ui/main.js", "/ui/nothing"} {
		resp := ask(h, "GET", path)
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY",
			"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
		} {
			if got := resp.Header().Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		policy := resp.Header().Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"} {
			if !strings.Contains(policy, want) {
				t.Errorf("%s: the policy lacks %s: %s", path, want, policy)
			}
		}
		for _, bad := range []string{"unsafe", "http", "*", "data:"} {
			if strings.Contains(policy, bad) {
				t.Errorf("%s: the policy has %s: %s", path, bad, policy)
			}
		}
		if resp.Header().Get("Set-Cookie") != "" {
			t.Errorf("%s: sets cookies", path)
		}
	}
}

func TestETag(t *testing.T) {
	h := serve(t)
	tag := ask(h, "GET", "/ui/main.js").Header().Get("ETag")
	if tag == "" || tag == ask(h, "GET", "/ui/api.js").Header().Get("ETag") {
		t.Fatalf("tag %q", tag)
	}
	for given, want := range map[string]int{tag: 304, `"x", W/` + tag: 304, "*": 304, `"x"`: 200, "": 200} {
		resp := ask(h, "GET", "/ui/main.js", "If-None-Match", given)
		if resp.Code != want || resp.Header().Get("ETag") != tag || resp.Header().Get("Cache-Control") != "no-cache" {
			t.Errorf("If-None-Match %s: status %d, want %d; %v", given, resp.Code, want, resp.Header())
		}
	}
}

// What the page loads is here, and nothing in it is inline: the policy would
// not let it run.
func TestReferences(t *testing.T) {
	h := serve(t)
	read := func(path string) string {
		resp := ask(h, "GET", path)
		if resp.Code != http.StatusOK {
			t.Fatalf("%s: status %d", path, resp.Code)
		}
		return resp.Body.String()
	}
	page := read("/ui/")
	if m := regexp.MustCompile(`(?i)<script>|<style|\sstyle=|\son\w+=|https?:`).FindString(page); m != "" {
		t.Errorf("the page has %q", m)
	}
	seen := map[string]bool{}
	var follow func(name string)
	follow = func(name string) {
		if seen[name] {
			return
		}
		seen[name] = true
		text := read("/ui/" + name)
		if m := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(`).FindString(text); m != "" {
			t.Errorf("%s makes markup of text: %s", name, m)
		}
		for _, m := range regexp.MustCompile(`from "\./([\w.]+)"`).FindAllStringSubmatch(text, -1) {
			follow(m[1])
		}
	}
	for _, m := range regexp.MustCompile(`(?:src|href)="([\w.]+)"`).FindAllStringSubmatch(page, -1) {
		follow(m[1])
	}
	if !seen["live.js"] || !seen["style.css"] {
		t.Errorf("the page loads only %v", seen)
	}
}
