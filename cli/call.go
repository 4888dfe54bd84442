package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/ingot-cloud/ingot/client"
)

// A box lets connect carry a message whose type is only known when the command
// runs: it is a message because the one inside is.
type box struct{ proto.Message }

// A caller calls methods by their descriptors.
type caller struct {
	*client.Client
	timeout time.Duration // of a unary call; 0 is none
	debug   io.Writer     // nil if requests are not to be printed
}

// newMessage returns an empty message of the linked Go type.
func newMessage(d protoreflect.MessageDescriptor) protoreflect.Message {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		panic(fmt.Sprintf("%s is described but not linked: %v", d.FullName(), err))
	}
	return t.New()
}

// procedure is the path of a method: "/metalstack.api.v2.IPService/Get".
func procedure(m protoreflect.MethodDescriptor) string {
	return "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
}

// of returns a client for one method.
func (c *caller) of(m protoreflect.MethodDescriptor) *connect.Client[box, box] {
	fill := connect.WithResponseInitializer(func(_ connect.Spec, msg any) error {
		msg.(*box).Message = newMessage(m.Output()).Interface()
		return nil
	})
	return client.Of(c.Client, func(h connect.HTTPClient, url string, opts ...connect.ClientOption) *connect.Client[box, box] {
		return connect.NewClient[box, box](h, url+procedure(m), append(opts, connect.WithSchema(m), fill)...)
	})
}

// unary calls a method and returns its answer.
func (c *caller) unary(ctx context.Context, m protoreflect.MethodDescriptor, req protoreflect.Message) (protoreflect.Message, error) {
	res, _, err := c.at(ctx, m, req)
	return res, err
}

// at is unary; it also returns the revision at which the answer was true, as
// far as the server says so.
func (c *caller) at(ctx context.Context, m protoreflect.MethodDescriptor, req protoreflect.Message) (protoreflect.Message, int64, error) {
	if c.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	began := time.Now()
	res, err := c.of(m).CallUnary(ctx, connect.NewRequest(&box{req.Interface()}))
	c.trace(m, req, began, err)
	if err != nil {
		return nil, 0, err
	}
	return res.Msg.ProtoReflect(), client.Revision(res.Header()), nil
}

// stream calls a method that streams its answer, until it ends or each fails.
func (c *caller) stream(ctx context.Context, m protoreflect.MethodDescriptor, req protoreflect.Message, each func(protoreflect.Message) error) error {
	began := time.Now()
	res, err := c.of(m).CallServerStream(ctx, connect.NewRequest(&box{req.Interface()}))
	if err != nil {
		c.trace(m, req, began, err)
		return err
	}
	defer res.Close()
	for res.Receive() {
		if err := each(res.Msg().ProtoReflect()); err != nil {
			return err
		}
	}
	c.trace(m, req, began, res.Err())
	return res.Err()
}

// trace prints one call for --debug, without secrets.
func (c *caller) trace(m protoreflect.MethodDescriptor, req protoreflect.Message, began time.Time, err error) {
	if c.debug == nil {
		return
	}
	clean := proto.Clone(req.Interface()).ProtoReflect()
	mask(clean)
	b, merr := protojson.Marshal(clean.Interface())
	if merr != nil {
		b = []byte(merr.Error())
	}
	outcome := "ok"
	if err != nil {
		outcome = connect.CodeOf(err).String()
	}
	fmt.Fprintf(c.debug, "%s %s: %s in %s\n", strings.TrimPrefix(procedure(m), "/"), compact(b), outcome, short(time.Since(began)))
}

// mask replaces secrets in a message, at any depth.
func mask(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case secretFields[f.Name()] && f.Kind() == protoreflect.StringKind && !f.IsList() && !f.IsMap():
			m.Set(f, protoreflect.ValueOfString("***"))
		case secretFields[f.Name()] && f.Message() == nil:
			m.Clear(f)
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, e protoreflect.Value) bool { mask(e.Message()); return true })
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				mask(v.List().Get(i).Message())
			}
		case f.Message() != nil && !f.IsMap():
			mask(v.Message())
		}
		return true
	})
}
