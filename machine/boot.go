package machine

import (
	"crypto/ed25519"
	"net/netip"
	"strings"
	"time"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/network"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// beginAgain is how long a boot that began may begin again from the same port
// without being a new one: the answer may have been lost.
const beginAgain = time.Minute

// A Knock is what a leaf vouches for when a server asks it to boot: the switch
// and the source address. The uuid is what the server claims.
type Knock struct {
	Switch    string
	Source    netip.Addr
	UUID      string
	Partition string
}

// refusal is why a boot gets no further; rule is the name of what forbids it.
func refusal(kind fault.Kind, uuid, rule, format string, args ...any) *fault.Error {
	return fault.Newf(kind, object(uuid), "rule "+rule+": "+format, args...)
}

// admit finds the port a knock came through and checks that the machine may
// be there: the port is the identity, the uuid only a claim (MEP-20).
func admit(tx *store.Tx, k Knock) (m *privatev1.Machine, port string, err error) {
	port, err = network.PortOf(tx, k.Switch, k.Source)
	if err != nil {
		return nil, "", refusal(fault.Denied, k.UUID, "port", "%v", err)
	}
	m, err = records.Machines.Get(tx, k.UUID)
	if isNotFound(err) {
		return nil, "", refusal(fault.NotFound, k.UUID, "uuid", "no BMC has told of it, but %s of %s claims to be it", port, k.Switch).
			Do("add its BMC with 'ingot bmc create', or compare the uuid that the BMC tells with the one in the firmware")
	}
	if err != nil {
		return nil, "", err
	}
	if m.GetPartition() != k.Partition {
		return nil, "", refusal(fault.Denied, k.UUID, "partition", "belongs to partition %s, not to %s", m.GetPartition(), k.Partition)
	}
	if c, err := records.Connections.Get(tx, records.PortKey(k.Switch, port)); err == nil && c.GetMachine() != k.UUID {
		return nil, "", refusal(fault.Denied, k.UUID, "wiring", "%s of %s leads to machine %s", port, k.Switch, c.GetMachine()).
			Do("if a server was replaced or moved, delete the machine that was there")
	} else if err == nil {
		return m, port, nil
	}
	for c := range records.Connections.By(tx, "machine", k.UUID) {
		return nil, "", refusal(fault.Denied, k.UUID, "wiring", "knocks at %s of %s, but is behind %s of %s", port, k.Switch, c.GetPort(), c.GetSwitch()).
			Do("if the server was recabled, delete the machine and let it register again")
	}
	return m, port, nil
}

// Begin starts a boot and returns its id, which is fresh unless the same port
// began the same boot a moment ago.
func Begin(tx *store.Tx, k Knock, fresh string) (string, error) {
	m, port, err := admit(tx, k)
	if err != nil {
		return "", err
	}
	if err := mayBoot(tx, m); err != nil {
		return "", err
	}
	b, err := records.Boots.Get(tx, k.UUID)
	if err != nil && !isNotFound(err) {
		return "", err
	}
	if m.GetPhase() == booting && b.GetBootId() == m.GetBootId() && b.GetSwitch() == k.Switch && b.GetPort() == port &&
		tx.Now().Sub(b.GetBegan().AsTime()) < beginAgain {
		return b.GetBootId(), nil
	}
	if err := records.Boots.Put(tx, &privatev1.Boot{Uuid: k.UUID, BootId: fresh, Switch: k.Switch, Port: port, Began: timestamppb.New(tx.Now())}); err != nil {
		return "", err
	}
	_, _, err = Happen(tx, k.UUID, Happening{Event: Began, BootID: fresh, Message: "through " + port + " of " + k.Switch})
	return fresh, err
}

// mayBoot refuses machines whose disks must not be touched now.
func mayBoot(tx *store.Tx, m *privatev1.Machine) error {
	_, err := records.Reclaims.Get(tx, m.GetUuid())
	if err == nil {
		return refusal(fault.Denied, m.GetUuid(), "reclaim", "its former allocation is not released yet").
			Do("wait until power off was seen and both leaves have moved the ports")
	}
	if err != nil && !isNotFound(err) {
		return err
	}
	a, err := records.Allocations.Get(tx, m.GetUuid())
	if err == nil && a.GetInstalled() != nil {
		return refusal(fault.Precondition, m.GetUuid(), "installed", "is allocated and installed, it boots from its disk").
			Do("check the boot order that the BMC shows")
	}
	if err != nil && !isNotFound(err) {
		return err
	}
	return nil
}

// A Proof is what an agent shows for its token: its key, and that it holds it.
type Proof struct {
	BootID    string
	PublicKey []byte // Ed25519, 32 bytes
	Signature []byte // over BootMessage of the boot id
}

// BootMessage returns what an agent signs to get its token.
func BootMessage(bootID string) []byte { return []byte("ingot boot " + bootID) }

// RefreshMessage returns what an agent signs to replace its token.
func RefreshMessage(token string) []byte { return []byte("ingot refresh " + token) }

// tokenLife is how long a machine's token is valid. The agent replaces it in
// time; a machine may wait for days.
const tokenLife = 4 * time.Hour

// Admit gives a booting machine its token, with this uuid, once: for the newest
// boot of the machine, to the port on which that began, inside the window that
// an observed power off opened. It closes the window, and voids the tokens of
// earlier boots.
func Admit(tx *store.Tx, k Knock, p Proof, uuid string) (*privatev1.Token, error) {
	port, err := mayHaveToken(tx, k, p)
	if err != nil {
		return nil, err
	}
	if _, err := records.BootWindows.Change(tx, k.UUID, func(w *ingotv1.BootWindow) error {
		w.Used, w.BootId = timestamppb.New(tx.Now()), p.BootID
		return nil
	}); err != nil {
		return nil, err
	}
	if _, _, err := Happen(tx, k.UUID, Happening{Event: Preparing, BootID: p.BootID, Message: "the agent has its token"}); err != nil {
		return nil, err
	}
	if err := dropTokens(tx, k.UUID); err != nil {
		return nil, err
	}
	return grant(tx, k.UUID, uuid, &privatev1.Token{Partition: k.Partition, PublicKey: p.PublicKey, BootId: p.BootID, Switch: k.Switch, Port: port})
}

// mayHaveToken returns the port that a machine gets its token on, or why it
// gets none, naming the rule.
func mayHaveToken(tx *store.Tx, k Knock, p Proof) (port string, err error) {
	m, port, err := admit(tx, k)
	if err != nil {
		return "", err
	}
	if err := mayBoot(tx, m); err != nil {
		return "", err
	}
	return port, proven(tx, k, p, m, port)
}

// proven checks what an agent shows against the boot that began on the port
// and against the window.
func proven(tx *store.Tx, k Knock, p Proof, m *privatev1.Machine, port string) error {
	b, err := records.Boots.Get(tx, k.UUID)
	if isNotFound(err) || err == nil && (b.GetBootId() != p.BootID || m.GetBootId() != p.BootID) {
		return refusal(fault.Denied, k.UUID, "boot id", "%s is not its newest boot", p.BootID).Do("begin again")
	}
	if err != nil {
		return err
	}
	if b.GetSwitch() != k.Switch || b.GetPort() != port {
		return refusal(fault.Denied, k.UUID, "port", "the boot began on %s of %s, the token is asked for through %s of %s", b.GetPort(), b.GetSwitch(), port, k.Switch)
	}
	if !ed25519.Verify(p.PublicKey, BootMessage(p.BootID), p.Signature) {
		return refusal(fault.Denied, k.UUID, "signature", "the key that is shown has not signed the boot id")
	}
	w, err := records.BootWindows.Get(tx, k.UUID)
	if isNotFound(err) {
		return refusal(fault.Denied, k.UUID, "boot window", "no power off was seen").Do("cycle the power with 'ingot machine boot-medium'")
	}
	if err != nil {
		return err
	}
	if reopens(tx, w, p.BootID) {
		return nil
	}
	if w.GetUsed() != nil {
		return refusal(fault.Denied, k.UUID, "boot window", "it was used at %s", w.GetUsed().AsTime().UTC().Format(time.RFC3339)).
			Do("cycle the power with 'ingot machine boot-medium'")
	}
	if !tx.Now().Before(w.GetCloses().AsTime()) {
		return refusal(fault.Denied, k.UUID, "boot window", "it closed at %s", w.GetCloses().AsTime().UTC().Format(time.RFC3339)).
			Do("cycle the power with 'ingot machine boot-medium'")
	}
	return nil
}

// grant stores a token for a machine's own calls, which is bound to what t says.
func grant(tx *store.Tx, machine, uuid string, t *privatev1.Token) (*privatev1.Token, error) {
	t.Token = &apiv2.Token{
		Uuid: uuid, User: tokenUser(machine), Description: "boot " + t.GetBootId(), TokenType: apiv2.TokenType_TOKEN_TYPE_API,
		IssuedAt: timestamppb.New(tx.Now()), Expires: timestamppb.New(tx.Now().Add(tokenLife)),
		MachineRoles: map[string]apiv2.MachineRole{machine: apiv2.MachineRole_MACHINE_ROLE_EDITOR},
	}
	return t, records.Tokens.Insert(tx, t)
}

// Through returns the port of a leaf that a call with a machine's token came
// through, as the leaf vouches, if the token counts there.
func Through(r store.Reader, t *privatev1.Token, leaf string, source netip.Addr) (port string, err error) {
	port, err = network.PortOf(r, leaf, source)
	if err != nil {
		return "", refusal(fault.Denied, holder(t), "port", "%v", err)
	}
	return port, Counts(r, t, leaf, port)
}

// holder returns the machine whose token this is.
func holder(t *privatev1.Token) string {
	return strings.TrimPrefix(t.GetToken().GetUser(), tokenUser(""))
}

// Counts returns nil if a machine's token counts on a port: on one that its
// wiring names, or, as long as nothing is known to be behind it, on the one
// that it was given on. A server with several uplinks may use each of its own.
func Counts(r store.Reader, t *privatev1.Token, leaf, port string) error {
	machine := holder(t)
	c, wired := records.Connections.Peek(r, records.PortKey(leaf, port))
	switch {
	case wired && c.GetMachine() != machine:
		return refusal(fault.Denied, machine, "port", "its token is used through %s of %s, which leads to machine %s", port, leaf, c.GetMachine())
	case !wired && (t.GetSwitch() != leaf || t.GetPort() != port):
		return refusal(fault.Denied, machine, "port", "its token was given on %s of %s and is used through %s of %s", t.GetPort(), t.GetSwitch(), port, leaf)
	default:
		return nil
	}
}

// tokenUser is whose tokens a machine's are.
func tokenUser(machine string) string { return "machine/" + machine }

// dropTokens voids the tokens of a machine.
func dropTokens(tx *store.Tx, machine string) error {
	for t := range records.Tokens.By(tx, "user", tokenUser(machine)) {
		if _, err := records.Tokens.Delete(tx, t.GetToken().GetUuid()); err != nil {
			return err
		}
	}
	return nil
}

// Refresh gives an agent a new token beside its old one, which lives on in case
// the answer is lost: it must hold the key, and the boot must still be the
// machine's newest.
func Refresh(tx *store.Tx, machine string, t *privatev1.Token, signature []byte, uuid string) (*privatev1.Token, error) {
	m, err := records.Machines.Get(tx, machine)
	if err != nil {
		return nil, err
	}
	if m.GetBootId() != t.GetBootId() || t.GetBootId() == "" {
		return nil, refusal(fault.Denied, machine, "boot id", "the token belongs to an earlier boot")
	}
	if len(t.GetPublicKey()) != ed25519.PublicKeySize || !ed25519.Verify(t.GetPublicKey(), RefreshMessage(t.GetToken().GetUuid()), signature) {
		return nil, refusal(fault.Denied, machine, "signature", "the token's key has not signed its id")
	}
	return grant(tx, machine, uuid, &privatev1.Token{
		Partition: t.GetPartition(), PublicKey: t.GetPublicKey(), BootId: t.GetBootId(), Switch: t.GetSwitch(), Port: t.GetPort(),
	})
}
