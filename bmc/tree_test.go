package bmc_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/ingot-cloud/ingot/bmc"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/secret"
)

var update = flag.Bool("update", false, "write what is seen into testdata as what is expected")

// testTree runs the client against a tree of documents: a txtar file whose
// members are resources by path. A member "POST path" or "PATCH path" is a
// whole HTTP response to that request; others are answered 204. The member
// "transcript" is what the client makes of it and what it asks for.
func testTree(t *testing.T, file, content string) {
	a := txtar.Parse([]byte(content))
	tree := map[string][]byte{}
	for _, f := range a.Files {
		tree[f.Name] = f.Data
	}
	var mu sync.Mutex
	var transcript bytes.Buffer
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		path := strings.Trim(r.URL.Path, "/")
		mu.Lock()
		asked++
		fmt.Fprintln(&transcript, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+redact(string(body))))
		mu.Unlock()
		if r.Method == http.MethodGet {
			doc, ok := tree[path]
			if !ok {
				http.NotFound(w, r)
				return
			}
			if r.URL.Query().Get("$expand") != "" && !bytes.Contains(tree["redfish/v1"], []byte("ExpandQuery")) {
				http.Error(w, "no $expand here", http.StatusBadRequest)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			if r.URL.Query().Get("$expand") != "" {
				doc = expand(t, tree, doc)
			}
			_, _ = w.Write(doc)
			return
		}
		head, doc, _ := strings.Cut(string(tree[r.Method+" "+path]), "\n\n")
		status := http.StatusNoContent
		for line := range strings.Lines(head) {
			if k, v, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
				w.Header().Set(k, v)
			} else if _, err := fmt.Sscanf(line, "HTTP/1.1 %d", &status); err != nil {
				t.Errorf("%s %s: %q is no status", r.Method, path, line)
			}
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, doc)
	}))
	defer s.Close()

	say := func(what string, err error) {
		if err != nil {
			what += ": " + fault.KindOf(err).Error() + ": " + strings.ReplaceAll(err.Error(), strings.TrimPrefix(s.URL, "http://"), "HOST")
		}
		fmt.Fprintln(&transcript, what)
	}
	requests := func() int {
		mu.Lock()
		defer mu.Unlock()
		return asked
	}
	ctx := t.Context()
	r, err := bmc.Open(ctx, bmc.Endpoint{Address: s.URL, User: "admin", Password: secret.New("s3cret")})
	say("open", err)
	if err == nil {
		var inv bmc.Inventory
		before := 0 // the login counts as part of the first scan
		for range 20 {
			if inv, err = r.Scan(ctx); err != nil {
				break
			}
			if n := requests() - before; n > bmc.MaxRequests {
				t.Errorf("a scan took %d requests", n)
			}
			before = requests()
			if say("scan", nil); inv.Complete {
				break
			}
		}
		say(describe(inv), err)
		say("insert", r.Insert(ctx, "https://boot.example/i.iso"))
		say("boot", r.SetBoot(ctx, bmc.CD, bmc.Once))
		say("setup", r.SetBoot(ctx, bmc.Setup, bmc.Once))
		say("cycle", r.SetPower(ctx, bmc.Cycle))
		say("shut down", r.SetPower(ctx, bmc.Shutdown))
		say("interrupt", r.SetPower(ctx, bmc.NMI))
		say("led", r.SetLED(ctx, true))
		r.Close(ctx)
		say("closed", nil)
	}
	want := string(tree["transcript"])
	if got := transcript.String(); got != want {
		if !*update {
			t.Errorf("transcript (-want +got):\n%s", cmp.Diff(want, got))
			return
		}
		found := false
		for i := range a.Files {
			if a.Files[i].Name == "transcript" {
				a.Files[i].Data, found = []byte(got), true
			}
		}
		if !found {
			a.Files = append(a.Files, txtar.File{Name: "transcript", Data: []byte(got)})
		}
		if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// describe is an inventory in lines.
func describe(inv bmc.Inventory) string {
	var b strings.Builder
	fmt.Fprintf(&b, "inventory: complete %t, power %s, boot %s %s, media %t %t %q, uuid %q, serial %q, %q %q, bios %q, firmware %q, bmc %q, macs %q\n",
		inv.Complete, inv.Power, inv.Boot, inv.BootDuration, inv.HasMedia, inv.Inserted, inv.Media, inv.UUID, inv.Serial, inv.Manufacturer, inv.Model, inv.BIOS, inv.Firmware, inv.BMCMACs, inv.MACs)
	fmt.Fprintf(&b, "  parts %+v, led %q", inv.Parts, inv.LED)
	if inv.Consumed != nil {
		fmt.Fprintf(&b, "\n  consumed %+v", *inv.Consumed)
	}
	for _, s := range inv.Supplies {
		fmt.Fprintf(&b, "\n  %s: %q %q, broken %t", s.Name, s.State, s.Health, s.Broken())
	}
	for _, s := range inv.Sensors {
		fmt.Fprintf(&b, "\n  %s: %v %s %q %q, broken %t", s.Name, s.Reading, s.Unit, s.State, s.Health, s.Broken())
	}
	return b.String()
}

// expand puts the members of a collection in the place of their links.
func expand(t *testing.T, tree map[string][]byte, collection []byte) []byte {
	var doc map[string]any
	if err := json.Unmarshal(collection, &doc); err != nil {
		t.Error(err)
	}
	members, _ := doc["Members"].([]any)
	for i, m := range members {
		member, ok := tree[strings.Trim(fmt.Sprint(m.(map[string]any)["@odata.id"]), "/")]
		if !ok {
			continue
		}
		members[i] = json.RawMessage(member)
	}
	b, err := json.Marshal(doc)
	if err != nil {
		t.Error(err)
	}
	return b
}

func redact(body string) string { return strings.ReplaceAll(body, "s3cret", "PASSWORD") }

// FuzzInventory feeds the client a server document as hostile as it gets.
func FuzzInventory(f *testing.F) {
	f.Add([]byte(`{"Members":[{"@odata.id":"/redfish/v1/Systems/1"}]}`), []byte(`{"@odata.id":"/redfish/v1/Systems/1","PowerState":"On","Boot":{"BootSourceOverrideTarget":null}}`))
	f.Add([]byte(`{"Members":[{}]}`), []byte(`[]`))
	f.Fuzz(func(t *testing.T, collection, system []byte) {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch strings.Trim(r.URL.Path, "/") {
			case "redfish/v1":
				fmt.Fprint(w, `{"@odata.id":"/redfish/v1/","Systems":{"@odata.id":"/redfish/v1/Systems"},"Links":{"Sessions":{"@odata.id":"/redfish/v1/SessionService/Sessions"}}}`)
			case "redfish/v1/SessionService/Sessions":
				w.Header().Set("X-Auth-Token", "t")
				w.WriteHeader(http.StatusCreated)
				fmt.Fprint(w, `{}`)
			case "redfish/v1/Systems":
				_, _ = w.Write(collection)
			default:
				_, _ = w.Write(system)
			}
		}))
		defer s.Close()
		// A page that names itself as the next one would otherwise take long.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r, err := bmc.Open(ctx, bmc.Endpoint{Address: s.URL, User: "u", Password: secret.New("p")})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close(context.WithoutCancel(ctx))
		if _, err := r.Inventory(ctx); err != nil && errors.Is(err, fault.Internal) {
			t.Errorf("a strange BMC is called our own failure: %v", err)
		}
	})
}
