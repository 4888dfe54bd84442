package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/term"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/ingot-cloud/ingot/console"
	"github.com/ingot-cloud/ingot/fault"
)

// errHangUp ends a session because the person asked for it.
var errHangUp = errors.New("hung up")

const (
	// maxKeys is how much is sent at a time.
	maxKeys = 4096
	// keysAhead is how many pieces may be typed ahead of what is sent.
	keysAhead = 256
)

// A typist types on a console what comes from the standard input.
type typist struct {
	*session
	method  protoreflect.MethodDescriptor
	request protoreflect.Message // of the reading: the machine and the project
	typed   chan []byte
	pen     chan string // the pen, and "" when it is lost
}

func newTypist(s *session, read protoreflect.MethodDescriptor, req protoreflect.Message) *typist {
	name := "Write" + strings.TrimPrefix(string(read.Name()), "Read")
	return &typist{
		session: s, method: read.Parent().(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(name)), request: req,
		typed: make(chan []byte, keysAhead), pen: make(chan string, 2),
	}
}

// start types until the context ends that it returns, or stop is called. A
// terminal is raw as long.
func (t *typist) start(ctx context.Context) (session context.Context, stop func(), err error) {
	restore := func() {}
	if t.interactive() {
		fd := int(t.In.(*os.File).Fd())
		was, err := term.MakeRaw(fd)
		if err != nil {
			return nil, nil, fault.Wrap(fault.Internal, "terminal", "cannot be used", err)
		}
		restore = func() { _ = term.Restore(fd, was) } // there is nobody left to tell
		t.eol = "\r\n"
		t.say("you are on the machine's console; ~. ends, ~? helps")
	}
	ctx, end := context.WithCancelCause(ctx)
	go t.listen(ctx, end) // ends with the input, or with the program
	var sender sync.WaitGroup
	sender.Go(func() { t.send(ctx) }) // ends with ctx, or with the input
	return ctx, func() {
		end(nil)
		sender.Wait()
		restore()
	}, nil
}

// listen takes what is typed, and what the person asks of ingot.
func (t *typist) listen(ctx context.Context, end context.CancelCauseFunc) {
	defer close(t.typed)
	var escapes console.Escapes
	person := t.interactive()
	for {
		buf := make([]byte, maxKeys)
		n, err := t.In.Read(buf)
		typed, asked := buf[:n], []rune(nil)
		if person {
			typed, asked = escapes.Take(typed)
		}
		if len(typed) > 0 {
			select {
			case t.typed <- typed:
			case <-ctx.Done():
				return
			}
		}
		for _, a := range asked {
			switch a {
			case console.AskEnd:
				end(errHangUp)
				return
			case console.AskHelp:
				t.say("at the beginning of a line: ~. ends, ~~ types one ~, ~? shows this")
			}
		}
		if err != nil {
			if person || !errors.Is(err, io.EOF) { // the terminal is gone
				end(errHangUp)
			}
			return
		}
	}
}

// send sends what is typed while this session has the pen. What is typed
// without it goes nowhere.
func (t *typist) send(ctx context.Context) {
	var pen string
	select {
	case pen = <-t.pen:
	case <-ctx.Done():
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case pen = <-t.pen:
		case keys, more := <-t.typed:
			if !more {
				return
			}
			if keys = t.gather(keys); pen == "" {
				continue
			}
			if err := t.write(ctx, pen, keys); err != nil && ctx.Err() == nil {
				for len(t.typed) > 0 { // what was typed ahead makes no sense without it
					<-t.typed
				}
				t.say("%s", explain(err))
			}
		}
	}
}

// gather adds what has been typed meanwhile.
func (t *typist) gather(keys []byte) []byte {
	for len(keys) < maxKeys {
		select {
		case more, ok := <-t.typed:
			if !ok {
				return keys
			}
			keys = append(keys, more...)
		default:
			return keys
		}
	}
	return keys
}

// write sends keys with the pen.
func (t *typist) write(ctx context.Context, pen string, keys []byte) error {
	for piece := range slices.Chunk(keys, maxKeys) {
		req := newMessage(t.method.Input())
		fields := req.Descriptor().Fields()
		for _, name := range []protoreflect.Name{"uuid", "project"} {
			if f := fields.ByName(name); f != nil {
				req.Set(f, t.request.Get(t.request.Descriptor().Fields().ByName(name)))
			}
		}
		req.Set(fields.ByName("pen"), protoreflect.ValueOfString(pen))
		req.Set(fields.ByName("keys"), protoreflect.ValueOfBytes(piece))
		if _, err := t.caller.unary(ctx, t.method, req); err != nil {
			return err
		}
	}
	return nil
}

// pens takes what a message of the reading says about the pen.
func (t *typist) pens(ctx context.Context, m shown) {
	if m.GetPen() == "" && !m.GetPenLost() {
		return
	}
	select {
	case t.pen <- m.GetPen():
	case <-ctx.Done():
	}
}
