//! What is kept of an attachment: the configuration and arguments of its ADD, and the result. DEL gets the same, after a
//! reboot and after the configuration has changed.
//!
//! It is written twice: as records of ours, one before ADD and one after it, which nobody else touches; and in libcni's own
//! format and place, after ADD, for the tools that read that. Ours count; libcni's helps where one is damaged.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{config::NetworkList, invocation::Subject, netns::Identity};
use crate::{
    model::PodId,
    network::Error,
    store::{self, BadRecord, Durability},
};

/// What libcni calls its format.
const KIND: &str = "cniCacheV1";
/// Largest file of libcni's that is read: a configuration in base64, a result and the arguments; bytes.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// An attachment of a pod, being made or made.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Attached {
    pub(super) list: NetworkList,
    pub(super) subject: Subject,
    /// `None` until ADD has ended well.
    pub(super) result: Option<Value>,
    /// Which namespace `subject.netns` was.
    pub(super) namespace: Option<Identity>,
}

/// One file of libcni's cache; the names are its own.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    kind: String,
    container_id: String,
    /// Base64.
    config: String,
    if_name: String,
    network_name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    netns: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cni_args: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    capability_args: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
}

/// Our record of it, from before its ADD. Fields are only ever added.
#[derive(Debug, Deserialize, Serialize)]
struct Record {
    /// With a result in records of before 2026-11-29.
    cached: Cached,
    #[serde(default)]
    namespace: Option<Identity>,
}

/// Our record of what ADD has given. Not in the one of before: a file that replaces another is written to the disk at once
/// by ext4 (its mount option `auto_da_alloc`), and a pod that starts would wait for that.
#[derive(Debug, Deserialize, Serialize)]
struct Given {
    result: Option<Value>,
}

/// The two folders.
#[derive(Debug)]
pub(super) struct Cache {
    own: PathBuf,
    /// `results` in libcni's folder.
    shared: PathBuf,
}

impl Cache {
    /// Makes the folder of our records; libcni's is made with the first attachment.
    pub(super) fn open(own: PathBuf, libcni: &Path) -> Result<Self, Error> {
        let made =
            DirBuilder::new().recursive(true).mode(0o700).create(&own).and_then(|()| store::sweep(&own));
        made.map_err(failed("make folder of CNI attachments", &own))?;
        Ok(Self { own, shared: libcni.join("results") })
    }

    /// Notes that ADD is about to be asked for. Blocking, as all here.
    pub(super) fn begin(&self, pod: &PodId, attached: &Attached) -> Result<(), Error> {
        let path = self.own.join(pod.as_str());
        let record = Record { cached: attached.to_cached(), namespace: attached.namespace };
        store::put(&path, &record, Durability::Process).map_err(failed("write CNI attachment", &path))
    }

