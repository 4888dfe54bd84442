package machine_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/machine"
	"github.com/ingot-cloud/ingot/network"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
	"github.com/ingot-cloud/ingot/store/storetest"
)

// A script is a file of testdata: lines that begin with ">" are commands, the
// lines below are what they answered, everything else is kept.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.script")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".script"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := newScript(t).play(string(want))
			if flag.Lookup("update").Value.String() == "true" {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			w, g := strings.Split(string(want), "\n"), strings.Split(got, "\n")
			for i := range max(len(w), len(g)) {
				if i >= len(w) || i >= len(g) || w[i] != g[i] {
					t.Fatalf("%s:%d:\n got %s\nwant %s\nrun the test with -update to see all", file, i+1, at(g, i), at(w, i))
				}
			}
		})
	}
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(nothing)"
}

type script struct {
	t     *testing.T
	db    *store.DB
	clock *storetest.Clock
	ids   int
	keys  map[string]ed25519.PrivateKey // of agents, by machine
	out   strings.Builder
}

func (s *script) play(text string) string {
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		fmt.Fprintln(&s.out, lines[i])
		cmd, ok := strings.CutPrefix(lines[i], ">")
		if !ok {
			continue
		}
		for i+1 < len(lines) && strings.HasPrefix(lines[i+1], "  ") {
			i++ // the old answer
		}
		verb, args, _ := strings.Cut(strings.TrimSpace(cmd), " ")
		run, known := verbs[verb]
		if !known {
			s.t.Fatalf("unknown command %q", verb)
		}
		answer, err := run(s, strings.TrimSpace(args))
		if err != nil {
			answer = "! " + fault.KindOf(err).String() + ": " + err.Error()
		}
		for _, a := range strings.Split(answer, "\n") {
			if a != "" {
				fmt.Fprintln(&s.out, "  "+a)
			}
		}
	}
	return strings.TrimSuffix(s.out.String(), "\n")
}

// do runs a rule.
func (s *script) do(fn func(tx *store.Tx) error) error {
	return s.db.Update(context.Background(), fn)
}

// id returns "x1", "x2" and so on.
func (s *script) id() string {
	s.ids++
	return fmt.Sprintf("x%d", s.ids)
}

// boot returns the id of the boot a machine is in.
func (s *script) boot(uuid string) string {
	m, _ := records.Machines.Peek(s.db.Snapshot(), uuid)
	return m.GetBootId()
}

// state shows a machine in one line.
func (s *script) state(uuid string) string {
	r := s.db.Snapshot()
	m, ok := records.Machines.Peek(r, uuid)
	if !ok {
		return uuid + " unknown"
	}
	name := func(e fmt.Stringer, prefix string) string {
		return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(e.String(), prefix), "_", " "))
	}
	out := uuid + " " + name(m.GetPhase(), "MACHINE_PHASE_")
	if m.GetBootId() != "" {
		out += " boot=" + m.GetBootId()
	}
	if m.GetSize() != "" {
		out += " size=" + m.GetSize()
	}
	if m.GetRack() != "" {
		out += " rack=" + m.GetRack()
	}
	if m.GetAllocation() != "" {
		out += " allocation=" + m.GetAllocation()
	}
	if l := m.GetLiveliness(); l != 0 {
		out += " " + name(l, "MACHINE_LIVELINESS_")
	}
	if m.GetCrashLoop() {
		out += " CRASHLOOP"
	}
	if m.GetFailedReclaim() {
		out += " FAILED-RECLAIM"
	}
	if o, ok := records.Operations.Peek(r, uuid); ok && o.GetOperation().GetDone() == nil {
		out += fmt.Sprintf("\noperation %s: %s: %s", o.GetOperation().GetId(), name(o.GetOperation().GetAction(), "OPERATION_ACTION_"), o.GetOperation().GetReason())
	}
	if a, _ := records.Allocations.Peek(r, uuid); a.GetReinstall() != nil {
		out += fmt.Sprintf("\nreinstall: %s instead of %s, power off %t, begun %t", a.GetAllocation().GetImage().GetId(), a.GetReinstall().GetImage(),
			a.GetReinstall().GetPowerOffSeen() != nil, a.GetReinstall().GetBegun() != nil)
	}
	if rec, ok := records.Reclaims.Peek(r, uuid); ok {
		out += fmt.Sprintf("\nreclaim: power off %t, ports %t", rec.GetPowerOffSeen() != nil, rec.GetPortsMoved() != nil)
	}
	return out
}

