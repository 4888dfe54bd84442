// Package fault names the kinds of error Ingot knows, and nothing else.
//
// An error says the object, then the fact, then what to do:
//
//	fault.New(fault.NotFound, "ip 10.0.0.1", "not found", "list the addresses of the project with 'ingot ip list'")
//
// prints "ip 10.0.0.1: not found; list the addresses of the project with 'ingot ip list'". The kind travels with the error through any
// number of fmt.Errorf("...: %w", err) wraps and decides the status code in
// exactly one place, at the API.
package fault

import (
	"errors"
	"fmt"
)

// A Kind is a class of error. The list is closed: new kinds are appended, and
// existing ones keep their meaning.
type Kind uint8

const (
	// Internal is every error without a kind: a bug, or a broken environment.
	Internal Kind = iota
	// Invalid means that the request can never succeed as it is.
	Invalid
	// NotFound means that the object does not exist, or not for this caller.
	NotFound
	// Exists means that another object already has this identity.
	Exists
	// Conflict means that the object changed since the caller read it.
	Conflict
	// Precondition means that the system is not in a state that allows this;
	// the same request may succeed after something else has been done.
	Precondition
	// Exhausted means that a pool or a quota has nothing left.
	Exhausted
	// Denied means that the caller is known but may not do this.
	Denied
	// Unauthenticated means that the caller is not known.
	Unauthenticated
	// Unavailable means that trying again later, unchanged, may succeed.
	Unavailable
	// Unimplemented means that this build does not do this.
	Unimplemented
)

var names = [...]string{
	Internal:        "internal",
	Invalid:         "invalid",
	NotFound:        "not found",
	Exists:          "exists",
	Conflict:        "conflict",
	Precondition:    "precondition",
	Exhausted:       "exhausted",
	Denied:          "denied",
	Unauthenticated: "unauthenticated",
	Unavailable:     "unavailable",
	Unimplemented:   "unimplemented",
}

// String returns the kind in lower-case words.
func (k Kind) String() string {
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Error makes a Kind usable as the target of errors.Is.
func (k Kind) Error() string { return k.String() }

// An Error is a kind of error about an object.
type Error struct {
	Kind   Kind
	Object string // what it is about: "ip 10.0.0.1"; may be empty
	Fact   string // what is the case: "not found"
	Remedy string // what a person should do about it; may be empty
	Err    error  // the cause, if another error is the cause
}

// Error returns "object: fact: cause; remedy", leaving out what is empty.
func (e *Error) Error() string {
	s := e.Fact
	if e.Object != "" {
		s = e.Object + ": " + s
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is the kind of e.
func (e *Error) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && k == e.Kind
}

// New returns an error of the given kind: the object, the fact and what to do.
func New(kind Kind, object, fact, remedy string) *Error {
	return &Error{Kind: kind, Object: object, Fact: fact, Remedy: remedy}
}

// Newf returns an error of the given kind whose fact is formatted. A %w in
// the format is not supported; use Wrap for a cause.
func Newf(kind Kind, object, format string, args ...any) *Error {
	return &Error{Kind: kind, Object: object, Fact: fmt.Sprintf(format, args...)}
}

// Wrap returns an error of the given kind with a cause.
func Wrap(kind Kind, object, fact string, err error) *Error {
	return &Error{Kind: kind, Object: object, Fact: fact, Err: err}
}

// Do returns e with a remedy.
func (e *Error) Do(remedy string) *Error {
	c := *e
	c.Remedy = remedy
	return &c
}

// KindOf returns the kind of the outermost fault in err's chain, Internal if
// there is none. The kind of a nil error is Internal too; ask only for errors.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	var k Kind
	if errors.As(err, &k) {
		return k
	}
	return Internal
}
