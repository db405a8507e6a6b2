//! `pintle check`: the bridge, forwarding, and filters of bridged traffic.

use std::{fs::File, io, os::fd::OwnedFd, path::Path};

use super::{
    Finding, fail,
    host::Host,
    ok,
    scratch::{FOLDER, attempt},
    warn,
};
use crate::{
    model::{PodConfig, PodId},
    network::{self, Config, ForwardDrop, Mode, Network, Request, inspect_cni},
    sys::{
        process::{Namespaces, unshare},
        sysctl,
    },
    telemetry::log::chain,
};

pub(super) fn questions(host: &Host, config: &Config) -> Vec<Finding> {
    // First what forks: the others have threads, and one that has just ended still counts as one.
    let (bridge, forwarding) = (bridge(config), forwarding(host));
    vec![
        cni(config),
        bridge,
        forwarding,
        forward_policy(config, &network::forward_drops()),
        bridge_filter(host),
    ]
}

/// Reads the CNI configuration and asks its plugins, as the daemon does.
fn cni(config: &Config) -> Finding {
    let topic = "CNI";
    if !matches!(config.mode, Mode::Auto | Mode::Cni) {
        return ok(topic, "not used (network.mode)");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let inspected = runtime
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(inspect_cni(config)).map_err(|error| chain(&error)));
    let (folder, alone) = (config.cni_conf_dir.display(), config.mode == Mode::Cni);
    match inspected {
        Ok(Some((path, network))) => {
            ok(topic, format!("pods go on the network {network} of {}", path.display()))
        }
        Ok(None) if alone => {
            fail(topic, format!("no configuration in {folder}: no pod with a network of its own can start"))
        }
        Ok(None) => ok(topic, format!("no configuration in {folder}: pods go on the built-in bridge")),
        Err(error) => fail(topic, format!("no pod with a network of its own can start: {error}")),
    }
}

