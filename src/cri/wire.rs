//! The messages and services of `proto/runtime/v1/api.proto`, as compiled, and the proof that they are the
//! CRI's: `proto/runtime/v1/wire.txt` lists every fact of the wire format.

use std::fmt;

pub(crate) use generated::*;

#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    dead_code,
    missing_debug_implementations,
    unreachable_pub,
    reason = "generated code"
)]
mod generated {
    tonic::include_proto!("runtime.v1");
}

/// Says that there are credentials, never what they are.
impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig").field("server_address", &self.server_address).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message as _;
    use prost_types::{
        DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
        ServiceDescriptorProto,
        field_descriptor_proto::{Label, Type},
    };

    use super::*;

    const FACTS: &str = include_str!("../../proto/runtime/v1/wire.txt");
    const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cri.descriptor"));
    const PACKAGE: &str = "runtime.v1";

    #[test]
    fn the_compiled_protocol_is_the_kubelets_fact_by_fact() {
        let ours = facts_of(&file());
        let theirs: Vec<&str> = FACTS.lines().filter(|line| !line.starts_with('#')).collect();
        let missing: Vec<_> = theirs.iter().filter(|line| !ours.iter().any(|own| own == *line)).collect();
        let extra: Vec<_> = ours.iter().filter(|own| !theirs.contains(&own.as_str())).collect();
        assert_eq!((missing, extra), (vec![], vec![]));
        assert_eq!(ours.len(), theirs.len(), "a fact is said twice");

        let mut counts = BTreeMap::<&str, usize>::new();
        for fact in &ours {
            *counts.entry(fact.split(' ').next().unwrap()).or_default() += 1;
        }
        let expected = [
            ("enum", 11),
            ("field", 478),
            ("message", 175),
            ("package", 1),
            ("rpc", 43),
            ("service", 2),
            ("syntax", 1),
            ("value", 95),
        ];
        assert_eq!(counts, BTreeMap::from(expected));
    }

    #[test]
    fn credentials_are_not_printed() {
        let auth = AuthConfig {
            username: "u-secret".into(),
            password: "p-secret".into(),
            auth: "a-secret".into(),
            server_address: "registry.example".into(),
            identity_token: "i-secret".into(),
            registry_token: "r-secret".into(),
        };
        let request = PullImageRequest { auth: Some(auth), ..Default::default() };
        let text = format!("{request:?}");
        assert!(text.contains("registry.example"), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }

    fn file() -> FileDescriptorProto {
        let set = FileDescriptorSet::decode(DESCRIPTOR).unwrap();
        set.file.into_iter().find(|file| file.package() == PACKAGE).unwrap()
    }

    fn facts_of(file: &FileDescriptorProto) -> Vec<String> {
        let mut facts = vec![format!("syntax {}", file.syntax()), format!("package {}", file.package())];
        file.service.iter().for_each(|service| service_facts(service, &mut facts));
        file.enum_type.iter().for_each(|each| enum_facts("", each, &mut facts));
        let redacted = redacted_fields();
        file.message_type.iter().for_each(|each| message_facts("", each, &redacted, &mut facts));
        facts
    }

    fn service_facts(service: &ServiceDescriptorProto, facts: &mut Vec<String>) {
        let name = service.name();
        facts.push(format!("service {name}"));
        for rpc in &service.method {
            let side = |streams| if streams { "stream" } else { "unary" };
            let server = if rpc.server_streaming() { "server-stream" } else { "unary" };
            let (input, output) = (short(rpc.input_type()), short(rpc.output_type()));
            let client = side(rpc.client_streaming());
            facts.push(format!("rpc {name} {} {input} {output} {client}/{server}", rpc.name()));
        }
    }

    fn enum_facts(scope: &str, each: &EnumDescriptorProto, facts: &mut Vec<String>) {
        let name = format!("{scope}{}", each.name());
        facts.push(format!("enum {name}"));
        for value in &each.value {
            facts.push(format!("value {name} {} {}", value.number(), value.name()));
        }
        for range in &each.reserved_range {
            facts.push(format!("reserved {name} {}-{}", range.start(), range.end()));
        }
        for reserved in &each.reserved_name {
            facts.push(format!("reserved {name} {reserved}"));
        }
    }

    fn message_facts(scope: &str, each: &DescriptorProto, redacted: &[String], facts: &mut Vec<String>) {
        let name = format!("{scope}{}", each.name());
        facts.push(format!("message {name}"));
        for field in &each.field {
            let mut fact = format!("field {name} {}", field_fact(each, field));
            if field.options.as_ref().is_some_and(|options| options.deprecated()) {
                fact.push_str(" deprecated");
            }
            if redacted.contains(&format!("{name}.{}", field.name())) {
                fact.push_str(" debug_redact");
            }
            facts.push(fact);
        }
        for range in &each.reserved_range {
            facts.push(format!("reserved {name} {}-{}", range.start(), range.end() - 1));
        }
        for reserved in &each.reserved_name {
            facts.push(format!("reserved {name} {reserved}"));
        }
        let inner = format!("{name}.");
        each.enum_type.iter().for_each(|nested| enum_facts(&inner, nested, facts));
        for nested in each.nested_type.iter().filter(|nested| !is_map_entry(nested)) {
            message_facts(&inner, nested, redacted, facts);
        }
    }

    fn field_fact(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
        let entry = message.nested_type.iter().find(|nested| {
            is_map_entry(nested) && field.type_name().ends_with(&format!(".{}", nested.name()))
        });
        let (label, kind) = match entry {
            Some(entry) => {
                let of = |number| entry.field.iter().find(|part| part.number() == number).map(kind).unwrap();
                ("map", format!("map<{},{}>", of(1), of(2)))
            }
            None if field.label() == Label::Repeated => ("repeated", kind(field)),
            None if field.proto3_optional() => ("optional", kind(field)),
            None => ("singular", kind(field)),
        };
        format!("{} {label} {kind} {}", field.number(), field.name())
    }

    fn kind(field: &FieldDescriptorProto) -> String {
        match field.r#type() {
            Type::Message | Type::Enum => short(field.type_name()).to_owned(),
            scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
        }
    }

    fn is_map_entry(message: &DescriptorProto) -> bool {
        message.options.as_ref().is_some_and(|options| options.map_entry())
    }

    fn short(full: &str) -> &str {
        full.strip_prefix(".runtime.v1.").unwrap_or(full)
    }

    /// `MESSAGE.FIELD` of all fields with `debug_redact`, an option that prost-types does not know.
    fn redacted_fields() -> Vec<String> {
        let set = redact::Files::decode(DESCRIPTOR).unwrap();
        let mut redacted = Vec::new();
        for message in set.files.iter().filter(|file| file.package == PACKAGE).flat_map(|file| &file.messages)
        {
            for field in &message.fields {
                if field.options.is_some_and(|options| options.debug_redact) {
                    redacted.push(format!("{}.{}", message.name, field.name));
                }
            }
        }
        redacted
    }

    /// The path to `debug_redact` in descriptor.proto, as far as top-level messages go.
    mod redact {
        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct Files {
            #[prost(message, repeated, tag = "1")]
            pub(super) files: Vec<File>,
        }
        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct File {
            #[prost(string, tag = "2")]
            pub(super) package: String,
            #[prost(message, repeated, tag = "4")]
            pub(super) messages: Vec<Message>,
        }
        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct Message {
            #[prost(string, tag = "1")]
            pub(super) name: String,
            #[prost(message, repeated, tag = "2")]
            pub(super) fields: Vec<Field>,
        }
        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct Field {
            #[prost(string, tag = "1")]
            pub(super) name: String,
            #[prost(message, optional, tag = "8")]
            pub(super) options: Option<Options>,
        }
        #[derive(Clone, Copy, PartialEq, prost::Message)]
        pub(super) struct Options {
            #[prost(bool, tag = "16")]
            pub(super) debug_redact: bool,
        }
    }
}
