//! The manual of the configuration. Its words are the doc comments of the rooms' own structs: a test compares
//! them, key by key, and the values with the defaults, so that the text cannot drift from the code.

/// Every key with its meaning and default, as a file that may be used as it stands.
pub const DEFAULT: &str = include_str!("default.toml");

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    use super::super::Config;
    use super::DEFAULT;

    /// (table, the source that holds its struct `Config`)
    const PARTS: [(&str, &str); 11] = [
        ("", "config/settings.rs"),
        ("cdi", "cdi"),
        ("cgroup", "cgroup"),
        ("image", "image"),
        ("log", "telemetry/log.rs"),
        ("metrics", "metrics"),
        ("network", "network"),
        ("pod", "pod/config.rs"),
        ("handlers.pintle", "pod/handler.rs"),
        ("selinux", "pod/selinux.rs"),
        ("streaming", "streaming"),
    ];

    #[test]
    fn the_values_of_the_manual_are_the_defaults() {
        let manual: Config = toml::from_str(DEFAULT).unwrap();
        assert_eq!(format!("{manual:#?}"), format!("{:#?}", Config::default()));
    }

    #[test]
    fn the_manual_says_of_every_key_what_its_struct_says() {
        let manual = manual(DEFAULT);
        for (table, source) in PARTS {
            let (about, mut fields) = documented(source);
            if table.is_empty() {
                fields
                    .retain(|name, _| !PARTS.iter().any(|(table, _)| table.split('.').next() == Some(name)));
            } else if !fields.is_empty() {
                assert_eq!(manual.get(&format!("[{table}]")), Some(&about), "[{table}] of src/{source}");
            }
            let in_table = |key: &&String| match key.rsplit_once('.') {
                Some((above, _)) => above == table,
                None => table.is_empty() && !key.starts_with('['),
            };
            let said: BTreeMap<_, _> = manual
                .iter()
                .filter(|(key, _)| in_table(key))
                .map(|(key, text)| (key.rsplit('.').next().unwrap().to_owned(), text.clone()))
                .collect();
            assert_eq!(said, fields, "[{table}] of src/{source}");
        }
    }

    #[test]
    fn the_page_in_docs_is_the_manual() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.md");
        let page =
            format!("# Configuration\n\nPrinted by `pintle config default`.\n\n```toml\n{DEFAULT}```\n");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&path, &page).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), page, "UPDATE_EXPECT=1 cargo test writes it anew");
    }

    /// `key → comment` of the manual, and `[table] → comment`. A key that has no default is `# key = value`.
    fn manual(text: &str) -> BTreeMap<String, String> {
        let (mut table, mut comment, mut said) = (String::new(), Vec::new(), BTreeMap::new());
        for line in text.lines() {
            let bare = line.trim_start_matches("# ");
            let key = bare.split_once(" = ").map(|(key, _)| key).filter(|key| !key.contains([' ', ',']));
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                said.insert(line.to_owned(), comment.join(" "));
                table = format!("{name}.");
            } else if let Some(key) = key {
                said.insert(format!("{table}{key}"), comment.join(" "));
            } else if line.starts_with('#') {
                comment.push(bare);
                continue;
            }
            comment.clear();
        }
        said
    }

    /// The doc comments of `pub struct Config` and of its fields; `source` is a file or a room's folder.
    fn documented(source: &str) -> (String, BTreeMap<String, String>) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(source);
        let files = if path.is_dir() {
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect()
        } else {
            vec![path]
        };
        let texts = files.iter().filter(|path| path.is_file()).map(|path| fs::read_to_string(path).unwrap());
        let text = texts.into_iter().find(|text| text.contains("pub struct Config {")).unwrap();
        let (before, after) = text.split_once("pub struct Config {").unwrap();

        let about: Vec<_> = before.lines().rev().skip_while(|line| !line.starts_with("///")).collect();
        let about = about.iter().take_while(|line| line.starts_with("///"));
        let mut about: Vec<_> = about.map(|line| line.trim_start_matches('/').trim()).collect();
        about.reverse();

        let (mut comment, mut fields) = (Vec::new(), BTreeMap::new());
        for line in after.lines().take_while(|line| *line != "}").map(str::trim) {
            if let Some(text) = line.strip_prefix("///") {
                comment.push(text.trim());
            } else if let Some((name, _)) = line.strip_prefix("pub ").and_then(|line| line.split_once(':')) {
                fields.insert(name.to_owned(), std::mem::take(&mut comment).join(" "));
            }
        }
        (about.join(" "), fields)
    }
}
