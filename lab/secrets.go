package lab

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	"github.com/metal-stack/api/go/metalstack/admin/v2/adminv2connect"
	"golang.org/x/crypto/ssh"

	"github.com/ingot-cloud/ingot/client"
	"github.com/ingot-cloud/ingot/lab/leak"
)

// mayHold are the places below a data centre's folder that may hold secrets.
// Everything else must not: stores, logs, consoles, captures, variables of
// firmware, boot media and what is packed in them, command lines.
var mayHold = []leak.Allowance{
	{Path: "control/data/admin.token", Secret: "admin token*", Mode: 0o600, Reason: "the bootstrap token, for the operator to take"},
	{Path: "control/data/admin.token", Secret: "any token", Mode: 0o600, Reason: "likewise"},
	{Path: "control/config/ingot/config.yaml", Secret: "admin token*", Mode: 0o600, Reason: "the operator logged in with it"},
	{Path: "control/config/ingot/config.yaml", Secret: "any token", Mode: 0o600, Reason: "likewise"},
	{Path: "control/data/keys", Secret: "key ring *", Mode: 0o600, Reason: "the key ring, which seals all others"},
	{Path: keyFile, Secret: "operator's ssh key", Mode: 0o600, Reason: "the operator's own"},
	{Path: "*/initrd", Secret: "enrolment of *", Reason: "the lab's way to hand a guest its files; it counts once"},
	{Path: "m*/disk*", Secret: "*", Unread: true, Reason: "the tenant's own system"},
}

// Leaks searches everything that the data centre keeps, and the command lines
// of its virtual machines, for every secret of the run that it knows, and for
// more. Console passwords are known only while the control plane runs.
func (d *DataCenter) Leaks(ctx context.Context, more ...leak.Secret) (*leak.Report, error) {
	secrets, err := d.secrets(ctx)
	if err != nil {
		return nil, err
	}
	lines := map[string][]byte{}
	for _, v := range d.machines() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", v.PID()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		lines["command line of "+v.Spec().Name] = b
	}
	s := leak.Search{Secrets: append(secrets, more...), Allowed: mayHold}
	return s.Run(d.plan.Dir, lines)
}

// machines returns all virtual machines.
func (d *DataCenter) machines() []*VM {
	var all []*VM
	for _, v := range append(append([]*VM{}, d.Leaves...), d.Site) {
		if v != nil {
			all = append(all, v)
		}
	}
	for _, s := range d.Servers {
		all = append(all, s.VM)
	}
	return all
}

// secrets returns the secrets of the run, as far as the lab knows them.
func (d *DataCenter) secrets(ctx context.Context) ([]leak.Secret, error) {
	all, err := storedSecrets(d.plan.Dir)
	if err != nil {
		return nil, err
	}
	for n, s := range d.Servers {
		all = append(all, leak.Secret{Name: "BMC password of " + serverName(n+1), Value: []byte(s.BMC.cfg.Password)})
	}
	for _, v := range d.machines() {
		if f, ok := v.Spec().Files["/etc/ingot/secret"]; ok {
			all = append(all, leak.Secret{Name: "enrolment of " + v.Spec().Name, Value: bytes.TrimSpace(f.Data)})
		}
	}
	for n, text := range d.handed {
		all = append(all, leak.Secret{Name: "userdata of " + serverName(n), Value: []byte(text)})
	}
	passwords, err := d.consolePasswords(ctx)
	return append(all, passwords...), err
}

// storedSecrets are those that lie in files of their own below a data centre's
// folder. All tokens begin alike, with the name of the key that signed them:
// that finds those of machines, leaves and sites, which nobody keeps.
func storedSecrets(dir string) ([]leak.Secret, error) {
	token, err := os.ReadFile(filepath.Join(dir, "control/data/admin.token"))
	if err != nil {
		return nil, err
	}
	token = bytes.TrimSpace(token)
	parts := bytes.Split(token, []byte("."))
	if len(parts) != 3 {
		return nil, errors.New("the admin token is not a JWT")
	}
	all := []leak.Secret{
		{Name: "admin token", Value: token},
		{Name: "admin token's signature", Value: parts[2]},
		{Name: "any token", Value: parts[0]},
	}
	ring, err := os.ReadFile(filepath.Join(dir, "control/data/keys"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(ring)) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] == "#" {
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(f[2])
		if err != nil {
			return nil, errors.New("the key ring's file cannot be read")
		}
		all = append(all, leak.Secret{Name: "key ring " + f[1], Value: raw})
	}
	if all[len(all)-1].Name == "any token" {
		return nil, errors.New("the key ring is empty")
	}
	pem, err := os.ReadFile(filepath.Join(dir, keyFile))
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParseRawPrivateKey(pem)
	if err != nil {
		return nil, fmt.Errorf("operator's ssh key: %w", err)
	}
	own, ok := key.(*ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("operator's ssh key: is a %T", key)
	}
	return append(all, leak.Secret{Name: "operator's ssh key", Value: own.Seed()}), nil
}

// consolePasswords asks the control plane for those of allocated machines.
func (d *DataCenter) consolePasswords(ctx context.Context) ([]leak.Secret, error) {
	c, err := d.API()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	machines := client.Of(c, adminv2connect.NewMachineServiceClient)
	list, err := machines.List(ctx, &adminv2.MachineServiceListRequest{})
	if err != nil {
		return nil, err
	}
	var all []leak.Secret
	for _, m := range list.GetMachines() {
		if m.GetAllocation() == nil {
			continue
		}
		p, err := machines.ConsolePassword(ctx, &adminv2.MachineServiceConsolePasswordRequest{Uuid: m.GetUuid(), Reason: "to search for it"})
		if err != nil {
			return nil, err
		}
		if p.GetPassword() != "" {
			all = append(all, leak.Secret{Name: "console password of " + m.GetUuid(), Value: []byte(p.GetPassword())})
		}
	}
	return all, nil
}
