//! Every requirement of SPEC.md that has an identifier is named by a test, and every test names only such.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::string::{String, ToString};
use std::vec::Vec;

/// What stands in front of the identifiers above a test.
const MARK: &str = "// SPEC: ";

/// The identifiers in brackets, as SPEC.md has them behind each requirement.
fn required() -> BTreeMap<String, usize> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("SPEC.md")).unwrap();
    let mut found = BTreeMap::new();
    for part in text.split("[R-").skip(1) {
        let id: String =
            part.chars().take_while(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-').collect();
        if !id.is_empty() && part[id.len()..].starts_with(']') {
            *found.entry(std::format!("R-{id}")).or_default() += 1;
        }
    }
    found
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.map(|e| e.unwrap().path()) {
        if entry.is_dir() {
            sources(&entry, out);
        } else if entry.extension().is_some_and(|e| e == "rs") {
            out.push(entry);
        }
    }
}

/// The identifiers above tests, each with one place that names it.
fn named() -> BTreeMap<String, String> {
    let mut files = Vec::new();
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    // All tests that requirements need are in this crate, so that it can be checked on its own.
    sources(&crate_dir.join("src"), &mut files);
    sources(&crate_dir.join("tests"), &mut files);
    files.retain(|f| !f.ends_with("spec/requirements.rs"));
    let mut found = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        for (at, line) in lines.iter().enumerate() {
            let Some(ids) = line.strip_prefix(MARK) else { continue };
            let place = std::format!("{}:{}", file.display(), at + 1);
            let below = lines[at + 1..].iter().find(|l| !l.starts_with("//"));
            let is_test = below.is_some_and(|l| *l == "#[test]");
            assert!(is_test, "{place}: the mark stands above no test");
            for id in ids.split(", ") {
                found.insert(id.to_string(), place.clone());
            }
        }
    }
    found
}

#[test]
fn every_requirement_has_a_test_and_every_mark_a_requirement() {
    let (required, named) = (required(), named());
    let untested: Vec<_> = required.keys().filter(|id| !named.contains_key(*id)).collect();
    let unknown: Vec<_> = named.iter().filter(|(id, _)| !required.contains_key(*id)).collect();
    assert!(required.len() > 50, "SPEC.md has lost its requirements");
    assert!(untested.is_empty(), "no test names {untested:?}");
    assert!(unknown.is_empty(), "SPEC.md does not have {unknown:?}");
}
