package bmc

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"

	"github.com/stmcginnis/gofish/schemas"

	"github.com/ingot-cloud/ingot/fault"
)

// A Truster has a server's firmware trust certificate authorities, for what it
// boots over the network.
type Truster interface {
	// Trust adds the authorities, in PEM, to those that the firmware trusts
	// from its next start on, and reports whether it had to. Others stay. It is
	// fault.Unimplemented if the BMC does not offer that.
	Trust(ctx context.Context, authorities []byte) (added bool, err error)
}

var _ Truster = (*Redfish)(nil)

// Trust implements Truster with the boot certificates of the system
// (ComputerSystem, Boot.Certificates).
func (r *Redfish) Trust(ctx context.Context, authorities []byte) (added bool, err error) {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	want, err := certificates(authorities)
	if err != nil {
		return false, fault.Wrap(fault.Invalid, r.object, "the authorities that its server shall trust", err)
	}
	c := r.client.WithContext(ctx)
	systems, err := c.Service.Systems()
	if err != nil {
		return false, explain(r.object, "read the server", err)
	}
	if len(systems) != 1 {
		return false, fault.Newf(fault.Unimplemented, r.object, "has %d servers; a BMC of exactly one is supported", len(systems))
	}
	at, err := bootCertificates(systems[0])
	if err != nil || at == "" {
		return false, fault.New(fault.Unimplemented, r.object, "takes no certificates for its server's firmware", "build iPXE with the partition's authority, or boot the unified kernel image")
	}
	held, err := schemas.GetCollectionObjects[schemas.Certificate](c, at)
	if err != nil {
		return false, explain(r.object, "read the certificates that the firmware trusts", err)
	}
	for _, w := range want {
		if holds(held, w) {
			continue
		}
		resp, err := c.Post(at, map[string]any{
			"CertificateType": schemas.PEMCertificateType, "CertificateString": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.Raw})),
		})
		if err != nil {
			return added, explain(r.object, "have the firmware trust an authority", err)
		}
		added = true
		if err := resp.Body.Close(); err != nil {
			return added, explain(r.object, "have the firmware trust an authority", err)
		}
	}
	return added, nil
}

// bootCertificates returns where the collection is; empty if there is none.
func bootCertificates(system *schemas.ComputerSystem) (string, error) {
	var doc struct {
		Boot struct {
			Certificates struct {
				ID string `json:"@odata.id"`
			}
		}
	}
	err := json.Unmarshal(system.RawData, &doc)
	return doc.Boot.Certificates.ID, err
}

// holds reports whether a certificate is among those that a BMC tells of.
func holds(held []*schemas.Certificate, want *x509.Certificate) bool {
	for _, h := range held {
		for rest := []byte(h.CertificateString); ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if bytes.Equal(block.Bytes, want.Raw) {
				return true
			}
		}
	}
	return false
}
