package cli_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/cli"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// archive serves wipes, of which the first may be forged.
type archive struct {
	ingotv1connect.UnimplementedWipeServiceHandler
	wipes []*ingotv1.Wipe
	keys  []*ingotv1.WipeKey
	asked string
}

func (a *archive) List(_ context.Context, req *connect.Request[ingotv1.WipeServiceListRequest]) (*connect.Response[ingotv1.WipeServiceListResponse], error) {
	a.asked = req.Msg.GetQuery().GetUuid()
	return connect.NewResponse(&ingotv1.WipeServiceListResponse{Wipes: a.wipes}), nil
}

func (a *archive) Keys(context.Context, *connect.Request[ingotv1.WipeServiceKeysRequest]) (*connect.Response[ingotv1.WipeServiceKeysResponse], error) {
	return connect.NewResponse(&ingotv1.WipeServiceKeysResponse{Keys: a.keys}), nil
}

// TestWipes lists wipes, and verifies them with the server's keys or with those
// of a file.
func TestWipes(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	const m = "6a1f9a4e-3a57-4a2b-9d6e-0b9d3c5e7f01"
	at := func(s int) *timestamppb.Timestamp {
		return timestamppb.New(time.Date(2026, 1, 31, 12, 0, s, 0, time.UTC))
	}
	a := &archive{
		keys: []*ingotv1.WipeKey{{Id: "k1", Pem: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), Created: at(0), Retired: at(9)}},
		wipes: []*ingotv1.Wipe{
			{Uuid: m, Disk: &ingotv1.Disk{Name: "nvme0n1", Serial: "S1", Size: 4 << 30}, Result: ingotv1.WipeResult_WIPE_RESULT_DONE, Method: ingotv1.WipeMethod_WIPE_METHOD_NVME_FORMAT_ERASE, Start: at(1), End: at(2)},
			{Uuid: m, Disk: &ingotv1.Disk{Name: "sda"}, Result: ingotv1.WipeResult_WIPE_RESULT_FAILED, Error: "disk sda: cannot be wiped; replace the disk", Start: at(1), End: at(3)},
		},
	}
	for _, w := range a.wipes {
		if err := ingotv1.SignWipe(w, "k1", key); err != nil {
			t.Fatal(err)
		}
	}
	mux := http.NewServeMux()
	mux.Handle(ingotv1connect.NewWipeServiceHandler(a))
	s := httptest.NewServer(mux)
	defer s.Close()
	home := t.TempDir()
	env := map[string]string{"HOME": home, "INGOT_API_URL": s.URL, "INGOT_TOKEN": "t"}
	run := func(args ...string) (int, string, string) {
		var out, errs bytes.Buffer
		code := cli.Main(t.Context(), cli.Options{
			Args: append([]string{"machine"}, args...), In: strings.NewReader(""), Out: &out, Err: &errs, Env: func(k string) string { return env[k] },
		})
		return code, out.String(), errs.String()
	}
	code, kept, errs := run("wipe-keys", "-o", "json")
	if code != 0 || !strings.Contains(kept, "BEGIN PUBLIC KEY") {
		t.Fatalf("the keys: exit code %d, %q, %q", code, kept, errs)
	}
	file := filepath.Join(home, "keys.json")
	if err := os.WriteFile(file, []byte(kept), 0o600); err != nil {
		t.Fatal(err)
	}
	const table = "START                 MACHINE                               DISK     SERIAL  SIZE   RESULT  METHOD             END                   ERROR\n" +
		"2026-01-31T12:00:01Z  " + m + "  nvme0n1  S1      4 GiB  done    nvme-format-erase  2026-01-31T12:00:02Z\n" +
		"2026-01-31T12:00:01Z  " + m + "  sda                     failed                     2026-01-31T12:00:03Z  disk sda: cannot be wiped; replace the disk\n"
	const genuine = "ingot: 2 of 2 proofs are genuine\n"
	for _, c := range []struct {
		args       []string
		code       int
		asked      string
		wants, err string
	}{
		{[]string{"wipes", m}, 0, m, table, ""},
		{[]string{"wipes"}, 0, "", table, ""},
		{[]string{"wipes", m, "--verify"}, 0, m, table, genuine},
		{[]string{"wipes", "--keys", file, "--serial", "S1"}, 0, "", table, genuine},
		{[]string{"wipes", "--keys", file + "none"}, 2, "", table, "ingot: --keys: open " + file + "none: no such file or directory\n"},
		{[]string{"wipes", "--template", "{{.proof}}", "--no-headers"}, 0, "", a.wipes[0].GetProof() + "\n" + a.wipes[1].GetProof() + "\n", ""},
	} {
		code, out, errs := run(c.args...)
		if code != c.code || a.asked != c.asked || out != c.wants || errs != c.err {
			t.Errorf("%v: exit code %d, asked for %q\n%s\n%s\nwant\n%s\n%s", c.args, code, a.asked, out, errs, c.wants, c.err)
		}
	}

	a.wipes[0].Disk.Serial = "S2"
	code, _, errs = run("wipes", "--verify")
	const want = "ingot: disk nvme0n1 of machine " + m + ", wiped at 2026-01-31T12:00:01Z: the proof says something else than the record\ningot: 1 of 2 proofs are genuine\n"
	if code != 1 || errs != want {
		t.Errorf("forged: exit code %d, %q, want %q", code, errs, want)
	}
	// A server that publishes other keys does not get by who kept the old ones.
	a.keys[0].Id = "k2"
	if code, _, _ := run("wipes", "--verify"); code != 1 {
		t.Errorf("with other keys: exit code %d", code)
	}
}
