package api_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"net"
	"testing"

	"connectrpc.com/connect"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// A site gets a certificate for its addresses on the service ports, and for
// nobody else's.
func TestSiteCertificate(t *testing.T) {
	w := newLeafWorld(t)
	ctx := t.Context()
	_, err := w.leaf.Register(ctx, connect.NewRequest(&ingotv1.LeafServiceRegisterRequest{Switch: testSwitch("leaf1"), Uplinks: []string{"Ethernet0"}}))
	check(t, err)
	f := testFabric()
	f.ServicePorts = []*ingotv1.ServicePort{{Switch: "leaf1", Port: "Ethernet1"}}
	_, err = dial(w.world, ingotv1connect.NewFabricServiceClient, w.world.admin).Put(ctx, connect.NewRequest(&ingotv1.FabricServicePutRequest{Fabric: f}))
	check(t, err)
	site := dial(w.world, ingotv1connect.NewSiteServiceClient, w.farEnd(ingotv1.FarEnd_FAR_END_SITE, "partition-1", "site1"))
	ask := func(partition string, addresses ...string) ([][]byte, error) {
		t.Helper()
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		check(t, err)
		r := &x509.CertificateRequest{DNSNames: []string{"api.example"}}
		for _, a := range addresses {
			r.IPAddresses = append(r.IPAddresses, net.ParseIP(a))
		}
		csr, err := x509.CreateCertificateRequest(rand.Reader, r, key)
		check(t, err)
		resp, err := site.Certificate(ctx, connect.NewRequest(&ingotv1.SiteServiceCertificateRequest{Partition: partition, Request: csr}))
		if err != nil {
			return nil, err
		}
		return resp.Msg.GetCertificates(), nil
	}
	const own = "fd00:b:0:100::9" // on the leaf's only port
	ders, err := ask("partition-1", own)
	check(t, err)
	cert, err := x509.ParseCertificate(ders[0])
	check(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(w.srv.CA())
	if _, err := cert.Verify(x509.VerifyOptions{DNSName: own, Roots: roots, CurrentTime: w.clock.Now()}); err != nil || len(cert.DNSNames) != 0 {
		t.Errorf("names %v: %v", cert.DNSNames, err)
	}
	_, err = ask("partition-1", own, "fd00:b:0:101::9")
	wantCode(t, err, connect.CodePermissionDenied, "")
	_, err = ask("partition-1", "fd00:b::1")
	wantCode(t, err, connect.CodePermissionDenied, "")
	_, err = ask("partition-1")
	wantCode(t, err, connect.CodeInvalidArgument, "")
	_, err = ask("partition-2", own)
	wantCode(t, err, connect.CodePermissionDenied, "")
}
