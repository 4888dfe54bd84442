package store

// CountBetween returns how many records have a key from lo to hi, both
// included, without looking at them. It guards nothing.
func (t *Table[T]) CountBetween(r Reader, lo, hi string) int {
	rows := r.read(t).rows
	return max(0, rank(rows, lessRow, row{key: hi + "\x00"})-rank(rows, lessRow, row{key: lo}))
}
