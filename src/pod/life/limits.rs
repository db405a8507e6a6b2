//! Changes of limits: of one container, or of the pod.
//!
//! Changes of one object are made one at a time, in the order in which they were asked for: each says what it
//! sets, and what that makes depends on the one before. The kernel goes first and the record after it; when
//! either refuses, both are as they were. A daemon that dies between the two has answered nobody, and the repeated
//! call finds the limits set and writes the record.

use std::{collections::VecDeque, sync::Arc};

use super::{
    container::ContainerInput,
    ledger::Ledger,
    order::{LimitChange, Notice, Order, PodRecordReason, RecordReason, Ticket, Work, Write},
};
use crate::{
    cgroup::{self, Changed},
    model::{ContainerId, PodLimits, Resources},
    pod::{error::Error, view::ContainerView},
};

/// Changes of one object that wait for the one under way. A change takes a millisecond, so more than this many
/// wait only where the kernel hangs.
pub(super) const WAITING_MAX: usize = 32;

/// Raw settings, and sizes of huge pages, that one object can gather over its life: the kernel has fewer files
/// in a cgroup.
const UNIFIED_MAX: usize = 200;
const HUGEPAGES_MAX: usize = 32;

/// The changes of one object.
#[derive(Debug)]
pub(super) struct Changes<T> {
    under_way: Option<UnderWay<T>>,
    waiting: VecDeque<(T, Ticket)>,
}

/// The change that is being made, and who asked for it.
#[derive(Debug)]
enum UnderWay<T> {
    InKernel(Ticket),
    /// The kernel has taken it; its record is being written.
    Writing(Ticket, Limited<T>),
    /// The record could not be written, for this reason; the kernel's limits are set back.
    TakingBack(Ticket, Error),
}

/// What the kernel took, not yet written down.
#[derive(Debug)]
pub(in crate::pod) struct Limited<T> {
    pub(in crate::pod) after: T,
    pub(in crate::pod) changed: Changed,
}

impl<T> Default for Changes<T> {
    fn default() -> Self {
        Self { under_way: None, waiting: VecDeque::new() }
    }
}

impl<T: Clone> Changes<T> {
    /// # Errors
    /// [`Error::TooManyUpdates`].
    pub(super) fn push(
        &mut self,
        object: impl FnOnce() -> String,
        change: T,
        ticket: Ticket,
    ) -> Result<(), Error> {
        if self.waiting.len() >= WAITING_MAX {
            return Err(Error::TooManyUpdates { object: object(), waiting: WAITING_MAX });
        }
        self.waiting.push_back((change, ticket));
        Ok(())
    }

    /// The next, if nothing is under way.
    pub(super) fn next(&mut self) -> Option<(T, Ticket)> {
        if self.under_way.is_none() { self.waiting.pop_front() } else { None }
    }

    pub(super) fn begin(&mut self, ticket: Ticket) {
        self.under_way = Some(UnderWay::InKernel(ticket));
    }

    /// The kernel's answer to the change under way was no, or there is nothing to write.
    pub(super) fn end(&mut self) -> Option<Ticket> {
        match self.under_way.take()? {
            UnderWay::InKernel(ticket) | UnderWay::Writing(ticket, _) | UnderWay::TakingBack(ticket, _) => {
                Some(ticket)
            }
        }
    }

    /// The kernel has taken the change under way: it is to be written. `false`: there is none.
    pub(super) fn write(&mut self, limited: Limited<T>) -> bool {
        match self.under_way.take() {
            Some(UnderWay::InKernel(ticket)) => {
                self.under_way = Some(UnderWay::Writing(ticket, limited));
                true
            }
            other => {
                self.under_way = other;
                false
            }
        }
    }

    /// The change under way is written. `None`: none was being written.
    pub(super) fn written(&mut self) -> Option<(Ticket, T)> {
        match self.under_way.take() {
            Some(UnderWay::Writing(ticket, limited)) => Some((ticket, limited.after)),
            other => {
                self.under_way = other;
                None
            }
        }
    }

