//! Network links, by the calls of netdevice(7): for a process that needs one thing done and no conversation by netlink.

use std::{io, os::fd::AsRawFd as _};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::process::check;

/// Brings up `lo` of this process's network namespace; the kernel gives it its addresses then.
///
/// # Errors
/// `EPERM` without CAP_NET_ADMIN over the namespace.
pub fn bring_up_loopback() -> io::Result<()> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(*b"lo") {
        *to = from.cast_signed();
    }
    let flags = libc::__c_anonymous_ifr_ifru { ifru_flags: UP };
    let request = libc::ifreq { ifr_name: name, ifr_ifru: flags };
    // SAFETY: the request is a live one of the kind that this call reads.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into()).map(drop)
}

/// `IFF_UP`, as wide as the field. The call clears the other flags that it can set, of which `lo` has none.
const UP: libc::c_short = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn is_up() -> bool {
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).unwrap();
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
        // There is no route to 127.0.0.1 while `lo` is down.
        rustix::net::connect(&socket, &address).is_ok()
    }

    #[test]
    fn loopback_of_a_new_namespace_comes_up() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        std::thread::spawn(|| {
            crate::sys::process::unshare(crate::sys::process::Namespaces::NETWORK).unwrap();
            assert!(!is_up());
            bring_up_loopback().unwrap();
            assert!(is_up());
        })
        .join()
        .unwrap();
    }
}
