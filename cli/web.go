package cli

import (
	"context"
	"fmt"
	"html/template"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/metalstack/api/v2/apiv2connect"

	"github.com/ingot-cloud/ingot/client"
	"github.com/ingot-cloud/ingot/fault"
)

// What the page calls: its token is good for this and nothing else. In
// particular it opens no console, shows no password and makes no other token,
// all of which an operator who may only look can do.
var (
	pageAdmin = []string{
		"/ingot.v1.BMCService/List", "/ingot.v1.FabricService/Get", "/ingot.v1.FabricService/Sites", "/ingot.v1.TimelineService/GetAny",
		"/ingot.v1.TimelineService/ListAny", "/ingot.v1.WatchService/All", "/metalstack.admin.v2.MachineService/List", "/metalstack.admin.v2.SwitchService/List",
	}
	pageSelf = []string{"/metalstack.api.v2.PartitionService/List"}
)

// pageLife is how long the page's token is good: a long working day.
const pageLife = 12 * time.Hour

// webCommand is "ingot web": the address of the server's page with a token.
func (a *app) webCommand() *cobra.Command {
	life, open := pageLife, false
	c := &cobra.Command{
		Use:   "web",
		Short: "Make an address of the server's page, with a token to look at it",
		Long: `Make an address of the server's page, with a token to look at it.

The token can look at machines, leaves and partitions of the whole cloud, and
do nothing else. Whoever has the address can, until the token expires or is
revoked: 'ingot token list', 'ingot token revoke'.`,
		Args: usageArgs(cobra.NoArgs),
	}
	c.Flags().DurationVar(&life, "expires", life, "how long the token is good, at least 10 min")
	c.Flags().BoolVar(&open, "open", false, "open it in the browser, too")
	c.RunE = func(c *cobra.Command, _ []string) error {
		address, err := a.pageAddress(c.Context(), life)
		if err != nil {
			return err
		}
		if open {
			if err := a.openPage(c.Context(), address); err != nil {
				return err
			}
		}
		_, err = fmt.Fprintln(a.Out, address)
		return err
	}
	return c
}

// pageAddress makes a token and returns the address of the page with it.
func (a *app) pageAddress(ctx context.Context, life time.Duration) (string, error) {
	p, err := a.profile()
	if err != nil {
		return "", err
	}
	caller, err := a.dial(p)
	if err != nil {
		return "", err
	}
	if a.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.timeout)
		defer cancel()
	}
	t, err := client.Of(caller.Client, apiv2connect.NewTokenServiceClient).Create(ctx, &apiv2.TokenServiceCreateRequest{
		Description: "ingot web", Expires: durationpb.New(life), Permissions: []*apiv2.PermissionsByVisibility{
			{Visibility: &apiv2.PermissionsByVisibility_Admin{Admin: &apiv2.AdminPermissions{Methods: pageAdmin}}},
			{Visibility: &apiv2.PermissionsByVisibility_Self{Self: &apiv2.SelfPermissions{Methods: pageSelf}}},
		},
	})
	if err != nil {
		return "", err
	}
	// Browsers keep the fragment to themselves: no server and no proxy sees it.
	return strings.TrimSuffix(p.APIURL, "/") + "/ui/#" + url.Values{"token": {t.GetSecret()}}.Encode(), nil
}

var redirect = template.Must(template.New("").Parse(`<!doctype html>
<meta charset="utf-8"><meta name="referrer" content="no-referrer"><meta http-equiv="refresh" content="0; url={{.}}"><title>Ingot</title>
`))

// openPage opens an address in the browser. Command lines are for everybody on
// the machine to read, so the address goes by a file that only its owner can
// read, beside the one with the other tokens.
func (a *app) openPage(ctx context.Context, address string) error {
	path, err := configPath(a.Env)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".web-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := redirect.Execute(f, address); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	page := filepath.Join(filepath.Dir(path), "web.html")
	if err := os.Rename(f.Name(), page); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "xdg-open", page)
	cmd.Stderr = a.Err
	if err := cmd.Run(); err != nil {
		return fault.Wrap(fault.Precondition, "browser", "cannot be opened", err).Do("open the address that 'ingot web' prints without --open")
	}
	return nil
}
