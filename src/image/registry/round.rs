//! One request's way over the hosts: who is asked next, who once more, and what to say when nobody had it.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use tokio::time::sleep;
use tracing::debug;

use super::{endpoint::Endpoint, health::Health};
use crate::image::Error;

/// Tries of one request at the host that is asked again. A registry that restarts is back after about as
/// long as they take.
const TRIES_MAX: u32 = 4;
/// Interruptions of one blob, however far it came in between.
const INTERRUPTIONS_MAX: u32 = 20;
/// Tests need the tries, not the waiting.
const PAUSE_FIRST: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 200 });
/// Longest pause, a registry's own wish (`Retry-After`) included.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Why one host did not give what it was asked for, and what may help.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) cure: Cure,
    /// Of its answer, if it gave one.
    pub(super) status: Option<StatusCode>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Cure {
    /// Nothing: it has answered, and will answer the same again.
    Nothing,
    /// Time, of which it may have said how much. The host is well.
    Patience(Option<Duration>),
    /// The same again: the connection broke in the middle of an answer.
    Again,
    /// Another host: this one cannot be reached, is too slow, or says that it is out of order.
    Rest,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, cure: Cure::Nothing, status: None }
    }
}

/// One request's way. Each host is asked once, in the order of the configuration, those that rest last; the
/// last of those that do not rest is asked again, since there is nobody better. When all rest, nothing says who
/// will be back first, and all are asked again.
#[derive(Debug)]
pub(super) struct Round<'a> {
    health: &'a Health,
    order: Vec<&'a Endpoint>,
    /// The place in `order` of the one that is asked again; `None` when all are.
    patient: Option<usize>,
    tries_max: u32,
    /// Counts on when all are asked again.
    at: usize,
    /// Of the one that is asked now, since it last gave anything.
    tries: u32,
    interruptions: u32,
    pause: Duration,
    /// By the place of the host in the configuration: how it failed last.
    failures: Vec<(&'a Endpoint, Failure)>,
}

impl<'a> Round<'a> {
    pub(super) fn new(health: &'a Health, endpoints: impl Iterator<Item = &'a Endpoint>) -> Self {
        let now = Instant::now();
        let mut order: Vec<_> = endpoints.collect();
        let mut well = order.len();
        if order.len() > 1 {
            let rests: Vec<_> = order.iter().map(|endpoint| health.rests(&endpoint.host, now)).collect();
            let of = |wanted: bool| order.iter().zip(&rests).filter(move |(_, rests)| **rests == wanted);
            let resting: Vec<_> = of(true).map(|(endpoint, _)| *endpoint).collect();
            let awake: Vec<_> = of(false).map(|(endpoint, _)| *endpoint).collect();
            well = awake.len();
            order = [awake, resting].concat();
        }
        Self {
            health,
            order,
            patient: well.checked_sub(1),
            tries_max: TRIES_MAX,
            at: 0,
            tries: 0,
            interruptions: 0,
            pause: Duration::ZERO,
            failures: Vec::new(),
        }
    }

    /// For what is worth one try and no more.
    pub(super) fn once(mut self) -> Self {
        self.tries_max = 1;
        self
    }

