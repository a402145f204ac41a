package console

import "syscall"

// DiskSpace is how much of the disk that holds a folder is used and free, in bytes; zero
// where the system does not say.
func DiskSpace(dir string) (used, free int64) {
	var s syscall.Statfs_t
	if syscall.Statfs(dir, &s) != nil {
		return 0, 0
	}
	return int64(s.Blocks-s.Bfree) * s.Bsize, int64(s.Bavail) * s.Bsize
}

// unsynchronised is STA_UNSYNC of adjtimex(2): no time service keeps the clock in step.
const unsynchronised = 0x40

// clockKept reports whether a time service keeps the clock of this machine in step. known
// is false where the system does not say.
func clockKept() (kept, known bool) {
	var t syscall.Timex
	if _, err := syscall.Adjtimex(&t); err != nil {
		return false, false
	}
	return t.Status&unsynchronised == 0, true
}