    /// Notes what ADD has given. [`Cache::begin`] was before.
    pub(super) fn keep(&self, pod: &PodId, attached: &Attached) -> Result<(), Error> {
        let path = self.result_path(pod);
        let given = Given { result: attached.result.clone() };
        store::put(&path, &given, Durability::Process).map_err(failed("write CNI attachment", &path))?;
        let path = self.shared_path(attached);
        let write = || -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.shared)?;
            // Not half a file under that name, and none under another that a reader would take for one.
            let temporary = path.with_file_name(format!(".{pod}.new"));
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&serde_json::to_vec(&attached.to_cached())?)?;
            fs::rename(&temporary, &path)
        };
        write().map_err(failed("write CNI result", &path))
    }

    /// What is known of the pod's attachment.
    ///
    /// # Errors
    /// When there is something, and it cannot be read.
    pub(super) fn get(&self, pod: &PodId) -> Result<Option<Attached>, Error> {
        let path = self.own.join(pod.as_str());
        let bad = |reason: String| Error::BadAttachment { pod: pod.clone(), path: path.clone(), reason };
        match store::get::<Record>(&path) {
            Ok(Record { cached, namespace }) => {
                let attached = Attached::of(cached, namespace).map_err(bad)?;
                let result = attached.result.clone().or_else(|| self.result(pod));
                Ok(Some(Attached { result, ..attached }))
            }
            Err(BadRecord::Absent) => Ok(None),
            Err(error) => match self.read_libcni(pod) {
                Some(attached) => {
                    tracing::warn!(%pod, %error, "a CNI attachment's record is damaged; libcni's cache has it too");
                    Ok(Some(attached))
                }
                None => Err(bad(error.to_string())),
            },
        }
    }

    /// What ADD has given, where it has; of a damaged record what libcni's cache says.
    fn result(&self, pod: &PodId) -> Option<Value> {
        match store::get::<Given>(&self.result_path(pod)) {
            Ok(Given { result }) => result,
            Err(BadRecord::Absent) => None,
            Err(error) => {
                let result = self.read_libcni(pod).and_then(|attached| attached.result);
                let found = result.is_some();
                tracing::warn!(%pod, %error, found, "the record of a CNI result is damaged; libcni's cache was asked");
                result
            }
        }
    }

    /// Whether anything is recorded of the pod.
    pub(super) fn has(&self, pod: &PodId) -> bool {
        self.own.join(pod.as_str()).symlink_metadata().is_ok()
    }

    /// Strikes it out, the record of the attachment last. Absent is success.
    pub(super) fn forget(&self, pod: &PodId, attached: Option<&Attached>) -> Result<(), Error> {
        if let Some(attached) = attached {
            let path = self.shared_path(attached);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove CNI result", &path)(error));
                }
                _ => {}
            }
        }
        for path in [self.result_path(pod), self.own.join(pod.as_str())] {
            store::remove(&path, Durability::Process).map_err(failed("remove CNI attachment", &path))?;
        }
        Ok(())
    }

    /// The pods of which anything is recorded.
    pub(super) fn pods(&self) -> Result<Vec<PodId>, Error> {
        let entries = fs::read_dir(&self.own).map_err(failed("list CNI attachments in", &self.own))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter_map(|name| PodId::parse(&name).ok()).collect())
    }

    fn result_path(&self, pod: &PodId) -> PathBuf {
        self.own.join(format!("{pod}.result"))
    }

    /// As libcni names it.
    fn shared_path(&self, attached: &Attached) -> PathBuf {
        let Subject { container, interface, .. } = &attached.subject;
        self.shared.join(format!("{}-{container}-{interface}", attached.list.name))
    }

    fn read_libcni(&self, pod: &PodId) -> Option<Attached> {
        let part = format!("-{pod}-");
        let entries = fs::read_dir(&self.shared).ok()?;
        let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let path = self.shared.join(names.find(|name| name.contains(&part))?);
        let mut bytes = Vec::new();
        fs::File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        let cached: Cached = serde_json::from_slice(&bytes).ok()?;
        (cached.container_id == pod.as_str()).then(|| Attached::of(cached, None).ok())?
    }
}

impl Attached {
    fn to_cached(&self) -> Cached {
        let subject = &self.subject;
        Cached {
            kind: KIND.into(),
            container_id: subject.container.clone(),
            config: BASE64_STANDARD.encode(&self.list.bytes),
            if_name: subject.interface.clone(),
            network_name: self.list.name.clone(),
            netns: subject.netns.clone(),
            cni_args: subject.args.clone(),
            capability_args: subject.capabilities.clone(),
            result: self.result.clone(),
        }
    }

    fn of(cached: Cached, namespace: Option<Identity>) -> Result<Self, String> {
        if cached.kind != KIND {
            return Err(format!("its kind is {:?} and not {KIND}", cached.kind));
        }
        let config = BASE64_STANDARD.decode(&cached.config).map_err(|error| format!("config: {error}"))?;
        let list = NetworkList::from_cache(&config).map_err(|error| format!("config: {error}"))?;
        let subject = Subject {
            container: cached.container_id,
            netns: cached.netns,
            interface: cached.if_name,
            args: cached.cni_args,
            capabilities: cached.capability_args,
        };
        Ok(Self { list, subject, result: cached.result, namespace })
    }
}

