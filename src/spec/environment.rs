//! The arguments, environment and working directory of a process.

use super::Error;
use crate::model::{ContainerConfig, ImageConfig, NetworkMode, PodConfig};

/// For images that do not set one, as everywhere in the field.
pub(super) const PATH_DEFAULT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The type of a terminal when nobody names one.
const TERM_DEFAULT: &[u8] = b"TERM=xterm";
/// Bytes of all arguments or all variables at most: execve takes 2 MiB for both on a usual stack.
const EXEC_BYTES_MAX: usize = 2 << 20;
/// Arguments or variables at most; the longest seen in the field are hundreds.
const EXEC_STRINGS_MAX: usize = 10_000;

/// A command in the request replaces the image's entrypoint and drops its command, arguments replace
/// its command (CRI `ContainerConfig.command`, `.args`).
pub(super) fn arguments(container: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>, Error> {
    let (first, rest) = match (&*container.command, &*container.args) {
        ([], []) => (&*image.entrypoint, &*image.cmd),
        ([], args) => (&*image.entrypoint, args),
        (command, args) => (command, args),
    };
    let arguments: Vec<String> = first.iter().chain(rest).cloned().collect();
    if arguments.first().is_none_or(String::is_empty) {
        return Err(Error::NoCommand);
    }
    within_limits("arguments", arguments.iter().map(String::len))?;
    if let Some(argument) = arguments.iter().find(|argument| argument.contains('\0')) {
        return Err(Error::Path { what: "argument", path: argument.clone(), problem: "contains NUL" });
    }
    Ok(arguments)
}

/// The image's variables, then those of the request over them, each in its first place.
pub(super) fn environment(
    pod: &PodConfig,
    container: &ContainerConfig,
    image: &ImageConfig,
) -> Result<Vec<Vec<u8>>, Error> {
    let mut env: Vec<(String, Vec<u8>)> = Vec::new();
    let mut set = |key: &str, value: &[u8]| match env.iter_mut().find(|(known, _)| known == key) {
        Some((_, old)) => *old = value.to_vec(),
        None => env.push((key.into(), value.to_vec())),
    };
    within_limits("environment variables", {
        let asked = container.envs.iter().map(|(key, value)| key.len() + value.len() + 1);
        image.env.iter().map(String::len).chain(asked)
    })?;
    for entry in &image.env {
        // One without a value or a name sets nothing; builders of old have left such.
        if let Some((key, value)) = entry.split_once('=').filter(|(key, _)| !key.is_empty()) {
            check(key, value.as_bytes())?;
            set(key, value.as_bytes());
        }
    }
    let hostname = match (pod.hostname.as_str(), pod.namespaces.network) {
        ("", NetworkMode::Pod) => &pod.metadata.name,
        (name, _) => name,
    };
    if !hostname.is_empty() {
        check("HOSTNAME", hostname.as_bytes())?;
        set("HOSTNAME", hostname.as_bytes());
    }
    for (key, value) in &container.envs {
        check(key, value)?;
        set(key, value);
    }
    let has_path = env.iter().any(|(key, _)| key == "PATH");
    let joined = env.into_iter().map(|(key, value)| [key.as_bytes(), b"=", &value].concat());
    let mut env: Vec<Vec<u8>> = joined.collect();
    if !has_path {
        env.insert(0, PATH_DEFAULT.into());
    }
    if container.tty {
        add_term(&mut env);
    }
    Ok(env)
}

/// Gives a process with a terminal a TERM, if it has none.
pub(super) fn add_term(env: &mut Vec<Vec<u8>>) {
    if !env.iter().any(|entry| entry.starts_with(b"TERM=")) {
        env.push(TERM_DEFAULT.into());
    }
}

fn check(key: &str, value: &[u8]) -> Result<(), Error> {
    let problem = if key.is_empty() {
        "the name is empty"
    } else if key.contains(['=', '\0']) {
        "the name contains '=' or NUL"
    } else if value.contains(&0) {
        "the value contains NUL"
    } else {
        return Ok(());
    };
    Err(Error::Environment { key: key.into(), problem })
}

/// The request's, else the image's, else `/`. An image may mean its own relative to `/`.
pub(super) fn working_dir(container: &ContainerConfig, image: &ImageConfig) -> Result<String, Error> {
    let dir = match (container.working_dir.as_str(), image.working_dir.as_str()) {
        ("", "") => "/".into(),
        ("", image) if !image.starts_with('/') => format!("/{image}"),
        ("", image) => image.into(),
        (asked, _) => asked.into(),
    };
    super::mounts::absolute("working directory", &dir)?;
    Ok(dir)
}

fn within_limits(what: &'static str, lengths: impl Iterator<Item = usize>) -> Result<(), Error> {
    let (count, bytes) = lengths.fold((0, 0), |(count, bytes), length| (count + 1, bytes + length + 1));
    if count > EXEC_STRINGS_MAX {
        return Err(Error::Limit { what, given: count, max: EXEC_STRINGS_MAX });
    }
    if bytes > EXEC_BYTES_MAX {
        return Err(Error::Limit { what, given: bytes, max: EXEC_BYTES_MAX });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_command_drops_the_images_and_arguments_replace_its_command() {
        for (command, args, expected) in [
            (&[][..], &[][..], &["entry", "cmd"][..]),
            (&[], &["a"], &["entry", "a"]),
            (&["c"], &[], &["c"]),
            (&["c"], &["a", "b"], &["c", "a", "b"]),
        ] {
            let image =
                ImageConfig { entrypoint: strings(&["entry"]), cmd: strings(&["cmd"]), ..Default::default() };
            let container =
                ContainerConfig { command: strings(command), args: strings(args), ..Default::default() };
            assert_eq!(arguments(&container, &image).unwrap(), strings(expected), "{command:?} {args:?}");
        }
    }

    #[test]
    fn nothing_to_run_is_an_error() {
        for command in [&[][..], &[""]] {
            let container = ContainerConfig { command: strings(command), ..Default::default() };
            let refused = arguments(&container, &ImageConfig::default());
            assert!(matches!(refused, Err(Error::NoCommand)), "{command:?}");
        }
    }

    #[test]
    fn arguments_have_a_limit() {
        let of = |count, length| ContainerConfig {
            command: vec!["x".repeat(length); count],
            ..Default::default()
        };
        for (container, ok) in [
            (of(EXEC_STRINGS_MAX, 1), true),
            (of(EXEC_STRINGS_MAX + 1, 1), false),
            (of(1, EXEC_BYTES_MAX - 1), true),
            (of(1, EXEC_BYTES_MAX), false),
        ] {
            let result = arguments(&container, &ImageConfig::default());
            assert_eq!(result.is_ok(), ok);
            assert!(ok || matches!(result, Err(Error::Limit { .. })));
        }
    }

    #[track_caller]
    fn check_env(image: &[&str], asked: &[(&str, &[u8])], tty: bool, expected: &[&[u8]]) {
        let pod = PodConfig { hostname: "web-0".into(), ..Default::default() };
        let image = ImageConfig { env: strings(image), ..Default::default() };
        let envs = asked.iter().map(|(key, value)| (key.to_string(), value.to_vec())).collect();
        let container = ContainerConfig { envs, tty, ..Default::default() };
        assert_eq!(environment(&pod, &container, &image).unwrap(), expected);
    }

    #[test]
    fn the_request_overrides_the_image_in_place() {
        check_env(
            &["A=1", "", "PATH=/bin", "=", "=x", "B=2=3", "no-value"],
            &[("B", b"\xff"), ("C", b""), ("A", b"4"), ("C", b"5")],
            false,
            &[b"A=4", b"PATH=/bin", b"B=\xff", b"HOSTNAME=web-0", b"C=5"],
        );
    }

    #[test]
    fn path_term_and_hostname_are_filled_in_but_not_overridden() {
        check_env(&[], &[], true, &[PATH_DEFAULT.as_bytes(), b"HOSTNAME=web-0", b"TERM=xterm"]);
        check_env(
            &["TERM=vt100", "PATH="],
            &[("HOSTNAME", b"x")],
            true,
            &[b"TERM=vt100", b"PATH=", b"HOSTNAME=x"],
        );
    }

    #[test]
    fn a_pod_without_hostname_is_called_by_its_name_unless_it_is_the_host() {
        let mut pod = PodConfig::default();
        pod.metadata.name = "web".into();
        let of = |pod: &PodConfig| {
            let env = environment(pod, &ContainerConfig::default(), &ImageConfig::default()).unwrap();
            env.into_iter().find(|entry| entry.starts_with(b"HOSTNAME="))
        };
        assert_eq!(of(&pod), Some(b"HOSTNAME=web".to_vec()));
        pod.namespaces.network = NetworkMode::Node;
        assert_eq!(of(&pod), None);
    }

    #[test]
    fn a_malformed_variable_is_an_error_that_names_it() {
        for (key, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0")] {
            let container = ContainerConfig { envs: vec![(key.into(), value.into())], ..Default::default() };
            let refused = environment(&PodConfig::default(), &container, &ImageConfig::default());
            assert!(matches!(refused, Err(Error::Environment { key: named, .. }) if named == key), "{key:?}");
        }
        let image = ImageConfig { env: strings(&["A=x\0"]), ..Default::default() };
        let refused = environment(&PodConfig::default(), &ContainerConfig::default(), &image);
        assert!(matches!(refused, Err(Error::Environment { .. })));
    }

    #[test]
    fn a_working_directory_is_absolute() {
        for (asked, image, expected) in [
            ("", "", Some("/")),
            ("/a", "/b", Some("/a")),
            ("", "/b", Some("/b")),
            ("", "b/c", Some("/b/c")),
            ("a", "/b", None),
            ("/a\0", "", None),
        ] {
            let container = ContainerConfig { working_dir: asked.into(), ..Default::default() };
            let image = ImageConfig { working_dir: image.into(), ..Default::default() };
            assert_eq!(working_dir(&container, &image).ok().as_deref(), expected, "{asked:?} {image:?}");
        }
    }
}
