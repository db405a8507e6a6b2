//! Names of pods: each is one pod's at a time; and lookup by a prefix of an id.

use std::collections::HashMap;

use crate::model::{IdPrefix, PodId, PodMetadata};

/// Why an id or a prefix of one names nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Lookup {
    Unknown,
    Ambiguous,
}

/// The one item whose id is `id` or begins with it.
pub(super) fn by_prefix<T>(
    items: impl Iterator<Item = T>,
    key: impl Fn(&T) -> &str,
    id: &IdPrefix,
) -> Result<T, Lookup> {
    let mut matching = items.filter(|item| id.fits(key(item)));
    let first = matching.next().ok_or(Lookup::Unknown)?;
    match matching.next() {
        Some(_) => Err(Lookup::Ambiguous),
        None => Ok(first),
    }
}

/// Who holds which pod name, and how to reach each pod.
///
/// `R` reaches a pod's driver.
///
/// Invariant: a name is held by a pod that is being made or that is there, never by a failure.
#[derive(Debug)]
pub(super) struct Names<R> {
    holders: HashMap<PodMetadata, PodId>,
    pods: HashMap<PodId, R>,
}

impl<R> Default for Names<R> {
    fn default() -> Self {
        Self { holders: HashMap::new(), pods: HashMap::new() }
    }
}

impl<R: Clone> Names<R> {
    /// The pod that holds the name.
    pub(super) fn holder(&self, name: &PodMetadata) -> Option<(PodId, R)> {
        let id = self.holders.get(name)?;
        Some((id.clone(), self.pods.get(id)?.clone()))
    }

    /// The pod that holds the name: the one that `begin` makes, unless another holds it.
    ///
    /// # Errors
    /// That of `begin`, and the name is free.
    pub(super) fn reserve<E>(
        &mut self,
        name: &PodMetadata,
        begin: impl FnOnce() -> Result<(PodId, R), E>,
    ) -> Result<(PodId, R), E> {
        if let Some(holder) = self.holder(name) {
            return Ok(holder);
        }
        let (id, reach) = begin()?;
        self.hold(name, id.clone(), reach.clone());
        Ok((id, reach))
    }

    /// The pod is there. At a start two records may claim one name; the caller brings the newest last.
    pub(super) fn hold(&mut self, name: &PodMetadata, id: PodId, reach: R) {
        self.holders.insert(name.clone(), id.clone());
        self.pods.insert(id, reach);
    }

    /// The pod is gone. Its name is free, unless another pod holds it by now.
    pub(super) fn forget(&mut self, name: &PodMetadata, id: &PodId) {
        self.pods.remove(id);
        if self.holders.get(name) == Some(id) {
            self.holders.remove(name);
        }
    }

    /// Every pod that is being made or that is there.
    pub(super) fn pods(&self) -> impl Iterator<Item = PodId> {
        self.pods.keys().cloned()
    }

    pub(super) fn reach(&self, id: &PodId) -> Option<R> {
        self.pods.get(id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Plain = Names<&'static str>;

    fn name(attempt: u32) -> PodMetadata {
        PodMetadata { name: "web".into(), uid: "u".into(), namespace: "n".into(), attempt }
    }

    fn id(byte: u8) -> PodId {
        PodId::from_bytes([byte; 32])
    }

    #[test]
    fn a_prefix_names_one_thing_or_none() {
        let ids = ["abc1", "abc2", "b000"];
        let find = |prefix| by_prefix(ids.iter(), |id| id, &IdPrefix::parse(prefix).unwrap()).copied();
        assert_eq!(find("b"), Ok("b000"));
        assert_eq!(find("abc1"), Ok("abc1"));
        assert_eq!(find("abc"), Err(Lookup::Ambiguous));
        assert_eq!(find("abc11"), Err(Lookup::Unknown));
    }

    #[test]
    fn a_second_call_joins_the_first_and_a_failure_frees_the_name() {
        let mut names = Plain::default();
        assert_eq!(names.reserve(&name(0), || Ok::<_, ()>((id(1), "one"))), Ok((id(1), "one")));
        assert_eq!(names.reserve(&name(0), || Ok::<_, ()>((id(2), "two"))), Ok((id(1), "one")));
        assert_eq!(names.reserve(&name(1), || Ok::<_, ()>((id(3), "three"))), Ok((id(3), "three")));
        names.forget(&name(0), &id(1));
        assert_eq!(names.reserve(&name(0), || Ok::<_, ()>((id(4), "four"))), Ok((id(4), "four")));
    }

    #[test]
    fn a_pod_holds_its_name_until_it_is_forgotten() {
        let mut names = Plain::default();
        names.hold(&name(0), id(1), "one");
        assert_eq!(names.reserve(&name(0), || Ok::<_, ()>((id(2), "two"))), Ok((id(1), "one")));
        assert_eq!(names.reach(&id(1)), Some("one"));
        names.forget(&name(0), &id(1));
        assert_eq!((names.holder(&name(0)), names.reach(&id(1))), (None, None));
    }

    #[test]
    fn the_newest_of_two_pods_keeps_the_name_when_the_other_goes() {
        let mut names = Plain::default();
        names.hold(&name(0), id(1), "old");
        names.hold(&name(0), id(2), "new");
        names.forget(&name(0), &id(1));
        assert_eq!(names.holder(&name(0)), Some((id(2), "new")));
        assert_eq!((names.reach(&id(1)), names.reach(&id(2))), (None, Some("new")));
    }
}
