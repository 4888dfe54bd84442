package cli

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/ingot-cloud/ingot/fault"
)

// callCommand is "ingot call": any method, also those for programs.
func (a *app) callCommand() *cobra.Command {
	data := "{}"
	c := &cobra.Command{
		Use:     "call SERVICE/METHOD",
		Short:   "Call any method of the API with JSON",
		Example: `  ingot call metalstack.infra.v2.SwitchService/Get -d '{"id": "leaf1"}'`,
		Args:    usageArgs(cobra.ExactArgs(1)),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var out []string
			for _, m := range methods() {
				out = append(out, strings.TrimPrefix(procedure(m), "/"))
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		},
	}
	c.Flags().StringVarP(&data, "data", "d", data, "request as JSON; @FILE reads a file, - the standard input")
	c.RunE = func(c *cobra.Command, args []string) error { return a.callMethod(c.Context(), args[0], data) }
	return c
}

func (a *app) callMethod(ctx context.Context, name, data string) error {
	full := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(name, "/"), "/", "."))
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(full)
	m, ok := d.(protoreflect.MethodDescriptor)
	if err != nil || !ok {
		return fault.New(fault.Invalid, "method "+name, "not known", "write it like metalstack.api.v2.IPService/List")
	}
	if data == "-" {
		b, err := io.ReadAll(a.In)
		if err != nil {
			return err
		}
		data = string(b)
	} else if data, err = fromFile(data); err != nil {
		return err
	}
	req := newMessage(m.Input())
	if err := protojson.Unmarshal([]byte(data), req.Interface()); err != nil {
		return usagef("--data: %v", err)
	}
	p, err := a.profile()
	if err != nil {
		return err
	}
	caller, err := a.dial(p)
	if err != nil {
		return err
	}
	out := a.print
	if out.format == "" {
		out.format = "json"
	}
	if m.IsStreamingServer() {
		return caller.stream(ctx, m, req, out.one)
	}
	res, err := caller.unary(ctx, m, req)
	if err != nil {
		return err
	}
	return out.one(res)
}

// mustMethod returns a method that is linked in.
func mustMethod(name protoreflect.FullName) protoreflect.MethodDescriptor {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		panic(err)
	}
	return d.(protoreflect.MethodDescriptor)
}

// versionCommand is "ingot version": of this program and of the server.
func (a *app) versionCommand() *cobra.Command {
	var only bool
	c := &cobra.Command{Use: "version", Short: "Show the versions of ingot and of the server", Args: usageArgs(cobra.NoArgs)}
	c.Flags().BoolVar(&only, "client", false, "do not ask the server")
	c.RunE = func(c *cobra.Command, _ []string) error {
		out := map[string]any{"client": a.Version}
		if !only {
			v, err := a.ask(c.Context(), "metalstack.api.v2.VersionService.Get")
			if err != nil {
				return err
			}
			out["server"] = v["version"]
		}
		return a.record(out, "client", "server")
	}
	return c
}

// ask calls a method without parameters and returns its answer as JSON.
func (a *app) ask(ctx context.Context, name protoreflect.FullName) (map[string]any, error) {
	p, err := a.profile()
	if err != nil {
		return nil, err
	}
	caller, err := a.dial(p)
	if err != nil {
		return nil, err
	}
	m := mustMethod(name)
	res, err := caller.unary(ctx, m, newMessage(m.Input()))
	if err != nil {
		return nil, err
	}
	j, err := protojson.Marshal(res.Interface())
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	return out, json.Unmarshal(j, &out)
}

// record prints fields in the given order: as lines, JSON or YAML.
func (a *app) record(fields map[string]any, order ...string) error {
	var b bytes.Buffer
	b.WriteByte('{')
	for _, name := range order {
		v, ok := fields[name]
		if !ok || v == nil {
			continue
		}
		j, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q:%s", name, j)
	}
	b.WriteByte('}')
	return a.print.document(b.Bytes())
}

// whoamiCommand is "ingot whoami": what the token in use says and may do.
func (a *app) whoamiCommand() *cobra.Command {
	c := &cobra.Command{Use: "whoami", Short: "Show whom the server takes you for, and what you may do", Args: usageArgs(cobra.NoArgs)}
	c.RunE = func(c *cobra.Command, _ []string) error {
		p, err := a.profile()
		if err != nil {
			return err
		}
		may, err := a.ask(c.Context(), "metalstack.api.v2.MethodService.TokenScopedList")
		if err != nil {
			return err
		}
		out := map[string]any{"server": p.APIURL}
		if claims := claimsOf(p.Token); claims != nil {
			out["user"], out["token"] = claims.Subject, claims.ID
			if claims.Expires > 0 {
				out["expires"] = time.Unix(claims.Expires, 0).UTC().Format(time.RFC3339)
			}
		}
		for _, role := range []string{"adminRole", "infraRole", "projectRoles", "tenantRoles", "machineRoles"} {
			if v, ok := may[role]; ok {
				out[role] = roleWords(v)
			}
		}
		if l, ok := may["permissions"].([]any); ok {
			n := 0
			for _, e := range l {
				ms, _ := e.(map[string]any)["methods"].([]any)
				n += len(ms)
			}
			out["methods"] = n
		}
		return a.record(out, "server", "user", "token", "expires", "adminRole", "infraRole", "projectRoles", "tenantRoles", "machineRoles", "methods")
	}
	return c
}

// roleWords turns the wire's names of roles into the words people write.
func roleWords(v any) any {
	switch x := v.(type) {
	case string:
		_, word, _ := strings.Cut(x, "_ROLE_")
		return strings.ToLower(word)
	case map[string]any:
		for k, e := range x {
			x[k] = roleWords(e)
		}
	}
	return v
}

// claims are what a token says about itself (RFC 7519). They are shown, never
// trusted.
type claims struct {
	Subject string `json:"sub"`
	ID      string `json:"jti"`
	Expires int64  `json:"exp"`
}

// claimsOf reads the claims of a token without checking it; nil if it has none.
func claimsOf(token string) *claims {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil
	}
	var c claims
	if json.Unmarshal(b, &c) != nil {
		return nil
	}
	return &c
}

// readToken reads a token from a file.
func readToken(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fault.Wrap(fault.Precondition, "token-file", "cannot be read", err)
	}
	t := strings.TrimSpace(string(b))
	if claimsOf(t) == nil {
		return "", fault.New(fault.Invalid, "token-file "+path, "holds no token", "name the file that ingotd or 'ingot token create' wrote")
	}
	return t, nil
}