    /// The change under way could not be written: it is to be set back.
    fn take_back(&mut self, error: Error) -> Option<Changed> {
        match self.under_way.take() {
            Some(UnderWay::Writing(ticket, limited)) => {
                self.under_way = Some(UnderWay::TakingBack(ticket, error));
                Some(limited.changed)
            }
            other => {
                self.under_way = other;
                None
            }
        }
    }

    /// The change under way is set back: who asked for it, and why it was not made.
    fn taken_back(&mut self) -> Option<(Ticket, Error)> {
        match self.under_way.take() {
            Some(UnderWay::TakingBack(ticket, error)) => Some((ticket, error)),
            other => {
                self.under_way = other;
                None
            }
        }
    }

    /// Everybody who asked. The object is gone.
    pub(super) fn take_all(&mut self) -> Vec<Ticket> {
        let waiting = std::mem::take(&mut self.waiting);
        self.end().into_iter().chain(waiting.into_iter().map(|(_, ticket)| ticket)).collect()
    }
}

/// # Errors
/// [`Error::TooManySettings`] for more than one object may gather.
pub(super) fn bounded(after: &Resources) -> Result<(), Error> {
    if after.unified.len() > UNIFIED_MAX || after.hugepages.len() > HUGEPAGES_MAX {
        return Err(Error::TooManySettings { settings: UNIFIED_MAX, hugepages: HUGEPAGES_MAX });
    }
    Ok(())
}

impl Ledger {
    // ---- UpdateContainerResources ----

    pub(super) fn update(&mut self, ticket: Ticket, id: &ContainerId, change: Resources) {
        let Some(at) = self.find(id) else {
            return self.refuse(ticket, Error::NoSuchContainer(id.to_string()));
        };
        match self.containers[at].limits.push(|| format!("container {id}"), change, ticket) {
            Ok(()) => self.next_change(at),
            Err(error) => self.refuse(ticket, error),
        }
    }

    fn next_change(&mut self, at: usize) {
        while let Some((change, ticket)) = self.containers[at].limits.next() {
            match self.may_update(at, &change) {
                Ok(change) => {
                    self.containers[at].limits.begin(ticket);
                    self.work(Work::Limit(Box::new(change)));
                }
                Err(error) => self.refuse(ticket, error),
            }
        }
    }

    fn may_update(&self, at: usize, change: &Resources) -> Result<LimitChange, Error> {
        let container = &self.containers[at];
        let view = container.shown();
        let allowed = view.state.clone().step(ContainerInput::Update);
        allowed.map_err(|refusal| Error::refused(container.object(), refusal))?;
        let gone = |state| Error::WrongState {
            object: container.object(),
            state,
            wanted: "its limits cannot be changed any more",
        };
        if container.is_being_removed() {
            return Err(gone("being removed"));
        }
        if self.pod.cgroup.is_none() {
            return Err(gone("without a cgroup"));
        }
        let (step, after) = (cgroup::step(&view.resources, change), cgroup::changed(&view.resources, change));
        bounded(&after)?;
        let score_before = view.resources.oom_score_adj;
        let score =
            (after.oom_score_adj != score_before).then(|| container.init(self.state.link())).flatten();
        Ok(LimitChange { id: view.id.clone(), step, after, score, score_before })
    }

    pub(super) fn limited(&mut self, id: &ContainerId, limited: Result<Limited<Resources>, cgroup::Error>) {
        let Some(at) = self.find(id) else { return };
        let container = &mut self.containers[at];
        let result = match limited {
            Ok(limited) if limited.after == container.shown().resources => Ok(()),
            Ok(limited) => {
                let view = ContainerView {
                    resources: limited.after.clone(),
                    ..ContainerView::clone(container.shown())
                };
                let (view, starting, reason) =
                    (Arc::new(view), container.may_have_started(), RecordReason::Limits);
                if container.limits.write(limited) {
                    self.orders.push(Order::Write(Write::Container { reason, view, starting }));
                }
                return;
            }
            Err(error) => Err(error.into()),
        };
        if let Some(ticket) = container.limits.end() {
            self.answer(ticket, result);
        }
        self.next_change(at);
    }

