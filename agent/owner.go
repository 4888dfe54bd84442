package agent

import "syscall"

// owner returns the owner and group of a path, root if there is none.
func (t tree) owner(name string) (uid, gid int) {
	info, err := t.Stat(name)
	if err != nil {
		return 0, 0
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid), int(st.Gid)
	}
	return 0, 0
}
