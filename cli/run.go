package cli

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/ingot-cloud/ingot/fault"
)

// A call is one use of a verb.
type call struct {
	*app
	verb    *verb
	subject *param            // what the argument is; nil if there is none
	inputs  map[string]*input // flags by name
	yes     bool
	watch   bool
	files   []string
	// What wipes are verified with.
	verify   bool
	keysFile string

	readOnly bool   // type nothing on a console
	record   string // file to record a console in

	profile profile
	caller  *caller
}

// open finds out whom to speak to.
func (k *call) open() error {
	p, err := k.app.profile()
	if err != nil {
		return err
	}
	k.profile = p
	k.caller, err = k.dial(p)
	return err
}

// run does what the command line says, once for each argument.
func (k *call) run(ctx context.Context, args []string) error {
	if err := k.open(); err != nil {
		return err
	}
	if len(k.files) > 0 {
		return k.createFiles(ctx)
	}
	if k.watch {
		return k.watchList(ctx)
	}
	if len(args) == 0 {
		return k.once(ctx, "")
	}
	var failed error
	for _, arg := range args {
		err := k.once(ctx, arg)
		if err == nil {
			continue
		}
		if len(args) == 1 || ctx.Err() != nil {
			return err
		}
		fmt.Fprintln(k.Err, "ingot: "+explain(err))
		failed = errReported
	}
	return failed
}

// once does it for one argument; an empty one means that none was given.
func (k *call) once(ctx context.Context, arg string) error {
	given, err := k.given(arg)
	if err != nil {
		return err
	}
	m, err := k.method(given)
	if err != nil {
		return err
	}
	req, err := k.request(m, given)
	if err != nil {
		return err
	}
	switch {
	case k.verb.name == "update":
		if !k.changes(given) {
			return usagef("%s %s: nothing to change; see '%s --help'", k.verb.resource.name, k.describe(given), "ingot "+k.verb.resource.name+" update")
		}
		return k.update(ctx, m, req)
	case k.verb.asks() && !k.yes:
		if err := k.confirm(ctx, k.verb.name+" "+k.verb.resource.name+" "+k.describe(given)); err != nil {
			return err
		}
	}
	if m.IsStreamingServer() {
		if k.isConsole(m) {
			return k.console(ctx, m, req)
		}
		return k.caller.stream(ctx, m, req, k.chunk)
	}
	res, err := k.caller.unary(ctx, m, req)
	if err != nil {
		return err
	}
	if err := k.answer(m, res, k.describe(given)); err != nil || !k.verify && k.keysFile == "" {
		return err
	}
	return k.verifyWipes(ctx, res)
}

// changes reports whether a flag says more than which object is meant.
func (k *call) changes(given map[string][]string) bool {
	for name := range given {
		if name != k.subject.name && !scopes[name] {
			return true
		}
	}
	return false
}

// given collects the values of flags and of the argument by parameter.
func (k *call) given(arg string) (map[string][]string, error) {
	out := map[string][]string{}
	for name, in := range k.inputs {
		if len(in.values) > 0 {
			out[name] = in.values
		}
	}
	if k.flags.Project != "" {
		out["project"] = []string{k.flags.Project}
	}
	if arg != "" {
		if _, twice := out[k.subject.name]; twice && k.subject.name != "project" {
			return nil, usagef("%s is given twice: as argument and as --%s", k.subject.name, k.subject.name)
		}
		out[k.subject.name] = []string{arg}
	}
	return out, nil
}

// fallback is the default or the profile's value of a parameter that was not
// given.
func (k *call) fallback(m protoreflect.MethodDescriptor, p param, given map[string][]string) string {
	if v := defaults[m.FullName()][p.name]; v != "" {
		return v
	}
	if p.kind != scalar || p.field().Kind() != protoreflect.StringKind {
		return ""
	}
	if !p.field().HasOptionalKeyword() || (p.name == "partition" && defaultPartition[m.FullName()] && given["uuid"] == nil) {
		return k.profile.scope(p.name)
	}
	return ""
}

