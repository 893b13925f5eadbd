package xdp

import (
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestVeth: a veth gets the native mode only while its other end takes what is sent there, and follows when that changes.
func TestVeth(t *testing.T) {
	o := load(t, nil)
	done := make(chan struct{})
	go func() { // in a namespace that ends with the thread
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		for _, c := range []string{"link add near type veth peer name far", "link set near up", "link set far up"} {
			if out, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
				t.Errorf("ip %s: %v: %s", c, err, out)
				return
			}
		}
		near, err := netlink.LinkByName("near")
		if err != nil {
			t.Error(err)
			return
		}
		index := near.Attrs().Index
		expect := func(when, mode string, how leave) {
			t.Helper()
			if err := o.Refresh(); err != nil {
				t.Error(err)
			}
			if err := o.Attach(index, Best); err != nil {
				t.Error(err)
			}
			got, _ := o.leaves(index)
			if names := o.Attached(); len(names) != 1 || names[0] != "near ("+mode+")" || got != how {
				t.Errorf("%s: %v, packets leave in way %d", when, names, got)
			}
		}
		expect("a plain veth", "generic", sentAcross)
		changes := o.Changes()
		receiveJoined(t, "far", 1)
		if !takesPackets(index) {
			t.Log("Linux before 6.3 does not tell what a veth can do")
			return
		}
		expect("the other end receives by NAPI", "native", redirected)
		receiveJoined(t, "far", 0)
		expect("it does no longer", "generic", sentAcross)
		if o.Changes() == changes {
			t.Error("nobody was told")
		}
	}()
	<-done
}

// receiveJoined switches GRO, and with it NAPI, of a veth.
func receiveJoined(t *testing.T, device string, on uint32) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer unix.Close(fd)
	value := struct{ command, data uint32 }{unix.ETHTOOL_SGRO, on}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], device)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); e != 0 {
		t.Errorf("ethtool %s: %v", device, e)
	}
}
