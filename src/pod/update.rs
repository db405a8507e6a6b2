//! UpdateContainerResources and UpdatePodSandboxResources: limits of what is there.
//!
//! Changes of one object are made one at a time, in the order in which they were asked for: each says what it
//! sets, and what that makes depends on the one before. The kernel goes first and the record after it; when
//! either refuses, both are as they were. A daemon that dies between the two has told nobody, and the repeated
//! call finds the limits set and writes the record.

use std::{collections::VecDeque, io, sync::Arc};

use rustix::fs::{Mode, OFlags};
use tracing::{info, warn};

use super::{
    container::Removal,
    driver::{Driver, Pod, Reply},
    effect::{Done, Effect, Init, parent_of},
    error::{Error, chain},
    keep::{self, ContainerRecord, blocking},
    state::Input,
    view::ContainerView,
};
use crate::{
    cgroup::{self, Changed},
    model::{ContainerId, PodLimits, Resources},
    telemetry::task,
};

/// Changes of one object that wait for the one under way. A change takes a millisecond, so more than this many
/// wait only where the kernel hangs.
const WAITING_MAX: usize = 32;

/// Raw settings, and sizes of huge pages, that one object can gather over its life: the kernel has fewer files
/// in a cgroup.
const UNIFIED_MAX: usize = 200;
const HUGEPAGES_MAX: usize = 32;

/// Who is served, and who waits.
#[derive(Debug)]
pub(super) struct Queue<T> {
    under_way: Option<Reply<()>>,
    waiting: VecDeque<(T, Reply<()>)>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { under_way: None, waiting: VecDeque::new() }
    }
}

impl<T> Queue<T> {
    fn push(&mut self, object: impl FnOnce() -> String, change: T, reply: Reply<()>) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back((change, reply));
        } else {
            let error = Error::TooManyUpdates { object: object(), waiting: WAITING_MAX };
            let _ = reply.send(Err(error));
        }
    }

    /// The next, if nothing is under way.
    fn next(&mut self) -> Option<(T, Reply<()>)> {
        if self.under_way.is_none() { self.waiting.pop_front() } else { None }
    }
}

/// What the kernel took, not yet written down.
#[derive(Debug)]
pub(super) struct Update<T> {
    after: T,
    changed: Changed,
}

impl Driver {
    // ---- UpdateContainerResources ----

    pub(super) fn update(&mut self, id: &ContainerId, change: Resources, reply: Reply<()>) {
        let Some(at) = self.find(id) else {
            return drop(reply.send(Err(Error::NoSuchContainer(id.to_string()))));
        };
        self.containers[at].updates.push(|| format!("container {id}"), change, reply);
        self.next_update(at);
    }

    fn next_update(&mut self, at: usize) {
        while let Some((change, reply)) = self.containers[at].updates.next() {
            match self.may_update(at, &change) {
                Ok(effect) => {
                    self.containers[at].updates.under_way = Some(reply);
                    self.push(effect);
                }
                Err(error) => drop(reply.send(Err(error))),
            }
        }
    }

    fn may_update(&self, at: usize, change: &Resources) -> Result<Effect, Error> {
        let container = &self.containers[at];
        let view = &container.view;
        let object = || format!("container {}", view.id);
        let allowed = view.state.clone().step(Input::Update);
        allowed.map_err(|refusal| Error::refused(object(), refusal))?;
        let gone = |state| Error::WrongState {
            object: object(),
            state,
            wanted: "its limits cannot be changed any more",
        };
        if !matches!(container.removal, Removal::No) {
            return Err(gone("being removed"));
        }
        let Some(handle) = &self.pod.cgroup else { return Err(gone("without a cgroup")) };
        let (step, after) = (view.resources.step_to(change), view.resources.changed_by(change));
        bounded(&after)?;
        let score = (after.oom_score_adj != view.resources.oom_score_adj).then(|| self.init(at)).flatten();
        let before = view.resources.oom_score_adj;
        Ok(limit_container(handle.container(&view.id), view.id.clone(), step, after, score, before))
    }

