//! Every requirement of SPEC.md has an identifier, each identifier is named by a test, and every test names only such.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::string::{String, ToString};
use std::vec::Vec;

/// What stands in front of the identifiers above a test.
const MARK: &str = "// SPEC: ";

fn spec() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("SPEC.md")).unwrap()
}

/// The sentences, each in one line. Paragraphs, and the items of lists, end them too.
fn sentences(text: &str) -> Vec<String> {
    let mut paragraphs = Vec::from([String::new()]);
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with("- ") || line.starts_with('|') {
            paragraphs.push(String::new());
        }
        if let Some(paragraph) = paragraphs.last_mut() {
            paragraph.push_str(line);
            paragraph.push(' ');
        }
    }
    let mut sentences = Vec::new();
    for paragraph in paragraphs {
        let mut rest = &*paragraph;
        // Small letters go on after an abbreviation or a number.
        while let Some(end) = rest
            .match_indices(". ")
            .map(|(at, _)| at + 2)
            .find(|at| rest[*at..].trim_start().starts_with(|c: char| c.is_ascii_uppercase() || c == '*'))
        {
            sentences.push(rest[..end].to_string());
            rest = &rest[end..];
        }
        sentences.push(rest.to_string());
    }
    sentences
}

/// The identifiers in brackets, as SPEC.md has them behind each requirement.
fn required() -> BTreeMap<String, usize> {
    let text = spec();
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

/// All files of Rust below this.
pub(super) fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
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

/// Whether a sentence demands something that no test is said to hold.
fn is_loose(sentence: &str) -> bool {
    sentence.contains("MUST") && !sentence.contains("[R-")
}

#[test]
fn every_must_has_an_identifier() {
    let text = spec();
    // The introduction explains the word.
    let (_, rules) = text.split_once("\n## 2. ").unwrap();
    let all = sentences(rules);
    let loose: Vec<_> = all.iter().filter(|s| is_loose(s)).collect();
    assert!(loose.is_empty(), "{loose:#?}");
    assert!(all.iter().filter(|s| s.contains("MUST")).count() > 20, "SPEC.md has lost its requirements");
    // It sees one where it stands: within a paragraph, in a list, and beside one that has an identifier.
    for text in [
        "It MUST do\nthis.",
        "It does.\n- It MUST NOT\n  do that.\n",
        "It MUST do this [R-this]. It MUST NOT\ndo that.",
        "It MUST do this. It MUST do that [R-that].",
        "| a | MUST |\n| b | MUST [R-b] |",
    ] {
        assert!(sentences(text).iter().any(|s| is_loose(s)), "{text}");
    }
}
