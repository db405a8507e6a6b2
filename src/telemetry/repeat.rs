//! Log lines that repeat: of the same kind about the same object, so that it is logged once and then counted.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long repetitions are only counted. A probe that fails every ten seconds is one line in ten minutes.
pub const QUIET: Duration = Duration::from_secs(600);

/// Objects that are remembered: ten for each of a full node's pods. The one longest ago is forgotten first.
const REMEMBERED_MAX: usize = 1024;

/// Kinds and objects that were logged lately.
#[derive(Debug)]
pub struct Repeats<K> {
    seen: Mutex<BTreeMap<(K, String), Seen>>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    logged: Instant,
    last: Instant,
    /// Since it was logged.
    times: u64,
}

impl<K: Copy + Ord> Repeats<K> {
    pub const fn new() -> Self {
        Self { seen: Mutex::new(BTreeMap::new()) }
    }

    /// Notes one more occurrence at `now`. If it is to be logged: how many there were since the last that was,
    /// this one included.
    pub fn times(&self, kind: K, object: &str, now: Instant) -> Option<u64> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = seen.get_mut(&(kind, object.to_owned())) {
            entry.last = now;
            entry.times += 1;
            if now.saturating_duration_since(entry.logged) < QUIET {
                return None;
            }
            entry.logged = now;
            return Some(std::mem::take(&mut entry.times));
        }
        if seen.len() >= REMEMBERED_MAX {
            forget(&mut seen, now);
        }
        seen.insert((kind, object.to_owned()), Seen { logged: now, last: now, times: 0 });
        Some(1)
    }
}

/// Makes room: all that rest, or the one that was last seen longest ago.
fn forget<K: Copy + Ord>(seen: &mut BTreeMap<(K, String), Seen>, now: Instant) {
    seen.retain(|_, entry| now.saturating_duration_since(entry.last) < QUIET);
    if seen.len() >= REMEMBERED_MAX
        && let Some(oldest) = seen.iter().min_by_key(|(_, entry)| entry.last).map(|(key, _)| key.clone())
    {
        seen.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_logged_and_then_only_a_count_now_and_then() {
        let (repeats, start) = (Repeats::new(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(repeats.times("probe", "web", at(0)), Some(1));
        let later: Vec<_> = (1..=121).map(|nth| repeats.times("probe", "web", at(nth * 10))).collect();
        let logged: Vec<_> = later.iter().flatten().copied().collect();
        assert_eq!((later[59], later[119]), (Some(60), Some(60)));
        assert_eq!(logged, [60, 60]);
    }

    #[test]
    fn another_kind_or_object_is_logged_by_itself() {
        let (repeats, now) = (Repeats::new(), Instant::now());
        assert_eq!(repeats.times("probe", "web", now), Some(1));
        assert_eq!(repeats.times("probe", "db", now), Some(1));
        assert_eq!(repeats.times("pull", "web", now), Some(1));
        assert_eq!(repeats.times("probe", "web", now), None);
    }

    #[test]
    fn what_rested_is_logged_at_once_and_memory_has_an_end() {
        let (repeats, start) = (Repeats::new(), Instant::now());
        for nth in 0..REMEMBERED_MAX + 10 {
            repeats.times("probe", &nth.to_string(), start + Duration::from_millis(nth as u64));
        }
        let now = start + Duration::from_secs(10);
        assert_eq!(repeats.seen.lock().unwrap().len(), REMEMBERED_MAX);
        assert_eq!(repeats.times("probe", "0", now), Some(1), "forgotten, being the oldest");
        assert_eq!(repeats.times("probe", "1033", now), None);
        assert_eq!(repeats.times("probe", "new", now + QUIET - Duration::from_millis(1)), Some(1));
        assert_eq!(repeats.seen.lock().unwrap().len(), 3);
    }
}
