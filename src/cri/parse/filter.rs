//! Filters of List calls. All fields that are set must match.

use std::collections::{BTreeMap, HashMap};

use super::{At as _, Refusal, Under as _, id, text};
use crate::{
    cri::{render, wire},
    model::IdPrefix,
    pod::{ContainerView, PodView},
};

/// Which pods to list.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PodFilter {
    /// A full id or a prefix; whoever asks resolves it.
    pub(crate) id: Option<IdPrefix>,
    ready: Option<bool>,
    labels: HashMap<String, String>,
}

impl PodFilter {
    pub(crate) fn parse(wire: Option<wire::PodSandboxFilter>) -> Result<Self, Refusal> {
        let Some(wire) = wire else { return Ok(Self::default()) };
        let state = wire.state.map(|state| text::known::<wire::PodSandboxState>(state.state));
        let state = state.transpose().at("filter.state")?;
        Ok(Self {
            id: optional_id("id", &wire.id)?,
            ready: state.map(|state| state == wire::PodSandboxState::SandboxReady),
            labels: wire.label_selector,
        })
    }

    /// For statistics, which have no state to ask for.
    pub(crate) fn of_stats(wire: Option<wire::PodSandboxStatsFilter>) -> Result<Self, Refusal> {
        let Some(wire) = wire else { return Ok(Self::default()) };
        Ok(Self { id: optional_id("id", &wire.id)?, ready: None, labels: wire.label_selector })
    }

    /// All but the id.
    pub(crate) fn admits(&self, pod: &PodView) -> bool {
        self.ready.is_none_or(|ready| ready == pod.ready) && among(&self.labels, &pod.config.labels)
    }
}

/// Which containers to list.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ContainerFilter {
    /// A full id or a prefix; whoever asks resolves it.
    pub(crate) id: Option<IdPrefix>,
    /// As `id`, of the pod.
    pub(crate) pod: Option<IdPrefix>,
    state: Option<wire::ContainerState>,
    labels: HashMap<String, String>,
}

impl ContainerFilter {
    pub(crate) fn parse(wire: Option<wire::ContainerFilter>) -> Result<Self, Refusal> {
        let Some(wire) = wire else { return Ok(Self::default()) };
        Ok(Self {
            id: optional_id("id", &wire.id)?,
            pod: optional_id("pod_sandbox_id", &wire.pod_sandbox_id)?,
            state: wire.state.map(|state| text::known(state.state).at("filter.state")).transpose()?,
            labels: wire.label_selector,
        })
    }

    /// For statistics, which have no state to ask for.
    pub(crate) fn of_stats(wire: Option<wire::ContainerStatsFilter>) -> Result<Self, Refusal> {
        let Some(wire) = wire else { return Ok(Self::default()) };
        Ok(Self {
            id: optional_id("id", &wire.id)?,
            pod: optional_id("pod_sandbox_id", &wire.pod_sandbox_id)?,
            state: None,
            labels: wire.label_selector,
        })
    }

    /// All but the ids.
    pub(crate) fn admits(&self, container: &ContainerView) -> bool {
        self.state.is_none_or(|state| state == render::container_state(&container.state))
            && among(&self.labels, &container.config.labels)
    }
}

fn optional_id(field: &'static str, value: &str) -> Result<Option<IdPrefix>, Refusal> {
    if value.is_empty() { Ok(None) } else { id(field, value).under("filter").map(Some) }
}

fn among(wanted: &HashMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::render::tests::{container, pod};

    fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|&(key, value)| (key.into(), value.into())).collect()
    }

    #[test]
    fn an_empty_filter_admits_everything() {
        for filter in [None, Some(wire::PodSandboxFilter::default())] {
            let filter = PodFilter::parse(filter).unwrap();
            assert_eq!((&filter.id, filter.admits(&pod())), (&None, true));
        }
        let filter = ContainerFilter::parse(Some(wire::ContainerFilter::default())).unwrap();
        assert!(filter.admits(&container()));
    }

    #[test]
    fn state_and_labels_must_both_match() {
        let filter = |state: i32, pairs| wire::PodSandboxFilter {
            id: "ab".into(),
            state: Some(wire::PodSandboxStateValue { state }),
            label_selector: labels(pairs),
        };
        let admits = |wire| PodFilter::parse(Some(wire)).unwrap().admits(&pod());
        assert!(admits(filter(0, &[("app", "web")])));
        assert!(!admits(filter(1, &[("app", "web")])));
        assert!(!admits(filter(0, &[("app", "db")])));
        assert!(!admits(filter(0, &[("app", "web"), ("tier", "front")])));
        assert_eq!(PodFilter::parse(Some(filter(0, &[]))).unwrap().id, Some(IdPrefix::parse("ab").unwrap()));

        let filter = |state: i32, pairs| wire::ContainerFilter {
            state: Some(wire::ContainerStateValue { state }),
            label_selector: labels(pairs),
            ..Default::default()
        };
        let admits = |wire| ContainerFilter::parse(Some(wire)).unwrap().admits(&container());
        assert!(admits(filter(wire::ContainerState::ContainerExited.into(), &[("role", "main")])));
        assert!(!admits(filter(wire::ContainerState::ContainerRunning.into(), &[("role", "main")])));
        assert!(!admits(filter(wire::ContainerState::ContainerExited.into(), &[("role", "side")])));
    }

    #[test]
    fn statistics_are_filtered_by_the_same_rules() {
        let wire = |pairs, id: &str| wire::ContainerStatsFilter {
            id: id.into(),
            label_selector: labels(pairs),
            ..Default::default()
        };
        let parsed = |pairs, id| ContainerFilter::of_stats(Some(wire(pairs, id)));
        assert!(parsed(&[("role", "main")], "").unwrap().admits(&container()));
        assert!(!parsed(&[("role", "side")], "").unwrap().admits(&container()));
        assert_eq!(parsed(&[], "ab").unwrap().id, Some(IdPrefix::parse("ab").unwrap()));
        assert!(parsed(&[], "../x").is_err());
        assert!(ContainerFilter::of_stats(None).unwrap().admits(&container()));
        let wire =
            |pairs, id: &str| wire::PodSandboxStatsFilter { id: id.into(), label_selector: labels(pairs) };
        assert!(PodFilter::of_stats(Some(wire(&[("app", "web")], ""))).unwrap().admits(&pod()));
        assert!(!PodFilter::of_stats(Some(wire(&[("app", "db")], ""))).unwrap().admits(&pod()));
        assert!(PodFilter::of_stats(Some(wire(&[], "a/b"))).is_err());
    }

    #[test]
    fn unknown_states_and_harmful_ids_are_refused() {
        let state = Some(wire::PodSandboxStateValue { state: 2 });
        let refusal =
            PodFilter::parse(Some(wire::PodSandboxFilter { state, ..Default::default() })).unwrap_err();
        assert_eq!(refusal.to_string(), "filter.state has the unknown value 2");
        let wire = wire::ContainerFilter { pod_sandbox_id: "../x".into(), ..Default::default() };
        let refusal = ContainerFilter::parse(Some(wire)).unwrap_err();
        assert_eq!(refusal.to_string(), "filter.pod_sandbox_id \"../x\" has a slash");
    }
}
