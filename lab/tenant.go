package lab

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
)

// A Project is a project with a private network in the data centre.
type Project struct{ ID, Network string }

// NewProject makes a project and its private network, as a user would.
func (d *DataCenter) NewProject(ctx context.Context, name string) (Project, error) {
	var p Project
	var err error
	if p.ID, err = d.Ingot(ctx, "project", "create", "--name", name, "--login", "ingot", "-o", "template", "--template", "{{.uuid}}"); err != nil {
		return p, err
	}
	p.Network, err = d.Ingot(ctx, "network", "create", "--project", p.ID, "--partition", Partition, "--type", "child", "--name", name, "-o", "template", "--template", "{{.id}}")
	return p, err
}

// Allocate allocates server n for a project, with an image, and with the
// operator's ssh key.
func (d *DataCenter) Allocate(ctx context.Context, n int, p Project, image string) error {
	_, err := d.Ingot(ctx, "machine", "create", "--project", p.ID, "--uuid", UUID(n), "--allocation-type", "machine",
		"--name", serverName(n), "--hostname", serverName(n), "--image", image, "--networks", "network="+p.Network, "--ssh-public-keys", d.key, "--userdata", d.userdata(n))
	return err
}

// userdata returns what the owner of server n hands to its system: a secret.
func (d *DataCenter) userdata(n int) string {
	if d.handed == nil {
		d.handed = map[int]string{}
	}
	if d.handed[n] == "" {
		d.handed[n] = "password: " + rand.Text()
	}
	return d.handed[n]
}

// SSH runs a command on a leaf, or on an installed server through its VRF, and
// returns what it prints.
func (d *DataCenter) SSH(ctx context.Context, name string, args ...string) (string, error) {
	cmd, err := d.Entrance.SSH(ctx, name, args...)
	if err != nil {
		return "", err
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// The images of the catalogue; those after the first only if the Plan has them.
const (
	Busybox  = "busybox-1.0.0"
	Busybox2 = "busybox-2.0.0"
	Debian   = "debian-12.0.0"
)

// Images returns the ids of the operating systems that a server can get.
func Images() []string { return []string{Busybox, Debian} }

// osImage is an image as the catalogue describes it.
type osImage struct {
	ID, Name, Path, SHA256 string
	Size                   int64
	file                   string
}

// buildImages makes the images that are offered.
func (d *DataCenter) buildImages(ctx context.Context) error {
	busybox, err := d.cache.BusyboxImage(ctx, filepath.Join(d.plan.Bin, "lldpsender"), "")
	if err != nil {
		return err
	}
	d.images = []osImage{{ID: Busybox, Name: "Busybox, a small system for trying things", Path: "/busybox.tar.zst", file: busybox}}
	if d.plan.Releases {
		second, err := d.cache.BusyboxImage(ctx, filepath.Join(d.plan.Bin, "lldpsender"), "2")
		if err != nil {
			return err
		}
		d.images = append(d.images, osImage{ID: Busybox2, Name: "Busybox, its second release", Path: "/busybox2.tar.zst", file: second})
	}
	if d.plan.Debian {
		debian, err := d.cache.DebianImage(ctx)
		if err != nil {
			return err
		}
		d.images = append(d.images, osImage{ID: Debian, Name: "Debian 12", Path: "/debian.tar.zst", file: debian})
	}
	for n := range d.images {
		i := &d.images[n]
		if i.SHA256, err = hashFile(i.file); err != nil {
			return err
		}
		info, err := os.Stat(i.file)
		if err != nil {
			return err
		}
		i.Size = info.Size()
	}
	return nil
}

// Reinstall puts another image on server n.
func (d *DataCenter) Reinstall(ctx context.Context, n int, project, image string) error {
	_, err := d.Ingot(ctx, "machine", "reinstall", UUID(n), "--project", project, "--image", image, "--yes")
	return err
}

// Free deletes the allocation of server n.
func (d *DataCenter) Free(ctx context.Context, n int, project string) error {
	_, err := d.Ingot(ctx, "machine", "delete", UUID(n), "--project", project, "--yes")
	return err
}
