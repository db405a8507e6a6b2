//! A proof's page: one table, with a column for each place where it was tried, and below it what people wrote.
//!
//! A new run replaces the column of its place and leaves the others as they were.

/// What stands where a place has no such figure.
const NONE: &str = "–";

/// The table and the words below it.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Page {
    places: Vec<Place>,
    notes: String,
}

/// What one run found in one place: name and value, in order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) facts: Vec<(String, String)>,
}

impl Page {
    /// Reads what [`Page::text`] wrote. A table whose columns have no names is let go.
    pub(super) fn parse(text: &str) -> Self {
        let mut page = Self::default();
        let mut lines = text.lines().skip_while(|line| !line.starts_with('|'));
        let names = lines.next().map(cells).unwrap_or_default();
        page.places = names.into_iter().skip(1).map(|name| Place { name, facts: Vec::new() }).collect();
        let rows = lines.by_ref().take_while(|line| line.starts_with('|')).skip(1);
        for row in rows.map(cells) {
            let Some((name, values)) = row.split_first() else { continue };
            let known = page.places.iter_mut().zip(values).filter(|(_, value)| *value != NONE);
            known.for_each(|(place, value)| place.facts.push((name.clone(), value.clone())));
        }
        page.places.retain(|place| !place.name.is_empty());
        page.notes =
            lines.skip_while(|line| line.is_empty() || line.starts_with('|')).collect::<Vec<_>>().join("\n");
        page
    }

    /// What was found in a place under this name.
    pub(super) fn figure(&self, place: &str, name: &str) -> Option<&str> {
        let place = self.places.iter().find(|known| known.name == place)?;
        Some(place.fact(name)).filter(|value| *value != NONE)
    }

    /// In the stead of what was found there before.
    pub(super) fn put(&mut self, place: Place) {
        match self.places.iter_mut().find(|known| known.name == place.name) {
            Some(known) => *known = place,
            None => self.places.push(place),
        }
    }

    pub(super) fn text(&self, name: &str, promise: &str) -> String {
        let mut names: Vec<&str> = Vec::new();
        for (name, _) in self.places.iter().flat_map(|place| &place.facts) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        let row = |first: &str, cell: &dyn Fn(&Place) -> String| {
            let cells: String = self.places.iter().map(|place| format!(" {} |", cell(place))).collect();
            format!("| {first} |{cells}\n")
        };
        let mut table = row("where", &|place| place.name.clone());
        table.push_str(&format!("|{}\n", "---|".repeat(self.places.len() + 1)));
        table.extend(names.iter().map(|name| row(name, &|place| place.fact(name).to_owned())));
        let notes = if self.notes.is_empty() { String::new() } else { format!("\n{}\n", self.notes) };
        format!(
            "# Proof: {name}\n\nPromised: {promise}.\n\nRun it again with `cargo xtask proof {name} [--vm] [--driver \
             systemd|cgroupfs]`, which writes\nthe column of that place; with `--vm` it runs in the \
             [test machine](../vm.md).\n\n{table}{notes}"
        )
    }
}

impl Place {
    fn fact(&self, name: &str) -> &str {
        self.facts.iter().find(|(known, _)| known == name).map_or(NONE, |(_, value)| value)
    }
}

/// The cells of a row.
fn cells(row: &str) -> Vec<String> {
    let inner = row.trim().trim_start_matches('|');
    let inner = inner.strip_suffix('|').unwrap_or(inner);
    inner.split('|').map(|cell| cell.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str, facts: &[(&str, &str)]) -> Place {
        let facts = facts.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Place { name: name.into(), facts }
    }

    #[test]
    fn a_run_replaces_its_own_column_and_no_other() {
        let mut page = Page::default();
        page.put(place("here, cgroupfs", &[("ends", "200"), ("only here", "1")]));
        page.put(place("test machine, systemd", &[("ends", "100")]));
        page.notes = "A note.\n\nAnother, with `a | b`.".into();
        assert_eq!(page.figure("here, cgroupfs", "only here"), Some("1"));
        assert_eq!(page.figure("test machine, systemd", "only here"), None);
        let mut again = Page::parse(&page.text("oom", "it holds"));
        assert_eq!(again, page);
        again.put(place("here, cgroupfs", &[("ends", "7")]));
        let text = again.text("oom", "it holds");
        let table: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(
            table,
            ["| where | here, cgroupfs | test machine, systemd |", "|---|---|---|", "| ends | 7 | 100 |"]
        );
        assert!(text.ends_with("\nA note.\n\nAnother, with `a | b`.\n"), "{text}");
    }

    #[test]
    fn a_page_of_the_old_form_gives_its_notes_only() {
        let old = "# Proof: x\n\nPromised: y.\n\n| where | |\n|---|---|\n| commit | c |\n\n| what | |\n|---|---|\n\
                   | a | 1 |\n\n## Other runs\n\nMore.\n";
        assert_eq!(Page::parse(old), Page { places: Vec::new(), notes: "## Other runs\n\nMore.".into() });
        assert_eq!(Page::parse(""), Page::default());
    }
}
