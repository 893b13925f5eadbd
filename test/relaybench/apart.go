//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// relayNet is the network namespace of relays; 0: the generator's.
var relayNet int

// driver is the kernel thread that receives for the relay's end of the wire; 0: there is none.
var driver int

// moveRelaysApart makes a namespace for relays, at the other end of a veth pair. At each end a thread of the kernel receives (NAPI), on the processor of that
// end, so that what a packet costs the relay's kernel is seen. The generator sends whole packets, as a network card would.
func moveRelaysApart(moderation time.Duration) error {
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(home)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and end with this goroutine
		done <- func() (err error) {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			relayNet, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			if err := ip("link set lo up", "link add near type veth peer name far", fmt.Sprintf("link set far netns /proc/%d/fd/%d", os.Getpid(), home),
				"addr add "+relayIP+"/24 dev near", "link set near up", "route add "+othersIP+"0/24 via "+generatorIP); err != nil {
				return err
			}
			driver, err = receiveInThread("near", relayCPU, moderation)
			return errors.Join(err, ethtool("near", unix.ETHTOOL_STSO, 0))
		}()
	}()
	if err := <-done; err != nil {
		return err
	}
	if err := ip("addr add "+generatorIP+"/24 dev far", "link set far up"); err != nil {
		return err
	}
	_, err = receiveInThread("far", generatorCPU, moderation)
	return errors.Join(err, ethtool("far", unix.ETHTOOL_STXCSUM, 0))
}

func ip(commands ...string) error {
	for _, c := range commands {
		if out, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", c, err, out)
		}
	}
	return nil
}

// receiveInThread has a veth of this thread's namespace receive in a kernel thread, and puts that on a processor.
func receiveInThread(device string, cpu int, moderation time.Duration) (thread int, err error) {
	if err := ethtool(device, unix.ETHTOOL_SGRO, 1); err != nil { // a veth has NAPI with GRO only
		return 0, err
	}
	dir, err := os.MkdirTemp("", "relaybench")
	if err != nil {
		return 0, err
	}
	defer os.Remove(dir)
	if err := unix.Mount("sysfs", dir, "sysfs", 0, ""); err != nil { // shows the devices of who mounts it
		return 0, err
	}
	defer unix.Unmount(dir, 0)
	for name, value := range map[string]int64{"threaded": 1, "gro_flush_timeout": moderation.Nanoseconds(), "napi_defer_hard_irqs": 1} {
		if err := os.WriteFile(filepath.Join(dir, "class/net", device, name), strconv.AppendInt(nil, value, 10), 0); err != nil {
			return 0, err
		}
	}
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return 0, err
	}
	for _, name := range names { // of namespaces with a device of that name the youngest is ours
		if comm, err := os.ReadFile(name); err == nil && strings.HasPrefix(string(comm), "napi/"+device+"-") {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			if err != nil {
				return 0, err
			}
			thread = max(thread, pid)
		}
	}
	if thread == 0 {
		return 0, fmt.Errorf("no thread receives for %s", device)
	}
	var set unix.CPUSet
	set.Set(cpu)
	// Where it is no thread, receiving goes before all programs. A veth holds 256 packets.
	first := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}
	return thread, errors.Join(unix.SchedSetaffinity(thread, &set), unix.SchedSetAttr(thread, &first, 0))
}

// ethtool changes a feature of a device of this thread's namespace.
func ethtool(device string, command, data uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	value := struct{ command, data uint32 }{command, data}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], device)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); e != 0 {
		return fmt.Errorf("ethtool %s: %w", device, e)
	}
	return nil
}

// startApart starts a relay on this thread's processor, in its namespace.
func startApart(cmd *exec.Cmd) error {
	if relayNet == 0 {
		return cmd.Start()
	}
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(home)
	if err := unix.Setns(relayNet, unix.CLONE_NEWNET); err != nil {
		return err
	}
	return errors.Join(cmd.Start(), unix.Setns(home, unix.CLONE_NEWNET))
}
