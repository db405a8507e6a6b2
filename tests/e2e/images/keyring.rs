//! Prints the number of its session keyring (keyctl(2), `KEYCTL_GET_KEYRING_ID`).

#[cfg(target_arch = "x86_64")]
const KEYCTL: i64 = 250;
#[cfg(target_arch = "aarch64")]
const KEYCTL: i64 = 219;
const GET_KEYRING_ID: i64 = 0;
const SESSION: i64 = -3;

unsafe extern "C" {
    fn syscall(number: i64, ...) -> i64;
}

fn main() {
    // SAFETY: numbers only.
    println!("{}", unsafe { syscall(KEYCTL, GET_KEYRING_ID, SESSION, 0_i64) });
    std::thread::sleep(std::time::Duration::from_secs(std::env::args().len() as u64 * 1000 - 1000));
}
