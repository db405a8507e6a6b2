//! The unix socket of the CRI: bound once, removed at the end, never another daemon's.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use tokio::net::UnixListener;
use tracing::{info, warn};

use super::roots;

/// Only root speaks to us: whoever may, is root on this node.
const SOCKET_MODE: u32 = 0o600;

/// Clients that may wait to be accepted; the kernel's own limit may be lower (net.core.somaxconn).
const BACKLOG_MAX: i32 = 1024;

/// Why the CRI cannot be served where it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing} socket {}", path.display())]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not a socket; it will not be removed", path.display())]
    NotASocket { path: PathBuf },
    #[error("another process serves {}", path.display())]
    Served { path: PathBuf },
    #[error("prepare the folder of the socket")]
    Folder(#[source] roots::Error),
}

/// The file of a bound socket; removed when this goes.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

/// A path that nobody serves, and the socket that is to be bound there: what serving takes of descriptors is had before
/// recovery opens as many as there are pods.
#[derive(Debug)]
pub(super) struct Claim {
    path: PathBuf,
    address: SocketAddrUnix,
    socket: OwnedFd,
}

/// Claims `path`. What a dead daemon left there is removed; what a live one serves is not.
pub(super) fn claim(path: &Path) -> Result<Claim, Error> {
    let failed = |doing| move |source: Errno| Error::File { doing, path: path.into(), source: source.into() };
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        roots::prepare(folder).map_err(Error::Folder)?;
    }
    remove_stale(path)?;
    let address = SocketAddrUnix::new(path).map_err(failed("name"))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed("make"))?;
    Ok(Claim { path: path.into(), address, socket })
}

impl Claim {
    /// From now on clients can connect. Opens nothing.
    pub(super) fn listen(self) -> Result<(UnixListener, SocketFile), Error> {
        let Self { path, address, socket } = self;
        let failed = |doing| {
            let path = path.clone();
            move |source: io::Error| Error::File { doing, path, source }
        };
        net::bind(&socket, &address).map_err(|errno| failed("bind")(errno.into()))?;
        // Before anybody can connect.
        fs::set_permissions(&path, fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed("chmod"))?;
        let inode = fs::symlink_metadata(&path).map_err(failed("stat"))?.ino();
        let file = SocketFile { path: path.clone(), inode };
        net::listen(&socket, BACKLOG_MAX).map_err(|errno| failed("listen on")(errno.into()))?;
        let listener = UnixListener::from_std(socket.into()).map_err(failed("watch"))?;
        Ok((listener, file))
    }
}

/// Claims `path` and listens there.
pub(super) fn bind(path: &Path) -> Result<(UnixListener, SocketFile), Error> {
    claim(path)?.listen()
}

fn remove_stale(path: &Path) -> Result<(), Error> {
    let failed = |doing| move |source| Error::File { doing, path: path.into(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("stat")(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(Error::NotASocket { path: path.into() }),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(Error::Served { path: path.into() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            info!(path = %path.display(), "removing the socket of an earlier daemon");
            fs::remove_file(path).map_err(failed("remove"))
        }
        Err(error) => Err(failed("connect to")(error)),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Someone may have put another there.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode)
            && let Err(error) = fs::remove_file(&self.path)
        {
            warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("own/pintle.sock");
        fs::create_dir(path.parent().unwrap()).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());

        let (listener, file) = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert!(matches!(bind(&path), Err(Error::Served { .. })));
        drop((listener, file));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pintle.sock");
        fs::write(&path, "letters").unwrap();
        assert!(matches!(bind(&path), Err(Error::NotASocket { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"letters");
    }
}
