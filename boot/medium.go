package boot

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/ingot-cloud/ingot/fault"
)

// A Medium is what a partition's servers boot: the boot image, and with it
// everything it must trust. It holds no secret, and it is the same for every
// server of the partition.
type Medium struct {
	Partition string
	// Stub, Kernel and Initrd are the files of these names.
	Stub, Kernel, Initrd []byte
	// CommandLine of the partition. Where metal-boot is, is added to it.
	CommandLine string
	// Boot is metal-boot's url in the boot network.
	Boot *url.URL
	// CA is the PEM of the certificate authority that metal-boot's
	// certificate comes from. It lies inside the initrd, so that nothing on
	// the server has to trust us beforehand.
	CA []byte
}

// ISO returns the medium as an image of a bootable CD. The same medium gives
// the same bytes.
func (m Medium) ISO() ([]byte, error) {
	object := "boot medium of " + m.Partition
	switch {
	case m.Boot == nil || m.Boot.Scheme != "https":
		return nil, fault.New(fault.Invalid, object, "metal-boot has no https url", "")
	case !x509.NewCertPool().AppendCertsFromPEM(m.CA):
		return nil, fault.New(fault.Invalid, object, "the certificate authority is not PEM", "")
	case strings.ContainsAny(m.CommandLine, "\x00\n"):
		return nil, fault.New(fault.Invalid, object, "the command line has more than one line", "change the partition's boot configuration")
	}
	initrd, err := WithTrust(m.Initrd, m.CA)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", object, err)
	}
	efi, err := UKI{
		Stub:      m.Stub,
		Kernel:    m.Kernel,
		Initrd:    initrd,
		Cmdline:   commandLine(m.CommandLine, m.Boot),
		OSRelease: "ID=ingot\nNAME=\"Ingot boot image\"\nPRETTY_NAME=\"Ingot boot image\"\n",
	}.Bytes()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", object, err)
	}
	iso, err := ISO("INGOT_BOOT", efi)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", object, err)
	}
	return iso, nil
}

// commandLine is the partition's command line and where metal-boot is.
func commandLine(partition string, boot *url.URL) string {
	return strings.TrimSpace(strings.TrimSpace(partition) + " ingot.boot=" + boot.String())
}

// WithTrust returns an initrd with a partition's authority in it, as PEM, where
// the agent looks for it.
func WithTrust(initrd, ca []byte) ([]byte, error) {
	trust, err := trustArchive(ca)
	if err != nil {
		return nil, err
	}
	// Archives begin at multiples of four bytes.
	out := append(bytes.Clone(initrd), make([]byte, -len(initrd)&3)...)
	return append(out, trust...), nil
}

// trustArchive is the part of the initrd that differs between partitions.
func trustArchive(ca []byte) ([]byte, error) {
	var b bytes.Buffer
	w := cpio.Newc.Writer(&b)
	for _, r := range []cpio.Record{
		cpio.Directory("etc", 0o755),
		cpio.Directory("etc/ingot", 0o755),
		{ReaderAt: bytes.NewReader(ca), Info: cpio.Info{Name: "etc/ingot/ca.crt", Mode: cpio.S_IFREG | 0o644, FileSize: uint64(len(ca))}},
	} {
		if err := w.WriteRecord(r); err != nil {
			return nil, err
		}
	}
	err := cpio.WriteTrailer(w)
	return b.Bytes(), err
}
