package store

// An Event is what one revision did to one record.
type Event struct {
	Rev     Rev
	Table   string
	Key     string
	Value   []byte // for Table.Decode; must not be modified
	Old     []byte // what it was before; nil if it is new
	Deleted bool
}
