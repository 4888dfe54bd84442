package store

import (
	"context"
	"log/slog"

	"go.uber.org/zap/zapcore"
)

// zapToSlog hands etcd's warnings and errors to a slog.Logger, one level lower:
// etcd warns of its defaults and reports as errors what it then does again.
type zapToSlog struct{ log *slog.Logger }

// Enabled implements zapcore.Core.
func (z zapToSlog) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }

// With implements zapcore.Core.
func (z zapToSlog) With(fields []zapcore.Field) zapcore.Core {
	return zapToSlog{z.log.With(attrs(fields)...)}
}

// Check implements zapcore.Core.
func (z zapToSlog) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if z.Enabled(e.Level) {
		return c.AddCore(e, z)
	}
	return c
}

// Write implements zapcore.Core.
func (z zapToSlog) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelInfo
	switch {
	case e.Level > zapcore.ErrorLevel:
		level = slog.LevelError
	case e.Level > zapcore.WarnLevel:
		level = slog.LevelWarn
	}
	z.log.Log(context.Background(), level, "etcd: "+e.Message, attrs(fields)...)
	return nil
}

// Sync implements zapcore.Core.
func (z zapToSlog) Sync() error { return nil }

func attrs(fields []zapcore.Field) []any {
	enc := zapcore.NewMapObjectEncoder()
	out := make([]any, 0, 2*len(fields))
	for _, f := range fields {
		f.AddTo(enc)
		if v, ok := enc.Fields[f.Key]; ok {
			out = append(out, f.Key, v)
		}
	}
	return out
}
