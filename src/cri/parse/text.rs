//! Checks of single values: texts, names, paths, lists of them.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use super::{At as _, Refusal, Why, limits::*};

/// How much of a bad value an error repeats; characters.
const QUOTED_CHARS_MAX: usize = 80;

/// A bad value for an error: escaped, and cut when long.
pub(crate) fn quote(value: &str) -> impl fmt::Display {
    let mut text: String = value.chars().take(QUOTED_CHARS_MAX).collect();
    let cut = if text.len() < value.len() { "…" } else { "" };
    text = format!("{text:?}{cut}");
    text
}

pub(super) fn at_most(bytes_max: usize, value: &str) -> Result<(), Why> {
    if value.len() > bytes_max {
        return Err(format!("has {} bytes, more than the {bytes_max} allowed", value.len()).into());
    }
    Ok(())
}

/// No more than `max` entries.
pub(super) fn count(max: usize, entries: usize) -> Result<(), Why> {
    if entries > max {
        return Err(format!("has {entries} entries, more than the {max} allowed").into());
    }
    Ok(())
}

/// One line of text: no NUL, newline or other control character.
pub(super) fn line(bytes_max: usize, value: &str) -> Result<(), Why> {
    at_most(bytes_max, value)?;
    if value.chars().any(char::is_control) {
        return Err(format!("{} has control characters", quote(value)).into());
    }
    Ok(())
}

/// A name that may stand in a log line, a file name and a CNI argument (`KEY=VALUE;…`).
pub(super) fn name(value: String) -> Result<String, Why> {
    if value.is_empty() {
        return Err("is empty".into());
    }
    line(NAME_BYTES_MAX, &value)?;
    if value == "."
        || value == ".."
        || value.contains(|c: char| matches!(c, '/' | ';' | '=') || c.is_whitespace())
    {
        return Err(
            format!("{} is no name: it has a slash, space, ';' or '=', or is a dot", quote(&value)).into()
        );
    }
    Ok(value)
}

/// A path as the kernel takes it: not empty, not too long, without NUL or other control characters.
pub(super) fn path(value: String) -> Result<String, Why> {
    if value.is_empty() {
        return Err("is empty".into());
    }
    line(PATH_BYTES_MAX, &value)?;
    Ok(value)
}

pub(super) fn absolute_path(value: String) -> Result<String, Why> {
    let value = path(value)?;
    if !value.starts_with('/') {
        return Err(format!("{} is not an absolute path", quote(&value)).into());
    }
    Ok(value)
}

/// A path that cannot climb: none of its parts is `..`.
pub(super) fn no_way_up(value: String) -> Result<String, Why> {
    if value.split('/').any(|part| part == "..") {
        return Err(format!("{} has a part \"..\"", quote(&value)).into());
    }
    Ok(value)
}

/// Bytes for the annotations that the kubelet adds to a pod: `config.seen`, `config.source`, `config.hash`,
/// `config.mirror`.
const KUBELETS_ANNOTATION: &str = "kubernetes.io/config.";

/// As the model holds labels and annotations.
type Labels = BTreeMap<String, String>;

/// Labels and annotations, kept byte for byte. Only keys are restricted: kubectl itself writes annotations
/// with newlines.
pub(super) fn labels(
    labels: HashMap<String, String>,
    annotations: HashMap<String, String>,
) -> Result<(Labels, Labels), Refusal> {
    let size = |(key, value): (&String, &String)| key.len() + value.len();
    let given = annotations.iter().filter(|(key, _)| !key.starts_with(KUBELETS_ANNOTATION));
    let given_bytes: usize = given.map(size).sum();
    if given_bytes > ANNOTATIONS_BYTES_MAX {
        let why = format!("have {given_bytes} bytes, more than the {ANNOTATIONS_BYTES_MAX} allowed");
        return Err(Why::from(why)).at("annotations");
    }
    let bytes: usize = labels.iter().chain(&annotations).map(size).sum();
    if bytes > LABELS_BYTES_MAX {
        let why = format!("and labels have {bytes} bytes, more than the {LABELS_BYTES_MAX} allowed");
        return Err(Why::from(why)).at("annotations");
    }
    for (field, map) in [("labels", &labels), ("annotations", &annotations)] {
        for key in map.keys() {
            line(LABEL_KEY_BYTES_MAX, key).at(format_args!("{field} key"))?;
        }
    }
    Ok((labels.into_iter().collect(), annotations.into_iter().collect()))
}

