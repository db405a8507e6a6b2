//! Prints the effective user id, as `nonewprivs:1.3` does. It is installed setuid root, so what it
//! prints tells whether `no_new_privs` held.

fn main() {
    let status = std::fs::read_to_string("/proc/self/status").expect("read /proc/self/status");
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("a Uid line");
    let effective = uids.split_whitespace().nth(1).expect("an effective uid");
    println!("Effective uid: {effective}");
}
