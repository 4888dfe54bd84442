// Package secret has a string that does not print itself, and the key ring
// that seals such strings for storage.
package secret

import (
	"crypto/subtle"
	"fmt"
	"log/slog"
)

// Mask is what a String shows of itself, whatever it holds.
const Mask = "***"

// A String is a value that must not be seen: it prints as *** with every verb
// of fmt, in JSON, in text and in slog, also within other values. Reveal is
// the one way to the value. The zero String is empty.
//
// Two Strings are compared with Equal, not with ==.
type String struct {
	// A pointer, because fmt prints the fields of a struct that it may not
	// call methods on; of a pointer within a struct it prints the address.
	value *string
}

// New returns a String that holds s.
func New(s string) String {
	if s == "" {
		return String{}
	}
	return String{&s}
}

// Reveal returns the value. Do not store, log or wrap it.
func (s String) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// Empty reports whether there is no value.
func (s String) Empty() bool { return s.value == nil }

// Equal reports whether two values are the same, in a time that depends on
// their lengths only.
func (s String) Equal(t String) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(t.Reveal())) == 1
}

// String returns Mask.
func (s String) String() string { return Mask }

// GoString returns Mask.
func (s String) GoString() string { return Mask }

// Format writes Mask for every verb.
func (s String) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(Mask)) }

// MarshalText returns Mask, for JSON, YAML and their like.
func (s String) MarshalText() ([]byte, error) { return []byte(Mask), nil }

// MarshalBinary returns Mask.
func (s String) MarshalBinary() ([]byte, error) { return []byte(Mask), nil }

// UnmarshalText takes the value, so that configuration can be read.
func (s *String) UnmarshalText(b []byte) error {
	*s = New(string(b))
	return nil
}

// LogValue returns Mask.
func (s String) LogValue() slog.Value { return slog.StringValue(Mask) }