/// The words of a command: no NUL, not too many, not too long together.
pub(super) fn words<'a>(words: impl Iterator<Item = &'a String>) -> Result<(), Why> {
    let (mut entries, mut bytes) = (0, 0);
    for word in words {
        entries += 1;
        bytes += word.len() + 1;
        if word.contains('\0') {
            return Err(format!("{} has a NUL", quote(word)).into());
        }
    }
    count(ARGS_MAX, entries)?;
    if bytes > ARGS_BYTES_MAX {
        return Err(format!("has {bytes} bytes, more than the {ARGS_BYTES_MAX} allowed").into());
    }
    Ok(())
}

/// A number of an enum that this release knows.
pub(super) fn known<E: TryFrom<i32>>(number: i32) -> Result<E, Why> {
    E::try_from(number).map_err(|_| format!("has the unknown value {number}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_value_is_escaped_and_cut() {
        assert_eq!(quote("a\x1b[31m\n").to_string(), r#""a\u{1b}[31m\n""#);
        assert_eq!(quote(&"é".repeat(500)).to_string().chars().count(), QUOTED_CHARS_MAX + 3);
    }

    #[test]
    fn names_are_plain() {
        for good in ["web", "PodSandbox-1b2c", "a.b-c_d", "kube-system"] {
            assert_eq!(name(good.into()), Ok(good.into()));
        }
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        for bad in ["", ".", "..", "a/b", "a\0b", "a\nb", "a b", "a;K8S_POD_UID=x", "a=b", &long] {
            assert!(name(bad.into()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_path_is_as_long_as_the_kernel_takes() {
        let longest = format!("/{}", "a".repeat(PATH_BYTES_MAX - 1));
        assert_eq!(absolute_path(longest.clone()), Ok(longest.clone()));
        for bad in ["", "relative", "/a\0b", "/a\nb", &format!("{longest}a")] {
            assert!(absolute_path(bad.into()).is_err(), "{bad:?}");
        }
        assert!(no_way_up("/a/..".into()).is_err());
        assert_eq!(no_way_up("/a/..b/c..".into()), Ok("/a/..b/c..".into()));
    }

    #[test]
    fn labels_and_annotations_share_one_limit_and_keep_their_bytes() {
        let value = "line\n\u{0}é\t".to_owned();
        let (kept, _) = labels(HashMap::from([("k".into(), value.clone())]), HashMap::new()).unwrap();
        assert_eq!(kept, BTreeMap::from([("k".into(), value)]));

        let half = "v".repeat(LABELS_BYTES_MAX / 2 - 1);
        let one = |value: &str| HashMap::from([("k".to_owned(), value.to_owned())]);
        assert!(labels(one(&half), one(&half)).is_ok());
        let refusal = labels(one(&format!("{half}v")), one(&half)).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "annotations and labels have 524289 bytes, more than the 524288 allowed"
        );

        for key in ["a\nb", "a\0b", &"k".repeat(LABEL_KEY_BYTES_MAX + 1)] {
            assert!(labels(HashMap::from([(key.into(), String::new())]), HashMap::new()).is_err(), "{key:?}");
        }
    }

    #[test]
    fn annotations_have_the_limit_of_kubernetes_without_what_the_kubelet_adds() {
        let annotations = |bytes: usize| {
            let kubelets = ("kubernetes.io/config.seen".to_owned(), "2026-01-02T03:04:05Z".to_owned());
            HashMap::from([("k".to_owned(), "v".repeat(bytes - 1)), kubelets])
        };
        assert!(labels(HashMap::new(), annotations(ANNOTATIONS_BYTES_MAX)).is_ok());
        let refusal = labels(HashMap::new(), annotations(ANNOTATIONS_BYTES_MAX + 1)).unwrap_err();
        assert_eq!(refusal.to_string(), "annotations have 262145 bytes, more than the 262144 allowed");
        // Who calls itself the kubelet gets no more for it than all of it together.
        let kubelets = HashMap::from([("kubernetes.io/config.x".to_owned(), "v".repeat(LABELS_BYTES_MAX))]);
        assert!(labels(HashMap::new(), kubelets).is_err());
    }

    #[test]
    fn commands_have_limits() {
        let many = vec![String::new(); ARGS_MAX];
        assert_eq!(words(many.iter()), Ok(()));
        assert!(words(many.iter().chain([&String::new()])).is_err());
        assert_eq!(words([&"a".repeat(ARGS_BYTES_MAX - 1)].into_iter()), Ok(()));
        assert!(words([&"a".repeat(ARGS_BYTES_MAX)].into_iter()).is_err());
        assert!(words([&"a\0".to_owned()].into_iter()).is_err());
    }
}
