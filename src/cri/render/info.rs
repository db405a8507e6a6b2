//! The `info` of a verbose answer: JSON under the key "info", for people and for tools that look for `pid`
//! and `sandboxID`.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::{
    image::Image,
    pod::{ContainerState, ContainerView, PodView},
};

pub(crate) fn pod_info(view: &PodView) -> HashMap<String, String> {
    info(&json!({
        "pid": view.supervisor_pid,
        "config": *view.config,
        "network": view.attachment,
        "resources": view.limits.resources,
        "overhead": view.limits.overhead,
        "containers": view.containers.iter().map(|each| each.id.as_str()).collect::<Vec<_>>(),
    }))
}

pub(crate) fn container_info(view: &ContainerView) -> HashMap<String, String> {
    let pid = match view.state {
        ContainerState::Created { pid } | ContainerState::Running { pid, .. } => pid,
        ContainerState::Exited { .. } => 0,
    };
    let mut config = json!(*view.config);
    // Bytes as text: a list of numbers helps nobody.
    config["envs"] = view
        .config
        .envs
        .iter()
        .map(|(key, value)| json!({"key": key, "value": String::from_utf8_lossy(value)}))
        .collect();
    info(&json!({
        "pid": pid,
        "sandboxID": view.pod,
        "config": config,
        "user": view.user,
        "resources": view.resources,
    }))
}

pub(crate) fn image_info(image: &Image) -> HashMap<String, String> {
    info(&json!({"imageSpec": {"config": image.config}, "layers": image.layers.lower}))
}

fn info(value: &Value) -> HashMap<String, String> {
    HashMap::from([("info".to_owned(), value.to_string())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::render::{image::tests::busybox, tests};

    fn parsed(info: &HashMap<String, String>) -> Value {
        assert_eq!(info.len(), 1);
        serde_json::from_str(&info["info"]).unwrap()
    }

    #[test]
    fn a_pods_info_has_a_pid_its_config_and_its_containers() {
        let info = parsed(&pod_info(&tests::pod()));
        assert_eq!(info["pid"], 42);
        assert_eq!(info["config"]["metadata"]["name"], "web");
        assert_eq!(info["network"]["addresses"], json!(["10.0.0.2", "fd00::2"]));
        assert_eq!(info["containers"], json!(["02".repeat(32)]));
    }

    #[test]
    fn a_containers_info_has_the_pid_while_there_is_one() {
        let mut view = tests::container();
        let info = parsed(&container_info(&view));
        assert_eq!((&info["pid"], &info["sandboxID"]), (&json!(0), &json!("01".repeat(32))));
        assert_eq!(info["config"]["envs"], json!([{"key": "A", "value": "1\u{fffd}"}]));
        view.state = ContainerState::Created { pid: 77 };
        assert_eq!(parsed(&container_info(&view))["pid"], 77);
    }

    #[test]
    fn an_images_info_has_its_config() {
        assert_eq!(parsed(&image_info(&busybox()))["imageSpec"]["config"]["user"], "1002:1003");
    }
}
