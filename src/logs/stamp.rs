//! Timestamps of log records: RFC 3339 with nanoseconds, written without allocation.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Length of `2026-11-21T10:49:24.123456789Z`.
pub(super) const STAMP_BYTES: usize = 30;

/// 9999-12-31T23:59:59Z: beyond it a year has five digits, which RFC 3339 has no room for.
const SECOND_MAX: u64 = 253_402_300_799;

const SECOND_BYTES: usize = 20;
const SECONDS_PER_DAY: u64 = 86_400;

/// Writes times as text. The part down to the second is kept, since most appends fall in the same one.
#[derive(Debug)]
pub(super) struct Stamp {
    last: Duration,
    second: Option<u64>,
    text: [u8; STAMP_BYTES],
}

impl Stamp {
    pub(super) fn new() -> Self {
        Self { last: Duration::ZERO, second: None, text: *b"0000-00-00T00:00:00.000000000Z" }
    }

    /// `now` in UTC with nine decimals. A clock that was set back gives the last time again: readers of
    /// the log (`since`, `tail`) rely on the order.
    pub(super) fn at(&mut self, now: SystemTime) -> &[u8; STAMP_BYTES] {
        self.last = self.last.max(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        let second = self.last.as_secs().min(SECOND_MAX);
        if self.second != Some(second) {
            self.second = Some(second);
            self.text[..SECOND_BYTES].copy_from_slice(&second_text(second));
        }
        digits(&mut self.text[SECOND_BYTES..STAMP_BYTES - 1], u64::from(self.last.subsec_nanos()));
        &self.text
    }
}

/// `2026-11-21T10:49:24.`
fn second_text(second: u64) -> [u8; SECOND_BYTES] {
    let (year, month, day) = civil(second / SECONDS_PER_DAY);
    let in_day = second % SECONDS_PER_DAY;
    let mut text = *b"0000-00-00T00:00:00.";
    digits(&mut text[0..4], year);
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], day);
    digits(&mut text[11..13], in_day / 3600);
    digits(&mut text[14..16], in_day / 60 % 60);
    digits(&mut text[17..19], in_day % 60);
    text
}

/// Fills `place` with the last digits of `number`.
fn digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01. Years are counted from March,
/// so that the leap day is a year's last, and in eras of 400 years, after which the calendar repeats.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_TO_ERA: u64 = 719_468; // from 0000-03-01 to 1970-01-01
    const DAYS_PER_ERA: u64 = 146_097;
    let days = days + DAYS_TO_ERA;
    let (era, day) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153; // 0 is March
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(seconds: u64, nanos: u32) -> String {
        let at = UNIX_EPOCH + Duration::new(seconds, nanos);
        String::from_utf8(Stamp::new().at(at).to_vec()).unwrap()
    }

    #[test]
    fn known_times_read_as_they_should() {
        for (seconds, nanos, expected) in [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399, 999_999_999, "2000-02-28T23:59:59.999999999Z"),
            (951_782_400, 1, "2000-02-29T00:00:00.000000001Z"),
            (1_709_251_199, 120_000_000, "2024-02-29T23:59:59.120000000Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000000Z"),
            (SECOND_MAX, 0, "9999-12-31T23:59:59.000000000Z"),
            (SECOND_MAX + 1, 0, "9999-12-31T23:59:59.000000000Z"),
        ] {
            assert_eq!(text(seconds, nanos), expected);
        }
    }

    #[test]
    fn a_clock_set_back_repeats_the_last_time() {
        let mut stamp = Stamp::new();
        let later = *stamp.at(UNIX_EPOCH + Duration::from_secs(1000));
        assert_eq!(*stamp.at(UNIX_EPOCH + Duration::from_secs(10)), later);
        assert_eq!(*stamp.at(UNIX_EPOCH - Duration::from_secs(10)), later);
        assert!(*stamp.at(UNIX_EPOCH + Duration::new(1000, 1)) > later);
    }

    proptest! {
        #[test]
        fn a_calendar_library_agrees(seconds in 0..=SECOND_MAX - 86_400, nanos in 0..1_000_000_000u32) {
            let there = jiff::Timestamp::new(seconds.try_into().unwrap(), nanos.try_into().unwrap()).unwrap();
            prop_assert_eq!(text(seconds, nanos), format!("{there:.9}"));
        }
    }
}