// after runs a rule and shows the machine it was about.
func (s *script) after(uuid string, fn func(tx *store.Tx) error) (string, error) {
	if err := s.do(fn); err != nil {
		return "", err
	}
	return s.state(uuid), nil
}

// run runs a command whose answer nobody wants.
func (s *script) run(cmd string) error {
	verb, args, _ := strings.Cut(cmd, " ")
	if _, err := verbs[verb](s, args); err != nil {
		return fmt.Errorf("%s: %w", cmd, err)
	}
	return nil
}

// verbs are the commands of scripts.
var verbs map[string]func(s *script, args string) (string, error)

func init() {
	verbs = map[string]func(s *script, args string) (string, error){
		"tick": func(s *script, args string) (string, error) {
			d, err := time.ParseDuration(args)
			s.clock.Advance(d)
			return "", err
		},
		"scan": func(s *script, args string) (string, error) { // bmc machine power [override]
			f := append(strings.Fields(args), "", "", "")
			r := &ingotv1.BMCReport{Id: f[0], Machine: f[1], Status: &ingotv1.BMCStatus{PowerState: f[2], Medium: &ingotv1.BootMediumStatus{OverrideTarget: f[3]}}}
			return s.after(f[1], func(tx *store.Tx) error { return machine.Scanned(tx, "p1", r) })
		},
		"wanted": func(s *script, args string) (string, error) { // bmc
			b, err := records.BMCs.Get(s.db.Snapshot(), records.BMCKey("p1", args))
			if err != nil {
				return "", err
			}
			w := machine.Wanted(s.db.Snapshot(), b)
			return fmt.Sprintf("%s: machine=%s enforce=%t medium=%t operation=%s", w.GetId(), w.GetMachine(), w.GetEnforce(), w.GetMedium(), w.GetOperation().GetId()), nil
		},
		"command": func(s *script, args string) (string, error) { // machine command
			uuid, name, _ := strings.Cut(args, " ")
			c := apiv2.MachineBMCCommand(apiv2.MachineBMCCommand_value["MACHINE_BMC_COMMAND_"+name])
			id := s.id()
			return s.after(uuid, func(tx *store.Tx) error {
				m, err := records.Machines.Get(tx, uuid)
				if err != nil {
					return err
				}
				return machine.Command(tx, id, m, c, "alice")
			})
		},
		"take": func(s *script, args string) (string, error) { // machine listener
			uuid, listener, _ := strings.Cut(args, " ")
			took := false
			err := s.do(func(tx *store.Tx) (err error) {
				_, took, err = machine.Take(tx, uuid, listener)
				return err
			})
			return fmt.Sprintf("taken: %t", took), err
		},
		"done": func(s *script, args string) (string, error) { // machine [off] [error]
			uuid, rest, _ := strings.Cut(args, " ")
			rest, off := strings.CutPrefix(rest, "off")
			o, err := records.Operations.Get(s.db.Snapshot(), uuid)
			if err != nil {
				return "", err
			}
			return s.after(uuid, func(tx *store.Tx) error {
				var seen *timestamppb.Timestamp
				if off {
					seen = timestamppb.New(tx.Now())
				}
				return machine.Done(tx, machine.Result{ID: o.GetOperation().GetId(), Error: strings.TrimSpace(rest), PowerOff: seen})
			})
		},
		"advance": func(s *script, args string) (string, error) { // machine
			for range 8 {
				did, id := false, s.id()
				if err := s.do(func(tx *store.Tx) (err error) {
					did, err = machine.Advance(tx, args, id)
					return err
				}); err != nil || !did {
					return s.state(args), err
				}
			}
			return "", fmt.Errorf("advance does not end")
		},
		"begin": func(s *script, args string) (string, error) { // machine leaf address
			k, fresh := s.knock(args), s.id()
			return s.after(k.UUID, func(tx *store.Tx) error {
				_, err := machine.Begin(tx, k, fresh)
				return err
			})
		},
		"token": func(s *script, args string) (string, error) { // machine leaf address [boot] [forge]
			f := strings.Fields(args)
			k, id := s.knock(args), s.id()
			boot := s.boot(k.UUID)
			if len(f) > 3 {
				boot = f[3]
			}
			seed := make([]byte, ed25519.SeedSize)
			copy(seed, k.UUID)
			key := ed25519.NewKeyFromSeed(seed)
			s.keys[k.UUID] = key
			proof := machine.Proof{BootID: boot, PublicKey: key.Public().(ed25519.PublicKey), Signature: ed25519.Sign(key, machine.BootMessage(boot))}
			if len(f) > 4 {
				proof.Signature = ed25519.Sign(key, machine.BootMessage("something else"))
			}
			return s.after(k.UUID, func(tx *store.Tx) error {
				_, err := machine.Admit(tx, k, proof, id)
				return err
			})
		},
		"refused": func(s *script, args string) (string, error) { // machine why
			uuid, why, _ := strings.Cut(args, " ")
			return "", s.do(func(tx *store.Tx) error { return machine.Refused(tx, uuid, why) })
		},
		"register": func(s *script, args string) (string, error) { // machine port [leaves]
			f := strings.Fields(args)
			leaves := []string{"leaf1", "leaf2"}
			if len(f) > 2 {
				leaves = f[2:]
			}
			g := machine.Registration{UUID: f[0], BootID: s.boot(f[0]), Inventory: inventory(f[1], leaves)}
			return s.after(f[0], func(tx *store.Tx) error {
				_, err := machine.Register(tx, g)
				return err
			})
		},
		"report": func(s *script, args string) (string, error) { // machine step state [message]
			f := append(strings.SplitN(args, " ", 4), "", "", "")
			return s.after(f[0], func(tx *store.Tx) error {
				return machine.Reported(tx, machine.AgentReport{
					UUID: f[0], BootID: s.boot(f[0]), Step: ingotv1.AgentStep(ingotv1.AgentStep_value["AGENT_STEP_"+f[1]]),
					State: ingotv1.StepState(ingotv1.StepState_value["STEP_STATE_"+f[2]]), Message: f[3], Took: time.Second,
				})
			})
		},
		"wait": func(s *script, args string) (string, error) { // machine serials: of the disks that it wipes before
			f := strings.Fields(args)
			for _, serial := range f[1:] {
				w := wipe(f[0], s.boot(f[0]), serial, s.clock.Now())
				if err := s.do(func(tx *store.Tx) error { return machine.Wiped(tx, w) }); err != nil {
					return "", err
				}
			}
			return s.after(f[0], func(tx *store.Tx) error { return machine.Ready(tx, f[0], s.boot(f[0])) })
		},
		"event": func(s *script, args string) (string, error) { // machine event
			uuid, name, _ := strings.Cut(args, " ")
			e, ok := machine.EventOf(apiv2.MachineProvisioningEventType(apiv2.MachineProvisioningEventType_value["MACHINE_PROVISIONING_EVENT_TYPE_"+name]))
			if !ok {
				return "", fmt.Errorf("no event %q", name)
			}
			return s.after(uuid, func(tx *store.Tx) error {
				_, _, err := machine.Happen(tx, uuid, machine.Happening{Event: e})
				return err
			})
		},
		"instruction": func(s *script, args string) (string, error) { // machine
			in, err := machine.Instruction(s.db.Snapshot(), args)
			if in == nil || err != nil {
				return "nothing", err
			}
			in.Generation = nil
			re := ""
			if in.GetReinstallation() != nil {
				re = fmt.Sprintf(" intact=%t", in.GetReinstallation().GetIntact())
				for _, d := range in.GetReinstallation().GetDisks() {
					re += " " + d.GetName() + "=" + d.GetSerial()
				}
			}
			return fmt.Sprintf("allocation=%s image=%s layout=%s disk=%s urls=%s"+re, in.GetAllocation().GetUuid(), in.GetAllocation().GetImage().GetId(),
				in.GetAllocation().GetFilesystemLayout().GetId(), in.GetBootDisk(), strings.Join(in.GetUrls(), " ")), nil
		},
		"installed": func(s *script, args string) (string, error) { // machine
			return s.after(args, func(tx *store.Tx) error {
				a, err := records.Allocations.Get(tx, args)
				if err != nil {
					return err
				}
				return machine.Installed(tx, machine.Completion{
					UUID: args, BootID: s.boot(args), Allocation: a.GetAllocation().GetUuid(),
					Console: &privatev1.Sealed{Id: records.ConsoleKey(a.GetAllocation().GetUuid())},
				})
			})
		},
		"reinstall": func(s *script, args string) (string, error) { // machine project image [layout]
			f := append(strings.Fields(args), "")
			q := machine.Replacement{UUID: f[0], Project: f[1], Image: f[2], Layout: f[3], By: "alice", Operation: s.id()}
			return s.after(f[0], func(tx *store.Tx) error { return machine.Reinstall(tx, q) })
		},
		"allocation": func(s *script, args string) (string, error) { // machine
			a, err := records.Allocations.Get(s.db.Snapshot(), args)
			if err != nil {
				return "", err
			}
			return fmt.Sprintf("%s\ninstalled=%t", showAllocation(a), a.GetInstalled() != nil), nil
		},
		"system": func(s *script, args string) (string, error) { // machine bmc port: a machine that has phoned home
			f := strings.Fields(args)
			uuid, port := f[0], f[2]
			for _, cmd := range []string{
				"ready " + args,
				"allocate admin uuid: \"" + uuid + "\" project: \"a\" name: \"www\" image: \"debian-12.0.20251220\" allocation_type: MACHINE_ALLOCATION_TYPE_MACHINE networks: {network: \"net-a\"}",
				"report " + uuid + " PARTITION BEGUN", "installed " + uuid, "home " + uuid + " " + port,
			} {
				if err := s.run(cmd); err != nil {
					return "", err
				}
			}
			return s.state(uuid), nil
		},
		"home": func(s *script, args string) (string, error) { // machine port: both leaves have moved it and hear its system
			uuid, port, _ := strings.Cut(args, " ")
			for range 2 { // a frame that was there when the port moved does not count
				s.clock.Advance(time.Second)
				for _, leaf := range []string{"leaf1", "leaf2"} {
					if err := s.run("leaf " + leaf + " " + port + " www Debian provisioned"); err != nil {
						return "", err
					}
				}
			}
			if err := s.run("advance " + uuid); err != nil {
				return "", err
			}
			return s.state(uuid), nil
		},
		"cycled": func(s *script, args string) (string, error) { // machine: the site has carried out the boot medium
			if err := s.run("take " + args + " site/p1"); err != nil {
				return "", err
			}
			return verbs["done"](s, args+" off")
		},
		"return": func(s *script, args string) (string, error) { // machine port: it boots the medium, and keeps its disks
			uuid, port, _ := strings.Cut(args, " ")
			from := uuid + " leaf1 " + port
			for _, cmd := range []string{"begin " + from, "token " + from, "register " + uuid + " " + port, "wait " + uuid} {
				if err := s.run(cmd); err != nil {
					return "", err
				}
			}
			return s.state(uuid), nil
		},
		"confirm": func(s *script, args string) (string, error) { // machine reason
			uuid, reason, _ := strings.Cut(args, " ")
			return s.after(uuid, func(tx *store.Tx) error { return machine.ConfirmOff(tx, uuid, "root", reason) })
		},
		"medium": func(s *script, args string) (string, error) { // machine
			id := s.id()
			return s.after(args, func(tx *store.Tx) error { return machine.BootMedium(tx, id, args, "root") })
		},
		"fails": func(s *script, args string) (string, error) { // bmc error: a scan that fails
			id, text, _ := strings.Cut(args, " ")
			return "", s.do(func(tx *store.Tx) error {
				return machine.Scanned(tx, "p1", &ingotv1.BMCReport{Id: id, Status: &ingotv1.BMCStatus{LastError: text}})
			})
		},
		"free": func(s *script, args string) (string, error) { // machine project
			uuid, project, _ := strings.Cut(args, " ")
			return s.after(uuid, func(tx *store.Tx) error {
				_, err := machine.Free(tx, uuid, project, "alice")
				return err
			})
		},
		"allocate": func(s *script, args string) (string, error) { // request
			admin := strings.HasPrefix(args, "admin ")
			q := &apiv2.MachineServiceCreateRequest{}
			if err := prototext.Unmarshal([]byte(strings.TrimPrefix(args, "admin ")), q); err != nil {
				s.t.Fatalf("%s: %v", args, err)
			}
			w := machine.Want{Request: q, UUID: s.id(), User: "alice", Admin: admin, NewID: s.id, Pick: func(int) int { return 0 }}
			var a *privatev1.Allocation
			if err := s.do(func(tx *store.Tx) (err error) {
				a, err = machine.Allocate(tx, w)
				return err
			}); err != nil {
				return "", err
			}
			return showAllocation(a) + "\n" + s.state(a.GetMachine()), nil
		},
		"ready": func(s *script, args string) (string, error) { // machine bmc port: a machine that waits
			f := strings.Fields(args)
			for _, cmd := range []string{"scan " + f[1] + " " + f[0] + " On", "advance " + f[0], "take " + f[0] + " site/p1", "done " + f[0] + " off", "boot " + f[0] + " " + f[2]} {
				if err := s.run(cmd); err != nil {
					return "", err
				}
			}
			return s.state(f[0]), nil
		},
		"boot": func(s *script, args string) (string, error) { // machine port: from the medium until it waits
			uuid, port, _ := strings.Cut(args, " ")
			from := uuid + " leaf1 " + port
			for _, cmd := range []string{"begin " + from, "token " + from, "register " + uuid + " " + port, "report " + uuid + " WIPE BEGUN", "wait " + uuid + " s-a s-b"} {
				if err := s.run(cmd); err != nil {
					return "", err
				}
			}
			return s.state(uuid), nil
		},
		"leaf": func(s *script, args string) (string, error) { // leaf port [name description]: it applies what it shall, and reports the port
			f := append(strings.SplitN(args, " ", 4), "", "")
			if err := s.do(func(tx *store.Tx) error { _, err := network.NextGeneration(tx, f[0]); return err }); err != nil {
				return "", err
			}
			c, err := network.Leaf(s.db.Snapshot(), f[0])
			if err != nil {
				return "", err
			}
			g, _ := records.LeafGenerations.Peek(s.db.Snapshot(), f[0])
			for _, p := range c.GetPorts() {
				if p.GetName() != f[1] {
					continue
				}
				r := &ingotv1.PortReport{Name: f[1], Class: p.GetClass(), Vrf: p.GetVrf(), Status: apiv2.SwitchPortStatus_SWITCH_PORT_STATUS_UP}
				if f[2] != "" {
					r.Neighbor = &ingotv1.Neighbor{SystemName: f[2], SystemDescription: f[3], Seen: timestamppb.New(s.clock.Now())}
				}
				return fmt.Sprintf("%s of %s: %s, %s", f[1], f[0], strings.ToLower(strings.TrimPrefix(p.GetClass().String(), "PORT_CLASS_")), p.GetVrf()),
					s.do(func(tx *store.Tx) error { return network.ReportPort(tx, f[0], g.GetGeneration(), r) })
			}
			return "no such port", nil
		},
		"ips": func(s *script, _ string) (string, error) {
			var out []string
			for ip := range records.IPs.All(s.db.Snapshot()) {
				out = append(out, fmt.Sprintf("%s of network %s: project %q, machine %q, %s", ip.GetIp(), ip.GetNetwork(), ip.GetProject(), network.Machine(ip), ip.GetDescription()))
			}
			return strings.Join(append(out, fmt.Sprintf("%d AS numbers", records.ASNs.Count(s.db.Snapshot(), "", ""))), "\n"), nil
		},
		"reserve": func(s *script, args string) (string, error) { // project amount
			project, amount, _ := strings.Cut(args, " ")
			n, err := strconv.ParseInt(amount, 10, 32)
			return "", errors.Join(err, s.do(func(tx *store.Tx) error {
				return records.SizeReservations.Insert(tx, &apiv2.SizeReservation{Id: "r-" + project, Size: "c1", Project: project, Partitions: []string{"p1"}, Amount: int32(n)})
			}))
		},
		"set": func(s *script, args string) (string, error) { // machine state [description]
			f := append(strings.SplitN(args, " ", 3), "")
			return s.after(f[0], func(tx *store.Tx) error {
				return machine.SetState(tx, f[0], apiv2.MachineState(apiv2.MachineState_value["MACHINE_STATE_"+f[1]]), f[2], "root")
			})
		},
		"sync": func(s *script, args string) (string, error) { // leaf age: when it last reported
			leaf, age, _ := strings.Cut(args, " ")
			d, err := time.ParseDuration(age)
			return "", errors.Join(err, s.do(func(tx *store.Tx) error {
				return records.SwitchSyncs.Put(tx, &privatev1.SwitchSync{Switch: leaf, LastSync: &apiv2.SwitchSync{Time: timestamppb.New(tx.Now().Add(-d))}})
			}))
		},
		"forget": func(s *script, args string) (string, error) { // machine
			return s.after(args, func(tx *store.Tx) error { return machine.Forget(tx, args) })
		},
		"tokens": func(s *script, args string) (string, error) { // machine
			return fmt.Sprintf("%d tokens, %d boot windows", records.Tokens.Count(s.db.Snapshot(), "user", "machine/"+args), records.BootWindows.Count(s.db.Snapshot(), "", "")), nil
		},
		"unplug": func(s *script, args string) (string, error) { // bmc: it is removed, and so is what is known of it
			return "", s.do(func(tx *store.Tx) error {
				b, err := records.BMCStatuses.Delete(tx, records.BMCKey("p1", args))
				if err != nil {
					return err
				}
				_, err = records.MachineBMCs.Delete(tx, b.GetStatus().GetMachine())
				return err
			})
		},
		"machine":  func(s *script, args string) (string, error) { return s.state(args), nil },
		"timeline": (*script).timeline,
		"signs":    (*script).signs,
		"issues": func(s *script, args string) (string, error) { // machine
			m, err := records.Machines.Get(s.db.Snapshot(), args)
			var out []string
			for _, i := range machine.Issues(s.db.Snapshot(), m, nil, s.clock.Now()) {
				out = append(out, strings.ToLower(strings.TrimPrefix(i.GetType().String(), "MACHINE_ISSUE_TYPE_"))+" "+i.GetDetails())
			}
			return strings.Join(out, "\n"), err
		},
	}
	maps.Copy(verbs, mediumVerbs)
}

