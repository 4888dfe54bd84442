package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/ingot-cloud/ingot/console"
	"github.com/ingot-cloud/ingot/fault"
)

// shown is a message of a console: what it showed, how much is missing before,
// what is to be said about it, and who may write.
type shown interface {
	GetData() []byte
	GetLost() uint64
	GetNotice() string
	GetPen() string
	GetPenLost() bool
}

// isConsole reports whether a method streams a console that is to be shown as
// one.
func (k *call) isConsole(m protoreflect.MethodDescriptor) bool {
	_, ok := newMessage(m.Output()).Interface().(shown)
	return ok && k.print.format == ""
}

// A session is a console in use.
type session struct {
	*call
	screen    *console.Cleaner
	recording *console.Cleaner // nil if nothing is recorded
	typist    *typist          // nil if nothing is typed
	eol       string           // ends a line on the terminal

	mu   sync.Mutex // guards what follows, and the terminal
	seen bool       // something was shown
}

// console shows a console: on a terminal as the firmware draws it, elsewhere as
// text. What is said about it goes to the standard error. On a terminal, what
// is typed goes to the console, unless only reading is wanted.
func (k *call) console(ctx context.Context, m protoreflect.MethodDescriptor, req protoreflect.Message) (err error) {
	s := &session{call: k, screen: console.ForText(k.Out), eol: "\n"}
	f, ok := k.Out.(*os.File)
	drawn := ok && term.IsTerminal(int(f.Fd()))
	if drawn {
		s.screen = console.ForTerminal(k.Out)
	}
	write, take := m.Input().Fields().ByName("write"), m.Input().Fields().ByName("take")
	asked := req.Get(write).Bool() || req.Get(take).Bool()
	switch {
	case asked && k.readOnly:
		return usagef("--read-only does not go with --write and --take")
	case asked || drawn && k.interactive() && !k.readOnly:
		req.Set(write, protoreflect.ValueOfBool(true))
		req.Set(m.Input().Fields().ByName("follow"), protoreflect.ValueOfBool(true))
		s.typist = newTypist(s, m, req)
	}
	if k.record != "" {
		file, err := s.startRecord(k.record, req)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, file.Close()) }()
	}
	defer func() { err = errors.Join(err, s.screen.Close()) }()
	if s.typist != nil {
		var stop func()
		if ctx, stop, err = s.typist.start(ctx); err != nil {
			return err
		}
		defer stop()
	}
	err = k.caller.stream(ctx, m, req, func(msg protoreflect.Message) error { return s.show(ctx, msg.Interface().(shown)) })
	if errors.Is(context.Cause(ctx), errHangUp) {
		return nil
	}
	if err == nil && !s.seen {
		s.say("the console has shown nothing yet; --follow waits for more")
	}
	return err
}

// startRecord makes the file of a recording.
func (s *session) startRecord(name string, req protoreflect.Message) (io.Closer, error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fault.Wrap(fault.Precondition, "--record "+name, "cannot be made", err)
	}
	r, err := console.NewRecording(file, "machine "+req.Get(req.Descriptor().Fields().ByName("uuid")).String(), s.now)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	s.recording = console.ForTerminal(r)
	return file, nil
}

// say tells the person something about the console, on a line of its own.
func (s *session) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen || s.eol != "\n" {
		fmt.Fprint(s.Err, s.eol)
	}
	fmt.Fprint(s.Err, "ingot: "+strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", s.eol)+s.eol)
}

// show takes one message of the stream.
func (s *session) show(ctx context.Context, m shown) error {
	if n := m.GetLost(); n > 0 {
		s.say("%d bytes are missing here: they came too fast", n)
	}
	if err := s.draw(m.GetData()); err != nil {
		return err
	}
	if s.recording != nil {
		if _, err := s.recording.Write(m.GetData()); err != nil {
			return fault.Wrap(fault.Precondition, "--record "+s.record, "cannot be written", err)
		}
	}
	if m.GetNotice() != "" {
		s.say("%s", m.GetNotice())
	}
	if s.typist != nil {
		s.typist.pens(ctx, m)
	}
	return nil
}

// draw shows what the console showed.
func (s *session) draw(data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = s.seen || len(data) > 0
	_, err := s.screen.Write(data)
	return err
}
