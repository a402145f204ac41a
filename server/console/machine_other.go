//go:build !linux

package console

// DiskSpace is how much of the disk that holds a folder is used and free: not known here.
func DiskSpace(string) (used, free int64) { return 0, 0 }

// clockKept reports whether a time service keeps the clock in step: not known here.
func clockKept() (kept, known bool) { return false, false }