// knock reads machine, leaf and port.
func (s *script) knock(args string) machine.Knock {
	f := strings.Fields(args)
	l, _ := records.Leaves.Peek(s.db.Snapshot(), f[1])
	a := netip.MustParsePrefix(l.GetBootPrefix()).Addr().As16()
	a[7], a[15] = byte(l.GetPorts()[f[2]]), 5
	return machine.Knock{UUID: f[0], Switch: f[1], Source: netip.AddrFrom16(a), Partition: "p1"}
}

// inventory is that of a server on the same port of some leaves.
func inventory(port string, leaves []string) *ingotv1.Inventory {
	h := &apiv2.MachineHardware{
		Memory: 1 << 30, Cpus: []*apiv2.MetalCPU{{Cores: 4}},
		Disks: []*apiv2.MachineBlockDevice{{Name: "/dev/sda", Size: 20 << 30}, {Name: "/dev/sdb", Size: 20 << 30}},
	}
	for i, leaf := range leaves {
		h.Nics = append(h.Nics, &apiv2.MachineNic{
			Name: fmt.Sprintf("lan%d", i), Mac: fmt.Sprintf("aa:aa:aa:aa:aa:%02d", i),
			Neighbors: []*apiv2.MachineNic{{Name: port, Hostname: leaf, Mac: "bb:bb:bb:bb:bb:bb"}},
		})
	}
	return &ingotv1.Inventory{
		Hardware: h, AgentVersion: "v1",
		Disks: []*ingotv1.Disk{{Name: "sda", Serial: "s-a", Size: 20 << 30}, {Name: "sdb", Serial: "s-b", Size: 20 << 30}},
	}
}

