// Package web is the page of the control plane: what stands where and what
// happens to it, to look at and not to change anything.
//
// The page is static files. What it shows it asks the API for, from the
// browser, with the token of whoever looks, like any other client: there is
// nothing here that the API does not decide.
package web

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
)

//go:embed pages
var pages embed.FS

// Path is where the page is.
const Path = "/ui/"

// policy lets the page load what is served beside it and speak to its own
// origin, and nothing else: no inline code, no other host, no frame around it,
// and no text that becomes markup.
var policy = strings.Join([]string{
	"default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'",
	"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
	"require-trusted-types-for 'script'", "trusted-types 'none'",
}, "; ")

// headers are those of every answer.
var headers = map[string]string{
	"Content-Security-Policy":      policy,
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Permissions-Policy":           "camera=(), geolocation=(), microphone=()",
	"Referrer-Policy":              "no-referrer",
	"X-Content-Type-Options":       "nosniff",
	"X-Frame-Options":              "DENY",
	"Cache-Control":                "no-cache", // ask whether it changed, every time
}

// types are the kinds of files there are. The machine's own table of types is
// not asked: what it says of .js differs.
var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// A file is one file of the page.
type file struct {
	kind, etag string
	body       []byte
}

// Pages returns what is to be served, by patterns of http.ServeMux: the page,
// and a way from the root to it for browsers.
func Pages() map[string]http.Handler {
	return map[string]http.Handler{
		Path:       http.StripPrefix(Path, site(load(pages))),
		"GET /{$}": http.HandlerFunc(toPage),
	}
}

// load reads the files of the page by their names.
func load(tree fs.FS) map[string]file {
	files := map[string]file{}
	err := fs.WalkDir(tree, "pages", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		kind, known := types[path.Ext(name)]
		if !known {
			return fmt.Errorf("web: %s: no type is known for %s", name, path.Ext(name))
		}
		sum := sha256.Sum256(body)
		files[strings.TrimPrefix(name, "pages/")] = file{kind, `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`, body}
		return nil
	})
	if err != nil {
		panic(err) // the files are part of the program
	}
	files[""] = files["index.html"]
	return files
}

// site serves files by the rest of the path.
func site(files map[string]file) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		for name, value := range headers {
			h.Set(name, value)
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "the page can only be read", http.StatusMethodNotAllowed)
			return
		}
		f, ok := files[r.URL.Path]
		if !ok {
			http.Error(w, "there is no such page", http.StatusNotFound)
			return
		}
		h.Set("ETag", f.etag)
		if matches(r.Header.Get("If-None-Match"), f.etag) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		h.Set("Content-Type", f.kind)
		h.Set("Content-Length", strconv.Itoa(len(f.body)))
		if r.Method == http.MethodGet {
			_, _ = w.Write(f.body) // who does not want it any more has gone
		}
	})
}

// matches reports whether If-None-Match names a tag (RFC 9110, 13.1.2).
func matches(header, etag string) bool {
	for tag := range strings.SplitSeq(header, ",") {
		if tag = strings.TrimSpace(tag); tag == "*" || strings.TrimPrefix(tag, "W/") == etag {
			return true
		}
	}
	return false
}

// toPage leads browsers, and nobody else, from the root to the page.
func toPage(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Vary", "Accept")
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		http.NotFound(w, r)
		return
	}
	http.Redirect(w, r, Path, http.StatusSeeOther)
}
