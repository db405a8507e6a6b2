//! The template of a configuration, with the fields that containerd's has, in the part of Go's text/template that such
//! templates are written in. Pure.
//!
//! `.PodCIDR`, `.PodCIDRRanges`, `.Routes`; `range`, with or without variables, `if`, `else`, `end`, comments, and `-` beside
//! the braces, which takes white space away.

use std::{collections::HashMap, iter::Peekable, vec};

/// Largest template, and largest configuration made of one; bytes.
const BYTES_MAX: usize = 1 << 20;
/// Deepest nesting of `range` and `if`.
const DEPTH_MAX: usize = 16;

/// Why a template cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct BadTemplate(String);

type Result<T> = std::result::Result<T, BadTemplate>;

fn bad<T>(reason: impl Into<String>) -> Result<T> {
    Err(BadTemplate(reason.into()))
}

/// A piece of a template.
#[derive(Debug)]
enum Piece {
    Text(String),
    Action(String),
}

/// What a name stands for.
#[derive(Clone, Debug)]
enum Value {
    Text(String),
    List(Vec<String>),
    Index(usize),
}

impl Value {
    /// As Go's templates see it: what is zero or empty is false.
    fn is_true(&self) -> bool {
        match self {
            Self::Text(text) => !text.is_empty(),
            Self::List(list) => !list.is_empty(),
            Self::Index(index) => *index != 0,
        }
    }
}

type Names = HashMap<String, Value>;
type Pieces = Peekable<vec::IntoIter<Piece>>;

/// The template with the node's pod CIDRs, of which the first is `.PodCIDR`, and a default route for each family.
///
/// # Errors
/// [`BadTemplate`], naming what is not understood.
pub(super) fn render(template: &str, ranges: &[String]) -> Result<String> {
    if template.len() > BYTES_MAX {
        return bad(format!("it has more than {BYTES_MAX} bytes"));
    }
    let mut routes: Vec<String> = Vec::new();
    for range in ranges {
        let route = if range.contains(':') { "::/0" } else { "0.0.0.0/0" };
        if !routes.iter().any(|known| known == route) {
            routes.push(route.into());
        }
    }
    let names = Names::from([
        (".PodCIDR".to_owned(), Value::Text(ranges.first().cloned().unwrap_or_default())),
        (".PodCIDRRanges".to_owned(), Value::List(ranges.to_vec())),
        (".Routes".to_owned(), Value::List(routes)),
    ]);
    let nodes = parse(&mut pieces(template)?.into_iter().peekable(), 0)?;
    let mut output = String::new();
    write(&nodes, &names, &mut output)?;
    Ok(output)
}

/// A part of a parsed template.
#[derive(Debug)]
enum Node {
    Text(String),
    Name(String),
    If { name: String, then: Vec<Node>, otherwise: Vec<Node> },
    Range { index: Option<String>, value: String, list: String, body: Vec<Node> },
}

/// Cuts a template into text and what is between braces.
fn pieces(template: &str) -> Result<Vec<Piece>> {
    let mut found = Vec::new();
    let (mut rest, mut trim) = (template, false);
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((action, behind)) = after.split_once("}}") else { return bad("a '{{' has no '}}'") };
        let before = if trim { before.trim_start() } else { before };
        let left = action.strip_prefix("- ").or_else(|| action.strip_prefix("-\n"));
        found.push(Piece::Text(if left.is_some() { before.trim_end() } else { before }.into()));
        let action = left.unwrap_or(action);
        let right = action.strip_suffix(" -");
        trim = right.is_some();
        found.push(Piece::Action(right.unwrap_or(action).trim().into()));
        rest = behind;
    }
    found.push(Piece::Text(if trim { rest.trim_start() } else { rest }.into()));
    Ok(found)
}

/// Up to the `end` or `else` of this depth, which is left where it is.
fn parse(pieces: &mut Pieces, depth: usize) -> Result<Vec<Node>> {
    if depth > DEPTH_MAX {
        return bad(format!("it is nested deeper than {DEPTH_MAX}"));
    }
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.peek() {
        let action = match piece {
            Piece::Action(action) if action == "end" || action == "else" => {
                return if depth == 0 { bad(format!("{{{{{action}}}}} ends nothing")) } else { Ok(nodes) };
            }
            Piece::Action(action) => action.clone(),
            Piece::Text(text) => {
                nodes.push(Node::Text(text.clone()));
                pieces.next();
                continue;
            }
        };
        pieces.next();
        nodes.extend(node(&action, pieces, depth)?);
    }
    if depth == 0 { Ok(nodes) } else { bad("an {{end}} is missing") }
}

fn node(action: &str, pieces: &mut Pieces, depth: usize) -> Result<Option<Node>> {
    if action.starts_with("/*") && action.ends_with("*/") {
        return Ok(None);
    }
    let not_understood = || BadTemplate(format!("{{{{{action}}}}} is not understood"));
    if let Some(name) = action.strip_prefix("if ") {
        let then = parse(pieces, depth + 1)?;
        let otherwise = if ends_with_else(pieces) { parse(pieces, depth + 1)? } else { Vec::new() };
        pieces.next();
        return Ok(Some(Node::If {
            name: checked(name.trim()).ok_or_else(not_understood)?,
            then,
            otherwise,
        }));
    }
    if let Some(range) = action.strip_prefix("range ") {
        let (variables, list) = range.split_once(":=").map_or(("", range), |(left, right)| (left, right));
        let list = checked(list.trim()).ok_or_else(not_understood)?;
        let variables: Vec<&str> =
            variables.split(',').map(str::trim).filter(|variable| !variable.is_empty()).collect();
        let (index, value) = match variables[..] {
            [] => (None, "."),
            [value] => (None, value),
            [index, value] => (Some(index), value),
            _ => return Err(not_understood()),
        };
        let body = parse(pieces, depth + 1)?;
        if ends_with_else(pieces) {
            return Err(not_understood());
        }
        pieces.next();
        return Ok(Some(Node::Range {
            index: index.map(str::to_owned),
            value: value.to_owned(),
            list,
            body,
        }));
    }
    checked(action).map(|name| Some(Node::Name(name))).ok_or_else(not_understood)
}

