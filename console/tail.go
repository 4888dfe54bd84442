// Package console is what serial consoles need wherever they pass: the bounded
// memory of what one showed, and what of it may reach a terminal or a file.
package console

import (
	"slices"
	"sync"
)

// A Tail is the end of what a console showed. It holds a bounded number of
// bytes, each with its owner, by their position since the beginning. Many may
// read while one writes; who reads slowly holds up nobody and misses what has
// been dropped meanwhile.
type Tail struct {
	limit int

	mu     sync.Mutex
	pieces []Piece // by offset, none empty; there may be gaps between them
	held   int     // bytes in pieces
	end    uint64
	moved  chan struct{} // closed and replaced when the end moves
}

// A Piece is what one owner's system showed, uninterrupted.
type Piece struct {
	// Offset is the position of the first byte of Data.
	Offset uint64
	Owner  string
	Data   []byte
}

// End is the position behind the piece.
func (p Piece) End() uint64 { return p.Offset + uint64(len(p.Data)) }

// pieceSize is how much is dropped at a time.
const pieceSize = 4 << 10

// NewTail returns an empty tail that holds at most limit bytes, or 4 KiB if
// that is more.
func NewTail(limit int) *Tail {
	return &Tail{limit: max(limit, pieceSize), moved: make(chan struct{})}
}

// Append adds what was shown behind everything else.
func (t *Tail) Append(owner string, data []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.append(owner, data)
}

// Put adds what was shown at a position. What the tail had already is not
// added again; what it misses before stays a gap.
func (t *Tail) Put(p Piece) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.End() <= t.end {
		return
	}
	if p.Offset < t.end {
		p.Data = p.Data[t.end-p.Offset:]
	} else {
		t.end = p.Offset
	}
	t.append(p.Owner, p.Data)
}

// append adds data at t.end. t.mu is held.
func (t *Tail) append(owner string, data []byte) {
	if len(data) == 0 {
		return
	}
	for len(data) > 0 {
		last := len(t.pieces) - 1
		if last < 0 || t.pieces[last].Owner != owner || t.pieces[last].End() != t.end || len(t.pieces[last].Data) >= pieceSize {
			t.pieces = append(t.pieces, Piece{Offset: t.end, Owner: owner})
			last++
		}
		p := &t.pieces[last]
		n := min(len(data), pieceSize-len(p.Data))
		p.Data = append(p.Data, data[:n]...)
		data = data[n:]
		t.end += uint64(n)
		t.held += n
		for drop := t.held - t.limit; drop > 0; drop = t.held - t.limit {
			t.held -= len(t.pieces[0].Data)
			t.pieces = slices.Delete(t.pieces, 0, 1)
		}
	}
	close(t.moved)
	t.moved = make(chan struct{})
}

// Next returns a copy of up to limit bytes of one owner from a position on, or
// of what comes next if those are gone; an empty piece if there is nothing yet.
// The channel is closed when there is more.
func (t *Tail) Next(at uint64, limit int) (Piece, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i, _ := slices.BinarySearchFunc(t.pieces, at, func(p Piece, at uint64) int {
		if p.End() <= at {
			return -1
		}
		return 1
	})
	if i == len(t.pieces) {
		return Piece{Offset: max(at, t.end)}, t.moved
	}
	next := Piece{Offset: max(at, t.pieces[i].Offset), Owner: t.pieces[i].Owner}
	for _, p := range t.pieces[i:] {
		if len(next.Data) == limit || p.Owner != next.Owner || len(next.Data) > 0 && p.Offset != next.End() {
			break
		}
		data := p.Data[next.End()-p.Offset:]
		next.Data = append(next.Data, data[:min(limit-len(next.Data), len(data))]...)
	}
	return next, t.moved
}

// Back returns the position from which on there are n bytes of the owners that
// sees accepts; the oldest one if there are fewer.
func (t *Tail) Back(n int, sees func(owner string) bool) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := t.end
	for i := len(t.pieces) - 1; i >= 0 && n > 0; i-- {
		p := t.pieces[i]
		if !sees(p.Owner) {
			continue
		}
		take := min(n, len(p.Data))
		at, n = p.End()-uint64(take), n-take
	}
	return at
}

// End returns the position behind the newest byte.
func (t *Tail) End() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.end
}
