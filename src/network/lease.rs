//! Which pod has which address, on disk as the CNI plugin `host-local` has it, so that its tools and ours
//! read each other's: `<folder>/<network>/` holds `lock` (flock), `last_reserved_ip.0` (the last address given out of the
//! first subnet; `.1` of the second), and per lease a file named as the address, with the pod's id, CR LF, and the interface's name.
//!
//! Nothing is synced: after a power cut [`Leases::release_dead`] removes what the pods do not know.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};

use super::{Error, INTERFACE, config::Range};
use crate::{failpoint, model::PodId};

/// A lease is an id and a name; whatever is longer is none, and is not read further.
const LEASE_BYTES_MAX: u64 = 512;
/// The lock is held for microseconds, unless its holder is stopped or its disk hangs.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(1);

/// The addresses of one network, and who has them. Every call blocks on files.
#[derive(Debug)]
pub(super) struct Leases {
    folder: PathBuf,
    network: String,
}

impl Leases {
    /// Makes the folders.
    pub(super) fn open(folder: &Path, network: &str) -> Result<Self, Error> {
        let leases = Self { folder: folder.into(), network: network.into() };
        let path = leases.network_folder();
        let made = DirBuilder::new().recursive(true).mode(0o755).create(&path);
        made.map_err(|source| Error::Lease { operation: "make folder of leases", path, source })?;
        Ok(leases)
    }

    fn network_folder(&self) -> PathBuf {
        self.folder.join(&self.network)
    }

    /// Gives `pod` an address of its own of each range, in their order: all of them or none.
    pub(super) fn reserve(&self, pod: &PodId, ranges: &[Range]) -> Result<Vec<IpAddr>, Error> {
        let folder = self.network_folder();
        let _lock = lock(&folder)?;
        let mut reserved = Vec::new();
        for (nth, range) in ranges.iter().enumerate() {
            match reserve_in(&folder, nth, range, pod) {
                Ok(address) => reserved.push(address),
                Err(error) => {
                    for address in reserved {
                        remove(&folder.join(IpAddr::to_string(&address)))?;
                    }
                    return Err(error);
                }
            }
        }
        Ok(reserved)
    }

    /// Frees all addresses of `pod`, of every network that ever was configured. None is success. A lease that
    /// cannot be read is nobody's business but its own.
    pub(super) fn release(&self, pod: &PodId) -> Result<Vec<IpAddr>, Error> {
        self.release_where(|_, holder| match holder {
            Ok(Some(holder)) if holder == *pod => Fate::Free,
            Ok(_) | Err(_) => Fate::Stay,
        })
    }

    /// Frees all addresses that no pod of `live` holds, with those whose file a crash has spoilt: unless a pod is
    /// known to hold that address, which is then written down again.
    pub(super) fn release_dead(
        &self,
        live: &HashSet<PodId>,
        held: &HashMap<IpAddr, PodId>,
    ) -> Result<Vec<IpAddr>, Error> {
        self.release_where(|address, holder| match (holder, held.get(&address)) {
            (Ok(Some(holder)), _) if live.contains(&holder) => Fate::Stay,
            (Ok(None), Some(pod)) if live.contains(pod) => Fate::Belongs(pod.clone()),
            (Ok(_), _) => Fate::Free,
            // It may be somebody's.
            (Err(_), _) => Fate::Stay,
        })
    }

    /// Who has which address, of every network that ever was configured. A lease that cannot be read is nobody's.
    pub(super) fn holders(&self) -> Result<Vec<(IpAddr, PodId)>, Error> {
        let list = |source| Error::Lease { operation: "list leases in", path: self.folder.clone(), source };
        let mut holders = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(list)? {
            let entry = entry.map_err(list)?;
            if entry.file_type().map_err(list)?.is_dir() {
                let held = addresses(&entry.path())?.into_iter();
                holders.extend(held.filter_map(|(address, path)| Some((address, holder(&path).ok()??))));
            }
        }
        Ok(holders)
    }

    /// The addresses of `pod`, of every network that ever was configured: in the order of `ranges`, the others last. A lease
    /// that cannot be read is nobody's.
    pub(super) fn held_by(&self, pod: &PodId, ranges: &[Range]) -> Result<Vec<IpAddr>, Error> {
        let held = self.holders()?.into_iter();
        let mut held: Vec<_> =
            held.filter_map(|(address, holder)| (holder == *pod).then_some(address)).collect();
        let place = |address: &IpAddr| ranges.iter().position(|range| range.subnet.contains(*address));
        held.sort_by_key(|address| (place(address).unwrap_or(usize::MAX), *address));
        Ok(held)
    }

