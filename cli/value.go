package cli

import (
	"encoding/base64"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	timestampName = protoreflect.FullName("google.protobuf.Timestamp")
	durationName  = protoreflect.FullName("google.protobuf.Duration")
	labelsName    = protoreflect.FullName("metalstack.api.v2.Labels")
	newLabelsName = protoreflect.FullName("metalstack.api.v2.UpdateLabels")
)

// enumWord returns how people write an enum value: its enum_string_value, or
// its name without the enum's prefix, in lower case.
func enumWord(v protoreflect.EnumValueDescriptor) string {
	if o := v.Options(); proto.HasExtension(o, apiv2.E_EnumStringValue) {
		return proto.GetExtension(o, apiv2.E_EnumStringValue).(string)
	}
	if word := enumName(v); v.Number() != 0 || word != "unspecified" {
		return word
	}
	return ""
}

func enumName(v protoreflect.EnumValueDescriptor) string {
	prefix := strings.ToUpper(strings.ReplaceAll(kebab(string(v.Parent().Name())), "-", "_")) + "_"
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(string(v.Name()), prefix)), "_", "-")
}

// enumWords returns every value of an enum that can be asked for.
func enumWords(e protoreflect.EnumDescriptor) []string {
	var out []string
	for i := range e.Values().Len() {
		if w := enumWord(e.Values().Get(i)); w != "" && w != "unspecified" {
			out = append(out, w)
		}
	}
	return out
}

// parseEnum understands the word and the name, with and without its prefix, in
// any case.
func parseEnum(e protoreflect.EnumDescriptor, s string) (protoreflect.EnumNumber, error) {
	fold := func(s string) string {
		return strings.ToLower(strings.NewReplacer(" ", "", "-", "", "_", "").Replace(s))
	}
	for i := range e.Values().Len() {
		v := e.Values().Get(i)
		if s != "" && (string(v.Name()) == s || fold(enumWord(v)) == fold(s) || fold(enumName(v)) == fold(s)) {
			return v.Number(), nil
		}
	}
	return 0, fmt.Errorf("%q is not one of %s", s, strings.Join(enumWords(e), ", "))
}

// parseScalar parses one value of a field that is not a message.
func parseScalar(f protoreflect.FieldDescriptor, s string) (protoreflect.Value, error) {
	switch f.Kind() {
	case protoreflect.StringKind:
		s, err := fromFile(s)
		return protoreflect.ValueOfString(s), err
	case protoreflect.BytesKind:
		if strings.HasPrefix(s, "@") {
			s, err := fromFile(s)
			return protoreflect.ValueOfBytes([]byte(s)), err
		}
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return protoreflect.Value{}, fmt.Errorf("%q is neither base64 nor @FILE", s)
		}
		return protoreflect.ValueOfBytes(b), nil
	case protoreflect.BoolKind:
		b, err := strconv.ParseBool(s)
		if err != nil {
			return protoreflect.Value{}, fmt.Errorf("%q is neither true nor false", s)
		}
		return protoreflect.ValueOfBool(b), nil
	case protoreflect.EnumKind:
		n, err := parseEnum(f.Enum(), s)
		return protoreflect.ValueOfEnum(n), err
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		n, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return protoreflect.Value{}, fmt.Errorf("%q is not a number", s)
		}
		if f.Kind() == protoreflect.FloatKind {
			return protoreflect.ValueOfFloat32(float32(n)), nil
		}
		return protoreflect.ValueOfFloat64(n), nil
	default:
		return parseInteger(f, s)
	}
}

func parseInteger(f protoreflect.FieldDescriptor, s string) (v protoreflect.Value, err error) {
	switch f.Kind() {
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		var n uint64
		n, err = strconv.ParseUint(s, 10, 32)
		v = protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		var n uint64
		n, err = strconv.ParseUint(s, 10, 64)
		v = protoreflect.ValueOfUint64(n)
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		var n int64
		n, err = strconv.ParseInt(s, 10, 32)
		v = protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		var n int64
		n, err = strconv.ParseInt(s, 10, 64)
		v = protoreflect.ValueOfInt64(n)
	default:
		return v, fmt.Errorf("a %s cannot be given as a flag; use -f", f.Kind())
	}
	if err != nil {
		return v, fmt.Errorf("%q is not a number that fits %s", s, f.Kind())
	}
	return v, nil
}

