//! Signals by name and number, as images and CRI spell them.

/// The first and last signal that programs may use as they like. The kernel's first is 32; the C
/// library keeps two for itself.
const REALTIME: (i32, i32) = (34, 64);

/// Names and numbers on every architecture that pintle runs on (signal(7)).
const NAMES: [(&str, i32); 36] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("RTMIN", REALTIME.0),
    ("RTMAX", REALTIME.1),
];

/// Reads a signal: a number from 1 to 64, a name with or without `SIG` in upper or lower case, or
/// `RTMIN+n` and `RTMAX-n`. `None` for anything else.
pub fn parse(text: &str) -> Option<i32> {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return number(text).filter(|number| (1..=REALTIME.1).contains(number));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let realtime = if let Some(offset) = name.strip_prefix("RTMIN+") {
        REALTIME.0.checked_add(number(offset)?)
    } else if let Some(offset) = name.strip_prefix("RTMAX-") {
        REALTIME.1.checked_sub(number(offset)?)
    } else {
        return NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    };
    realtime.filter(|number| (REALTIME.0..=REALTIME.1).contains(number))
}

/// Digits only; `parse` alone would take a sign.
fn number(text: &str) -> Option<i32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_a_name_a_number_or_counted_from_the_realtime_ends() {
        for (text, expected) in [
            ("SIGTERM", Some(15)),
            ("TERM", Some(15)),
            ("sigterm", Some(15)),
            ("15", Some(15)),
            ("64", Some(64)),
            ("SIGRTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-2", Some(62)),
            ("RTMIN+30", Some(64)),
            ("RTMIN+31", None),
            ("RTMAX-31", None),
            ("RTMIN-1", None),
            ("RTMIN+", None),
            ("RTMIN++1", None),
            ("RTMAX-2147483648", None),
            ("", None),
            ("0", None),
            ("65", None),
            ("+9", None),
            ("-9", None),
            ("9 ", None),
            ("SIG", None),
            ("SIGSIGTERM", None),
            ("SIGFOO", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }
}
