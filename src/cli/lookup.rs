//! Which container an argument of the command line means.

use std::collections::HashMap;

use super::client::{self, Client};
use crate::cri::wire::{Container, ContainerState, PodSandbox};

/// Hex digits of an ID that are shown.
const ID_SHOWN: usize = 12;
/// Containers that are listed where a name means several.
const LISTED_MAX: usize = 8;

/// A container, and what it can be called.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Found {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) attempt: u32,
    pub(super) state: ContainerState,
    pub(super) pod_id: String,
    pub(super) pod: String,
    pub(super) namespace: String,
}

/// Why an argument means no container, or not one.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Daemon(#[from] client::Error),
    #[error("no container has the ID or name {0:?}")]
    Unknown(String),
    #[error("{wanted:?} means {count} containers: {}; say more of the ID, or POD/NAME", shown.join(", "))]
    Ambiguous { wanted: String, count: usize, shown: Vec<String> },
}

/// Asks the daemon for the container that `wanted` means.
pub(super) async fn container(client: &mut Client, wanted: &str) -> Result<Found, Error> {
    let (containers, pods) = (client.containers().await?, client.pods().await?);
    find(wanted, join(containers, pods))
}

fn join(containers: Vec<Container>, pods: Vec<PodSandbox>) -> Vec<Found> {
    let pods: HashMap<String, (String, String)> = pods
        .into_iter()
        .map(|pod| (pod.id, pod.metadata.map(|meta| (meta.name, meta.namespace)).unwrap_or_default()))
        .collect();
    let found = |container: Container| {
        let state = container.state();
        let (pod, namespace) = pods.get(&container.pod_sandbox_id).cloned().unwrap_or_default();
        let meta = container.metadata.unwrap_or_default();
        Found {
            id: container.id,
            name: meta.name,
            attempt: meta.attempt,
            state,
            pod_id: container.pod_sandbox_id,
            pod,
            namespace,
        }
    };
    containers.into_iter().map(found).collect()
}

/// By the whole ID; else by NAME, POD/NAME or NAMESPACE/POD/NAME; else by POD or NAMESPACE/POD; else by the beginning of
/// the ID. Of what a kubelet has restarted, the last is meant; of several, the one that runs.
fn find(wanted: &str, all: Vec<Found>) -> Result<Found, Error> {
    let parts: Vec<&str> = wanted.split('/').collect();
    let ways: [&dyn Fn(&Found) -> bool; 4] = [
        &|each| each.id == wanted,
        &|each| match parts[..] {
            [name] => each.name == name,
            [pod, name] => (each.pod.as_str(), each.name.as_str()) == (pod, name),
            [namespace, pod, name] => {
                (each.namespace.as_str(), each.pod.as_str(), each.name.as_str()) == (namespace, pod, name)
            }
            _ => false,
        },
        &|each| match parts[..] {
            [pod] => each.pod == pod,
            [namespace, pod] => (each.namespace.as_str(), each.pod.as_str()) == (namespace, pod),
            _ => false,
        },
        &|each| !wanted.is_empty() && each.id.starts_with(wanted),
    ];
    let last_attempt = |found: &Found| {
        let same = all.iter().filter(|other| (&other.pod_id, &other.name) == (&found.pod_id, &found.name));
        same.map(|other| other.attempt).max() == Some(found.attempt)
    };
    for (number, way) in ways.iter().enumerate() {
        let by_name = number == 1 || number == 2;
        let mut found: Vec<&Found> =
            all.iter().filter(|each| way(each) && (!by_name || last_attempt(each))).collect();
        if by_name && found.len() > 1 {
            let runs = |each: &&Found| each.state == ContainerState::ContainerRunning;
            if found.iter().any(runs) {
                found.retain(runs);
            }
        }
        match found[..] {
            [] => {}
            [one] => return Ok(one.clone()),
            _ => return Err(ambiguous(wanted, &found)),
        }
    }
    Err(Error::Unknown(wanted.into()))
}

fn ambiguous(wanted: &str, found: &[&Found]) -> Error {
    let show = |each: &&Found| {
        let Found { id, name, pod, namespace, .. } = each;
        let id = id.get(..ID_SHOWN).unwrap_or(id);
        format!("{namespace}/{pod}/{name} ({id})")
    };
    let mut shown: Vec<String> = found.iter().take(LISTED_MAX).map(show).collect();
    if found.len() > LISTED_MAX {
        shown.push(format!("and {} more", found.len() - LISTED_MAX));
    }
    Error::Ambiguous { wanted: wanted.into(), count: found.len(), shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(id: &str, path: &str, attempt: u32, state: ContainerState) -> Found {
        let [namespace, pod, name] = path.split('/').collect::<Vec<_>>()[..] else { panic!("{path}") };
        let pod_id = format!("pod of {namespace}/{pod}");
        Found {
            id: id.into(),
            name: name.into(),
            attempt,
            state,
            pod_id,
            pod: pod.into(),
            namespace: namespace.into(),
        }
    }

    /// The ID that is found, or the error.
    fn of(wanted: &str) -> Result<String, String> {
        use ContainerState::{ContainerExited as Exited, ContainerRunning as Running};
        let all = vec![
            one("aa00", "shop/web/nginx", 0, Exited),
            one("aa11", "shop/web/nginx", 1, Running),
            one("ab22", "shop/db/postgres", 0, Running),
            one("ac33", "test/web/nginx", 0, Running),
            one("ad44", "test/job/work", 0, Exited),
            one("ae55", "shop/job/work", 0, Running),
            one("cafe", "shop/two/first", 0, Running),
            one("babe", "shop/two/cafe", 0, Running),
        ];
        find(wanted, all).map(|found| found.id).map_err(|error| error.to_string())
    }

    #[test]
    fn a_container_is_known_by_its_id_and_by_its_beginning() {
        assert_eq!(of("aa00").unwrap(), "aa00");
        assert_eq!(of("aa0").unwrap(), "aa00");
        assert_eq!(of("cafe").unwrap(), "cafe", "a whole ID comes before a name");
        assert_eq!(of("ff").unwrap_err(), r#"no container has the ID or name "ff""#);
        let error = of("aa").unwrap_err();
        assert!(error.contains("2 containers: shop/web/nginx (aa00), shop/web/nginx (aa11)"), "{error}");
    }

    #[test]
    fn a_name_means_the_last_attempt_and_rather_what_runs() {
        assert_eq!(of("postgres").unwrap(), "ab22");
        assert_eq!(of("work").unwrap(), "ae55");
        assert_eq!(of("shop/web/nginx").unwrap(), "aa11");
        let error = of("nginx").unwrap_err();
        assert!(error.contains("shop/web/nginx (aa11), test/web/nginx (ac33); say more"), "{error}");
        assert_eq!(of("job/work").unwrap(), "ae55");
        assert_eq!(of("test/job/work").unwrap(), "ad44");
    }

    #[test]
    fn a_pod_with_one_container_means_that() {
        assert_eq!(of("db").unwrap(), "ab22");
        assert_eq!(of("test/web").unwrap(), "ac33");
        assert!(of("two").unwrap_err().contains("2 containers"));
        assert!(of("").is_err() && of("a/b/c/d").is_err());
    }
}
