//! `pintle check`: the files that say what devices need (CDI).

use super::{Finding, ok, warn};
use crate::cdi::{Config, Survey, survey};

const TOPIC: &str = "CDI";

pub(super) fn questions(config: &Config) -> Vec<Finding> {
    findings(&survey(config))
}

/// A node without such devices has nothing to hear about them.
fn findings(Survey { files, devices, faults }: &Survey) -> Vec<Finding> {
    let faults = faults.iter().map(|fault| warn(TOPIC, fault));
    let devices = (*files > 0).then(|| ok(TOPIC, format!("{devices} devices in {files} files")));
    devices.into_iter().chain(faults).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_is_a_finding_and_no_files_are_none() {
        assert_eq!(findings(&Survey::default()), []);
        let survey =
            Survey { files: 2, devices: 3, faults: vec!["/etc/cdi/a.json: it has no devices".into()] };
        let expected = [ok("CDI", "3 devices in 2 files"), warn("CDI", "/etc/cdi/a.json: it has no devices")];
        assert_eq!(findings(&survey), expected);
    }
}