fn failed<'p>(operation: &'static str, path: &'p Path) -> impl Fn(io::Error) -> Error + use<'p> {
    move |source| Error::File { operation, path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn attached(pod: &PodId) -> Attached {
        let text = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge", "x": 1}]});
        let capabilities = json!({"portMappings": [{"hostPort": 80}]});
        Attached {
            list: NetworkList::parse("a.conflist", text.to_string().as_bytes()).unwrap(),
            subject: Subject {
                container: pod.to_string(),
                netns: "/run/netns/x".into(),
                interface: "eth0".into(),
                args: vec![("IgnoreUnknown".into(), "1".into())],
                capabilities: capabilities.as_object().unwrap().clone(),
            },
            result: None,
            namespace: Some(Identity { device: 4, inode: 5 }),
        }
    }

    fn cache(folder: &Path) -> Cache {
        Cache::open(folder.join("own"), &folder.join("libcni")).unwrap()
    }

    #[test]
    fn an_attachment_is_known_from_before_add_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, pod) = (cache(folder.path()), PodId::from_bytes([7; 32]));
        assert!(cache.get(&pod).unwrap().is_none() && !cache.has(&pod));
        let mut attached = attached(&pod);
        cache.begin(&pod, &attached).unwrap();
        assert_eq!(cache.get(&pod).unwrap().as_ref(), Some(&attached));
        assert!(!folder.path().join("libcni").exists(), "no tool is told of what is not there yet");
        attached.result = Some(json!({"ips": []}));
        cache.keep(&pod, &attached).unwrap();
        assert_eq!(cache.get(&pod).unwrap().as_ref(), Some(&attached));
        assert_eq!(cache.pods().unwrap(), std::slice::from_ref(&pod));
        cache.forget(&pod, Some(&attached)).unwrap();
        cache.forget(&pod, None).unwrap();
        assert!(cache.pods().unwrap().is_empty());
        for left in ["own", "libcni/results"] {
            assert_eq!(fs::read_dir(folder.path().join(left)).unwrap().count(), 0, "{left}");
        }
    }

    #[test]
    fn a_record_of_before_has_its_result_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, pod) = (cache(folder.path()), PodId::from_bytes([7; 32]));
        let attached = Attached { result: Some(json!({"ips": []})), ..attached(&pod) };
        cache.begin(&pod, &attached).unwrap();
        assert_eq!(cache.get(&pod).unwrap(), Some(attached));
    }

    #[test]
    fn a_damaged_result_is_libcnis_or_none_and_the_attachment_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, pod) = (cache(folder.path()), PodId::from_bytes([7; 32]));
        let attached = Attached { result: Some(json!({"ips": []})), ..attached(&pod) };
        cache.begin(&pod, &Attached { result: None, ..attached.clone() }).unwrap();
        cache.keep(&pod, &attached).unwrap();
        fs::write(cache.result_path(&pod), "spoilt").unwrap();
        assert_eq!(cache.get(&pod).unwrap().as_ref(), Some(&attached));
        fs::write(cache.shared_path(&attached), "spoilt too").unwrap();
        assert_eq!(cache.get(&pod).unwrap(), Some(Attached { result: None, ..attached }));
    }

    #[test]
    fn the_shared_file_is_libcnis_and_helps_when_our_record_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, pod) = (cache(folder.path()), PodId::from_bytes([7; 32]));
        let attached = Attached { result: Some(json!({"ips": [], "cniVersion": "1.0.0"})), ..attached(&pod) };
        cache.begin(&pod, &attached).unwrap();
        cache.keep(&pod, &attached).unwrap();
        let path = folder.path().join(format!("libcni/results/pods-{pod}-eth0"));
        let text: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let expected = json!({
            "kind": "cniCacheV1", "containerId": pod, "ifName": "eth0", "networkName": "pods",
            "config": BASE64_STANDARD.encode(&attached.list.bytes), "netns": "/run/netns/x",
            "cniArgs": [["IgnoreUnknown", "1"]], "capabilityArgs": {"portMappings": [{"hostPort": 80}]},
            "result": {"ips": [], "cniVersion": "1.0.0"},
        });
        assert_eq!(text, expected);
        fs::write(folder.path().join("own").join(pod.as_str()), "spoilt").unwrap();
        let found = cache.get(&pod).unwrap().unwrap();
        assert_eq!(found, Attached { namespace: None, ..attached });
        fs::write(&path, "spoilt too").unwrap();
        let error = cache.get(&pod).unwrap_err().to_string();
        assert!(error.contains(pod.as_str()), "{error}");
    }
}