// fromFile returns the content of FILE for "@FILE", "@x" for "@@x", and any
// other string as it is. One newline at the end of a file is dropped.
func fromFile(s string) (string, error) {
	rest, at := strings.CutPrefix(s, "@")
	switch {
	case !at:
		return s, nil
	case strings.HasPrefix(rest, "@"):
		return rest, nil
	}
	b, err := os.ReadFile(rest)
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(string(b), "\n"), nil
}

// parseDuration is time.ParseDuration with days: "90d", "1d12h".
func parseDuration(s string) (time.Duration, error) {
	days, rest, found := strings.Cut(s, "d")
	if !found {
		d, err := time.ParseDuration(s)
		if err != nil {
			return 0, fmt.Errorf("%q is not a duration such as 30m, 8h or 90d", s)
		}
		return d, nil
	}
	n, err := strconv.ParseInt(days, 10, 32)
	var more time.Duration
	if err == nil && rest != "" {
		more, err = time.ParseDuration(rest)
	}
	if err != nil || math.Abs(float64(n)) > 100_000 {
		return 0, fmt.Errorf("%q is not a duration such as 30m, 8h or 90d", s)
	}
	if strings.HasPrefix(days, "-") {
		more = -more
	}
	return time.Duration(n)*24*time.Hour + more, nil
}

// parseTime understands RFC 3339, a date, and a duration from now: "90d" is
// in 90 days, "-8h" was eight hours ago.
func parseTime(s string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t, nil
	}
	if d, err := parseDuration(strings.TrimPrefix(s, "+")); err == nil {
		return now.Add(d), nil
	}
	return time.Time{}, fmt.Errorf("%q is not a time such as 2026-01-31T12:00:00Z, 2026-01-31, 90d or -8h", s)
}

// short prints a duration with the two units that matter: "3d4h", "5m10s",
// "1.2s", "30ms".
func short(d time.Duration) string {
	if d < 0 {
		return "-" + short(-d)
	}
	two := func(a int64, ua string, b int64, ub string) string {
		if b == 0 {
			return fmt.Sprintf("%d%s", a, ua)
		}
		return fmt.Sprintf("%d%s%d%s", a, ua, b, ub)
	}
	h := int64(d / time.Hour)
	m, s := int64(d/time.Minute)%60, int64(d/time.Second)%60
	switch {
	case h >= 24*100:
		return fmt.Sprintf("%dd", h/24)
	case h >= 24:
		return two(h/24, "d", h%24, "h")
	case h > 0:
		return two(h, "h", m, "m")
	case m > 0:
		return two(m, "m", s, "s")
	case d >= 10*time.Second:
		return fmt.Sprintf("%ds", s)
	case d >= time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(time.Millisecond).String()
	default:
		return "0s"
	}
}

// size prints bytes with a binary unit.
func size(n float64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	i := 0
	for n >= 1024 && i < len(units)-1 {
		n, i = n/1024, i+1
	}
	return strconv.FormatFloat(math.Round(n*10)/10, 'f', -1, 64) + " " + units[i]
}

// setTime and setDuration fill a message of the well-known type.
func setTime(m protoreflect.Message, t time.Time) {
	proto.Merge(m.Interface(), timestamppb.New(t))
}

func setDuration(m protoreflect.Message, d time.Duration) {
	proto.Merge(m.Interface(), durationpb.New(d))
}

// timeOf and durationOf read a message of the well-known type, whatever Go
// type it has.
func timeOf(m protoreflect.Message) time.Time {
	s, n := secondsOf(m)
	return time.Unix(s, n)
}

func durationOf(m protoreflect.Message) time.Duration {
	s, n := secondsOf(m)
	return time.Duration(s)*time.Second + time.Duration(n)
}

func secondsOf(m protoreflect.Message) (seconds, nanos int64) {
	fs := m.Descriptor().Fields()
	return m.Get(fs.ByName("seconds")).Int(), m.Get(fs.ByName("nanos")).Int()
}
