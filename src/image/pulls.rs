//! The pulls of a node: equal ones are one, and only so many run at a time.

use std::{
    collections::{HashMap, hash_map::RandomState},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::AbortHandle,
};

use super::{
    Credentials, Error, Image, ingest::despite_removals, local::Local, pull::pull, reference::Reference,
    registry::Registries, secret::Login,
};
use crate::telemetry::task;

/// Images fetched from one registry at the same time; more wait. Each has its own layers in parallel.
const PULLS_OF_REGISTRY_MAX: usize = 5;
/// Images fetched at the same time in all: a registry that is slow holds its own places and no others.
const PULLS_MAX: usize = 16;

/// The pulls that are going on.
#[derive(Debug)]
pub(super) struct Pulls {
    local: Arc<Local>,
    registries: Arc<Registries>,
    places: Arc<Places>,
    /// For fingerprints of logins.
    keys: RandomState,
    running: Arc<Mutex<HashMap<Key, Running>>>,
}

/// Pulls with equal keys are one: the reference, and the login by its fingerprint.
type Key = (Reference, u64);
type Outcome = Option<Result<Arc<Image>, Error>>;

#[derive(Debug)]
struct Running {
    outcome: watch::Receiver<Outcome>,
    task: AbortHandle,
    callers: usize,
}

impl Pulls {
    pub(super) fn new(local: Arc<Local>) -> Self {
        Self {
            local,
            registries: Arc::default(),
            places: Arc::default(),
            keys: RandomState::new(),
            running: Arc::default(),
        }
    }

    /// Joins the pull that is under way, or starts one.
    pub(super) async fn pull(
        &self,
        reference: &str,
        credentials: Option<Credentials>,
    ) -> Result<Arc<Image>, Error> {
        let reference = Reference::parse(reference)?;
        let login = Login::for_host(credentials, &reference.host);
        let caller = self.join((reference.clone(), login.fingerprint(&self.keys)), login);
        let mut outcome = caller.outcome.clone();
        let abandoned = || Error::Abandoned(reference.to_string());
        let done = outcome.wait_for(Option::is_some).await.map_err(|_| abandoned())?;
        done.clone().unwrap_or_else(|| Err(abandoned()))
    }

    fn join(&self, key: Key, login: Login) -> Caller {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pull) = running.get_mut(&key)
            && pull.outcome.borrow().is_none()
            && !pull.task.is_finished()
        {
            pull.callers += 1;
            return Caller { outcome: pull.outcome.clone(), key, running: self.running.clone() };
        }
        let (sender, outcome) = watch::channel(None);
        let (local, registries, places) = (self.local.clone(), self.registries.clone(), self.places.clone());
        let reference = key.0.clone();
        let task = task::spawn("image pull", async move {
            let _place = places.take(&reference.host).await;
            let result = despite_removals(|| pull(&local, &registries, &reference, &login)).await;
            // Every caller may have gone.
            let _unread = sender.send(Some(result));
        });
        let pull = Running { outcome: outcome.clone(), task: task.abort_handle(), callers: 1 };
        running.insert(key.clone(), pull);
        Caller { outcome, key, running: self.running.clone() }
    }
}

/// The places of pulls.
#[derive(Debug)]
struct Places {
    all: Arc<Semaphore>,
    /// Of registries that are being pulled from.
    of_registry: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// One pull's place, until it is dropped.
struct Place {
    _all: Option<OwnedSemaphorePermit>,
    _of_registry: Option<OwnedSemaphorePermit>,
    /// Lives as long as somebody has a place of it or waits for one.
    _registry: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(PULLS_MAX)), of_registry: Mutex::default() }
    }
}

impl Places {
    /// Waits for a place of `registry`, and only then for one of all.
    async fn take(&self, registry: &str) -> Place {
        let places = {
            let mut known = self.of_registry.lock().unwrap_or_else(PoisonError::into_inner);
            known.retain(|_, places| places.strong_count() > 0);
            match known.get(registry).and_then(Weak::upgrade) {
                Some(places) => places,
                None => {
                    let places = Arc::new(Semaphore::new(PULLS_OF_REGISTRY_MAX));
                    known.insert(registry.into(), Arc::downgrade(&places));
                    places
                }
            }
        };
        // They are never closed, so that neither fails.
        let of_registry = places.clone().acquire_owned().await.ok();
        let all = self.all.clone().acquire_owned().await.ok();
        Place { _all: all, _of_registry: of_registry, _registry: places }
    }
}

