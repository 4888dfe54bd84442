package lab

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// told are the files of a data centre's folder that a report has: consoles,
// logs and captures. Nothing that may hold a secret is among them.
var told = []string{"control/ingotd.log", "*/serial.log", "*.pcap"}

// asked are the questions to the API whose answers a report has. Timelines are
// asked for each machine.
var asked = [][]string{
	{"machine", "list", "--admin"},
	{"machine", "progress"},
	{"bmc", "list"},
	{"switch", "list"},
	{"image", "list"},
	{"component", "list"},
}

// Report writes a bug report into the data centre's folder and returns its
// name: what the API says of machines, BMCs and switches, every timeline, what
// the consoles showed, logs, captures, and versions. What cannot be had is
// named in it: a report of a data centre whose control plane is dead is the one
// that is needed most.
func (d *DataCenter) Report(ctx context.Context) (string, error) {
	name := filepath.Join(d.plan.Dir, "report-"+time.Now().UTC().Format("20060102T150405")+".tar.gz")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	zip := gzip.NewWriter(f)
	b := bundle{to: tar.NewWriter(zip), at: time.Now()}
	b.text("versions.txt", d.versions(ctx))
	for _, q := range asked {
		b.answer(ctx, d, strings.Join(q[:2], "-")+".yaml", q)
	}
	for n := range d.Servers {
		b.answer(ctx, d, "timeline-"+serverName(n+1)+".txt", []string{"machine", "timeline", UUID(n + 1), "--admin", "-o", "wide"})
	}
	for _, pattern := range told {
		files, err := filepath.Glob(filepath.Join(d.plan.Dir, pattern))
		b.fail(err)
		for _, file := range files {
			b.file(d.plan.Dir, file)
		}
	}
	if b.missing != nil {
		b.text("missing.txt", b.missing.Error()+"\n")
	}
	return name, errors.Join(b.err, b.to.Close(), zip.Close(), f.Close())
}

// A bundle is a report that is being written.
type bundle struct {
	to      *tar.Writer
	at      time.Time
	missing error // what could not be had
	err     error // why it cannot be written
}

func (b *bundle) fail(err error) { b.missing = errors.Join(b.missing, err) }

func (b *bundle) text(name, content string) {
	b.add(name, int64(len(content)), strings.NewReader(content))
}

func (b *bundle) add(name string, size int64, from io.Reader) {
	if b.err != nil {
		return
	}
	if b.err = b.to.WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o644, ModTime: b.at, Format: tar.FormatPAX}); b.err == nil {
		_, b.err = io.CopyN(b.to, from, size)
	}
}

// answer adds what the command line prints.
func (b *bundle) answer(ctx context.Context, d *DataCenter, name string, question []string) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if strings.HasSuffix(name, ".yaml") {
		question = append(question[:len(question):len(question)], "-o", "yaml")
	}
	out, err := d.Ingot(ctx, question...)
	if err != nil {
		b.fail(err)
		return
	}
	b.text(name, out+"\n")
}

// file adds a file as it is now; it may grow meanwhile.
func (b *bundle) file(dir, file string) {
	f, err := os.Open(file)
	if err != nil {
		b.fail(err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		b.fail(err)
		return
	}
	name, err := filepath.Rel(dir, file)
	if err != nil {
		b.fail(err)
		return
	}
	b.add(name, info.Size(), f)
}

// versions returns what the data centre is made of.
func (d *DataCenter) versions(ctx context.Context) string {
	var s strings.Builder
	for _, line := range [][]string{
		{filepath.Join(d.plan.Bin, "ingotd"), "version"}, {qemuProgram, "--version"}, {"uname", "-a"}, {"nproc"},
	} {
		out, err := exec.CommandContext(ctx, line[0], line[1:]...).CombinedOutput()
		first, _, _ := strings.Cut(string(out), "\n")
		fmt.Fprintf(&s, "%s: %s", filepath.Base(line[0]), first)
		if err != nil {
			fmt.Fprintf(&s, " (%v)", err)
		}
		s.WriteByte('\n')
	}
	if fw, err := d.cache.Firmware(ctx); err == nil {
		fmt.Fprintf(&s, "firmware: OVMF %s\n", fw.Version)
	}
	if p, err := d.cache.Parts(ctx); err == nil {
		fmt.Fprintf(&s, "kernel: %s\n", p.Version)
		if frr, err := packageVersion(filepath.Dir(p.Root), "frr"); err == nil {
			fmt.Fprintf(&s, "FRR: %s\n", frr)
		}
	}
	return s.String()
}
