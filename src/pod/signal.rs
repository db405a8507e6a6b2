//! Which signal asks a container to end.

/// SIGTERM on every architecture.
const SIGTERM: i32 = 15;

/// Highest signal number (signal(7), `SIGRTMAX`).
const SIGNAL_MAX: i32 = 64;

/// Names and numbers of signal(7), x86 and arm.
const NAMES: [(&str, i32); 33] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// What was asked for, else what the image says, else SIGTERM. An image that says nonsense gets SIGTERM.
pub(super) fn stop_signal(asked: Option<i32>, image: &str) -> i32 {
    asked.or_else(|| parse(image)).unwrap_or(SIGTERM)
}

/// A number, a name (with or without `SIG`), or `RTMIN+n` and `RTMAX-n`.
fn parse(text: &str) -> Option<i32> {
    let name = text.trim().to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let number = if let Some(up) = name.strip_prefix("RTMIN") {
        34 + offset(up, "+")?
    } else if let Some(down) = name.strip_prefix("RTMAX") {
        SIGNAL_MAX - offset(down, "-")?
    } else {
        let named = NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
        named.or_else(|| name.parse().ok())?
    };
    (1..=SIGNAL_MAX).contains(&number).then_some(number)
}

fn offset(text: &str, sign: &str) -> Option<i32> {
    if text.is_empty() {
        return Some(0);
    }
    let number = text.strip_prefix(sign)?.parse().ok()?;
    (0..=30).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_understood() {
        for (text, number) in
            [("SIGQUIT", 3), ("quit", 3), ("15", 15), ("SIGRTMIN+3", 37), ("RTMAX", 64), ("RTMAX-1", 63)]
        {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for bad in ["", "0", "65", "-9", "SIG", "NOPE", "RTMIN3", "RTMIN+99", "9999999999"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_request_wins_over_the_image_and_nonsense_is_sigterm() {
        assert_eq!(stop_signal(Some(9), "SIGQUIT"), 9);
        assert_eq!(stop_signal(None, "SIGQUIT"), 3);
        assert_eq!(stop_signal(None, "gibberish"), SIGTERM);
        assert_eq!(stop_signal(None, ""), SIGTERM);
    }
}
