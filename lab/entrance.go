package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	"github.com/metal-stack/api/go/metalstack/admin/v2/adminv2connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/metalstack/api/v2/apiv2connect"

	"github.com/ingot-cloud/ingot/client"
	"github.com/ingot-cloud/ingot/fault"
)

// An Entrance is what another process needs to come into a running data centre
// as its operator.
type Entrance struct {
	Dir       string // folder of the data centre
	URL       string // of the API
	CAFile    string // of the API's certificate
	TokenFile string // of the operator
	Consoles  string // where consoles of servers are served over SSH
	Leaves    []Jump
}

// A Jump is a leaf that an operator can log in to.
type Jump struct {
	Name string
	Port int // of this machine's loopback, where the leaf's ssh server answers
}

// Files of the entrance: in the cache, where the data centre that was started
// last is found, and in the data centre's folder.
const (
	entranceFile = "running.json"
	keyFile      = "operator.key"
	hostsFile    = "known_hosts"
)

// Running returns the entrance of the data centre in dir; if that is empty, of
// the one that was started last.
func (c *Cache) Running(dir string) (*Entrance, error) {
	at := filepath.Join(c.dir, entranceFile)
	if dir != "" {
		at = filepath.Join(dir, entranceFile)
	}
	b, err := os.ReadFile(at)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, "data centre", "none is running", "start one with 'ingot-lab up'")
	}
	if err != nil {
		return nil, err
	}
	e := &Entrance{}
	return e, json.Unmarshal(b, e)
}

// open writes down the entrance and makes the operator's key.
func (d *DataCenter) open(ctx context.Context) error {
	key := filepath.Join(d.plan.Dir, keyFile)
	if err := run(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "operator", "-f", key); err != nil {
		return err
	}
	b, err := os.ReadFile(key + ".pub")
	if err != nil {
		return err
	}
	d.key = strings.TrimSpace(string(b))
	api := d.control.api()
	d.Entrance = &Entrance{Dir: d.plan.Dir, URL: api.URL, CAFile: api.CAFile, TokenFile: api.TokenFile, Consoles: d.control.consoles}
	for _, name := range leafNames {
		addr, err := freeAddress(ctx)
		if err != nil {
			return err
		}
		_, port, _ := strings.Cut(addr, ":")
		n, err := strconv.Atoi(port)
		if err != nil {
			return err
		}
		d.Entrance.Leaves = append(d.Entrance.Leaves, Jump{name, n})
	}
	if b, err = json.MarshalIndent(d.Entrance, "", "  "); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(d.plan.Dir, entranceFile), b, 0o600), os.WriteFile(filepath.Join(d.cache.dir, entranceFile), b, 0o600))
}

// shut removes what leads into d, unless another data centre was started since.
func (d *DataCenter) shut() error {
	if d.Entrance == nil {
		return nil
	}
	if e, err := d.cache.Running(""); err != nil || e.Dir != d.plan.Dir {
		return nil //nolint:nilerr // no entrance is left to remove
	}
	return os.Remove(filepath.Join(d.cache.dir, entranceFile))
}

// SSH returns the command that logs in to a leaf as root, or to an installed
// server as the user of its owner. A server is reached on its own address,
// through the VRF of its network: the leaf's operator gets an address of that
// network from the API, puts it on the VRF's device and connects from there. A
// leaf that does not answer is left out.
func (e *Entrance) SSH(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	if i := slices.IndexFunc(e.Leaves, func(j Jump) bool { return j.Name == name }); i >= 0 {
		return e.ssh(ctx, e.leaf(e.Leaves[i]), args...), nil
	}
	c, err := client.New(client.Config{URL: e.URL, CAFile: e.CAFile, TokenFile: e.TokenFile})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	t, err := findTarget(ctx, c, name)
	if err != nil {
		return nil, err
	}
	var failed []error
	for _, j := range e.Leaves {
		if err := e.stand(ctx, c, j, t); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", j.Name, err))
			continue
		}
		through := e.ssh(ctx, e.leaf(j), "/bin/ip", "vrf", "exec", t.device, "nc", t.address, "22")
		return e.ssh(ctx, []string{"-o", "ProxyCommand=" + quoted(through.Args), "-o", "HostKeyAlias=" + t.allocation, "metal@" + t.address}, args...), nil
	}
	return nil, fault.Wrap(fault.Unavailable, "server "+name, "cannot be reached through any leaf", errors.Join(failed...))
}

