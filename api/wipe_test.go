package api_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/api"
	"github.com/ingot-cloud/ingot/machine"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/secret"
	"github.com/ingot-cloud/ingot/store"
)

// wiped is what the agent says of its disk after it was wiped.
func (s *server) wiped() *ingotv1.Wipe {
	now := s.d.clock.Now()
	return &ingotv1.Wipe{
		Uuid: s.uuid, BootId: s.bootID, Disk: s.inventory().GetDisks()[0], AgentVersion: "v1",
		Result: ingotv1.WipeResult_WIPE_RESULT_DONE, Method: ingotv1.WipeMethod_WIPE_METHOD_OVERWRITE,
		Tries: []*ingotv1.WipeTry{{Method: ingotv1.WipeMethod_WIPE_METHOD_DISCARD, Reason: "operation not supported"}},
		Check: &ingotv1.WipeCheck{Samples: 256, SampleBytes: 8192, EdgeBytes: 1 << 20, Zeroes: true},
		Start: timestamppb.New(now.Add(-time.Minute)), End: timestamppb.New(now),
	}
}

// proves hands in what became of a disk.
func (s *server) proves(w *ingotv1.Wipe) error {
	_, err := s.agent.Wiped(s.d.t.Context(), connect.NewRequest(&ingotv1.AgentServiceWipedRequest{Uuid: s.uuid, BootId: s.bootID, Wipe: w}))
	return err
}

// wipes lists what is on record.
func (w *world) wipes(q *ingotv1.WipeQuery) []*ingotv1.Wipe {
	w.t.Helper()
	resp, err := dial(w, ingotv1connect.NewWipeServiceClient, w.admin).List(w.t.Context(), connect.NewRequest(&ingotv1.WipeServiceListRequest{Query: q}))
	check(w.t, err)
	return resp.Msg.GetWipes()
}

func (w *world) wipeKeys() []*ingotv1.WipeKey {
	w.t.Helper()
	resp, err := dial(w, ingotv1connect.NewWipeServiceClient, w.admin).Keys(w.t.Context(), connect.NewRequest(&ingotv1.WipeServiceKeysRequest{}))
	check(w.t, err)
	return resp.Msg.GetKeys()
}

// registered returns a server that is about to wipe its disk.
func (d *datacenter) registered() *server {
	d.t.Helper()
	d.loops()
	s := d.server("Ethernet1", d.leaf("sw1"), d.leaf("sw2"))
	d.newSite(map[string]string{"b1": s.uuid})
	s.reaches("POWERING_ON")
	check(d.t, s.begin("sw1"))
	check(d.t, s.identify("sw1", s.proof("sw1")))
	_, err := s.agent.Register(d.t.Context(), connect.NewRequest(&ingotv1.AgentServiceRegisterRequest{Uuid: s.uuid, BootId: s.bootID, Inventory: s.inventory()}))
	check(d.t, err)
	s.report(ingotv1.AgentStep_AGENT_STEP_WIPE, ingotv1.StepState_STEP_STATE_BEGUN, "1 disk")
	return s
}

