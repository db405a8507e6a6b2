//! Kernel settings by name, as sysctl(8) reads and writes them.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Brings a name into the form that is kept: dots separate its parts. sysctl(8) takes either separator, the one that
/// comes first; the other then stands for a dot within a part, as in `net/ipv4/conf/eth0.5/rp_filter` and
/// `net.ipv4.conf.eth0/5.rp_filter`.
pub fn dotted(name: &str) -> String {
    match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'/') => swapped(name),
        _ => name.to_owned(),
    }
}

/// The file below `/proc/sys` of a setting whose name is [`dotted`].
pub fn path(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(swapped(name))
}

/// Writes a setting of the namespaces that the calling thread is in.
///
/// # Errors
/// As write(2); `NotFound` where the kernel has no such setting.
pub fn set(name: &str, value: &str) -> io::Result<()> {
    // Never made: a name that is missing is an error of proc(5), and of any other file system that is in its place.
    std::fs::File::options()
        .write(true)
        .open(path(name))
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
}

fn swapped(name: &str) -> String {
    name.chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_separator_is_the_separator() {
        for (name, kept, file) in [
            ("kernel.sem", "kernel.sem", "kernel/sem"),
            ("kernel/sem", "kernel.sem", "kernel/sem"),
            ("net.ipv4.conf.eth0.rp_filter", "net.ipv4.conf.eth0.rp_filter", "net/ipv4/conf/eth0/rp_filter"),
            (
                "net/ipv4/conf/eth0.5/rp_filter",
                "net.ipv4.conf.eth0/5.rp_filter",
                "net/ipv4/conf/eth0.5/rp_filter",
            ),
            (
                "net.ipv4.conf.eth0/5.rp_filter",
                "net.ipv4.conf.eth0/5.rp_filter",
                "net/ipv4/conf/eth0.5/rp_filter",
            ),
            ("word", "word", "word"),
        ] {
            assert_eq!(dotted(name), kept, "{name}");
            assert_eq!(dotted(kept), kept, "{name}");
            assert_eq!(path(kept), Path::new("/proc/sys").join(file), "{name}");
        }
    }

    #[test]
    fn a_setting_that_is_not_there_is_not_made() {
        assert_eq!(set("kernel.no_such_setting", "1").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