// timeline shows the story of a machine.
func (s *script) timeline(args string) (string, error) {
	m, err := records.Machines.Get(s.db.Snapshot(), args)
	if err != nil {
		return "", err
	}
	t := machine.Timeline(s.db.Snapshot(), m)
	var b strings.Builder
	for _, e := range t.GetEntries() {
		failed := ""
		if e.GetFailed() {
			failed = "FAILED "
		}
		took := ""
		if e.GetTook() != nil {
			took = " (" + e.GetTook().AsDuration().String() + ")"
		}
		fmt.Fprintf(&b, "%s %-5s %s%s: %s%s\n", e.GetTime().AsTime().Format("15:04:05"), strings.ToLower(strings.TrimPrefix(e.GetSource().String(), "TIMELINE_SOURCE_")), failed, e.GetStep(), e.GetMessage(), took)
	}
	if w := t.GetWaiting(); w != nil {
		overdue := ""
		if w.GetOverdueAt() != nil {
			overdue = ", overdue at " + w.GetOverdueAt().AsTime().Format("15:04:05")
		}
		fmt.Fprintf(&b, "waits since %s for %s%s\n", w.GetSince().AsTime().Format("15:04:05"), w.GetWhat(), overdue)
		if w.GetRemedy() != "" {
			fmt.Fprintf(&b, "otherwise: %s\n", w.GetRemedy())
		}
	}
	return b.String(), nil
}