    /// The host to ask now, after a pause if it was asked before.
    pub(super) async fn next(&mut self) -> Option<&'a Endpoint> {
        let passes = if self.patient.is_some() { 1 } else { self.tries_max as usize };
        while self.at < self.order.len() * passes {
            let (pass, place) = (self.at / self.order.len(), self.at % self.order.len());
            let endpoint = self.order[place];
            if self.is_needless(endpoint) || (pass > 0 && self.has_answered(endpoint)) {
                self.at += 1;
                continue;
            }
            if pass > 0 && place == 0 {
                self.pause = pause(u32::try_from(pass).unwrap_or(u32::MAX));
            }
            if !self.pause.is_zero() {
                sleep(std::mem::take(&mut self.pause)).await;
            }
            return Some(endpoint);
        }
        None
    }

    /// The host has answered. Tells the others that it is well.
    pub(super) fn answered(&self, endpoint: &Endpoint) {
        self.health.works(&endpoint.host);
    }

    /// The host that was asked last has failed; with `progress` if it gave a part before.
    pub(super) fn failed(&mut self, endpoint: &'a Endpoint, failure: Failure, progress: bool) {
        match failure.cure {
            Cure::Rest => self.health.failed(&endpoint.host, Instant::now()),
            Cure::Nothing | Cure::Patience(_) | Cure::Again => self.health.works(&endpoint.host),
        }
        self.interruptions += 1;
        // One that is too slow gives something each time, and does not get more tries for it.
        let progress = progress && failure.cure == Cure::Again;
        self.tries = if progress { 0 } else { self.tries + 1 };
        let is_patient = self.patient == Some(self.at);
        let again = match failure.cure {
            Cure::Nothing => false,
            Cure::Again if progress => true,
            Cure::Again | Cure::Patience(_) | Cure::Rest => is_patient && self.tries < self.tries_max,
        };
        let again = again && self.interruptions < INTERRUPTIONS_MAX;
        debug!(host = endpoint.name(), error = %failure.error, again, "registry request failed");
        if again {
            let wish = if let Cure::Patience(wish) = failure.cure { wish } else { None };
            self.pause = wish.unwrap_or(pause(self.tries)).min(PAUSE_MAX);
        } else {
            (self.at, self.tries, self.pause) = (self.at + 1, 0, Duration::ZERO);
        }
        self.failures.retain(|(other, _)| !std::ptr::eq(*other, endpoint));
        self.failures.push((endpoint, failure));
    }

    /// Whether a host is only there for the case that another has no TLS, and that one has answered.
    fn is_needless(&self, endpoint: &Endpoint) -> bool {
        let Some(secure) = &endpoint.host.instead_of else { return false };
        self.failures.iter().any(|(other, failure)| other.host.base == *secure && failure.cure != Cure::Rest)
    }

    /// Whether a host has said what it will say again.
    fn has_answered(&self, endpoint: &Endpoint) -> bool {
        let mut failures = self.failures.iter();
        failures.any(|(other, failure)| std::ptr::eq(*other, endpoint) && failure.cure == Cure::Nothing)
    }

    /// The error when no host had it: that of the registry itself counts most, and the others are named.
    /// `endpoints` is the order of the configuration, in which the registry is last.
    pub(super) fn error(self, registry: &str, endpoints: &[Endpoint]) -> Error {
        let place = |endpoint: &Endpoint| endpoints.iter().position(|other| std::ptr::eq(other, endpoint));
        let mut failures = self.failures;
        failures.sort_by_key(|(endpoint, _)| place(endpoint));
        let Some((_, last)) = failures.pop() else {
            let why = "no host in its hosts.toml may be asked for this".into();
            return Error::RegistryRefused { host: registry.into(), why };
        };
        if failures.is_empty() {
            return last.error;
        }
        let others: Vec<_> =
            failures.iter().map(|(endpoint, failure)| describe(endpoint, &failure.error)).collect();
        Error::Everywhere { decisive: Box::new(last.error), others: others.join("; ") }
    }
}

/// Doubles from try to try.
fn pause(tries: u32) -> Duration {
    (PAUSE_FIRST * 2_u32.pow(tries.min(8))).min(PAUSE_MAX)
}

/// A host's error in a list of those of several hosts.
fn describe(endpoint: &Endpoint, error: &Error) -> String {
    let (name, text) = (endpoint.name(), error.to_string());
    let text = text.strip_prefix("RegistryUnavailable: ").unwrap_or(&text);
    if text.contains(&name) { text.into() } else { format!("{name}: {text}") }
}

#[cfg(test)]
mod tests {
    use reqwest::Url;

    use super::*;

    fn endpoints(bases: &[&str]) -> Vec<Endpoint> {
        bases.iter().map(|base| Endpoint::plain(Url::parse(base).unwrap())).collect()
    }

