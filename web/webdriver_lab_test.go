//go:build lab

package web_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A browser is a real one, driven as W3C's WebDriver says.
type browser struct {
	t       *testing.T
	session string // url
}

// newBrowser starts a browser that trusts one certificate, by the hash of its
// public key, until the test ends.
func newBrowser(t *testing.T, spki string) *browser {
	t.Helper()
	driver, err := exec.LookPath("chromedriver")
	if err != nil {
		t.Fatalf("%v; a page is tested in a browser: run scripts/setup --browser", err)
	}
	cmd := exec.Command(driver, "--port=0") // it outlives t's context: it has to end the browser
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	b := &browser{t: t}
	t.Cleanup(func() {
		b.quit()
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	lines, port := bufio.NewScanner(out), ""
	for port == "" && lines.Scan() {
		if _, after, ok := strings.Cut(lines.Text(), "started successfully on port "); ok {
			port = strings.TrimSuffix(after, ".")
		}
	}
	go func() { // ends with the driver
		for lines.Scan() {
		}
	}()
	args := []string{"--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1440,1000", "--ignore-certificate-errors-spki-list=" + spki, "--user-data-dir=" + t.TempDir()}
	if os.Geteuid() == 0 {
		args = append(args, "--no-sandbox") // the sandbox does not run as root
	}
	b.session = "http://127.0.0.1:" + port + "/session"
	var s struct{ SessionID string }
	b.do(http.MethodPost, "", map[string]any{"capabilities": map[string]any{"alwaysMatch": map[string]any{
		"browserName": "chrome", "goog:chromeOptions": map[string]any{"args": args}, "goog:loggingPrefs": map[string]string{"browser": "ALL"},
	}}}, &s)
	b.session += "/" + s.SessionID
	return b
}

// quit ends the browser, after the test's context has ended.
func (b *browser) quit() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, b.session, nil)
	if err != nil {
		return
	}
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
	}
}

// do sends one command and decodes its value into out, unless that is nil.
func (b *browser) do(method, path string, in, out any) {
	b.t.Helper()
	var body []byte
	if in != nil {
		var err error
		body, err = json.Marshal(in)
		check(b.t, err)
	}
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.session+path, bytes.NewReader(body))
	check(b.t, err)
	resp, err := http.DefaultClient.Do(req)
	check(b.t, err)
	defer resp.Body.Close()
	var value struct{ Value json.RawMessage }
	check(b.t, json.NewDecoder(resp.Body).Decode(&value))
	if resp.StatusCode != http.StatusOK {
		b.t.Fatalf("%s %s: %s", method, path, value.Value)
	}
	if out != nil {
		check(b.t, json.Unmarshal(value.Value, out))
	}
}

// open goes to an address.
func (b *browser) open(address string) {
	b.t.Helper()
	b.do(http.MethodPost, "/url", map[string]any{"url": address}, nil)
}

// eval returns the value of an expression in the page.
func eval[T any](b *browser, expression string) T {
	b.t.Helper()
	var v T
	b.do(http.MethodPost, "/execute/sync", map[string]any{"script": "return (" + expression + ")", "args": []any{}}, &v)
	return v
}

// until waits until an expression is true in the page.
func (b *browser) until(what, expression string) {
	b.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !eval[bool](b, "Boolean("+expression+")"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.shoot("failed")
			b.t.Fatalf("waited in vain for: %s (%s)\n%s\n%v", what, expression, eval[string](b, "document.body.innerText"), b.log())
		}
	}
}

// says waits until an element says something.
func (b *browser) says(selector, text string) {
	b.t.Helper()
	b.until(selector+" says "+text, fmt.Sprintf("[...document.querySelectorAll(%q)].some((e) => e.checkVisibility() && e.textContent.includes(%q))", selector, text))
}

// click clicks on the element that a selector finds, where it is seen.
func (b *browser) click(selector string) {
	b.t.Helper()
	b.do(http.MethodPost, "/element/"+b.find(selector)+"/click", map[string]any{}, nil)
}

// write types into an element.
func (b *browser) write(selector, text string) {
	b.t.Helper()
	b.do(http.MethodPost, "/element/"+b.find(selector)+"/value", map[string]any{"text": text}, nil)
}

func (b *browser) find(selector string) string {
	b.t.Helper()
	var e map[string]string
	b.do(http.MethodPost, "/element", map[string]any{"using": "css selector", "value": selector}, &e)
	for _, id := range e {
		return id
	}
	b.t.Fatalf("%s: no element", selector)
	return ""
}

// log returns what the console of the browser has said since.
func (b *browser) log() []string {
	b.t.Helper()
	var entries []struct{ Level, Message string }
	b.do(http.MethodPost, "/se/log", map[string]any{"type": "browser"}, &entries)
	var lines []string
	for _, e := range entries {
		lines = append(lines, e.Level+" "+e.Message)
	}
	return lines
}

// shoot keeps a picture of the page in the directory that INGOT_WEB_SHOTS
// names, if it is set.
func (b *browser) shoot(name string) {
	b.t.Helper()
	dir := os.Getenv("INGOT_WEB_SHOTS")
	if dir == "" {
		return
	}
	var picture string
	b.do(http.MethodGet, "/screenshot", nil, &picture)
	png, err := base64.StdEncoding.DecodeString(picture)
	check(b.t, err)
	check(b.t, os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644))
}

// look sets the size of the window and the colours that its user prefers.
func (b *browser) look(width, height int, scheme string) {
	b.t.Helper()
	b.do(http.MethodPost, "/goog/cdp/execute", map[string]any{"cmd": "Emulation.setDeviceMetricsOverride", "params": map[string]any{
		"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
	}}, nil)
	b.do(http.MethodPost, "/goog/cdp/execute", map[string]any{"cmd": "Emulation.setEmulatedMedia", "params": map[string]any{
		"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}},
	}}, nil)
}
