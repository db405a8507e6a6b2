//! How a client hears what came of its command: the error channel of `remotecommand`.

use serde_json::json;

/// The outcome of an exec or attach.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    /// Its end with this exit code; an attach ends with 0 whatever its container did.
    Exited(i32),
    /// The reason why it could not be run, or was cut off.
    Failed(String),
}

/// The content of the error channel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Form {
    /// Text, and only of failures: v1 to v3.
    Text,
    /// A `metav1.Status` in JSON, always: v4 and later.
    Status,
}

impl Outcome {
    /// The bytes for the error channel; empty: nothing is sent.
    pub(super) fn message(&self, form: Form) -> Vec<u8> {
        let text = match self {
            Self::Exited(0) => String::new(),
            Self::Exited(code) => format!("command terminated with non-zero exit code: {code}"),
            Self::Failed(why) => why.clone(),
        };
        if form == Form::Text {
            return text.into_bytes();
        }
        let status = match self {
            Self::Exited(0) => json!({"metadata": {}, "status": "Success"}),
            Self::Exited(code) => json!({
                "metadata": {}, "status": "Failure", "message": text, "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failed(_) => json!({
                "metadata": {}, "status": "Failure", "message": text, "reason": "InternalError",
                "details": {"causes": [{"message": text}]}, "code": 500,
            }),
        };
        status.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_exit_code_is_where_clients_look_for_it() {
        let status =
            |outcome: Outcome| -> Value { serde_json::from_slice(&outcome.message(Form::Status)).unwrap() };
        assert_eq!(status(Outcome::Exited(0)), json!({"metadata": {}, "status": "Success"}));
        let failed = status(Outcome::Exited(42));
        assert_eq!((&failed["status"], &failed["reason"]), (&json!("Failure"), &json!("NonZeroExitCode")));
        assert_eq!(failed["details"]["causes"], json!([{"reason": "ExitCode", "message": "42"}]));
        let failed = status(Outcome::Failed("no such program".into()));
        assert_eq!((&failed["reason"], &failed["code"]), (&json!("InternalError"), &json!(500)));
        assert_eq!(failed["message"], "no such program");
    }

    #[test]
    fn old_protocols_hear_of_failures_only() {
        assert_eq!(Outcome::Exited(0).message(Form::Text), b"");
        assert_eq!(Outcome::Exited(3).message(Form::Text), b"command terminated with non-zero exit code: 3");
        assert_eq!(Outcome::Failed("why".into()).message(Form::Text), b"why");
    }
}