    /// Frees those of these addresses that `pod` still has: the undo of [`Leases::reserve`]. It may come late, when they were
    /// released and given to others.
    pub(super) fn give_back(&self, pod: &PodId, addresses: &[IpAddr]) -> Result<(), Error> {
        let folder = self.network_folder();
        let _lock = lock(&folder)?;
        let paths = addresses.iter().map(|address| folder.join(address.to_string()));
        let mut own = paths.filter(|path| holder(path).is_ok_and(|holder| holder.as_ref() == Some(pod)));
        own.try_for_each(|path| remove(&path))
    }

    fn release_where(
        &self,
        fate: impl Fn(IpAddr, io::Result<Option<PodId>>) -> Fate,
    ) -> Result<Vec<IpAddr>, Error> {
        let list = |source| Error::Lease { operation: "list leases in", path: self.folder.clone(), source };
        let mut released = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(list)? {
            let entry = entry.map_err(list)?;
            if entry.file_type().map_err(list)?.is_dir() {
                let folder = entry.path();
                let _lock = lock(&folder)?;
                for (address, path) in addresses(&folder)? {
                    let holder = holder(&path).inspect_err(|error| {
                        tracing::warn!(path = %path.display(), %error, "cannot read a lease; it is left alone");
                    });
                    match fate(address, holder) {
                        Fate::Stay => {}
                        Fate::Free => {
                            remove(&path)?;
                            released.push(address);
                        }
                        Fate::Belongs(pod) => repair(&path, &pod)?,
                    }
                }
            }
        }
        Ok(released)
    }
}

/// Gives out the next address of one range. The folder is locked.
fn reserve_in(folder: &Path, nth: usize, range: &Range, pod: &PodId) -> Result<IpAddr, Error> {
    let mut taken: HashSet<IpAddr> = addresses(folder)?.into_iter().map(|(address, _)| address).collect();
    if !taken.insert(range.gateway) {
        return Err(Error::GatewayTaken { gateway: range.gateway, subnet: range.subnet });
    }
    let last_path = folder.join(format!("last_reserved_ip.{nth}"));
    // A cache of where to go on: anything wrong with it is as good as nothing.
    let last = read_short(&last_path).ok().and_then(|text| text.trim().parse().ok());
    let Some(address) = range.subnet.next_free(last, |address| taken.contains(&address)) else {
        return Err(Error::Exhausted { subnet: range.subnet, folder: folder.into() });
    };
    let path = folder.join(address.to_string());
    write_lease(&path, pod).map_err(|source| Error::Lease { operation: "write lease", path, source })?;
    failpoint!("network.lease-written");
    if let Err(error) = overwrite(&last_path, &address.to_string()) {
        tracing::warn!(path = %last_path.display(), %error, "cannot note the last address given out");
    }
    Ok(address)
}

/// Writes a small file in place. A file that is truncated first has its blocks freed, and ext4 writes the new ones out when
/// it is closed.
fn overwrite(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

/// What is to become of a lease.
enum Fate {
    Stay,
    Free,
    /// It is this pod's, whatever the file says.
    Belongs(PodId),
}

/// Writes a spoilt lease anew.
fn repair(path: &Path, pod: &PodId) -> Result<(), Error> {
    tracing::warn!(path = %path.display(), %pod, "a lease was damaged; its pod is known and has it again");
    let write = |source| Error::Lease { operation: "write lease", path: path.into(), source };
    fs::remove_file(path).map_err(write)?;
    write_lease(path, pod).map_err(write)
}

/// Holds the folder's lock until dropped.
fn lock(folder: &Path) -> Result<File, Error> {
    let path = folder.join("lock");
    let failed = |source| Error::Lease { operation: "lock", path: path.clone(), source };
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(failed)?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) if Instant::now() < deadline => {
                thread::sleep(LOCK_POLL);
            }
            Err(errno) => return Err(failed(errno.into())),
        }
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Lease { operation: "remove lease", path: path.into(), source })
        }
        _ => {
            failpoint!("network.lease-removed");
            Ok(())
        }
    }
}

/// The folder's leases: what is named as an address.
fn addresses(folder: &Path) -> Result<Vec<(IpAddr, PathBuf)>, Error> {
    let list = |source| Error::Lease { operation: "list leases in", path: folder.into(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(list)? {
        let entry = entry.map_err(list)?;
        if let Some(address) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            found.push((address, entry.path()));
        }
    }
    Ok(found)
}

fn write_lease(path: &Path, pod: &PodId) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(format!("{pod}\r\n{INTERFACE}").as_bytes()).inspect_err(|_| {
        let _removed = fs::remove_file(path); // an empty lease would hold the address for nobody
    })
}