// signs shows what should have been seen of a machine, and what is missing.
func (s *script) signs(args string) (string, error) {
	r := s.db.Snapshot()
	m, err := records.Machines.Get(r, args)
	if err != nil {
		return "", err
	}
	w := machine.Stands(r, m).GetWaiting()
	var b strings.Builder
	fmt.Fprintf(&b, "waits for %s\n", w.GetWhat())
	for _, sign := range w.GetSigns() {
		seen := map[bool]string{true: "seen   ", false: "MISSING"}[sign.GetSeen()]
		at := ""
		if sign.GetTime() != nil {
			at = " " + sign.GetTime().AsTime().Format("15:04:05")
		}
		fmt.Fprintf(&b, "%s%s %-5s %s\n", seen, at, strings.ToLower(strings.TrimPrefix(sign.GetSource().String(), "TIMELINE_SOURCE_")),
			strings.TrimSuffix(sign.GetWhat()+": "+sign.GetDetail(), ": "))
	}
	return b.String(), nil
}

// showAllocation shows an allocation in a few lines.
func showAllocation(a *privatev1.Allocation) string {
	full := a.GetAllocation()
	out := fmt.Sprintf("%s on %s: image=%s layout=%s hostname=%s", full.GetUuid(), a.GetMachine(), full.GetImage().GetId(), full.GetFilesystemLayout().GetId(), full.GetHostname())
	for _, n := range full.GetNetworks() {
		out += fmt.Sprintf("\n%s: ips=%s vrf=%d asn=%d", n.GetNetwork(), strings.Join(n.GetIps(), ","), n.GetVrf(), n.GetAsn())
	}
	return out
}
