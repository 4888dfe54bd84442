package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/ingot-cloud/ingot/fault"
)

// contextCommand is "ingot context": servers and how to speak to them.
func (a *app) contextCommand() *cobra.Command {
	c := &cobra.Command{Use: "context", Aliases: []string{"ctx"}, Short: "Keep servers and defaults under names", Args: noSuchCommand}
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	add := func(use, short string, args cobra.PositionalArgs, run func(cfg *config, args []string) error) *cobra.Command {
		s := &cobra.Command{Use: use, Short: short, Args: usageArgs(args), ValidArgsFunction: a.completeContext}
		s.RunE = func(_ *cobra.Command, args []string) error {
			cfg, err := loadConfig(a.Env)
			if err != nil {
				return err
			}
			return run(cfg, args)
		}
		c.AddCommand(s)
		return s
	}
	add("list", "List the contexts", cobra.NoArgs, a.listContexts)
	add("show [NAME]", "Show a context, without its token", cobra.MaximumNArgs(1), a.showContext)
	add("use NAME", "Make a context the current one", cobra.ExactArgs(1), func(cfg *config, args []string) error {
		if _, err := cfg.get(args[0]); err != nil {
			return err
		}
		cfg.Current = args[0]
		return cfg.save()
	})
	add("delete NAME", "Forget a context and its token", cobra.ExactArgs(1), func(cfg *config, args []string) error {
		if _, err := cfg.get(args[0]); err != nil {
			return err
		}
		delete(cfg.Contexts, args[0])
		if cfg.Current == args[0] {
			cfg.Current = ""
		}
		return cfg.save()
	})
	var tokenFile, partition string
	set := add("set NAME", "Create or change a context", cobra.ExactArgs(1), nil)
	set.Long = "Create or change a context. --api-url, --ca-file, --project and --admin are stored in it."
	set.Flags().StringVar(&tokenFile, "token-file", "", "file with the token to store")
	set.Flags().StringVar(&partition, "partition", "", "partition to use where one is required")
	set.RunE = func(c *cobra.Command, args []string) error {
		cfg, err := loadConfig(a.Env)
		if err != nil {
			return err
		}
		p := cfg.Contexts[args[0]]
		if p == nil {
			p = &profile{}
			cfg.Contexts[args[0]] = p
		}
		flags := a.flags
		if tokenFile != "" {
			if flags.Token, err = readToken(tokenFile); err != nil {
				return err
			}
		}
		if flags.CAFile != "" {
			if flags.CAFile, err = filepath.Abs(flags.CAFile); err != nil {
				return err
			}
		}
		*p = profile{
			APIURL: first(flags.APIURL, p.APIURL), CAFile: first(flags.CAFile, p.CAFile), Token: first(flags.Token, p.Token),
			Project: first(flags.Project, p.Project), Partition: first(partition, p.Partition), Admin: p.Admin,
		}
		if c.Flags().Changed("admin") {
			p.Admin = flags.Admin
		}
		if err := p.server(); err != nil {
			return err
		}
		if cfg.Current == "" {
			cfg.Current = args[0]
		}
		return cfg.save()
	}
	return c
}

func (a *app) listContexts(cfg *config, _ []string) error {
	lines := [][]string{{"", "NAME", "SERVER", "PROJECT", "PARTITION", "TOKEN"}}
	if a.print.noHeaders {
		lines = nil
	}
	for _, name := range contextNames(cfg) {
		p := cfg.Contexts[name]
		mark := ""
		if name == cfg.Current {
			mark = "*"
		}
		lines = append(lines, []string{mark, name, p.APIURL, p.Project, p.Partition, a.validity(p.Token)})
	}
	return a.print.lines(lines, widths(lines, a.print.width))
}

// validity says until when a token is good, and never the token.
func (a *app) validity(token string) string {
	c := claimsOf(token)
	switch {
	case token == "":
		return "none"
	case c == nil || c.Expires == 0:
		return "set"
	}
	left := time.Unix(c.Expires, 0).Sub(a.now())
	if left <= 0 {
		return "expired"
	}
	return "for " + short(left)
}

func (a *app) showContext(cfg *config, args []string) error {
	name := first(append(args, a.context, a.Env("INGOT_CONTEXT"), cfg.Current)...)
	if name == "" {
		return fault.New(fault.NotFound, "context", "none is current", "run 'ingot login' or 'ingot context use NAME'")
	}
	p, err := cfg.get(name)
	if err != nil {
		return err
	}
	fields := map[string]any{"name": name, "apiUrl": p.APIURL, "token": a.validity(p.Token)}
	for k, v := range map[string]string{"caFile": p.CAFile, "project": p.Project, "partition": p.Partition} {
		if v != "" {
			fields[k] = v
		}
	}
	if p.Admin {
		fields["admin"] = true
	}
	return a.record(fields, "name", "apiUrl", "caFile", "token", "project", "partition", "admin")
}

func contextNames(cfg *config) []string {
	var out []string
	for name := range cfg.Contexts {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// loginCommand is "ingot login": it tries a token and keeps it in a context.
func (a *app) loginCommand() *cobra.Command {
	var tokenFile, partition, name string
	c := &cobra.Command{
		Use:   "login --api-url URL --ca-file FILE --token-file FILE",
		Short: "Try a token and keep it in a context",
		Args:  usageArgs(cobra.NoArgs),
	}
	c.Flags().StringVar(&tokenFile, "token-file", "", "file with the token; the bootstrap token is admin.token in ingotd's data directory")
	c.Flags().StringVar(&partition, "partition", "", "partition to use where one is required")
	c.Flags().StringVar(&name, "name", "default", "name of the context")
	c.RunE = func(c *cobra.Command, _ []string) error { return a.login(c.Context(), name, tokenFile, partition) }
	return c
}

func (a *app) login(ctx context.Context, name, tokenFile, partition string) error {
	cfg, err := loadConfig(a.Env)
	if err != nil {
		return err
	}
	p := profile{}
	if old := cfg.Contexts[name]; old != nil {
		p = *old
	}
	p.APIURL = first(a.flags.APIURL, a.Env("INGOT_API_URL"), p.APIURL)
	p.CAFile = first(a.flags.CAFile, a.Env("INGOT_CA_FILE"), p.CAFile)
	p.Project = first(a.flags.Project, p.Project)
	p.Partition = first(partition, p.Partition)
	p.Admin = a.flags.Admin || p.Admin
	if tokenFile == "" && a.Env("INGOT_TOKEN") == "" {
		return usagef("no token; name its file with --token-file")
	}
	p.Token = a.Env("INGOT_TOKEN")
	if tokenFile != "" {
		if p.Token, err = readToken(tokenFile); err != nil {
			return err
		}
	}
	if p.CAFile != "" {
		if p.CAFile, err = filepath.Abs(p.CAFile); err != nil {
			return err
		}
	}
	caller, err := a.dial(p)
	if err != nil {
		return err
	}
	m := mustMethod("metalstack.api.v2.MethodService.TokenScopedList")
	if _, err := caller.unary(ctx, m, newMessage(m.Input())); err != nil {
		return err
	}
	cfg.Contexts[name] = &p
	cfg.Current = name
	if err := cfg.save(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.Out, "logged in to %s; context %s is kept in %s\n", p.APIURL, name, cfg.path)
	return err
}
