//! How many log lines a process may say in a while, and the count of those that were more: a fault that repeats itself
//! must not fill the node's log.

use std::time::{Duration, Instant};

/// Lines in one period at most.
pub(super) const LINES_MAX: u32 = 20;
/// After a period as many lines may be said again, and it is said how many were dropped.
pub(super) const PERIOD: Duration = Duration::from_secs(10);

/// The log lines of the current period.
#[derive(Debug)]
pub(super) struct Allowance {
    period_began: Instant,
    said: u32,
    /// Lines that were not said, and not reported yet.
    dropped: u64,
}

impl Allowance {
    pub(super) fn new(now: Instant) -> Self {
        Self { period_began: now, said: 0, dropped: 0 }
    }

    /// Whether one more line may be said now. One that may not is counted.
    pub(super) fn admits_line(&mut self, now: Instant) -> bool {
        if now >= self.period_began + PERIOD {
            (self.period_began, self.said) = (now, 0);
        }
        let admitted = self.said < LINES_MAX;
        match admitted {
            true => self.said += 1,
            false => self.dropped += 1,
        }
        admitted
    }

    /// Counts lines that were admitted and got lost.
    pub(super) fn count_dropped(&mut self, lines: u64) {
        self.dropped += lines;
    }

    /// When it is to be said how many lines were dropped; `None`: none were.
    pub(super) fn report_due(&self) -> Option<Instant> {
        (self.dropped > 0).then(|| self.period_began + PERIOD)
    }

    /// How many lines were dropped, if that is to be said now. They count as reported.
    pub(super) fn take_dropped(&mut self, now: Instant) -> Option<u64> {
        self.report_due().filter(|due| *due <= now)?;
        (self.period_began, self.said) = (now, 1);
        Some(std::mem::take(&mut self.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_that_repeats_itself_is_said_so_often_and_then_counted() {
        let began = Instant::now();
        let mut allowance = Allowance::new(began);
        let admitted = (0..LINES_MAX + 5).filter(|_| allowance.admits_line(began)).count();
        assert_eq!(admitted, LINES_MAX as usize);
        assert_eq!(allowance.report_due(), Some(began + PERIOD));
        assert_eq!(allowance.take_dropped(began + PERIOD / 2), None, "not before the period is over");
        assert_eq!(allowance.take_dropped(began + PERIOD), Some(5));
        assert_eq!((allowance.report_due(), allowance.take_dropped(began + PERIOD * 2)), (None, None));
        let admitted = (0..LINES_MAX).filter(|_| allowance.admits_line(began + PERIOD)).count();
        assert_eq!(admitted, LINES_MAX as usize - 1, "the report was a line too");
        assert!(allowance.admits_line(began + PERIOD * 2));
    }

    #[test]
    fn a_report_that_could_not_be_made_is_made_in_the_next_period() {
        let began = Instant::now();
        let mut allowance = Allowance::new(began);
        allowance.count_dropped(2);
        assert_eq!(allowance.take_dropped(began + PERIOD), Some(2));
        allowance.count_dropped(2);
        assert_eq!(allowance.take_dropped(began + PERIOD), None);
        assert_eq!(allowance.take_dropped(began + PERIOD * 2), Some(2));
    }
}