/// Takes an `else`, if that is next.
fn ends_with_else(pieces: &mut Pieces) -> bool {
    pieces.next_if(|piece| matches!(piece, Piece::Action(action) if action == "else")).is_some()
}

/// A name and nothing else.
fn checked(name: &str) -> Option<String> {
    let rest = name.strip_prefix('.').or_else(|| name.strip_prefix('$'))?;
    rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_').then(|| name.to_owned())
}

fn write(nodes: &[Node], names: &Names, output: &mut String) -> Result<()> {
    for node in nodes {
        match node {
            Node::Text(text) => output.push_str(text),
            Node::Name(name) => match look_up(names, name)? {
                Value::Text(text) => output.push_str(text),
                Value::Index(index) => output.push_str(&index.to_string()),
                Value::List(list) => output.push_str(&format!("[{}]", list.join(" "))),
            },
            Node::If { name, then, otherwise } => {
                let branch = if look_up(names, name)?.is_true() { then } else { otherwise };
                write(branch, names, output)?;
            }
            Node::Range { index, value, list, body } => {
                let Value::List(list) = look_up(names, list)? else {
                    return bad(format!("{list} is no list"));
                };
                for (nth, each) in list.iter().enumerate() {
                    let mut inner = names.clone();
                    inner.insert(value.clone(), Value::Text(each.clone()));
                    if let Some(index) = index {
                        inner.insert(index.clone(), Value::Index(nth));
                    }
                    write(body, &inner, output)?;
                }
            }
        }
        if output.len() > BYTES_MAX {
            return bad(format!("it makes more than {BYTES_MAX} bytes"));
        }
    }
    Ok(())
}

fn look_up<'n>(names: &'n Names, name: &str) -> Result<&'n Value> {
    names.get(name).ok_or_else(|| {
        BadTemplate(format!("{name} is none of .PodCIDR, .PodCIDRRanges, .Routes, and no variable"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rendered(template: &str) -> String {
        render(template, &["10.1.0.0/24".into(), "fd00::/64".into()]).unwrap()
    }

    #[test]
    fn what_containerds_manual_shows_is_understood() {
        let template = r#"{"ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
"routes": [{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}], "subnet": "{{.PodCIDR}}"}"#;
        let expected = r#"{"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]],
"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}], "subnet": "10.1.0.0/24"}"#;
        assert_eq!(rendered(template), expected);
    }

    #[test]
    fn each_form_does_what_go_makes_of_it() {
        for (template, expected) in [
            ("", ""),
            ("plain } { text", "plain } { text"),
            ("{{ .PodCIDR }}", "10.1.0.0/24"),
            ("{{range .Routes}}<{{.}}>{{end}}", "<0.0.0.0/0><::/0>"),
            ("{{range $r := .Routes}}{{$r}} {{end}}", "0.0.0.0/0 ::/0 "),
            ("{{if .PodCIDR}}yes{{else}}no{{end}}", "yes"),
            ("{{range $i, $r := .Routes}}{{if $i}}b{{else}}a{{end}}{{end}}", "ab"),
            ("a {{- .PodCIDR -}} b", "a10.1.0.0/24b"),
            ("a{{/* nothing */}}b", "ab"),
            ("{{range $i, $r := .Routes}}{{$i}}{{end}}", "01"),
        ] {
            assert_eq!(rendered(template), expected, "{template}");
        }
        assert_eq!(
            render("{{if .PodCIDR}}yes{{else}}no{{end}}{{range .Routes}}x{{end}}", &[]).unwrap(),
            "no"
        );
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (template, expected) in [
            ("{{.PodCIDR", "a '{{' has no '}}'"),
            ("{{.Secret}}", ".Secret is none of"),
            ("{{$i}}", "$i is none of"),
            ("{{end}}", "{{end}} ends nothing"),
            ("{{if .PodCIDR}}", "an {{end}} is missing"),
            ("{{printf \"%s\" .PodCIDR}}", "is not understood"),
            ("{{range .PodCIDR}}{{end}}", ".PodCIDR is no list"),
            ("{{range $a, $b, $c := .Routes}}{{end}}", "is not understood"),
            ("{{range .Routes}}{{else}}{{end}}", "is not understood"),
        ] {
            let error = render(template, &["10.1.0.0/24".into()]).unwrap_err().to_string();
            assert!(error.contains(expected), "{template}: {error}");
        }
        let deep = "{{if .PodCIDR}}".repeat(20);
        assert!(render(&deep, &[]).unwrap_err().to_string().contains("nested deeper than 16"));
        let large = "x".repeat(BYTES_MAX);
        assert!(render(&large, &[]).is_ok());
        assert!(render(&format!("{large}x"), &[]).is_err());
        let grows = format!("{{{{range .Routes}}}}{}{{{{end}}}}", "x".repeat(BYTES_MAX - 100));
        assert!(render(&grows, &["10.0.0.0/8".into(), "fd00::/64".into()]).is_err());
    }

    proptest! {
        #[test]
        fn no_text_upsets_it(text in "(\\{\\{|\\}\\}|range|if|end|else|[ .$a-z:=,-]|\\.Routes){0,40}") {
            let _ = render(&text, &["10.1.0.0/24".into()]);
        }
    }
}