/// Attaches a pod to the built-in bridge and detaches it, on a host of its own.
fn bridge(config: &Config) -> Finding {
    let topic = "pod network";
    if config.mode == Mode::None {
        return ok(topic, "switched off (network.mode): only pods with the host's network can start");
    }
    let config = Config { mode: Mode::Bridge, ..config.clone() };
    let tried = attempt(Namespaces::MOUNT.and(Namespaces::NETWORK), || {
        let network = Network::open(&config, Path::new(FOLDER)).map_err(|error| chain(&error))?;
        let netns = new_netns().map_err(|error| format!("make a network namespace: {error}"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let pod = PodId::from_bytes([0; 32]);
        runtime.block_on(async {
            let request = Request { pod: &pod, config: &PodConfig::default(), netns, sysctls: &[] };
            let attached = network.attach(request).await.map_err(|error| chain(&error))?;
            network.detach(&pod).await.map_err(|error| chain(&error))?;
            let addresses: Vec<_> = attached.addresses.iter().map(ToString::to_string).collect();
            Ok(format!(
                "a pod gets an address ({}) on the bridge {}",
                addresses.join(", "),
                config.bridge_name
            ))
        })
    });
    tried.map_or_else(
        |error| warn(topic, format!("the built-in bridge does not work: {error}")),
        |text| ok(topic, text),
    )
}

/// Of a thread that has ended.
fn new_netns() -> io::Result<OwnedFd> {
    let make = || -> io::Result<OwnedFd> {
        unshare(Namespaces::NETWORK)?;
        Ok(File::open("/proc/thread-self/ns/net")?.into())
    };
    std::thread::spawn(make).join().unwrap_or_else(|_| Err(io::Error::other("the thread died")))
}

fn forwarding(host: &Host) -> Finding {
    const NAME: &str = "net.ipv4.ip_forward";
    let topic = "forwarding";
    if host.read("proc/sys/net/ipv4/ip_forward").as_deref() == Some("1") {
        return ok(topic, "on");
    }
    let tried = attempt(Namespaces::NETWORK, || {
        sysctl::set(NAME, "1").map_err(|error| error.to_string()).map(|()| String::new())
    });
    match tried {
        Ok(_) => ok(topic, "off; the first pod on the bridge switches it on"),
        Err(error) => warn(
            topic,
            format!("{NAME} is 0 and cannot be set ({error}): pods reach no one outside this host"),
        ),
    }
}

/// What nobody else's table can change: a chain that drops what none of its own rules accepts.
fn forward_policy(config: &Config, drops: &io::Result<Vec<ForwardDrop>>) -> Finding {
    let topic = "forward policy";
    let drops = match drops {
        Ok(drops) => drops,
        Err(error) => {
            return warn(topic, format!("nftables cannot be asked ({error}): no masquerade, no host ports"));
        }
    };
    let Some(ForwardDrop { family, table, chain }) = drops.first() else {
        return ok(topic, "no nftables chain drops what is forwarded by default");
    };
    let bridge = &config.bridge_name;
    let rules = ["iifname", "oifname"]
        .map(|end| format!("nft insert rule {family} {table} {chain} {end} {bridge} accept"));
    let text = format!(
        "the chain {chain} of the table {family} {table} drops what none of its rules accepts, and no other table can \
         change that: if pods reach no one outside this host, `{}` and `{}`",
        rules[0], rules[1]
    );
    warn(topic, text)
}

/// A setting of the host: kube-proxy's rules see what it says.
fn bridge_filter(host: &Host) -> Finding {
    let topic = "br_netfilter";
    match host.read("proc/sys/net/bridge/bridge-nf-call-iptables").as_deref() {
        Some("1") => ok(topic, "on"),
        Some(_) => warn(topic, "net.bridge.bridge-nf-call-iptables is 0: kube-proxy may not see all traffic"),
        None => {
            warn(topic, "not loaded: kube-proxy may not see traffic on a bridge; `modprobe br_netfilter`")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    #[test]
    fn a_configuration_that_cannot_work_is_a_fault_and_none_is_only_where_plugins_are_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let config = |mode| Config { mode, cni_conf_dir: folder.path().into(), ..Config::default() };
        assert_eq!(cni(&config(Mode::Bridge)).level, Level::Ok);
        assert_eq!(cni(&config(Mode::Auto)).level, Level::Ok);
        let none = cni(&config(Mode::Cni));
        assert!(none.level == Level::Fail && none.text.starts_with("no configuration in"), "{}", none.text);
        std::fs::write(folder.path().join("a.conf"), r#"{"name": "a", "type": "no-such-plugin"}"#).unwrap();
        let missing = cni(&config(Mode::Auto));
        assert!(
            missing.level == Level::Fail && missing.text.contains("CNI plugin no-such-plugin"),
            "{}",
            missing.text
        );
    }

    #[test]
    fn what_is_on_need_not_be_tried_and_what_is_off_by_choice_is_no_fault() {
        let (host, _dir) = Host::fake(&[
            ("proc/sys/net/ipv4/ip_forward", "1\n"),
            ("proc/sys/net/bridge/bridge-nf-call-iptables", "0\n"),
        ]);
        assert_eq!(forwarding(&host).level, Level::Ok);
        assert_eq!(bridge_filter(&host).level, Level::Warn);
        let config = Config::default();
        assert_eq!(forward_policy(&config, &Ok(vec![])).level, Level::Ok);
        let docker = ForwardDrop { family: "ip", table: "filter".into(), chain: "FORWARD".into() };
        let found = forward_policy(&config, &Ok(vec![docker]));
        assert_eq!(found.level, Level::Warn);
        assert!(
            found.text.contains("nft insert rule ip filter FORWARD iifname pintle0 accept"),
            "{}",
            found.text
        );
        assert_eq!(forward_policy(&config, &Err(io::ErrorKind::Unsupported.into())).level, Level::Warn);
        assert_eq!(bridge(&Config { mode: Mode::None, ..Config::default() }).level, Level::Ok);
    }
}
