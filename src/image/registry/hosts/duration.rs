//! Durations as Go's `time.ParseDuration` reads them, for that is what reads containerd's files.

use std::time::Duration;

/// Digits behind the point that are read: a billionth of any unit is less than a clock shows here.
const FRACTION_DIGITS_MAX: usize = 9;

/// Reads `10s`, `1.5s`, `1m30s`, `500ms` or `0`. `None` for what Go would not read, and for what is negative.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if text.is_empty() {
        return None;
    }
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut sum_ns) = (text, 0_u64);
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        sum_ns = sum_ns.checked_add(nanoseconds(number, unit)?)?;
        rest = after;
    }
    Some(Duration::from_nanos(sum_ns))
}

/// One number with its unit.
fn nanoseconds(number: &str, unit: &str) -> Option<u64> {
    let unit_ns: u64 = match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut sum_ns = whole.checked_mul(unit_ns)?;
    let mut place_ns = unit_ns;
    for digit in fraction.bytes().take(FRACTION_DIGITS_MAX) {
        // Ten of the next place are one of this: what is cut off is below a nanosecond of each digit.
        sum_ns = sum_ns.checked_add(u64::from(digit - b'0') * place_ns / 10)?;
        place_ns /= 10;
    }
    Some(sum_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let ms = |ms| Some(Duration::from_millis(ms));
        for (text, expected) in [
            ("10s", ms(10_000)),
            ("1.5s", ms(1_500)),
            (".5s", ms(500)),
            ("1.s", ms(1_000)),
            ("+1s", ms(1_000)),
            ("500ms", ms(500)),
            ("0.25m", ms(15_000)),
            ("1m30s", ms(90_000)),
            ("1h0.5m1.001s", ms(3_631_001)),
            ("250us", Some(Duration::from_micros(250))),
            ("250\u{b5}s", Some(Duration::from_micros(250))),
            ("250\u{3bc}s", Some(Duration::from_micros(250))),
            ("7ns", Some(Duration::from_nanos(7))),
            ("0", Some(Duration::ZERO)),
            ("0s", Some(Duration::ZERO)),
            ("", None),
            ("+", None),
            ("-1s", None),
            ("10", None),
            ("s", None),
            (".s", None),
            ("1..5s", None),
            ("1.2.3s", None),
            ("1 s", None),
            ("1d", None),
            ("soon", None),
            ("1S", None),
            ("99999999999999999999s", None),
            ("9999999999h", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_not(text in "[0-9.+a-zµ]{0,40}") {
            let _ = parse(&text);
        }
    }
}