    pub(super) async fn updated(
        &mut self,
        id: &ContainerId,
        made: Result<Box<Update<Resources>>, cgroup::Error>,
    ) {
        let Some(at) = self.find(id) else { return };
        let outcome = match made {
            Ok(update) => self.keep_limits(at, *update).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = &outcome {
            warn!(pod = %self.pod.id, container = %id, error = %chain(error), "limits were not changed");
        }
        if let Some(reply) = self.containers[at].updates.under_way.take() {
            let _ = reply.send(outcome);
        }
        self.next_update(at);
    }

    async fn keep_limits(&mut self, at: usize, update: Update<Resources>) -> Result<(), Error> {
        let view = &self.containers[at].view;
        if view.resources == update.after {
            return Ok(());
        }
        let next = ContainerView { resources: update.after, ..ContainerView::clone(view) };
        let path = keep::container_file(&self.pod.folder, &next.id);
        if let Err(error) = keep::put(path, ContainerRecord::of(&next)).await {
            take_back(&self.pod, update.changed).await;
            return Err(error);
        }
        crate::failpoint!("container.limits-written");
        info!(pod = %self.pod.id, container = %next.id, "limits changed");
        self.containers[at].view = Arc::new(next);
        self.publish();
        Ok(())
    }

    // ---- UpdatePodSandboxResources ----

    pub(super) fn update_pod(&mut self, change: PodLimits, reply: Reply<()>) {
        let pod = Arc::clone(&self.pod);
        self.updates.push(|| format!("pod {}", pod.id), change, reply);
        self.next_pod_update();
    }

    fn next_pod_update(&mut self) {
        while let Some((change, reply)) = self.updates.next() {
            match self.may_update_pod(&change) {
                Ok(effect) => {
                    self.updates.under_way = Some(reply);
                    self.push(effect);
                }
                Err(error) => drop(reply.send(Err(error))),
            }
        }
    }

    fn may_update_pod(&self, change: &PodLimits) -> Result<Effect, Error> {
        self.usable()?;
        let after = self.limits.changed_by(change);
        for resources in [&after.resources, &after.overhead].into_iter().flatten() {
            bounded(resources)?;
        }
        Ok(limit_pod(self.pod.cgroup.clone(), after))
    }

    pub(super) async fn pod_updated(&mut self, made: Result<Box<Update<PodLimits>>, cgroup::Error>) {
        let outcome = match made {
            Ok(update) => self.keep_pod_limits(*update).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = &outcome {
            warn!(pod = %self.pod.id, error = %chain(error), "limits of the pod were not changed");
        }
        if let Some(reply) = self.updates.under_way.take() {
            let _ = reply.send(outcome);
        }
        self.next_pod_update();
    }

    async fn keep_pod_limits(&mut self, update: Update<PodLimits>) -> Result<(), Error> {
        if self.limits == update.after {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.limits, update.after);
        if let Err(error) = keep::put(keep::pod_file(&self.pod.folder), self.record()).await {
            self.limits = before;
            take_back(&self.pod, update.changed).await;
            return Err(error);
        }
        crate::failpoint!("pod.limits-written");
        info!(pod = %self.pod.id, "limits of the pod changed");
        self.publish();
        Ok(())
    }
}

fn bounded(after: &Resources) -> Result<(), Error> {
    if after.unified.len() > UNIFIED_MAX || after.hugepages.len() > HUGEPAGES_MAX {
        let text = format!("more than {UNIFIED_MAX} raw settings or {HUGEPAGES_MAX} sizes of huge pages");
        return Err(Error::Invalid(text));
    }
    Ok(())
}

/// `score` is the init whose OOM score is to change; `score_before` what it was.
fn limit_container(
    cgroup: cgroup::Container,
    id: ContainerId,
    step: Resources,
    mut after: Resources,
    score: Option<Init>,
    score_before: i64,
) -> Effect {
    let wanted = after.oom_score_adj;
    Box::pin(async move {
        let changed = in_kernel(move || cgroup.update(&step)).await;
        if let (true, Some(init)) = (changed.is_ok(), score)
            && let Err(error) = blocking(move || set_oom_score(init, wanted)).await
        {
            // As at its start: lowering takes a capability that a node may not have.
            warn!(container = %id, %error, wanted, "the OOM score stays as it was");
            after.oom_score_adj = score_before;
        }
        crate::failpoint!("container.limits-changed");
        Done::Updated(id, changed.map(|changed| Box::new(Update { after, changed })))
    })
}

fn limit_pod(handle: Option<cgroup::Handle>, after: PodLimits) -> Effect {
    Box::pin(async move {
        let total = after.total();
        let changed = match handle {
            Some(handle) => in_kernel(move || handle.update(&total)).await,
            None => Ok(Changed::default()),
        };
        crate::failpoint!("pod.limits-changed");
        Done::PodUpdated(changed.map(|changed| Box::new(Update { after, changed })))
    })
}

/// v1 gives memory back before it refuses a limit, and that may take a while.
async fn in_kernel(
    work: impl FnOnce() -> Result<Changed, cgroup::Error> + Send + 'static,
) -> Result<Changed, cgroup::Error> {
    task::blocking("limits", work).await
}

async fn take_back(pod: &Arc<Pod>, changed: Changed) {
    if let Ok(Err(error)) = blocking(move || Ok(changed.take_back())).await {
        warn!(pod = %pod.id, error = %chain(&error), "a change of limits could not be taken back");
    }
}

/// The folder pins the process: a later one of the same number is not reached through it.
fn set_oom_score(init: Init, score: i64) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(format!("/proc/{}", init.pid), flags, Mode::empty())?;
    let open = |name, flags| rustix::fs::openat(&folder, name, flags | OFlags::CLOEXEC, Mode::empty());
    let status = io::read_to_string(std::fs::File::from(open("status", OFlags::RDONLY)?))?;
    if parent_of(&status) != Some(init.parent) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let file = open("oom_score_adj", OFlags::WRONLY)?;
    rustix::io::write(&file, score.to_string().as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use futures_util::StreamExt;
    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        model::HugepageLimit,
        pod::{
            driver::{
                Call,
                tests::{RUNNING, asked, driver, exited, id, node},
            },
            keep::PodRecord,
            state::PodState,
        },
        store,
        supervisor::Event,
    };

    /// A ready pod with one running container, in cgroups that have no controller.
    fn ready(folder: &Path) -> Driver {
        let node = node(folder);
        let mut driver = driver(&node, PodState::Ready, &[(1, RUNNING)]);
        let pod = Arc::get_mut(&mut driver.pod).unwrap();
        pod.cgroup = Some(cgroup::Handle::fake(&pod.id));
        driver
    }

    /// Without the controller this asks for nothing, so it is granted.
    fn granted() -> Resources {
        let hugepages = vec![HugepageLimit { page_size: "2MB".into(), limit_bytes: 0 }];
        Resources { hugepages, ..Resources::default() }
    }

    fn refused() -> Resources {
        Resources { memory_bytes: 4096, ..Resources::default() }
    }

    async fn update(driver: &mut Driver, change: Resources) -> Result<(), Error> {
        let (reply, mut answer) = asked();
        driver.answer(Call::Update { id: id(1), change: Box::new(change), reply }).await;
        if let Ok(answer) = answer.try_recv() {
            return answer;
        }
        let done = driver.effects.next().await.unwrap();
        driver.settle(done).await;
        answer.try_recv().unwrap()
    }

    fn shown(driver: &Driver) -> Resources {
        driver.pod.node.board.view().container(id(1).as_str()).unwrap().resources.clone()
    }

    #[tokio::test]
    async fn limits_are_written_and_shown_once_the_kernel_has_taken_them() {
        let folder = tempfile::tempdir().unwrap();
        let mut driver = ready(folder.path());
        let error = update(&mut driver, refused()).await.unwrap_err();
        assert!(matches!(error, Error::Cgroup(cgroup::Error::NoController { .. })), "{error}");
        assert_eq!(shown(&driver), Resources::default());
        update(&mut driver, granted()).await.unwrap();
        assert_eq!(shown(&driver), granted());
        let path = keep::container_file(&driver.pod.folder, &id(1));
        assert_eq!(store::get::<ContainerRecord>(&path).unwrap().resources, granted());
    }

    #[tokio::test]
    async fn limits_that_cannot_be_written_down_are_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let mut driver = ready(folder.path());
        std::fs::remove_dir_all(&driver.pod.folder).unwrap();
        assert!(matches!(update(&mut driver, granted()).await, Err(Error::Io { .. })));
        assert_eq!(shown(&driver), Resources::default());
    }

