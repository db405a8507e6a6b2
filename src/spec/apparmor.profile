# What keeps containers from the kernel's own files, should masks and read-only mounts fail. The rest is decided by
# capabilities, namespaces and the system call filter.
profile pintle-default flags=(attach_disconnected, mediate_deleted) {
  file,
  network,
  capability,
  umount,
  unix,

  # The node may signal and inspect containers; they may do so with each other, never with the node.
  signal (receive) peer=unconfined,
  signal (send, receive) peer=pintle-default,
  ptrace (tracedby, readby) peer=unconfined,
  ptrace (trace, read, tracedby, readby) peer=pintle-default,

  deny mount,

  deny /proc/{acpi,bus,fs,irq,scsi,tty}/** wkl,
  deny /proc/sys/** wkl,
  deny /proc/{kcore,kmem,mem,keys,timer_list,sched_debug} rwkl,
  deny /proc/sysrq-trigger rwkl,

  deny /sys/{block,bus,class,dev,devices,hypervisor,kernel,module,power}/** wkl,
  deny /sys/fs/[^c]*/** wkl,
  deny /sys/firmware/** rwkl,
  deny /sys/kernel/security/** rwkl,
}
