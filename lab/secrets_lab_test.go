//go:build lab

package lab_test

import (
	"context"
	"testing"

	"github.com/ingot-cloud/ingot/lab"
)

// checkSecrets looks for every secret of the run in all that it left behind.
func checkSecrets(ctx context.Context, t *testing.T, d *lab.DataCenter) {
	t.Helper()
	r, err := d.Leaks(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Findings {
		t.Errorf("%s", f)
	}
	seen := map[string]bool{}
	for _, f := range r.Allowed {
		seen[f.Secret] = true
	}
	for _, secret := range []string{"admin token", "any token", "enrolment of leaf1", "enrolment of site1", "operator's ssh key"} {
		if !seen[secret] {
			t.Errorf("%s was not found where it belongs: the search is blind", secret)
		}
	}
	t.Logf("%d files and %d archives in them, %d MB; searched for %d secrets", r.Files, r.Members, r.Bytes>>20, r.Secrets)
}
