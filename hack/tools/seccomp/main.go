// Command seccomp prints the decisions of containerd's default seccomp profile for amd64, call by call: those for a
// process without capabilities, and for each capability the calls that are decided otherwise with it.
package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"runtime/debug"
	"slices"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

const module = "github.com/containerd/containerd/v2"

// The last capability is CAP_CHECKPOINT_RESTORE (linux/capability.h).
var capabilities = []string{
	"CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_AUDIT_WRITE", "CAP_BLOCK_SUSPEND", "CAP_BPF",
	"CAP_CHECKPOINT_RESTORE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID",
	"CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_KILL", "CAP_LEASE", "CAP_LINUX_IMMUTABLE", "CAP_MAC_ADMIN",
	"CAP_MAC_OVERRIDE", "CAP_MKNOD", "CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_RAW",
	"CAP_PERFMON", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYSLOG", "CAP_SYS_ADMIN",
	"CAP_SYS_BOOT", "CAP_SYS_CHROOT", "CAP_SYS_MODULE", "CAP_SYS_NICE", "CAP_SYS_PACCT", "CAP_SYS_PTRACE",
	"CAP_SYS_RAWIO", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_WAKE_ALARM",
}

// rule is what an OCI rule says of one call.
type rule struct {
	Action   specs.LinuxSeccompAction `json:"action"`
	ErrnoRet *uint                    `json:"errnoRet,omitempty"`
	Args     []specs.LinuxSeccompArg  `json:"args,omitempty"`
}

// decisions are those about calls: allowed whatever their arguments, or as their rules say.
type decisions struct {
	Allow []string          `json:"allow"`
	Rules map[string][]rule `json:"rules,omitempty"`
}

type output struct {
	Containerd    string                   `json:"containerd"`
	DefaultAction specs.LinuxSeccompAction `json:"defaultAction"`
	Architectures []specs.Arch             `json:"architectures"`
	Without       decisions                `json:"without"`
	With          map[string]decisions     `json:"with"`
}

var allowed = []rule{{Action: specs.ActAllow}}

func profile(capabilities ...string) (*specs.LinuxSeccomp, map[string][]rule) {
	set := &specs.LinuxCapabilities{Bounding: capabilities}
	profile := seccomp.DefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: set}})
	calls := map[string][]rule{}
	for _, call := range profile.Syscalls {
		for _, name := range call.Names {
			if call.Action == specs.ActAllow && len(call.Args) == 0 {
				calls[name] = allowed // whatever else is said of it
			} else if !reflect.DeepEqual(calls[name], allowed) {
				calls[name] = append(calls[name], rule{call.Action, call.ErrnoRet, call.Args})
			}
		}
	}
	return profile, calls
}

// sorted parts the calls that are simply allowed from the rest.
func sorted(calls map[string][]rule) decisions {
	out := decisions{[]string{}, map[string][]rule{}}
	for _, name := range slices.Sorted(maps.Keys(calls)) {
		if rules := calls[name]; reflect.DeepEqual(rules, allowed) {
			out.Allow = append(out.Allow, name)
		} else {
			out.Rules[name] = rules
		}
	}
	return out
}

func main() {
	base, calls := profile()
	out := output{version(), base.DefaultAction, base.Architectures, sorted(calls), map[string]decisions{}}
	for _, capability := range capabilities {
		_, with := profile(capability)
		changed := map[string][]rule{}
		for name, rules := range with {
			if !reflect.DeepEqual(rules, calls[name]) {
				changed[name] = rules
			}
		}
		for name := range calls {
			if _, kept := with[name]; !kept {
				changed[name] = []rule{{Action: base.DefaultAction}}
			}
		}
		if len(changed) > 0 {
			out.With[capability] = sorted(changed)
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func version() string {
	info, _ := debug.ReadBuildInfo()
	for _, dependency := range info.Deps {
		if dependency.Path == module {
			return dependency.Version
		}
	}
	return "unknown"
}
