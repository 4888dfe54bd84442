package api

import (
	"context"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/machine"
)

// streams are the calls that stay open.
type streams struct {
	mu   sync.Mutex
	open map[*stream]struct{}
}

// A stream is one call that stays open, and what it asked for.
type stream struct {
	call *call
	end  context.CancelCauseFunc

	mu  sync.Mutex
	req proto.Message
}

func (s *stream) asked(req proto.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.req = proto.Clone(req)
}

func (s *streams) add(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[st] = struct{}{}
}

func (s *streams) remove(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, st)
}

func (s *streams) all() []*stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*stream, 0, len(s.open))
	for st := range s.open {
		all = append(all, st)
	}
	return all
}

// closeAll ends all streams with an error.
func (s *streams) closeAll(why error) {
	for _, st := range s.all() {
		st.end(why)
	}
}

// checkStreams ends the streams that would not be opened any more: the token
// was revoked or has expired, a role was lost, or a machine's port leads to
// another machine now.
func (s *Server) checkStreams() {
	snap, now := s.db.Snapshot(), s.cfg.Now()
	for _, st := range s.streams.all() {
		if st.call.caller.Token == nil {
			continue
		}
		c, err := access.Identify(snap, st.call.caller.Token.GetToken().GetUuid(), now)
		st.mu.Lock()
		req := st.req
		st.mu.Unlock()
		if err == nil && c.Token.GetBootId() != "" {
			err = machine.Counts(snap, c.Token, st.call.via.leaf, st.call.via.port)
		}
		if err == nil && req != nil {
			err = access.Authorize(snap, c, st.call.method, req.ProtoReflect())
		}
		if err != nil {
			st.end(err)
		}
	}
}
