//! Lines for v1's `devices.allow` and `devices.deny` (kernel's Documentation/admin-guide/cgroup-v1/devices.rst).

use super::{Error, check, is_everything, text};
use crate::model::DeviceRule;

/// One line and the file it goes to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in super::super) struct Line {
    pub(in super::super) file: &'static str,
    pub(in super::super) text: String,
}

/// The lines in the order of the rules; none without rules.
pub(in super::super) fn lines(rules: &[DeviceRule]) -> Result<Vec<Line>, Error> {
    check(rules)?;
    // A new cgroup allows what its parent does, so rules that do not begin with all devices need a beginning.
    let from_nothing = rules.first().filter(|first| !is_everything(first));
    let deny_all = from_nothing.map(|_| Line { file: "devices.deny", text: "a *:* rwm".into() });
    let line = |rule: &DeviceRule| Line {
        file: if rule.allow { "devices.allow" } else { "devices.deny" },
        text: text(rule),
    };
    Ok(deny_all.into_iter().chain(rules.iter().map(line)).collect())
}

#[cfg(test)]
mod tests {
    use super::{super::rule, *};

    fn written(rules: &[DeviceRule]) -> Vec<String> {
        lines(rules).unwrap().iter().map(|line| format!("{}: {}", line.file, line.text)).collect()
    }

    #[test]
    fn rules_become_lines_in_their_order() {
        let rules = [
            rule(false, 'a', None, None, "rwm"),
            rule(true, 'c', Some(1), Some(3), "rwm"),
            rule(true, 'b', Some(8), None, "r"),
        ];
        let expected = ["devices.deny: a *:* rwm", "devices.allow: c 1:3 rwm", "devices.allow: b 8:* r"];
        assert_eq!(written(&rules), expected);
        assert_eq!(written(&[]), [""; 0]);
    }

    #[test]
    fn rules_that_do_not_say_what_to_begin_with_begin_with_nothing() {
        let rules = [rule(true, 'c', Some(1), Some(3), "r")];
        assert_eq!(written(&rules), ["devices.deny: a *:* rwm", "devices.allow: c 1:3 r"]);
    }
}
