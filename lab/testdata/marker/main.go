// Command marker is /init of a boot image in tests: it says that it runs, with
// the seconds since the kernel started and the command line, and powers off.
package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

func main() {
	err := syscall.Mount("proc", "/proc", "proc", 0, "")
	uptime, _ := os.ReadFile("/proc/uptime")
	cmdline, _ := os.ReadFile("/proc/cmdline")
	up, _, _ := strings.Cut(string(uptime), " ")
	fmt.Printf("marker: up=%s cmdline=%s mount=%v\n", up, strings.TrimSpace(string(cmdline)), err)
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
}