// method chooses between the members' and the operators' method: the only one
// there is; the only one that has all given flags; the operators' if --admin
// or the context says so; the members' if everything it requires is known,
// otherwise the operators', unless something is to be deleted.
func (k *call) method(given map[string][]string) (protoreflect.MethodDescriptor, error) {
	v := k.verb
	if v.operator == nil {
		return v.member, nil
	}
	if v.member == nil {
		return v.operator, nil
	}
	var member, operator string // a flag that only their method has
	for name := range given {
		switch in := k.inputs[name]; {
		case in == nil || in.member == in.operator:
		case in.operator:
			operator = name
		case name != "project": // which operators need not name
			member = name
		}
	}
	switch {
	case member != "" && operator != "":
		return nil, usagef("--%s is for members and --%s for operators: they do not go together", member, operator)
	case member != "" && k.flags.Admin:
		return nil, usagef("--%s does not go with --admin", member)
	case member != "":
		return v.member, nil
	case operator != "" || k.profile.Admin:
		return v.operator, nil
	}
	for _, name := range required(v.member) {
		switch {
		case given[name] != nil || k.profile.scope(name) != "":
		case v.name == "delete":
			// To delete as operator may mean more: it forgets a machine that
			// a member only gives back. So it must be said.
			return nil, usagef("%s: not given; use --%s, or --admin to delete as operator", name, name)
		default:
			return v.operator, nil
		}
	}
	return v.member, nil
}

// request builds the request of a method.
func (k *call) request(m protoreflect.MethodDescriptor, given map[string][]string) (protoreflect.Message, error) {
	req := newMessage(m.Input())
	if q := m.Input().Fields().ByName("query"); q != nil {
		req.Mutable(q)
	}
	known := map[string]bool{}
	for _, p := range paramsOf(m) {
		known[p.name] = true
		values := given[p.name]
		if values == nil {
			if v := k.fallback(m, p, given); v != "" {
				values = []string{v}
			}
		}
		if values == nil {
			if p.name == "project" && slices.Contains(required(m), "project") && k.verb.operator == nil {
				return nil, usagef("project: not given; use --project, or set one in the context")
			}
			if k.subject != nil && p.name == k.subject.name && !p.field().HasOptionalKeyword() {
				return nil, usagef("%s: not given", p.name)
			}
			continue
		}
		if err := p.set(req, values, k.now()); err != nil {
			return nil, usagef("--%s: %v", p.name, err)
		}
	}
	for name := range given {
		if !known[name] && name != "project" {
			return nil, usagef("--%s does not go with these flags", name)
		}
	}
	return req, nil
}

// describe names what the call is about: "web1", or its flags.
func (k *call) describe(given map[string][]string) string {
	if k.subject != nil && given[k.subject.name] != nil {
		return given[k.subject.name][0]
	}
	var out []string
	for name, v := range given {
		out = append(out, name+"="+strings.Join(v, ","))
	}
	sort.Strings(out)
	return strings.Join(out, " ")
}

// confirm asks before something is done that cannot be undone.
func (k *call) confirm(ctx context.Context, what string) error {
	if !k.interactive() {
		return fault.New(fault.Invalid, what, "nobody is there to confirm it", "use --yes")
	}
	fmt.Fprintf(k.Err, "%s? [y/N] ", what)
	line := make(chan string, 1)
	go func() { // ends with a line, or with the program
		s, _ := bufio.NewReader(k.In).ReadString('\n')
		line <- s
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(k.Err)
		return context.Canceled
	case s := <-line:
		if !slices.Contains([]string{"y", "yes"}, strings.ToLower(strings.TrimSpace(s))) {
			return usagef("%s: not confirmed", what)
		}
		return nil
	}
}

// answer prints what a method returned.
func (k *call) answer(m protoreflect.MethodDescriptor, res protoreflect.Message, what string) error {
	p := k.print
	f := payload(m.Output())
	switch {
	case m.Output().Fields().Len() == 0:
		if p.format == "" || p.format == "table" || p.format == "wide" {
			_, err := fmt.Fprintf(k.Out, "%s %s: %s done\n", k.verb.resource.name, what, k.verb.name)
			return err
		}
		return nil
	case f == nil:
		if o := k.verb.resource.message; p.format == "name" && o != nil && part(res, o) != nil {
			res = part(res, o) // the token's id, not its secret
		}
		return p.one(res)
	case f.IsList() || f.IsMap():
		return p.many(elementOf(f), entries(res.Get(f), f), f.IsMap())
	case !res.Has(f):
		return nil
	}
	body := res.Get(f).Message()
	if p.format != "" {
		return p.one(body)
	}
	switch {
	case k.verb.name == "delete":
		_, err := fmt.Fprintf(k.Out, "%s %s: deleted\n", k.verb.resource.name, what)
		return err
	case body.Descriptor().FullName() == timelineName:
		return p.timeline(body)
	case k.verb.name == "describe" && layoutOf(body.Descriptor(), false).each == nil:
		return p.one(body)
	}
	p.format = "table"
	return p.one(body)
}

// chunk prints one message of a stream, as JSON if nothing else is asked for.
func (k *call) chunk(m protoreflect.Message) error {
	p := k.print
	if p.format == "" {
		p.format = "json"
	}
	return p.one(m)
}
