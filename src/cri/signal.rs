//! CRI's `Signal` numbers its names alphabetically; the kernel has other numbers.

use super::wire::Signal;
use crate::model::signal;

/// The kernel's number; `None` for "not given".
pub(super) fn number(signal: Signal) -> Option<i32> {
    // SIGNAL_SIGRTMINPLUS3 is what everybody else writes as SIGRTMIN+3.
    let name = signal.as_str_name().trim_start_matches("SIGNAL_");
    signal::parse(&name.replace("PLUS", "+").replace("MINUS", "-"))
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
