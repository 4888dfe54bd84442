package lab

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// hasKVM reports whether guests can run on the processor itself. That the
// device is there is not enough: a machine that is a guest itself may have it
// and be unable to serve it.
func hasKVM() bool {
	flags, _ := hostCPU()
	return (slices.Contains(flags, "vmx") || slices.Contains(flags, "svm")) && unix.Access("/dev/kvm", unix.R_OK|unix.W_OK) == nil
}

// accelerator renders how QEMU runs the guest's processor.
func accelerator() []string {
	if hasKVM() {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	// Without what is slow to emulate (AVX, SMAP, five-level tables) a kernel
	// starts a second sooner. Without AES, TLS takes ChaCha20, which emulated is
	// four times as fast (70 MB/s).
	return []string{"-accel", "tcg,thread=multi,tb-size=96", "-cpu", "Westmere,-aes,-pclmulqdq,+rdrand,+rdseed"}
}

// KernelArguments are what a Linux kernel should be told in a lab VM: not to
// test its ciphers at every start, and, in software emulation, that the
// processor has none of the flaws it would work around (with separate page
// tables, each system call throws away what is translated), and how fast its
// time stamp counter runs. Left to measure that itself on a busy machine, it
// may be wrong by half, and all its clocks with it. Guests get them by
// themselves; a boot medium or an installed system has to be given them.
func KernelArguments() string {
	args := "cryptomgr.notests"
	if hasKVM() {
		return args
	}
	args += " mitigations=off"
	// An emulated counter is the host's. Where the host's clock varies, what
	// it shows here is not the counter's rate, and the guest has to measure.
	flags, mhz := hostCPU()
	if mhz > 0 && slices.Contains(flags, "constant_tsc") && !slices.Contains(flags, "aperfmperf") {
		args += " tsc_early_khz=" + strconv.FormatInt(int64(mhz*1000+0.5), 10)
	}
	return args
}

// hostCPU reads the flags and the clock rate of this machine's first
// processor.
func hostCPU() (flags []string, mhz float64) {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return nil, 0
	}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "flags":
			return strings.Fields(value), mhz // comes after the rate
		case "cpu MHz":
			mhz, _ = strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return nil, 0
}