// Console returns the command that opens the serial console of server n, which
// must have been allocated with the operator's key, as its owner does it. It
// has a terminal.
func (e *Entrance) Console(ctx context.Context, n int) *exec.Cmd {
	host, port, _ := strings.Cut(e.Consoles, ":")
	return e.ssh(ctx, []string{"-tt", "-p", port, "-o", "HostKeyAlias=consoles", UUID(n) + "@" + host})
}

// target is an installed server as leaves see it.
type target struct{ allocation, project, network, device, address string }

func findTarget(ctx context.Context, c *client.Client, name string) (target, error) {
	n, err := strconv.Atoi(strings.TrimPrefix(name, "m"))
	if err != nil {
		return target{}, fault.New(fault.Invalid, "server "+name, "is not a name of the lab", "servers are m1, m2 ..., leaves are "+strings.Join(leafNames, " and "))
	}
	got, err := client.Of(c, adminv2connect.NewMachineServiceClient).Get(ctx, &adminv2.MachineServiceGetRequest{Uuid: UUID(n)})
	if err != nil {
		return target{}, err
	}
	a := got.GetMachine().GetAllocation()
	for _, n := range a.GetNetworks() {
		if len(n.GetIps()) > 0 && n.GetVrf() != 0 {
			return target{a.GetUuid(), a.GetProject(), n.GetNetwork(), "vrf" + strconv.FormatUint(n.GetVrf(), 10), n.GetIps()[0]}, nil
		}
	}
	return target{}, fault.New(fault.Precondition, "server "+name, "has no address: nothing is installed on it", "allocate it with 'ingot machine create' and its --uuid")
}

// stand gives a leaf an address in the network of t and waits until t answers.
func (e *Entrance) stand(ctx context.Context, c *client.Client, j Jump, t target) error {
	address, err := addressOf(ctx, c, "lab-"+j.Name, t)
	if err != nil {
		return err
	}
	// The device is there when the leaf has a port in the VRF. A system that
	// has just been seen may need a moment until its routes are there.
	out, err := e.ssh(ctx, e.leaf(j), "/bin/ip addr replace "+address+" dev "+t.device+" && for i in $(seq 20); do "+
		"/bin/ip vrf exec "+t.device+" nc -w 2 "+t.address+" 22 </dev/null 2>/dev/null | grep -q ^SSH && exit; sleep 1; done; "+
		"echo ssh does not answer on "+t.address+"; exit 1").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// addressOf returns the address of t's network that goes by a name, new at first.
func addressOf(ctx context.Context, c *client.Client, name string, t target) (string, error) {
	family := apiv2.IPAddressFamily_IP_ADDRESS_FAMILY_V4
	if strings.Contains(t.address, ":") {
		family = apiv2.IPAddressFamily_IP_ADDRESS_FAMILY_V6
	}
	ips := client.Of(c, apiv2connect.NewIPServiceClient)
	list, err := ips.List(ctx, &apiv2.IPServiceListRequest{
		Project: t.project, Query: &apiv2.IPQuery{Name: &name, Network: &t.network, AddressFamily: &family},
	})
	if err != nil {
		return "", err
	}
	if len(list.GetIps()) > 0 {
		return list.GetIps()[0].GetIp(), nil
	}
	made, err := ips.Create(ctx, &apiv2.IPServiceCreateRequest{
		Project: t.project, Network: t.network, Name: &name, AddressFamily: &family,
	})
	return made.GetIp().GetIp(), err
}

// leaf are the arguments that lead to a leaf.
func (e *Entrance) leaf(j Jump) []string {
	return []string{"-p", strconv.Itoa(j.Port), "-o", "HostKeyAlias=" + j.Name, "root@127.0.0.1"}
}

// ssh returns a command with the operator's key that reads nobody's
// configuration.
func (e *Entrance) ssh(ctx context.Context, to []string, args ...string) *exec.Cmd {
	all := []string{
		"-F", "none", "-i", filepath.Join(e.Dir, keyFile), "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=accept-new",
		"-o", "UserKnownHostsFile=" + filepath.Join(e.Dir, hostsFile), "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5",
	}
	return exec.CommandContext(ctx, "ssh", append(append(all, to...), args...)...)
}

// quoted joins arguments for a shell.
func quoted(args []string) string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	return strings.Join(out, " ")
}
