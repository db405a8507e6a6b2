//! CRI's `Signal` numbers its names alphabetically; the kernel has other numbers (signal(7), x86 and Arm).

use super::wire::Signal;

/// Kernel numbers of the CRI's 1 to 34, in the CRI's order: ABRT, ALRM, BUS, CHLD, CLD, CONT, FPE, HUP, ILL,
/// INT, IO, IOT, KILL, PIPE, POLL, PROF, PWR, QUIT, SEGV, STKFLT, STOP, SYS, TERM, TRAP, TSTP, TTIN, TTOU,
/// URG, USR1, USR2, VTALRM, WINCH, XCPU, XFSZ.
const STANDARD: [i32; 34] = [
    6, 14, 7, 17, 17, 18, 8, 1, 4, 2, 29, 6, 9, 13, 29, 27, 30, 3, 11, 16, 19, 31, 15, 5, 20, 21, 22, 23, 10,
    12, 26, 28, 24, 25,
];
/// SIGRTMIN as programs see it; the C library keeps two for itself.
const REAL_TIME_MIN: i32 = 34;

/// The kernel's number; `None` for "not given".
pub(super) fn number(signal: Signal) -> Option<i32> {
    let wire = signal as i32;
    let standard = usize::try_from(wire).ok()?.checked_sub(1)?;
    let real_time = wire - Signal::Sigrtmin as i32 + REAL_TIME_MIN;
    Some(STANDARD.get(standard).copied().unwrap_or(real_time))
}

/// The CRI's name for a kernel number; of two names the first. A number without one is "not given".
pub(super) fn name(number: i32) -> Signal {
    (1..=Signal::Sigrtmax as i32)
        .filter_map(|wire| Signal::try_from(wire).ok())
        .find(|&signal| self::number(signal) == Some(number))
        .unwrap_or(Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_the_kernels_numbers() {
        for (signal, expected) in [
            (Signal::RuntimeDefault, None),
            (Signal::Sigabrt, Some(6)),
            (Signal::Sighup, Some(1)),
            (Signal::Sigint, Some(2)),
            (Signal::Sigkill, Some(9)),
            (Signal::Sigquit, Some(3)),
            (Signal::Sigterm, Some(15)),
            (Signal::Sigusr1, Some(10)),
            (Signal::Sigusr2, Some(12)),
            (Signal::Sigwinch, Some(28)),
            (Signal::Sigxfsz, Some(25)),
            (Signal::Sigrtmin, Some(34)),
            (Signal::Sigrtminplus3, Some(37)),
            (Signal::Sigrtminplus15, Some(49)),
            (Signal::Sigrtmaxminus14, Some(50)),
            (Signal::Sigrtmax, Some(64)),
        ] {
            assert_eq!(number(signal), expected, "{signal:?}");
        }
    }

    #[test]
    fn every_number_of_a_signal_comes_back_as_a_name_for_it() {
        for wire in 1..=65 {
            let signal = Signal::try_from(wire).unwrap();
            assert_eq!(number(name(number(signal).unwrap())), number(signal), "{signal:?}");
        }
        assert_eq!([name(0), name(-1), name(32), name(65)], [Signal::RuntimeDefault; 4]);
    }
}