/// The pod that a lease names, if it is well formed.
fn holder(path: &Path) -> io::Result<Option<PodId>> {
    let text = read_short(path)?;
    Ok(text.lines().next().and_then(|id| PodId::parse(id.trim()).ok()))
}

fn read_short(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LEASE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Subnet;

    fn pod(digit: u8) -> PodId {
        PodId::from_bytes([digit; 32])
    }

    /// The leases of a network that always has the same ranges.
    struct Pool {
        leases: Leases,
        ranges: Vec<Range>,
    }

    impl std::ops::Deref for Pool {
        type Target = Leases;

        fn deref(&self) -> &Leases {
            &self.leases
        }
    }

    impl Pool {
        fn reserve(&self, pod: &PodId) -> Result<Vec<IpAddr>, Error> {
            self.leases.reserve(pod, &self.ranges)
        }

        fn held_by(&self, pod: &PodId) -> Result<Vec<IpAddr>, Error> {
            self.leases.held_by(pod, &self.ranges)
        }
    }

    fn ranges(subnets: &str) -> Vec<Range> {
        let range = |text: &str| {
            let subnet: Subnet = text.parse().unwrap();
            Range { subnet, gateway: subnet.first() }
        };
        subnets.split(',').map(range).collect()
    }

    fn leases(folder: &Path, subnets: &str) -> Pool {
        Pool { leases: Leases::open(folder, "pods0").unwrap(), ranges: ranges(subnets) }
    }

    fn files(folder: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<_> = fs::read_dir(folder.join("pods0")).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn a_lease_is_what_host_local_writes() {
        let folder = tempfile::tempdir().unwrap();
        let addresses = leases(folder.path(), "10.9.8.0/24").reserve(&pod(0xab)).unwrap();
        assert_eq!(addresses, [IpAddr::from([10, 9, 8, 2])]);
        assert_eq!(files(folder.path()), ["10.9.8.2", "last_reserved_ip.0", "lock"]);
        let read = |name| fs::read_to_string(folder.path().join("pods0").join(name)).unwrap();
        assert_eq!(read("10.9.8.2"), format!("{}\r\neth0", "ab".repeat(32)));
        assert_eq!(read("last_reserved_ip.0"), "10.9.8.2");
    }

    #[test]
    fn a_released_address_is_not_the_next_one_given() {
        let folder = tempfile::tempdir().unwrap();
        let leases = leases(folder.path(), "10.9.8.0/24");
        let first = leases.reserve(&pod(1)).unwrap();
        assert_eq!(leases.release(&pod(1)).unwrap(), first);
        assert_eq!(leases.release(&pod(1)).unwrap(), [] as [IpAddr; 0]);
        assert_ne!(leases.reserve(&pod(2)).unwrap(), first);
    }

    #[test]
    fn the_last_address_given_out_is_the_whole_of_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let leases = leases(folder.path(), "10.9.8.0/24");
        let last = folder.path().join("pods0/last_reserved_ip.0");
        fs::write(&last, "10.9.8.254").unwrap();
        assert_eq!(leases.reserve(&pod(1)).unwrap(), [IpAddr::from([10, 9, 8, 2])]);
        assert_eq!(fs::read_to_string(last).unwrap(), "10.9.8.2");
    }

    #[test]
    fn an_empty_pool_is_named_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let leases = leases(folder.path(), "10.9.8.0/30");
        leases.reserve(&pod(1)).unwrap();
        let before = files(folder.path());
        let error = leases.reserve(&pod(2)).unwrap_err();
        assert!(error.to_string().starts_with("no free address in 10.9.8.0/30"), "{error}");
        assert_eq!(files(folder.path()), before);
    }

    #[test]
    fn a_pod_gets_an_address_of_each_subnet_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let leases = leases(folder.path(), "fd00:9::/64,10.9.8.0/30");
        let expected: [IpAddr; 2] = ["fd00:9::2", "10.9.8.2"].map(|text| text.parse().unwrap());
        assert_eq!(leases.reserve(&pod(1)).unwrap(), expected);
        assert_eq!(leases.held_by(&pod(1)).unwrap(), expected);
        let before = files(folder.path());
        assert_eq!(before, ["10.9.8.2", "fd00:9::2", "last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
        let error = leases.reserve(&pod(2)).unwrap_err();
        assert!(error.to_string().starts_with("no free address in 10.9.8.0/30"), "{error}");
        assert_eq!(files(folder.path()), before);
        leases.give_back(&pod(2), &expected).unwrap();
        assert_eq!(files(folder.path()), before, "they are another's");
        leases.give_back(&pod(1), &expected).unwrap();
        assert_eq!(files(folder.path()), ["last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
    }

    #[test]
    fn other_ranges_leave_the_leases_of_the_ones_before_alone() {
        let folder = tempfile::tempdir().unwrap();
        let before = leases(folder.path(), "10.9.8.0/24");
        let first = before.reserve(&pod(1)).unwrap();
        let after = leases(folder.path(), "fd00:9::/64,10.9.7.0/24");
        let second = after.reserve(&pod(2)).unwrap();
        assert_eq!(second, ["fd00:9::2", "10.9.7.2"].map(|text| text.parse::<IpAddr>().unwrap()));
        assert_eq!((after.held_by(&pod(1)).unwrap(), after.held_by(&pod(2)).unwrap()), (first, second));
        let mut taken = ranges("10.9.8.0/24");
        taken[0].gateway = "10.9.8.2".parse().unwrap();
        let error = after.leases.reserve(&pod(4), &taken).unwrap_err().to_string();
        assert!(error.starts_with("10.9.8.2 is to be the bridge's address in 10.9.8.0/24"), "{error}");
    }

    #[test]
    fn only_the_dead_and_the_spoilt_are_released() {
        let folder = tempfile::tempdir().unwrap();
        let leases = leases(folder.path(), "10.9.8.0/24");
        for digit in 1..=3 {
            leases.reserve(&pod(digit)).unwrap();
        }
        let place = |network: &str, name: &str, text: &str| {
            fs::create_dir_all(folder.path().join(network)).unwrap();
            fs::write(folder.path().join(network).join(name), text).unwrap();
        };
        place("pods0", "10.9.8.77", ""); // the power went between name and content
        place("pods0", "10.9.8.78", "\0\0\0\0");
        place("pods0", "notes.txt", "an operator's");
        place("before", "10.1.1.5", &format!("{}\r\neth0", pod(2))); // from a bridge of another name
        let released = leases.release_dead(&[pod(1), pod(3)].into(), &HashMap::new()).unwrap();
        let expected = ["10.1.1.5", "10.9.8.3", "10.9.8.77", "10.9.8.78"].map(|text| text.parse().unwrap());
        assert_eq!(HashSet::from_iter(released), HashSet::from(expected) as HashSet<IpAddr>);
        assert_eq!(files(folder.path()), ["10.9.8.2", "10.9.8.4", "last_reserved_ip.0", "lock", "notes.txt"]);
    }

    #[test]
    fn concurrent_pods_get_different_addresses() {
        let folder = tempfile::tempdir().unwrap();
        let leases = leases(folder.path(), "10.9.8.0/24");
        let got: HashSet<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|digit| {
                    let leases = &leases;
                    scope.spawn(move || [(); 10].map(|()| leases.reserve(&pod(digit)).unwrap()[0]))
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(got.len(), 80);
        assert_eq!(leases.release(&pod(0)).unwrap().len(), 10);
    }

    #[test]
    fn a_spoilt_memory_of_the_last_address_does_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let leases = leases(folder.path(), "10.9.8.0/24");
        for text in ["", "\0\0", "10.9.9.9", "::1"] {
            fs::write(folder.path().join("pods0/last_reserved_ip.0"), text).unwrap();
            assert_eq!(leases.reserve(&pod(1)).unwrap(), [IpAddr::from([10, 9, 8, 2])], "{text:?}");
            leases.release(&pod(1)).unwrap();
        }
    }

    #[test]
    fn a_lease_that_cannot_be_read_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let leases = leases(folder.path(), "10.9.0.0/24");
        let (mine, other) = (leases.reserve(&pod(1)).unwrap()[0], leases.reserve(&pod(2)).unwrap()[0]);
        let path = leases.network_folder().join(other.to_string());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(leases.release(&pod(1)).unwrap(), [mine]);
        assert!(leases.release_dead(&HashSet::new(), &HashMap::new()).unwrap().is_empty());
        assert!(path.exists(), "it may be somebody's");
    }

    #[test]
    fn a_lease_that_was_cut_short_is_written_again_for_the_pod_that_has_the_address() {
        let folder = tempfile::tempdir().unwrap();
        let leases = leases(folder.path(), "10.9.0.0/24");
        let [held, free] = [1, 2].map(|digit| leases.reserve(&pod(digit)).unwrap()[0]);
        for address in [held, free] {
            fs::write(leases.network_folder().join(address.to_string()), "00").unwrap();
        }
        let known = HashMap::from([(held, pod(1))]);
        assert_eq!(leases.release_dead(&[pod(1)].into(), &known).unwrap(), [free]);
        assert_eq!(leases.release(&pod(1)).unwrap(), [held]);
    }
}