/// One who waits. When the last goes, the pull stops: its downloads are dropped, the threads that unpack
/// see their streams end and delete what they have made.
struct Caller {
    outcome: watch::Receiver<Outcome>,
    key: Key,
    running: Arc<Mutex<HashMap<Key, Running>>>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pull) = running.get_mut(&self.key) else { return };
        if !pull.outcome.same_channel(&self.outcome) {
            return; // a later pull has taken the place
        }
        pull.callers -= 1;
        if pull.callers == 0 {
            pull.task.abort();
            running.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        time::Duration,
    };

    use super::super::{
        testnode::{Node, digest_part, image, tokio_test},
        testregistry::{Fault, TestRegistry},
    };
    use super::*;

    #[test]
    fn equal_pulls_share_their_work() {
        tokio_test(async {
            let node = Node::new();
            let image = image();
            let (id, _) = node.registry.put_image("app", "v1", &image);
            node.registry.put_image("copy", "v1", &image);
            node.registry.fault("blobs", 1, Fault::Delay(Duration::from_millis(300)));
            let (a, b, c) = tokio::join!(node.pull("app:v1"), node.pull("app:v1"), node.pull("copy:v1"));
            for pulled in [a, b, c] {
                assert_eq!(pulled.unwrap().id, id);
            }
            for blob in &image.blobs {
                let gets = |repository: &str| {
                    node.registry.count(&format!("GET /v2/{repository}/blobs/{}", digest_part(blob)))
                };
                assert_eq!(gets("app") + gets("copy"), 1);
            }
            assert_eq!(node.images.find(id.hex()).unwrap().unwrap().repo_tags.len(), 2);
        });
    }

    #[test]
    fn a_slow_registry_holds_its_own_places_and_no_others() {
        tokio_test(async {
            let (node, slow) = (Node::new(), TestRegistry::start());
            let (id, _) = node.registry.put_image("app", "v1", &image());
            let held = Arc::new(AtomicBool::new(true));
            slow.fault("manifests", 100, Fault::While(held.clone()));
            let stuck = |n: usize| {
                let (images, name) = (node.images.clone(), slow.name(&format!("app{n}:v1")));
                task::spawn("stuck pull", async move { images.pull(&name, None).await })
            };
            let stuck: Vec<_> = (0..PULLS_OF_REGISTRY_MAX + 2).map(stuck).collect();
            while slow.requests().len() < PULLS_OF_REGISTRY_MAX {
                tokio::task::yield_now().await;
            }
            assert_eq!(node.pull("app:v1").await.unwrap().id, id);
            assert_eq!(slow.requests().len(), PULLS_OF_REGISTRY_MAX);
            held.store(false, Ordering::Release);
            for pull in stuck {
                assert!(matches!(pull.await.unwrap(), Err(Error::NotInRegistry { .. })));
            }
        });
    }

    #[test]
    fn a_pull_stops_with_its_last_caller() {
        tokio_test(async {
            let node = Node::new();
            let image = image();
            let (id, _) = node.registry.put_image("app", "v1", &image);
            node.registry.fault(&digest_part(&image.blobs[1]), 1, Fault::Delay(Duration::from_millis(1500)));
            let short = Duration::from_millis(500);
            // One goes, one stays: the work goes on.
            let (gone, stayed) =
                tokio::join!(tokio::time::timeout(short, node.pull("app:v1")), node.pull("app:v1"));
            assert!(gone.is_err());
            assert_eq!(stayed.unwrap().id, id);
            node.images.remove(id.hex()).await.unwrap();

            node.registry.fault(&digest_part(&image.blobs[1]), 1, Fault::Delay(Duration::from_millis(1500)));
            assert!(tokio::time::timeout(short, node.pull("app:v1")).await.is_err());
            tokio::time::sleep(Duration::from_millis(1500)).await;
            assert_eq!((node.images.list().unwrap().len(), node.layers()), (0, 0));
            node.assert_no_ingest();
            assert_eq!(node.pull("app:v1").await.unwrap().id, id);
        });
    }
}
