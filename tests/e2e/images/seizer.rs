//! Takes over every process it can, as one with CAP_SYS_PTRACE may, and looks whether it has won anything by it.
//!
//! Numbers of processes are given in order, so it waits for the next ones, and now and then goes through all. Of each
//! that it got hold of it compares capabilities, filter and descriptors with its own, and lets it go. It says what
//! it found when `/tmp/stop` is there: `seized N, more M`, after a line for each that had more.

use std::{collections::HashSet, fs, path::Path};

const PTRACE_DETACH: i64 = 17;
const PTRACE_SEIZE: i64 = 0x4206;
const PTRACE_INTERRUPT: i64 = 0x4207;
const WALL: i32 = 0x4000_0000;
/// Numbers that are waited for.
const AHEAD: i32 = 6;
/// Rounds between two looks at all processes and at the clock.
const ROUNDS: u32 = 2_000;

unsafe extern "C" {
    fn ptrace(request: i64, pid: i32, address: usize, data: usize) -> i64;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
}

fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":"));
    let text = line.unwrap_or_default().trim();
    let base = if name.starts_with("Cap") { 16 } else { 10 };
    u64::from_str_radix(text, base).unwrap_or(0)
}

/// What the process has that this one has not.
fn more(pid: i32, own: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    for set in ["CapPrm", "CapEff", "CapBnd", "CapInh"] {
        let excess = field(&status, set) & !field(own, if set == "CapInh" { "CapBnd" } else { set });
        if excess != 0 {
            return Some(format!("{set} {excess:x}"));
        }
    }
    if field(own, "Seccomp") == 2 && field(&status, "Seccomp") != 2 {
        return Some("no filter".into());
    }
    // Before its execve it is the runtime's program: then it may have its three streams and one socket.
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    if program.to_string_lossy().contains("pintle") {
        let mut sockets = 0;
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten() {
            let number: i32 = entry.file_name().to_string_lossy().parse().unwrap_or(0);
            let Ok(leads_to) = fs::read_link(entry.path()) else { continue };
            let is_socket = leads_to.to_string_lossy().starts_with("socket:");
            sockets += u32::from(is_socket);
            if number > 2 && (!is_socket || sockets > 1) {
                return Some(format!("descriptor {number}: {}", leads_to.display()));
            }
        }
    }
    None
}

struct Seizer {
    own_status: String,
    own: i32,
    seized: u32,
    had_more: u32,
    /// Looked at already.
    known: HashSet<i32>,
}

impl Seizer {
    /// Whether there was such a process to get hold of.
    fn seize(&mut self, pid: i32) -> bool {
        // SAFETY: numbers only.
        if pid == self.own || unsafe { ptrace(PTRACE_SEIZE, pid, 0, 0) } != 0 {
            return false;
        }
        self.seized += 1;
        let found = more(pid, &self.own_status);
        let mut status = 0;
        // SAFETY: numbers, and a live place for the answer.
        unsafe {
            ptrace(PTRACE_INTERRUPT, pid, 0, 0);
            waitpid(pid, &raw mut status, WALL);
        }
        let found = found.or_else(|| more(pid, &self.own_status));
        // SAFETY: numbers only.
        unsafe { ptrace(PTRACE_DETACH, pid, 0, 0) };
        if let Some(found) = found {
            self.had_more += 1;
            println!("{pid} had more: {found}");
        }
        true
    }

    fn go_through_all(&mut self) -> i32 {
        let mut last = self.own;
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            last = last.max(pid);
            if self.known.insert(pid) {
                self.seize(pid);
            }
        }
        last
    }
}

fn main() {
    let own_status = fs::read_to_string("/proc/self/status").expect("read /proc/self/status");
    let own = i32::try_from(std::process::id()).expect("a pid");
    let mut seizer = Seizer { own_status, own, seized: 0, had_more: 0, known: HashSet::new() };
    let mut last = seizer.go_through_all();
    println!("ready");
    while !Path::new("/tmp/stop").exists() {
        for _ in 0..ROUNDS {
            for pid in last + 1..=last + AHEAD {
                if seizer.seize(pid) {
                    seizer.known.insert(pid);
                    last = pid;
                    break;
                }
            }
        }
        last = seizer.go_through_all();
    }
    println!("seized {}, more {}", seizer.seized, seizer.had_more);
}
