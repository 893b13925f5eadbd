package xdp

import (
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Of the kernel's netdev family (linux/netdev.h), which tells since Linux 6.3 what a driver's XDP can do.
const (
	netdevFamily  = "netdev"
	cmdDevGet     = 1
	attrIndex     = 1
	attrFeatures  = 3
	takesRedirect = 1 << 2 // NETDEV_XDP_ACT_NDO_XMIT
)

// takesPackets says whether packets of programs on any interface can leave by this one. A veth takes them while its other end receives by
// NAPI, which is when it has GRO or a program; that end belongs to somebody else and may change.
func takesPackets(index int) bool {
	family, err := netlink.GenlFamilyGet(netdevFamily)
	if err != nil {
		return false
	}
	request := nl.NewNetlinkRequest(int(family.ID), 0)
	header := []byte{cmdDevGet, 1, 0, 0} // struct genlmsghdr; nl.Genlmsg leaves the last two bytes to chance
	request.AddRawData(append(header, nl.NewRtAttr(attrIndex, nl.Uint32Attr(uint32(index))).Serialize()...))
	answer, err := request.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil || len(answer) != 1 || len(answer[0]) < unix.GENL_HDRLEN {
		return false
	}
	attrs, err := nl.ParseRouteAttr(answer[0][unix.GENL_HDRLEN:])
	if err != nil {
		return false
	}
	for _, a := range attrs {
		if a.Attr.Type == attrFeatures && len(a.Value) == 8 {
			return nl.NativeEndian().Uint64(a.Value)&takesRedirect != 0
		}
	}
	return false
}
