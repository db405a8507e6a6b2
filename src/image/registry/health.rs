//! Which hosts failed of late. What one pull has found out, the others need not: a host that does not answer
//! rests, and is asked after all others until it has answered again.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use reqwest::Url;

use super::hosts::Host;

/// How long a host rests after its first failure. Each further one doubles it.
const REST_FIRST: Duration = Duration::from_secs(15);
const REST_MAX: Duration = Duration::from_secs(5 * 60);
/// For this long one request finds out whether a host is back, and the others still go elsewhere.
const TRIAL: Duration = Duration::from_secs(40);
/// Hosts that are remembered. Who may name images names hosts, so there must be an end.
const HOSTS_MAX: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Health(Mutex<HashMap<Url, Failing>>);

#[derive(Debug)]
struct Failing {
    /// As it was configured then: other settings are another host.
    host: Host,
    /// After the first.
    failures: u32,
    rests_until: Instant,
    /// One request is finding out whether it is back.
    on_trial: bool,
}

impl Health {
    /// Whether others go first. When the time is over, the first who asks gets a no and has to find out.
    pub(super) fn rests(&self, host: &Host, now: Instant) -> bool {
        let mut failing = self.lock();
        let Some(known) = failing.get_mut(&host.base).filter(|known| known.host == *host) else {
            return false;
        };
        if now < known.rests_until {
            return true;
        }
        known.rests_until = now + TRIAL;
        known.on_trial = true;
        false
    }

    /// The host could not be reached, was too slow, or said that it is out of order. Failures while it rests
    /// are those of requests that were under way together, and count as one.
    pub(super) fn failed(&self, host: &Host, now: Instant) {
        let mut failing = self.lock();
        failing.retain(|_, known| now < known.rests_until + REST_MAX);
        let before = failing.get(&host.base).filter(|known| known.host == *host);
        let failures = match before {
            Some(known) if now < known.rests_until && !known.on_trial => return,
            Some(known) => known.failures.saturating_add(1),
            None if failing.len() >= HOSTS_MAX && !failing.contains_key(&host.base) => return,
            None => 0,
        };
        let rest = REST_FIRST.saturating_mul(2_u32.saturating_pow(failures.min(16))).min(REST_MAX);
        let known = Failing { host: host.clone(), failures, rests_until: now + rest, on_trial: false };
        failing.insert(host.base.clone(), known);
    }

    /// The host has answered.
    pub(super) fn works(&self, host: &Host) {
        self.lock().remove(&host.base);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Url, Failing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{super::hosts::hosts, *};

    fn host(name: &str) -> Host {
        hosts(Path::new("/nonexistent"), name).unwrap().hosts.remove(0)
    }

    #[test]
    fn a_failed_host_rests_longer_each_time_until_it_answers() {
        let (health, host, start) = (Health::default(), host("a.test"), Instant::now());
        let s = |seconds| start + Duration::from_secs(seconds);
        assert!(!health.rests(&host, s(0)));
        // Twelve layers that fail together are one failure.
        (0..12).for_each(|_| health.failed(&host, s(0)));
        assert!(health.rests(&host, s(14)));
        // One finds out, and the others still go elsewhere.
        assert!(!health.rests(&host, s(15)));
        assert!(health.rests(&host, s(15)));
        health.failed(&host, s(16));
        assert!(health.rests(&host, s(45)) && !health.rests(&host, s(46)));
        // Its outcome is never reported: another finds out.
        assert!(health.rests(&host, s(85)) && !health.rests(&host, s(86)));
        health.works(&host);
        assert!(!health.rests(&host, s(87)) && !health.rests(&host, s(87)));
        (0..40).for_each(|n| health.failed(&host, s(100 + n * 400)));
        let last = 100 + 39 * 400;
        assert!(health.rests(&host, s(last + 1)) && !health.rests(&host, s(last + 300)));
    }

    #[test]
    fn a_host_with_other_settings_is_another_host() {
        let (health, host, now) = (Health::default(), host("a.test"), Instant::now());
        health.failed(&host, now);
        let mut mended = host.clone();
        mended.tls.skip_verify = true;
        assert!(health.rests(&host, now) && !health.rests(&mended, now));
    }

    #[test]
    fn only_so_many_hosts_are_remembered_and_none_for_ever() {
        let (health, now) = (Health::default(), Instant::now());
        (0..HOSTS_MAX + 5).for_each(|n| health.failed(&host(&format!("h{n}.test")), now));
        assert_eq!(health.lock().len(), HOSTS_MAX);
        health.failed(&host("late.test"), now + REST_MAX * 3);
        assert_eq!(health.lock().len(), 1);
    }
}