    pub(super) fn limits_written(&mut self, at: usize, result: Result<(), Error>) {
        let container = &mut self.containers[at];
        let id = container.id().clone();
        match result {
            Ok(()) => {
                let Some((ticket, after)) = container.limits.written() else { return };
                container.set_resources(after);
                self.show();
                self.orders.push(Order::Notice(Notice::Limited(Some(id))));
                self.reply(ticket);
                self.next_change(at);
            }
            Err(error) => {
                if let Some(changed) = container.limits.take_back(error) {
                    self.work(Work::TakeBack(Some(id), changed));
                }
            }
        }
    }

    pub(super) fn limits_taken_back(&mut self, id: &ContainerId) {
        let Some(at) = self.find(id) else { return };
        if let Some((ticket, error)) = self.containers[at].limits.taken_back() {
            self.refuse(ticket, error);
        }
        self.next_change(at);
    }

    // ---- UpdatePodSandboxResources ----

    pub(super) fn update_pod(&mut self, ticket: Ticket, change: PodLimits) {
        let id = &self.pod.id;
        match self.changes.push(|| format!("pod {id}"), change, ticket) {
            Ok(()) => self.next_pod_change(),
            Err(error) => self.refuse(ticket, error),
        }
    }

    fn next_pod_change(&mut self) {
        while let Some((change, ticket)) = self.changes.next() {
            match self.may_change(&change) {
                Ok(after) => {
                    self.changes.begin(ticket);
                    self.work(Work::LimitPod { after: Box::new(after) });
                }
                Err(error) => self.refuse(ticket, error),
            }
        }
    }

    fn may_change(&self, change: &PodLimits) -> Result<PodLimits, Error> {
        self.usable()?;
        let after = cgroup::pod_changed(&self.limits, change);
        for resources in [&after.resources, &after.overhead].into_iter().flatten() {
            bounded(resources)?;
        }
        Ok(after)
    }

    fn pod_change_over(&mut self, result: Result<(), Error>) {
        if let Some(ticket) = self.changes.end() {
            self.answer(ticket, result);
        }
        self.next_pod_change();
    }

    pub(super) fn pod_limits_written(&mut self, result: Result<(), Error>) {
        match result {
            Ok(()) => {
                let Some((ticket, after)) = self.changes.written() else { return };
                self.limits = after;
                self.show();
                self.orders.push(Order::Notice(Notice::Limited(None)));
                self.reply(ticket);
                self.next_pod_change();
            }
            Err(error) => {
                if let Some(changed) = self.changes.take_back(error) {
                    self.work(Work::TakeBack(None, changed));
                }
            }
        }
    }

    pub(super) fn pod_limited(&mut self, limited: Result<Limited<PodLimits>, cgroup::Error>) {
        match limited {
            Ok(limited) if limited.after == self.limits => self.pod_change_over(Ok(())),
            Ok(limited) => {
                let limits = limited.after.clone();
                if self.changes.write(limited) {
                    self.write_pod(PodRecordReason::Limits, limits);
                }
            }
            Err(error) => self.pod_change_over(Err(error.into())),
        }
    }

    pub(super) fn pod_limits_taken_back(&mut self) {
        if let Some((ticket, error)) = self.changes.taken_back() {
            self.refuse(ticket, error);
        }
        self.next_pod_change();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_object_gathers_is_bounded() {
        let unified = (0..=UNIFIED_MAX).map(|n| (format!("memory.n{n}"), String::new())).collect();
        assert!(bounded(&Resources { unified, ..Resources::default() }).is_err());
        assert!(bounded(&Resources::default()).is_ok());
    }

    #[test]
    fn changes_wait_for_each_other_up_to_a_number() {
        let mut changes = Changes::default();
        for number in 0..WAITING_MAX {
            changes.push(|| "pod x".into(), number, Ticket(number as u64)).unwrap();
        }
        let refused = changes.push(|| "pod x".into(), WAITING_MAX, Ticket(99));
        assert!(matches!(refused, Err(Error::TooManyUpdates { waiting: WAITING_MAX, .. })));
        let (first, ticket) = changes.next().unwrap();
        changes.begin(ticket);
        assert!(first == 0 && changes.next().is_none(), "one at a time");
        assert_eq!(changes.end(), Some(Ticket(0)));
        assert_eq!(changes.next().unwrap().0, 1);
    }
}