    #[tokio::test]
    async fn the_second_of_two_changes_at_once_waits_for_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let mut driver = ready(folder.path());
        let mut answers = Vec::new();
        for change in [refused(), granted()] {
            let (reply, answer) = asked();
            driver.answer(Call::Update { id: id(1), change: Box::new(change), reply }).await;
            answers.push(answer);
        }
        assert_eq!(driver.effects.len(), 1);
        for _ in 0..2 {
            let done = driver.effects.next().await.unwrap();
            driver.settle(done).await;
        }
        assert_eq!(
            answers.into_iter().map(|mut one| one.try_recv().unwrap().is_ok()).collect::<Vec<_>>(),
            [false, true]
        );
        assert_eq!(shown(&driver), granted());
    }

    #[tokio::test]
    async fn what_has_exited_is_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let mut driver = ready(folder.path());
        driver.settle(Done::Event(Event::Exited { id: id(1), exit: exited(0) })).await;
        let error = update(&mut driver, granted()).await.unwrap_err();
        assert!(matches!(error, Error::WrongState { state: "exited", .. }), "{error}");
    }

    #[tokio::test]
    async fn a_pods_limits_are_kept_in_its_record() {
        let folder = tempfile::tempdir().unwrap();
        let mut driver = ready(folder.path());
        let change = PodLimits { resources: Some(refused()), overhead: None };
        let (reply, mut answer) = asked();
        driver.answer(Call::UpdatePod { change: Box::new(change.clone()), reply }).await;
        let done = driver.effects.next().await.unwrap();
        driver.settle(done).await;
        // The kubelet's parent has the limits: nothing was asked of the kernel.
        answer.try_recv().unwrap().unwrap();
        let pod = store::get::<PodRecord>(&keep::pod_file(&driver.pod.folder)).unwrap();
        assert_eq!(pod.limits, Some(change));
    }

    #[test]
    fn what_an_object_gathers_is_bounded() {
        let unified = (0..=UNIFIED_MAX).map(|n| (format!("memory.n{n}"), String::new())).collect();
        assert!(bounded(&Resources { unified, ..Resources::default() }).is_err());
        assert!(bounded(&granted()).is_ok());
    }

    #[test]
    fn changes_wait_for_each_other_up_to_a_number() {
        let mut queue = Queue::default();
        let mut answers = Vec::new();
        for number in 0..=WAITING_MAX {
            let (reply, answer) = oneshot::channel();
            queue.push(|| "pod x".into(), number, reply);
            answers.push(answer);
        }
        let refused = answers.pop().unwrap().try_recv().unwrap();
        assert!(matches!(refused, Err(Error::TooManyUpdates { waiting: WAITING_MAX, .. })));
        let (first, reply) = queue.next().unwrap();
        queue.under_way = Some(reply);
        assert!(first == 0 && queue.next().is_none(), "one at a time");
        queue.under_way = None;
        assert_eq!(queue.next().unwrap().0, 1);
    }

    #[test]
    fn the_score_of_a_process_with_another_parent_is_left_alone() {
        let init = Init { pid: std::process::id(), parent: 1 };
        let own_parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
        if own_parent != 1 {
            assert_eq!(set_oom_score(init, 7).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let path = format!("/proc/{}/oom_score_adj", child.id());
        set_oom_score(Init { pid: child.id(), parent: std::process::id() }, 777).unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "777\n");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
