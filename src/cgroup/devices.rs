//! Device rules as lines for v1's `devices.allow` and `devices.deny` (kernel's
//! Documentation/admin-guide/cgroup-v1/devices.rst). Pure: nothing is written here.

use std::fmt::Write;

use super::Error;
use crate::model::DeviceRule;

/// One line and the file it goes to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Line {
    pub(super) file: &'static str,
    pub(super) text: String,
}

/// The lines in the order of the rules; later ones win.
pub(super) fn v1(rules: &[DeviceRule]) -> Result<Vec<Line>, Error> {
    rules.iter().map(line).collect()
}

fn line(rule: &DeviceRule) -> Result<Line, Error> {
    let bad = |fault| Error::BadDeviceRule { rule: text(rule), fault };
    if !matches!(rule.kind, 'a' | 'b' | 'c') {
        return Err(bad("is neither for all devices (a) nor for block (b) or character (c) devices"));
    }
    if rule.access.is_empty() || rule.access.chars().any(|access| !"rwm".contains(access)) {
        return Err(bad("gives an access that is not made of r, w and m"));
    }
    // The kernel reads `a` as every device and every access, whatever stands after it.
    if rule.kind == 'a' && !is_everything(rule) {
        return Err(bad("is for all devices (a), which the kernel cannot narrow down"));
    }
    Ok(Line { file: if rule.allow { "devices.allow" } else { "devices.deny" }, text: text(rule) })
}

fn text(rule: &DeviceRule) -> String {
    let mut text = format!("{} ", rule.kind);
    for (number, after) in [(rule.major, ':'), (rule.minor, ' ')] {
        let _ = match number {
            Some(number) => write!(text, "{number}{after}"),
            None => write!(text, "*{after}"),
        };
    }
    text + &rule.access
}

/// Whether the rules, taken together, let a container use every device.
pub(super) fn allow_everything(rules: &[DeviceRule]) -> bool {
    let last = rules.iter().rposition(is_everything);
    last.is_some_and(|at| rules.iter().skip(at).all(|rule| rule.allow))
}

fn is_everything(rule: &DeviceRule) -> bool {
    let all_access = ['r', 'w', 'm'].into_iter().all(|access| rule.access.contains(access));
    rule.kind == 'a' && rule.major.is_none() && rule.minor.is_none() && all_access
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: bool, kind: char, major: Option<u32>, minor: Option<u32>, access: &str) -> DeviceRule {
        DeviceRule { allow, kind, major, minor, access: access.into() }
    }

    #[test]
    fn rules_become_lines_in_their_order() {
        let rules = [
            rule(false, 'a', None, None, "rwm"),
            rule(true, 'c', Some(1), Some(3), "rwm"),
            rule(true, 'b', Some(8), None, "r"),
        ];
        let lines = v1(&rules).unwrap();
        let lines: Vec<_> = lines.iter().map(|line| (line.file, line.text.as_str())).collect();
        assert_eq!(
            lines,
            [("devices.deny", "a *:* rwm"), ("devices.allow", "c 1:3 rwm"), ("devices.allow", "b 8:* r")]
        );
    }

    #[test]
    fn a_rule_the_kernel_would_misread_is_refused() {
        for (kind, major, access) in
            [('d', None, "rwm"), ('c', None, ""), ('c', None, "rx"), ('a', Some(8), "rwm"), ('a', None, "r")]
        {
            let refused = v1(&[rule(true, kind, major, None, access)]);
            assert!(matches!(refused, Err(Error::BadDeviceRule { .. })), "{kind} {major:?} {access:?}");
        }
    }

    #[test]
    fn only_rules_that_end_by_allowing_everything_allow_everything() {
        let (all, none) = (rule(true, 'a', None, None, "rwm"), rule(false, 'a', None, None, "rwm"));
        let null = rule(true, 'c', Some(1), Some(3), "rwm");
        let no_null = rule(false, 'c', Some(1), Some(3), "rwm");
        assert!(allow_everything(&[none.clone(), all.clone()]));
        assert!(allow_everything(&[none.clone(), all.clone(), null.clone()]));
        assert!(!allow_everything(&[]));
        assert!(!allow_everything(&[all.clone(), no_null]));
        assert!(!allow_everything(&[all, none.clone()]));
        assert!(!allow_everything(&[none, null]));
    }
}
