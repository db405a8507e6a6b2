// Command cachecheck asks libcni, as the tools of others do, what it makes of the cache that a runtime has written: it runs
// CHECK or DEL for an attachment with the cached arguments and result. cnitool cannot: it makes container ids of its own.
//
//	CNI_PATH=… NETCONFPATH=… cachecheck check|del NETWORK CONTAINER NETNS CACHE_DIR
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
)

func main() {
	if len(os.Args) != 6 {
		fmt.Fprintln(os.Stderr, "usage: cachecheck check|del NETWORK CONTAINER NETNS CACHE_DIR")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(verb, network, container, netns, cache string) error {
	list, err := libcni.LoadNetworkConf(os.Getenv("NETCONFPATH"), network)
	if err != nil {
		return err
	}
	cni := libcni.NewCNIConfigWithCacheDir(filepath.SplitList(os.Getenv("CNI_PATH")), cache, nil)
	attachments, err := cni.GetCachedAttachments(container)
	if err != nil {
		return err
	}
	if len(attachments) != 1 || attachments[0].NetNS != netns {
		return fmt.Errorf("cached attachments of %s: %+v", container, attachments)
	}
	rt := &libcni.RuntimeConf{ContainerID: container, NetNS: netns, IfName: attachments[0].IfName}
	_, cached, err := cni.GetNetworkListCachedConfig(list, rt)
	if err != nil {
		return err
	}
	result, err := cni.GetNetworkListCachedResult(list, cached)
	if err != nil {
		return err
	}
	if result == nil {
		return fmt.Errorf("no cached result of %s", container)
	}
	switch verb {
	case "check":
		err = cni.CheckNetworkList(context.Background(), list, cached)
	case "del":
		err = cni.DelNetworkList(context.Background(), list, cached)
	default:
		err = fmt.Errorf("no verb %q", verb)
	}
	if err != nil {
		return err
	}
	return result.Print()
}
