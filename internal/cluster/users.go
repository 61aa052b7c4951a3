package cluster

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// usersOf names the processes that keep a mount busy: a file open below it, or a directory of
// it as working directory or root. It reads links in /proc only, so a mount that does not
// answer cannot hang it. Other users' processes are seen by root alone.
func usersOf(point string) []string {
	var out []string
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || !uses(pid, point) {
			continue
		}
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		out = append(out, fmt.Sprintf("%s (pid %d)", bytes.TrimSpace(comm), pid))
	}
	return out
}

func uses(pid int, point string) bool {
	dir := fmt.Sprintf("/proc/%d", pid)
	links := []string{filepath.Join(dir, "cwd"), filepath.Join(dir, "root"), filepath.Join(dir, "exe")}
	fds, _ := os.ReadDir(filepath.Join(dir, "fd"))
	for _, fd := range fds {
		links = append(links, filepath.Join(dir, "fd", fd.Name()))
	}
	return slices.ContainsFunc(links, func(l string) bool {
		to, err := os.Readlink(l)
		return err == nil && (to == point || strings.HasPrefix(to, point+"/"))
	})
}

// usedBy is usersOf as the end of a message.
func usedBy(point string) string {
	users := usersOf(point)
	switch {
	case len(users) == 0:
		return ""
	case len(users) > 5:
		return fmt.Sprintf(", used by %s and %d more", strings.Join(users[:5], ", "), len(users)-5)
	}
	return ", used by " + strings.Join(users, ", ")
}
