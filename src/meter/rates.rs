//! How fast CPU time is used, from two readings of a counter. Pure: whoever reads says when.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// Readings closer together than this say more about the scheduler than about the workload.
const WINDOW_MIN: Duration = Duration::from_secs(1);

/// The last readings of many counters, by key.
#[derive(Debug)]
pub(super) struct Rates<K> {
    kept: HashMap<K, Kept>,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    newer: Reading,
    older: Option<Reading>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    cpu_ns: u64,
}

impl<K> Default for Rates<K> {
    fn default() -> Self {
        Self { kept: HashMap::new() }
    }
}

impl<K: Eq + Hash + Clone> Rates<K> {
    /// Keeps a reading for those to come.
    pub(super) fn keep(&mut self, key: &K, at: Instant, cpu_ns: u64) {
        let newer = Reading { at, cpu_ns };
        let older = self.kept.get(key).map(|kept| kept.newer).filter(|older| older.cpu_ns <= cpu_ns);
        self.kept.insert(key.clone(), Kept { newer, older });
    }

    /// Billionths of a core, on average since the last kept reading that is old enough. `None` while there is
    /// none: a caller can then tell "not known yet" from "idle". The first reading of a counter is kept.
    pub(super) fn rate(&mut self, key: &K, at: Instant, cpu_ns: u64) -> Option<u64> {
        let Some(kept) = self.kept.get(key) else {
            self.keep(key, at, cpu_ns);
            return None;
        };
        let old_enough = |reading: &Reading| at.saturating_duration_since(reading.at) >= WINDOW_MIN;
        let base = Some(kept.newer).filter(old_enough).or(kept.older.filter(old_enough))?;
        let Some(used) = cpu_ns.checked_sub(base.cpu_ns) else {
            // The counter began anew: so does the rate.
            self.kept.remove(key);
            self.keep(key, at, cpu_ns);
            return None;
        };
        let elapsed = at.saturating_duration_since(base.at).as_nanos();
        u64::try_from(u128::from(used) * 1_000_000_000 / elapsed.max(1)).ok()
    }

    /// Forgets all others.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&K) -> bool) {
        self.kept.retain(|key, _| keep(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const CORE: u64 = 1_000_000_000;

    fn rates() -> (Rates<&'static str>, Instant) {
        (Rates::default(), Instant::now())
    }

    #[test]
    fn a_rate_needs_two_readings_a_second_apart() {
        let (mut rates, start) = rates();
        assert_eq!(rates.rate(&"a", start, 5), None);
        assert_eq!(rates.rate(&"a", start + SECOND / 2, CORE), None);
        assert_eq!(rates.rate(&"a", start + 2 * SECOND, CORE + 5), Some(CORE / 2));
        assert_eq!(rates.rate(&"a", start + 2 * SECOND, 5), Some(0));
        assert_eq!(rates.rate(&"b", start + 2 * SECOND, 7), None);
    }

    #[test]
    fn right_after_a_reading_the_one_before_it_is_the_base() {
        let (mut rates, start) = rates();
        rates.keep(&"a", start, 0);
        rates.keep(&"a", start + 10 * SECOND, 10 * CORE);
        let just_after = start + 10 * SECOND + SECOND / 10;
        assert_eq!(rates.rate(&"a", just_after, 10 * CORE + CORE / 10), Some(CORE));
        assert_eq!(rates.rate(&"a", start + 12 * SECOND, 10 * CORE), Some(0));
    }

    #[test]
    fn a_counter_that_begins_anew_begins_a_new_rate() {
        let (mut rates, start) = rates();
        rates.keep(&"a", start, 10 * CORE);
        assert_eq!(rates.rate(&"a", start + 2 * SECOND, 0), None);
        assert_eq!(rates.rate(&"a", start + 4 * SECOND, 2 * CORE), Some(CORE));
        rates.keep(&"a", start + 5 * SECOND, 3 * CORE);
        rates.keep(&"a", start + 7 * SECOND, 1);
        assert_eq!(rates.rate(&"a", start + 7 * SECOND, 1), None, "the reading before is of the old counter");
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let (mut rates, start) = rates();
        rates.keep(&"a", start, 0);
        rates.keep(&"b", start, 0);
        rates.retain(|key| *key == "b");
        assert_eq!(rates.kept.keys().collect::<Vec<_>>(), [&"b"]);
    }

    #[test]
    fn two_readings_at_one_moment_are_no_division_by_zero() {
        let (mut rates, start) = rates();
        rates.keep(&"a", start, 0);
        assert_eq!(rates.rate(&"a", start, u64::MAX), None);
        assert_eq!(rates.rate(&"a", start + SECOND, u64::MAX), Some(u64::MAX));
    }
}
