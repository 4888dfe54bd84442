package cli

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/term"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/ingot-cloud/ingot/console"
)

// shown is a message of a console: what it showed, how much is missing before,
// and what is to be said about it.
type shown interface {
	GetData() []byte
	GetLost() uint64
	GetNotice() string
}

// isConsole reports whether a method streams a console that is to be shown as
// one.
func (k *call) isConsole(m protoreflect.MethodDescriptor) bool {
	_, ok := newMessage(m.Output()).Interface().(shown)
	return ok && k.print.format == ""
}

// console shows a console: on a terminal as the firmware draws it, elsewhere as
// text. What is said about it goes to the standard error.
func (k *call) console(ctx context.Context, m protoreflect.MethodDescriptor, req protoreflect.Message) error {
	to, seen := console.ForText(k.Out), false
	if f, ok := k.Out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		to = console.ForTerminal(k.Out)
	}
	err := k.caller.stream(ctx, m, req, func(msg protoreflect.Message) error {
		s := msg.Interface().(shown)
		if n := s.GetLost(); n > 0 {
			fmt.Fprintf(k.Err, "\ningot: %d bytes are missing here: they came too fast\n", n)
		}
		seen = seen || len(s.GetData()) > 0
		if _, err := to.Write(s.GetData()); err != nil {
			return err
		}
		if s.GetNotice() != "" {
			fmt.Fprintf(k.Err, "\ningot: %s\n", s.GetNotice())
		}
		return nil
	})
	if end := to.Close(); err == nil {
		err = end
	}
	if err == nil && !seen {
		fmt.Fprintln(k.Err, "ingot: the console has shown nothing yet; --follow waits for more")
	}
	return err
}
