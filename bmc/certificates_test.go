package bmc_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/ingot-cloud/ingot/bmc"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/lab"
	"github.com/ingot-cloud/ingot/secret"
)

// firmware remembers what it was told to trust.
type firmware struct {
	mu    sync.Mutex
	trust [][]byte
	told  int
}

func (f *firmware) SetAuthorities(der [][]byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trust = der
	f.told++
	return nil
}

func authority(t *testing.T, serial int64) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// The firmware is told of an authority once, and keeps those it had.
func TestTrust(t *testing.T) {
	for _, able := range []bool{true, false} {
		fw, shell := &firmware{}, &lab.Shell{}
		cfg := lab.BMCConfig{Board: lists, Power: shell, Order: shell, Media: shell, User: "admin", Password: "s3cret-word", Dir: t.TempDir()}
		if able {
			cfg.Trust = fw
		}
		b, err := lab.NewBMC(cfg)
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = b.Serve(t.Context(), l) }() // ends with the test
		c, err := bmc.Open(t.Context(), bmc.Endpoint{Address: "https://" + l.Addr().String(), User: "admin", Password: secret.New("s3cret-word"), CA: b.CA()})
		if err != nil {
			t.Fatal(err)
		}
		one, two := authority(t, 1), authority(t, 2)
		if !able {
			if _, err := c.Trust(t.Context(), one); !errors.Is(err, fault.Unimplemented) {
				t.Errorf("a BMC that takes no certificates: %v", err)
			}
			continue
		}
		for _, step := range []struct {
			give    []byte
			added   bool
			trusted int
		}{{one, true, 1}, {one, false, 1}, {append(two, one...), true, 2}, {one, false, 2}} {
			added, err := c.Trust(t.Context(), step.give)
			if err != nil || added != step.added || len(fw.trust) != step.trusted {
				t.Errorf("added %t, trusts %d (%v); want %t, %d", added, len(fw.trust), err, step.added, step.trusted)
			}
		}
		if block, _ := pem.Decode(one); fw.told != 2 || string(fw.trust[0]) != string(block.Bytes) {
			t.Errorf("the firmware was told %d times, and not what was given", fw.told)
		}
		if _, err := c.Trust(t.Context(), []byte("no certificate")); !errors.Is(err, fault.Invalid) {
			t.Errorf("no certificate: %v", err)
		}
		c.Close(t.Context())
	}
}
