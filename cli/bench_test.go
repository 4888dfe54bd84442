package cli

import (
	"fmt"
	"io"
	"testing"
	"time"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// BenchmarkStart builds the tree of commands and the flags of one verb: what
// every run of ingot does first.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		a := &app{}
		root := a.root()
		a.resolve(root, []string{"machine", "list"})
	}
}

// BenchmarkList decodes and prints 10,000 machines as a sorted table and as
// JSON.
func BenchmarkList(b *testing.B) {
	res := &apiv2.MachineServiceListResponse{}
	for i := range 10_000 {
		res.Machines = append(res.Machines, &apiv2.Machine{
			Uuid: fmt.Sprintf("00000000-0000-0000-0000-%012d", i), Partition: &apiv2.Partition{Id: "p1", Meta: &apiv2.Meta{}}, Rack: "r1",
			Size: &apiv2.Size{Id: "c1-large", Meta: &apiv2.Meta{}}, Status: &apiv2.MachineStatus{Liveliness: apiv2.MachineLiveliness_MACHINE_LIVELINESS_ALIVE},
			Allocation: &apiv2.MachineAllocation{Hostname: fmt.Sprint("web", i), Project: "p", Image: &apiv2.Image{Id: "debian-12", Meta: &apiv2.Meta{}}},
			RecentProvisioningEvents: &apiv2.MachineRecentProvisioningEvents{Events: []*apiv2.MachineProvisioningEvent{
				{Time: timestamppb.Now(), Event: apiv2.MachineProvisioningEventType_MACHINE_PROVISIONING_EVENT_TYPE_PHONED_HOME},
			}},
		})
	}
	wire, err := proto.Marshal(res)
	if err != nil {
		b.Fatal(err)
	}
	for _, format := range []string{"table", "json"} {
		b.Run(format, func(b *testing.B) {
			for b.Loop() {
				m := newMessage(res.ProtoReflect().Descriptor())
				if err := proto.Unmarshal(wire, m.Interface()); err != nil {
					b.Fatal(err)
				}
				f := payload(m.Descriptor())
				p := printer{to: io.Discard, format: format, sortBy: "-hostname", now: time.Now()}
				if err := p.many(f.Message(), entries(m.Get(f), f), false); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
