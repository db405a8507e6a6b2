//! Which devices the processes of a cgroup may open and make: rules, as v1's files and v2's programs want them.
//!
//! - `v1`: lines for `devices.allow` and `devices.deny`.
//! - `v2`: a program of ours, which the kernel asks about each access.
//!
//! Both say the same: of each access asked for, the last rule that names it decides, and what no rule names is
//! denied. Pure: nothing is written or loaded here.

mod v1;
mod v2;

pub(super) use v1::{Line, lines};
pub(super) use v2::{PROGRAM_NAME, program};

use std::fmt::Write;

use super::Error;
use crate::model::DeviceRule;

/// Rules of one container at most: the 500 devices that a request may name, and those of every container.
const RULES_MAX: usize = 1000;

/// # Errors
/// A rule that one of the kernel's interfaces would misread, or too many.
fn check(rules: &[DeviceRule]) -> Result<(), Error> {
    if rules.len() > RULES_MAX {
        return Err(Error::DeviceRules { given: rules.len(), max: RULES_MAX });
    }
    rules.iter().try_for_each(check_one)
}

fn check_one(rule: &DeviceRule) -> Result<(), Error> {
    let bad = |fault| Err(Error::BadDeviceRule { rule: text(rule), fault });
    if !matches!(rule.kind, 'a' | 'b' | 'c') {
        return bad("is neither for all devices (a) nor for block (b) or character (c) devices");
    }
    if rule.access.is_empty() || rule.access.chars().any(|access| !"rwm".contains(access)) {
        return bad("gives an access that is not made of r, w and m");
    }
    // The kernel reads `a` as every device and every access, whatever stands after it.
    if rule.kind == 'a' && !is_everything(rule) {
        return bad("is for all devices (a), which the kernel cannot narrow down");
    }
    Ok(())
}

fn text(rule: &DeviceRule) -> String {
    let mut text = format!("{} ", rule.kind);
    for (number, after) in [(rule.major, ':'), (rule.minor, ' ')] {
        // Writing to a String cannot fail.
        let _written = match number {
            Some(number) => write!(text, "{number}{after}"),
            None => write!(text, "*{after}"),
        };
    }
    text + &rule.access
}

/// Whether a rule is for every device and every access, so that those before it say nothing more.
fn is_everything(rule: &DeviceRule) -> bool {
    let all_access = ['r', 'w', 'm'].into_iter().all(|access| rule.access.contains(access));
    rule.kind == 'a' && rule.major.is_none() && rule.minor.is_none() && all_access
}

#[cfg(test)]
fn rule(allow: bool, kind: char, major: Option<u32>, minor: Option<u32>, access: &str) -> DeviceRule {
    DeviceRule { allow, kind, major, minor, access: access.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_the_kernel_would_misread_is_refused() {
        for (kind, major, access) in
            [('d', None, "rwm"), ('c', None, ""), ('c', None, "rx"), ('a', Some(8), "rwm"), ('a', None, "r")]
        {
            let rules = [rule(true, kind, major, None, access)];
            for refused in [lines(&rules).map(drop), program(&rules).map(drop)] {
                assert!(matches!(refused, Err(Error::BadDeviceRule { .. })), "{kind} {major:?} {access:?}");
            }
        }
    }

    #[test]
    fn more_rules_than_a_container_can_have_are_refused() {
        let mut rules = vec![rule(true, 'c', Some(1), Some(3), "r"); RULES_MAX];
        check(&rules).unwrap();
        rules.push(rules[0].clone());
        assert!(matches!(check(&rules), Err(Error::DeviceRules { given: 1001, max: 1000 })));
    }
}
