//! `pintle check`: privileges, the OOM score, namespaces and seccomp.

use std::{fs, path::Path};

use rustix::{
    fs::{CWD, FileType, Mode, makedev, mknodat},
    io::Errno,
};

use super::{
    Finding, fail, ok,
    scratch::{FOLDER, attempt},
    warn,
};
use crate::{
    launcher,
    model::{IpcMode, NetworkMode, PodPlan},
    spec::seccomp,
    sys::{
        privilege,
        process::{Namespaces, unshare},
    },
};

pub(super) fn questions() -> Vec<Finding> {
    vec![privileges(), oom_score(), namespaces(), seccomp_filter()]
}

fn privileges() -> Finding {
    let topic = "privileges";
    let tried = attempt(Namespaces::MOUNT, || {
        let device = Path::new(FOLDER).join("null");
        let says = |what: &str, error: String| format!("{what}: {error}");
        mknodat(CWD, &device, FileType::CharacterDevice, Mode::RUSR, makedev(1, 3))
            .map_err(|error| says("make a device", error.to_string()))?;
        fs::File::open(&device).map_err(|error| says("open a device", error.to_string()))?;
        privilege::limit_capabilities(privilege::SYS_ADMIN)
            .map_err(|error| says("drop capabilities", error.to_string()))?;
        privilege::become_user(1, 1, &[2]).map_err(|error| says("become another user", error.to_string()))?;
        Ok("mounts, devices and users of containers can be made".into())
    });
    match tried {
        Ok(text) => ok(topic, text),
        Err(error) => fail(topic, format!("{error}; pintle needs the capabilities of root")),
    }
}

fn oom_score() -> Finding {
    const PROTECTED: &str = "-999";
    let topic = "OOM score";
    let tried = attempt(Namespaces::NONE, || {
        fs::write("/proc/self/oom_score_adj", PROTECTED).map_err(|error| error.to_string())?;
        Ok("the daemon and the supervisors are the last to be killed".into())
    });
    match tried {
        Ok(text) => ok(topic, text),
        Err(error) => warn(
            topic,
            format!(
                "{error}: without CAP_SYS_RESOURCE the kernel may kill the daemon first, and low scores of containers \
                 are not set"
            ),
        ),
    }
}

/// As every pod's supervisor makes them.
fn namespaces() -> Finding {
    let plan = PodPlan {
        users: None,
        name: "pintle/check".into(),
        network: NetworkMode::Pod,
        ipc: IpcMode::Pod,
        hostname: "check".into(),
        sysctls: Vec::new(),
        shm_bytes: 1 << 20,
        mount_label: String::new(),
    };
    let tried = attempt(Namespaces::NONE, || {
        launcher::build_namespaces(&plan).map_err(|failure| failure.to_string())?;
        unshare(Namespaces::PID.and(Namespaces::CGROUP)).map_err(|error| error.to_string())?;
        Ok("a pod's can be made".into())
    });
    match tried {
        Ok(text) => ok("namespaces", text),
        Err(error) => fail("namespaces", format!("{error}: pods cannot be made")),
    }
}

fn seccomp_filter() -> Finding {
    let topic = "seccomp";
    // The default filter of a container without capabilities refuses new namespaces to root too.
    let tried = attempt(Namespaces::NONE, || {
        let filter = seccomp::default(0);
        privilege::load_seccomp(&filter, 0).map_err(|error| format!("load a filter: {error}"))?;
        match unshare(Namespaces::NETWORK) {
            Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
                Ok("the default filter holds".into())
            }
            done => Err(format!("the default filter let through what it should not: {done:?}")),
        }
    });
    match tried {
        Ok(text) => ok(topic, text),
        Err(error) => {
            fail(topic, format!("{error}; without CONFIG_SECCOMP_FILTER RuntimeDefault pods will fail"))
        }
    }
}