// TestWipeProof follows a proof from the agent to whoever doubts it.
func TestWipeProof(t *testing.T) {
	d := newDatacenter(t)
	s := d.registered()
	said := s.wiped()
	said.Recorded, said.Partition, said.Proof = timestamppb.New(time.Unix(1, 0)), "elsewhere", "forged"
	check(t, s.proves(said))
	check(t, s.proves(said)) // the answer was lost
	s.wait()

	list := d.wipes(&ingotv1.WipeQuery{Uuid: &s.uuid})
	if len(list) != 1 {
		t.Fatalf("%d wipes are on record: %v", len(list), list)
	}
	w := list[0]
	want := s.wiped()
	want.Partition, want.Recorded, want.Proof = partition1, timestamppb.New(d.clock.Now()), w.GetProof()
	if !proto.Equal(w, want) {
		t.Errorf("got  %v\nwant %v", w, want)
	}
	keys := d.wipeKeys()
	if err := ingotv1.VerifyWipe(w, keys); err != nil {
		t.Errorf("the proof is not accepted: %v", err)
	}

	// Somebody with another program and the published key gets the same.
	block, _ := pem.Decode([]byte(keys[0].GetPem()))
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	check(t, err)
	token, err := jwt.NewParser(jwt.WithValidMethods([]string{"ES256"})).Parse(w.GetProof(), func(j *jwt.Token) (any, error) {
		if j.Header["kid"] != keys[0].GetId() {
			return nil, fmt.Errorf("signed with %v", j.Header["kid"])
		}
		return public, nil
	})
	check(t, err)
	if c := token.Claims.(jwt.MapClaims); c["uuid"] != s.uuid || c["method"] != "WIPE_METHOD_OVERWRITE" || c["disk"].(map[string]any)["serial"] != "serial-a" {
		t.Errorf("the proof says %v", c)
	}

	for name, edit := range map[string]func(w *ingotv1.Wipe){
		"another serial number": func(w *ingotv1.Wipe) { w.Disk.Serial = "serial-b" },
		"another method":        func(w *ingotv1.Wipe) { w.Method = ingotv1.WipeMethod_WIPE_METHOD_NVME_SANITIZE_CRYPTO },
		"another time":          func(w *ingotv1.Wipe) { w.Recorded = timestamppb.New(w.GetRecorded().AsTime().Add(time.Second)) },
		"another signature":     func(w *ingotv1.Wipe) { w.Proof = w.Proof[:len(w.Proof)-8] + "AAAAAAAA" },
		"no signature":          func(w *ingotv1.Wipe) { w.Proof = w.Proof[:strings.LastIndex(w.Proof, ".")+1] },
		"no proof":              func(w *ingotv1.Wipe) { w.Proof = "" },
	} {
		forged := proto.CloneOf(w)
		edit(forged)
		if err := ingotv1.VerifyWipe(forged, keys); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := ingotv1.VerifyWipe(w, nil); err == nil || !strings.Contains(err.Error(), "not among the published ones") {
		t.Errorf("without keys: %v", err)
	}
}

// TestWipeOutlives keeps a proof that can be checked after its machine was
// forgotten and its key has retired.
func TestWipeOutlives(t *testing.T) {
	d := newDatacenter(t)
	s := d.registered()
	check(t, s.proves(s.wiped()))
	d.update(func(tx *store.Tx) error {
		if _, err := records.Machines.Change(tx, s.uuid, func(m *privatev1.Machine) error {
			m.Liveliness = apiv2.MachineLiveliness_MACHINE_LIVELINESS_DEAD
			return nil
		}); err != nil {
			return err
		}
		return machine.Forget(tx, s.uuid)
	})

	now := d.clock.Now()
	d.clock.Advance(400 * 24 * time.Hour)
	_, err := api.New(t.Context(), api.Config{DB: d.db, Ring: secret.NewRing(), URL: d.url, Log: slog.New(slog.DiscardHandler), Now: d.clock.Now})
	check(t, err)
	d.clock.Set(now) // the tokens of the test have expired then
	keys := d.wipeKeys()
	if len(keys) != 2 || !keys[1].GetRetired().AsTime().Before(keys[0].GetRetired().AsTime()) {
		t.Errorf("published keys: %v", keys)
	}
	for _, q := range []*ingotv1.WipeQuery{{Uuid: &s.uuid}, {Serial: new("serial-a")}} {
		if got := d.wipes(q); len(got) != 1 || ingotv1.VerifyWipe(got[0], keys) != nil {
			t.Errorf("%v: %v", q, got)
		}
	}
}

// TestWipeFailed keeps a machine out of the pool, and says why.
func TestWipeFailed(t *testing.T) {
	d := newDatacenter(t)
	s := d.registered()
	w := s.wiped()
	w.Result, w.Method, w.Check = ingotv1.WipeResult_WIPE_RESULT_FAILED, 0, nil
	w.Error = "disk sda (serial serial-a): cannot be wiped: overwrite: at byte 4096: input/output error; replace the disk"
	check(t, s.proves(w))
	s.report(ingotv1.AgentStep_AGENT_STEP_WIPE, ingotv1.StepState_STEP_STATE_FAILED, w.GetError())
	if phase, _ := s.phase(); phase != "CRASHED" {
		t.Errorf("the machine is %s", phase)
	}
	stream, err := s.agent.Wait(t.Context(), connect.NewRequest(&ingotv1.AgentServiceWaitRequest{Uuid: s.uuid, BootId: s.bootID}))
	check(t, err)
	if stream.Receive() {
		t.Errorf("it waits: %v", stream.Msg())
	}
	wantCode(t, stream.Err(), connect.CodeFailedPrecondition, "machine "+s.uuid+": is not clean: disks sda were not wiped in this boot; wipe them, then wait")
	stream.Close()
	resp, err := d.machines.Issues(t.Context(), &adminv2.MachineServiceIssuesRequest{Query: &apiv2.MachineIssuesQuery{
		Severity: apiv2.MachineIssueSeverity_MACHINE_ISSUE_SEVERITY_CRITICAL.Enum(),
	}})
	check(t, err)
	var i []*apiv2.MachineIssue
	for _, m := range resp.GetIssues() {
		i = append(i, m.GetIssues()...)
	}
	if len(i) != 1 || !strings.HasSuffix(i[0].GetDetails(), ": "+w.GetError()) {
		t.Errorf("issues: %v", resp.GetIssues())
	}
	if got := d.wipes(&ingotv1.WipeQuery{Result: ingotv1.WipeResult_WIPE_RESULT_FAILED.Enum()}); len(got) != 1 || ingotv1.VerifyWipe(got[0], d.wipeKeys()) != nil {
		t.Errorf("failures on record: %v", got)
	}
}

// TestWipeRefused holds reports that are not the machine's to make.
func TestWipeRefused(t *testing.T) {
	d := newDatacenter(t)
	s := d.registered()
	other := s.wiped()
	other.Uuid = uuid.NewString()
	wantCode(t, s.proves(other), connect.CodeInvalidArgument, "machine "+s.uuid+": reports the wipe of another machine or boot")
	other = s.wiped()
	other.BootId = uuid.NewString()
	wantCode(t, s.proves(other), connect.CodeInvalidArgument, "machine "+s.uuid+": reports the wipe of another machine or boot")
	other = s.wiped()
	other.Disk = &ingotv1.Disk{Name: "sdb", Serial: "serial-b"}
	wantCode(t, s.proves(other), connect.CodeFailedPrecondition, "machine "+s.uuid+" disk sdb: is not among those that are registered; register the hardware again")
	other = s.wiped()
	other.Result = 0
	wantCode(t, s.proves(other), connect.CodeInvalidArgument, "")
	if got := d.wipes(nil); len(got) != 0 {
		t.Errorf("on record: %v", got)
	}
}

// TestWipeList filters, and sorts the newest first.
func TestWipeList(t *testing.T) {
	d := newDatacenter(t)
	s := d.registered()
	var starts []string
	for range 3 {
		d.clock.Advance(time.Minute)
		w := s.wiped()
		check(t, s.proves(w))
		starts = append(starts, w.GetStart().AsTime().String())
	}
	slices.Reverse(starts)
	other := uuid.NewString()
	for _, c := range []struct {
		q    *ingotv1.WipeQuery
		want int
	}{
		{nil, 3}, {&ingotv1.WipeQuery{}, 3}, {&ingotv1.WipeQuery{Uuid: &s.uuid}, 3}, {&ingotv1.WipeQuery{Uuid: &other}, 0},
		{&ingotv1.WipeQuery{Serial: new("serial-a")}, 3}, {&ingotv1.WipeQuery{Serial: new("serial")}, 0}, {&ingotv1.WipeQuery{Uuid: &other, Serial: new("serial-a")}, 0},
		{&ingotv1.WipeQuery{Partition: new(partition1)}, 3}, {&ingotv1.WipeQuery{Partition: new("elsewhere")}, 0},
		{&ingotv1.WipeQuery{Result: ingotv1.WipeResult_WIPE_RESULT_FAILED.Enum()}, 0},
	} {
		var got []string
		for _, w := range d.wipes(c.q) {
			got = append(got, w.GetStart().AsTime().String())
		}
		if len(got) != c.want || c.want > 0 && !slices.Equal(got, starts) {
			t.Errorf("%v: %v", c.q, got)
		}
	}
}

// FuzzWipeProof never accepts what was not signed.
func FuzzWipeProof(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(f, err)
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	check(f, err)
	keys := []*ingotv1.WipeKey{{Id: "k", Pem: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}}
	w := &ingotv1.Wipe{Uuid: "m", Method: ingotv1.WipeMethod_WIPE_METHOD_DISCARD}
	check(f, ingotv1.SignWipe(w, "k", key))
	check(f, ingotv1.VerifyWipe(w, keys))
	f.Add(w.GetProof())
	f.Add("..")
	f.Add("e30.e30.e30")
	f.Fuzz(func(t *testing.T, proof string) {
		forged := proto.CloneOf(w)
		forged.Proof = proof
		if err := ingotv1.VerifyWipe(forged, keys); err == nil && proof != w.GetProof() {
			t.Errorf("accepted %q", proof)
		}
	})
}
