//! SELinux options: parts of a label.

use super::{At as _, Refusal, Why};
use crate::{
    cri::wire,
    model::{BadLabel, LabelParts, check_label_name},
};

/// The parts that are given. They are checked also where SELinux is not used, as under containerd.
pub(super) fn parts(wire: Option<wire::SeLinuxOption>) -> Result<LabelParts, Refusal> {
    let wire = wire.unwrap_or_default();
    let name = |what, text: String| -> Result<String, Why> {
        if !text.is_empty() {
            check_label_name(what, &text).map_err(why)?;
        }
        Ok(text)
    };
    let level = Some(wire.level.as_str()).filter(|level| !level.is_empty()).map(str::parse);
    Ok(LabelParts {
        user: name("user", wire.user).at("selinux_options.user")?,
        role: name("role", wire.role).at("selinux_options.role")?,
        kind: name("type", wire.r#type).at("selinux_options.type")?,
        level: level.transpose().map_err(why).at("selinux_options.level")?,
    })
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn why(bad: BadLabel) -> Why {
    format!("is bad: {bad}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(user: &str, role: &str, kind: &str, level: &str) -> Option<wire::SeLinuxOption> {
        let [user, role, r#type, level] = [user, role, kind, level].map(str::to_owned);
        Some(wire::SeLinuxOption { user, role, r#type, level })
    }

    #[test]
    fn selinux_options_are_parts_of_a_label() {
        assert_eq!(parts(None), Ok(LabelParts::default()));
        assert_eq!(parts(option("", "", "", "")), Ok(LabelParts::default()));
        let given = parts(option("u", "r", "t", "s0:c3,c1")).unwrap();
        assert_eq!((given.user.as_str(), given.role.as_str(), given.kind.as_str()), ("u", "r", "t"));
        assert_eq!(given.level.unwrap().to_string(), "s0:c1,c3");
    }

    #[test]
    fn a_part_that_is_none_is_refused_by_its_field() {
        let long = "t".repeat(1000);
        for (wire, field) in [
            (option("u:r", "", "", ""), "user"),
            (option("", "r r", "", ""), "role"),
            (option("", "", &long, ""), "type"),
            (option("", "", "a\nb", ""), "type"),
            (option("", "", "", "c1,c2"), "level"),
            (option("", "", "", "s0:c1\""), "level"),
        ] {
            assert_eq!(parts(wire).unwrap_err().field, format!("selinux_options.{field}"));
        }
    }
}
