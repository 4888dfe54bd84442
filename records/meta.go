package records

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
)

// stamp keeps the Meta of a record: generation 0 and equal times when it is
// created, one generation more and a later time whenever it is stored again.
// meta returns where a record has its Meta.
func stamp[T proto.Message](meta func(T) **apiv2.Meta) func(T, time.Time, bool) {
	return func(rec T, now time.Time, created bool) {
		m := meta(rec)
		if *m == nil {
			*m = &apiv2.Meta{}
		}
		(*m).UpdatedAt = timestamppb.New(now)
		if created {
			(*m).CreatedAt = timestamppb.New(now)
			(*m).Generation = 0
			return
		}
		(*m).Generation++
	}
}
