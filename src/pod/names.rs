use std::collections::HashMap;

use crate::model::{PodId, PodMetadata};

/// Why an id or a prefix of one names nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Lookup {
    Unknown,
    Ambiguous,
}

/// The one item whose id is `id` or begins with it. The empty prefix names nothing.
pub(super) fn by_prefix<T>(
    items: impl Iterator<Item = T>,
    key: impl Fn(&T) -> &str,
    id: &str,
) -> Result<T, Lookup> {
    if id.is_empty() {
        return Err(Lookup::Unknown);
    }
    let mut matching = items.filter(|item| key(item).starts_with(id));
    let first = matching.next().ok_or(Lookup::Unknown)?;
    match matching.next() {
        Some(_) => Err(Lookup::Ambiguous),
        None => Ok(first),
    }
}

/// Who holds which pod name, and how to reach each pod.
///
/// `J` is what a retry waits on while the first call is still at work; `H` reaches a pod's driver.
///
/// Invariant: a name is held by work that is going on or by a pod that is there, never by a failure.
#[derive(Debug)]
pub(super) struct Names<J, H> {
    claims: HashMap<PodMetadata, Claim<J>>,
    pods: HashMap<PodId, H>,
}

/// Who holds a name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Claim<J> {
    /// A call that has not ended: join it.
    Making(J),
    /// A pod.
    Held(PodId),
}

impl<J, H> Default for Names<J, H> {
    fn default() -> Self {
        Self { claims: HashMap::new(), pods: HashMap::new() }
    }
}

impl<J: Clone, H: Clone> Names<J, H> {
    #[cfg(test)]
    pub(super) fn claim_of(&self, name: &PodMetadata) -> Option<Claim<J>> {
        self.claims.get(name).cloned()
    }

    /// Takes the name for the work that `begin` starts, unless somebody holds it.
    pub(super) fn reserve(&mut self, name: &PodMetadata, begin: impl FnOnce() -> J) -> Claim<J> {
        self.claims.entry(name.clone()).or_insert_with(|| Claim::Making(begin())).clone()
    }

    /// The work has ended without a pod.
    pub(super) fn give_up(&mut self, name: &PodMetadata) {
        self.claims.remove(name);
    }

    /// The pod is there. At a start two records may claim one name; the caller brings the newest last.
    pub(super) fn hold(&mut self, name: &PodMetadata, id: PodId, reach: H) {
        self.claims.insert(name.clone(), Claim::Held(id.clone()));
        self.pods.insert(id, reach);
    }

    /// The pod is gone. Its name is free, unless another pod holds it by now.
    pub(super) fn forget(&mut self, name: &PodMetadata, id: &PodId) {
        self.pods.remove(id);
        if matches!(self.claims.get(name), Some(Claim::Held(holder)) if holder == id) {
            self.claims.remove(name);
        }
    }

    pub(super) fn reach(&self, id: &PodId) -> Option<H> {
        self.pods.get(id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Plain = Names<u32, &'static str>;

    fn name(attempt: u32) -> PodMetadata {
        PodMetadata { name: "web".into(), uid: "u".into(), namespace: "n".into(), attempt }
    }

    fn id(byte: u8) -> PodId {
        PodId::from_bytes([byte; 32])
    }

    #[test]
    fn a_prefix_names_one_thing_or_none() {
        let ids = ["abc1", "abc2", "b000"];
        let find = |prefix| by_prefix(ids.iter(), |id| id, prefix).copied();
        assert_eq!(find("b"), Ok("b000"));
        assert_eq!(find("abc1"), Ok("abc1"));
        assert_eq!(find("abc"), Err(Lookup::Ambiguous));
        assert_eq!(find("abc11"), Err(Lookup::Unknown));
        assert_eq!(find(""), Err(Lookup::Unknown));
    }

    #[test]
    fn a_second_call_joins_the_first_and_a_failure_frees_the_name() {
        let mut names = Plain::default();
        assert_eq!(names.reserve(&name(0), || 1), Claim::Making(1));
        assert_eq!(names.reserve(&name(0), || 2), Claim::Making(1));
        assert_eq!(names.reserve(&name(1), || 3), Claim::Making(3));
        names.give_up(&name(0));
        assert_eq!(names.reserve(&name(0), || 4), Claim::Making(4));
    }

    #[test]
    fn a_pod_holds_its_name_until_it_is_forgotten() {
        let mut names = Plain::default();
        names.reserve(&name(0), || 1);
        names.hold(&name(0), id(1), "one");
        assert_eq!(names.reserve(&name(0), || 2), Claim::Held(id(1)));
        assert_eq!(names.reach(&id(1)), Some("one"));
        names.forget(&name(0), &id(1));
        assert_eq!((names.claim_of(&name(0)), names.reach(&id(1))), (None, None));
    }

    #[test]
    fn the_newest_of_two_pods_keeps_the_name_when_the_other_goes() {
        let mut names = Plain::default();
        names.hold(&name(0), id(1), "old");
        names.hold(&name(0), id(2), "new");
        names.forget(&name(0), &id(1));
        assert_eq!(names.claim_of(&name(0)), Some(Claim::Held(id(2))));
        assert_eq!((names.reach(&id(1)), names.reach(&id(2))), (None, Some("new")));
    }
}
