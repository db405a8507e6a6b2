//! Figures of a container's processes from `/proc`. Processes belong to strangers and come and go: every look is
//! bounded, and what has gone is not counted.

use std::{
    fs::{File, OpenOptions},
    io::Read,
    mem::MaybeUninit,
    os::unix::fs::OpenOptionsExt as _,
};

use rustix::{
    fs::{OFlags, RawDir, readlinkat_raw, stat},
    path::DecInt,
};

/// Descriptors of one container that are looked at one by one. Of further ones only their number is reported, on
/// kernels that know it (Linux 6.2).
const DESCRIPTORS_MAX: usize = 4096;

/// Most that is read of `/proc/PID/limits`; bytes. It has some 1,300.
const LIMITS_BYTES_MAX: u64 = 8 * 1024;

/// Counted over the processes of one container.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ProcessFigures {
    pub processes: u64,
    pub descriptors: u64,
    /// Of the descriptors.
    pub sockets: u64,
    /// Soft limit of open files of the first process; `u64::MAX` is none. 0: unknown.
    pub open_files_soft: u64,
}

/// Looks at processes `pids`, of which `init` is the first one.
pub(super) fn look(pids: &[u32], init: u32) -> ProcessFigures {
    let mut figures = ProcessFigures { processes: pids.len() as u64, ..ProcessFigures::default() };
    let mut budget = DESCRIPTORS_MAX;
    for pid in pids {
        let path = format!("/proc/{pid}/fd");
        let before = budget;
        figures.sockets += sockets(&path, &mut budget);
        let counted = (before - budget) as u64;
        // Past the budget the kernel's own count has to do.
        let known = if budget == 0 { stat(&path).map_or(0, |stat| stat.st_size.unsigned_abs()) } else { 0 };
        figures.descriptors += counted.max(known);
    }
    // Not one of them: its number may be another's by now.
    if pids.contains(&init) {
        figures.open_files_soft = open_files_soft(init).unwrap_or(0);
    }
    figures
}

/// Sockets among the descriptors; each one that is looked at costs one of `budget`.
fn sockets(path: &str, budget: &mut usize) -> u64 {
    let flags = i32::try_from((OFlags::DIRECTORY | OFlags::CLOEXEC).bits()).unwrap_or(0);
    let Ok(directory) = OpenOptions::new().read(true).custom_flags(flags).open(path) else { return 0 };
    let mut names = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(&directory, &mut names);
    let mut sockets = 0;
    while let Some(Ok(entry)) = entries.next() {
        let Some(number) = entry.file_name().to_str().ok().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if *budget == 0 {
            break;
        }
        *budget -= 1;
        // `socket:[123]`; of a longer text the beginning is enough.
        let mut target = [MaybeUninit::uninit(); 8];
        let read = readlinkat_raw(&directory, DecInt::new(number), &mut target);
        if read.is_ok_and(|(target, _)| target.starts_with(b"socket:[")) {
            sockets += 1;
        }
    }
    sockets
}

fn open_files_soft(pid: u32) -> Option<u64> {
    let file = File::open(format!("/proc/{pid}/limits")).ok()?;
    let mut text = String::new();
    file.take(LIMITS_BYTES_MAX).read_to_string(&mut text).ok()?;
    parse_open_files(&text)
}

fn parse_open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files "))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_counted_with_its_descriptors_and_sockets() {
        let own = std::process::id();
        let before = look(&[own], own);
        let pair = std::os::unix::net::UnixStream::pair().unwrap();
        let after = look(&[own], own);
        // Other tests open descriptors meanwhile, so only a lower bound holds.
        assert!(after.sockets >= 2 && after.descriptors >= after.sockets, "{after:?}");
        assert!(before.processes == 1 && before.open_files_soft > 0, "{before:?}");
        drop(pair);
    }

    #[test]
    fn a_process_that_is_gone_costs_nothing() {
        let gone = ProcessFigures { processes: 1, ..ProcessFigures::default() };
        assert_eq!(look(&[u32::MAX], u32::MAX), gone);
        assert_eq!(look(&[], std::process::id()), ProcessFigures::default());
    }

    #[test]
    fn past_the_budget_descriptors_are_counted_and_not_looked_at() {
        let own = std::process::id();
        let pair = std::os::unix::net::UnixStream::pair().unwrap();
        let mut budget = 1;
        assert!(sockets(&format!("/proc/{own}/fd"), &mut budget) <= 1);
        assert_eq!(budget, 0);
        drop(pair);
    }

    #[test]
    fn the_soft_limit_is_the_first_number() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max processes             31357                31357                processes \n\
                    Max open files            1024                 524288               files     \n";
        assert_eq!(parse_open_files(text), Some(1024));
        assert_eq!(parse_open_files("Max open files            unlimited  unlimited files"), Some(u64::MAX));
        for text in ["", "Max open files", "Max open files            x"] {
            assert_eq!(parse_open_files(text), None, "{text:?}");
        }
    }
}
