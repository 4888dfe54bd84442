// Package cli is the command ingot, derived from the API's descriptors.
//
// Every service becomes a resource and every method a verb; the fields of a
// request become flags, and what comes back is printed by one table of
// columns. Only what descriptors cannot say is written out: texts, columns,
// and a few commands that are not one call (login, context, apply, edit, version,
// web, whoami).
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/ingot-cloud/ingot/client"
)

// Options are what a process hands to Main.
type Options struct {
	Args    []string // without the program's name
	In      io.Reader
	Out     io.Writer
	Err     io.Writer
	Env     func(string) string
	Version string // of this program
}

// Main runs ingot and returns its exit code. It ends early when ctx does.
func Main(ctx context.Context, o Options) int {
	a := &app{Options: o, now: time.Now}
	root := a.root()
	args := a.resolve(root, o.Args)
	root.SetArgs(args)
	root.SetIn(o.In)
	root.SetOut(o.Out)
	root.SetErr(o.Err)
	err := root.ExecuteContext(ctx)
	if ctx.Err() != nil && err != nil {
		err = context.Canceled
	}
	if err == nil {
		return exitOK
	}
	if !errors.Is(err, context.Canceled) && !errors.Is(err, errReported) {
		fmt.Fprintln(o.Err, "ingot: "+explain(err))
	}
	return exitCode(err)
}

// patience is how long a call is repeated while the server cannot be reached:
// long enough for a restart behind a load balancer, short for a wrong url.
const patience = time.Second

// errReported ends the program with exitFailed after the errors were printed.
var errReported = errors.New("reported")

// app is one run of the program.
type app struct {
	Options
	now func() time.Time

	// Flags of every command.
	context string
	flags   profile
	timeout time.Duration
	debug   bool
	print   printer

	calls map[*cobra.Command]*call // of the verbs in the tree
}

// root builds the tree of commands. The flags of a verb are added only when it
// is about to run: see resolve.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "ingot",
		Short:         "Work with an Ingot cloud",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noSuchCommand,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%v; see '%s --help'", err, c.CommandPath())
	})
	f := root.PersistentFlags()
	f.StringVar(&a.context, "context", "", "context to use instead of the current one")
	f.StringVar(&a.flags.APIURL, "api-url", "", "server, such as https://api.example.org:8443")
	f.StringVar(&a.flags.CAFile, "ca-file", "", "file with the certificate authority of the server")
	f.StringVar(&a.flags.Project, "project", "", "project to work in")
	f.BoolVar(&a.flags.Admin, "admin", false, "use the operators' methods where there are two")
	f.DurationVar(&a.timeout, "timeout", 30*time.Second, "how long to wait for an answer")
	f.BoolVar(&a.debug, "debug", false, "print requests, without secrets")
	f.StringVarP(&a.print.format, "output", "o", "", strings.Join(formats, "|"))
	f.StringVar(&a.print.template, "template", "", "Go template over the JSON of each object, with -o template")
	f.BoolVar(&a.print.noHeaders, "no-headers", false, "leave out the headers of tables")
	f.StringVar(&a.print.sortBy, "sort-by", "", "columns to sort by; -COLUMN sorts down")
	f.StringArrayVar(&a.print.filters, "filter", nil, "COLUMN=VALUE to show; also != ~ !~ > >= < <=")
	root.PersistentPreRunE = func(*cobra.Command, []string) error { return a.prepare() }
	a.addGlobalCompletion(root)

	root.AddGroup(&cobra.Group{ID: "resource", Title: "Resources:"}, &cobra.Group{ID: "tool", Title: "Tools:"})
	root.SetHelpCommandGroupID("tool")
	root.SetCompletionCommandGroupID("tool")
	for _, tool := range []*cobra.Command{
		a.applyCommand(), a.callCommand(), a.contextCommand(), a.loginCommand(), a.versionCommand(), a.webCommand(), a.whoamiCommand(),
	} {
		tool.GroupID = "tool"
		root.AddCommand(tool)
	}
	return root
}

// prepare checks the flags that every command has.
func (a *app) prepare() error {
	p := &a.print
	p.to, p.now = a.Out, a.now()
	if p.template != "" && p.format == "" {
		p.format = "template"
	}
	known := p.format == ""
	for _, f := range formats {
		known = known || f == p.format
	}
	switch {
	case !known:
		return usagef("--output %q is not one of %s", p.format, strings.Join(formats, ", "))
	case p.format == "template" && p.template == "":
		return usagef("--output template needs --template")
	case p.format != "template" && p.template != "":
		return usagef("--template goes with --output template")
	}
	if f, ok := a.Out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil {
			p.width = w
		}
	}
	return nil
}

// profile returns the server to speak to and how.
func (a *app) profile() (profile, error) {
	c, err := loadConfig(a.Env)
	if err != nil {
		return profile{}, err
	}
	return c.effective(a.Env, a.flags, a.context)
}

// dial returns a caller for the profile.
func (a *app) dial(p profile) (*caller, error) {
	if err := p.server(); err != nil {
		return nil, err
	}
	dialed, err := client.New(client.Config{URL: p.APIURL, CAFile: p.CAFile, Token: p.Token, Retry: client.Retry{For: patience}})
	if err != nil {
		return nil, err
	}
	c := &caller{Client: dialed, timeout: a.timeout}
	if a.debug {
		c.debug = a.Err
	}
	return c, nil
}

// interactive reports whether a person can answer questions.
func (a *app) interactive() bool {
	f, ok := a.In.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