    fn failure(cure: Cure) -> Failure {
        let error = Error::RegistryUnavailable { host: "x".into(), why: "y".into() };
        Failure { error, cure, status: None }
    }

    /// The hosts that are asked, by their place, when each fails like this, with progress or without.
    async fn asked(
        health: &Health,
        endpoints: &[Endpoint],
        mut fails: impl FnMut(usize) -> (Cure, bool),
    ) -> Vec<usize> {
        let mut round = Round::new(health, endpoints.iter());
        let mut asked = Vec::new();
        while let Some(endpoint) = round.next().await {
            let place = endpoints.iter().position(|other| std::ptr::eq(other, endpoint)).unwrap();
            asked.push(place);
            let (cure, progress) = fails(place);
            round.failed(endpoint, failure(cure), progress);
        }
        asked
    }

    #[tokio::test]
    async fn the_next_host_is_asked_at_once_and_only_the_last_again() {
        let (health, all) = (Health::default(), endpoints(&["https://a", "https://b", "https://c"]));
        assert_eq!(asked(&health, &all, |_| (Cure::Rest, false)).await, [0, 1, 2, 2, 2, 2]);
        // Now all rest.
        let order =
            asked(&health, &all, |place| (if place == 1 { Cure::Nothing } else { Cure::Rest }, false));
        assert_eq!(order.await, [0, 1, 2, 0, 2, 0, 2, 0, 2]);
        all.iter().for_each(|endpoint| health.works(&endpoint.host));
        assert_eq!(asked(&health, &all, |_| (Cure::Nothing, false)).await, [0, 1, 2]);
    }

    #[tokio::test]
    async fn one_that_rests_is_asked_after_the_others_and_once() {
        let (health, all) = (Health::default(), endpoints(&["https://a", "https://b", "https://c"]));
        health.failed(&all[0].host, Instant::now());
        health.failed(&all[2].host, Instant::now());
        // Only b is well, so b is the one to be patient with.
        assert_eq!(asked(&health, &all, |_| (Cure::Patience(None), false)).await, [1, 1, 1, 1, 0, 2]);
        // They have answered meanwhile.
        assert_eq!(asked(&health, &all, |_| (Cure::Nothing, false)).await, [0, 1, 2]);
    }

    #[tokio::test]
    async fn a_transfer_goes_on_where_it_broke_but_not_for_ever() {
        let (health, all) = (Health::default(), endpoints(&["https://a", "https://b"]));
        let mut breaks = 0;
        let order = asked(&health, &all, |_| {
            breaks += 1;
            (Cure::Again, breaks < 4)
        });
        assert_eq!(order.await, [0, 0, 0, 0, 1, 1, 1, 1]);
        let order = asked(&health, &all, |_| (Cure::Again, true)).await;
        assert_eq!(order.len() as u32, INTERRUPTIONS_MAX + 1);
        // One that is too slow gives something each time, and loses its place all the same.
        assert_eq!(asked(&health, &all, |_| (Cure::Rest, true)).await, [0, 1, 1, 1, 1]);
    }

    #[tokio::test]
    async fn one_try_is_one_try() {
        let (health, all) = (Health::default(), endpoints(&["https://a"]));
        let mut round = Round::new(&health, all.iter()).once();
        let endpoint = round.next().await.unwrap();
        round.failed(endpoint, failure(Cure::Rest), false);
        assert!(round.next().await.is_none());
    }

    #[tokio::test]
    async fn a_host_without_tls_stands_in_only_when_tls_fails() {
        let (health, mut all) = (Health::default(), endpoints(&["https://a:1", "http://a:1"]));
        all[1].host.instead_of = Some(all[0].host.base.clone());
        assert_eq!(asked(&health, &all, |_| (Cure::Nothing, false)).await, [0]);
        let order =
            asked(&health, &all, |place| (if place == 0 { Cure::Rest } else { Cure::Nothing }, false));
        assert_eq!(order.await, [0, 1]);
        // It is known to have none: it is asked without, first.
        assert_eq!(asked(&health, &all, |_| (Cure::Nothing, false)).await, [1, 0]);
    }
}
