//! What SPEC.md demands of time that somebody else could measure.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::vec;
use std::vec::Vec;

use super::requirements::sources;
use crate::crypto::same;

/// Long strings, so that a comparison that ends early is told from one that does not by a factor of thousands.
// SPEC: R-constant-time
#[test]
#[allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "measures real time")]
fn same_takes_as_long_wherever_the_difference_is() {
    let a = vec![7; 1 << 20];
    let time_with = |at: usize| {
        let mut b = a.clone();
        b[at] ^= 1;
        let run = || {
            let start = std::time::Instant::now();
            assert!(!same(black_box(&a), black_box(&b)));
            start.elapsed()
        };
        (0..9).map(|_| run()).min().unwrap()
    };
    let (first, last) = (time_with(0), time_with(a.len() - 1));
    assert!(first * 4 > last && last * 4 > first, "{first:?} {last:?}");
}

/// What secrets pass through: each was looked at, and promises a timing that does not depend on them. Whoever adds
/// another, or takes another in its place, looks at that.
const LOOKED_AT: [&str; 8] = ["aes", "aes-gcm", "chacha20", "hkdf", "hmac", "sha2", "subtle", "x25519-dalek"];
/// No cryptography.
const OTHERS: [&str; 4] = ["bytes", "hashbrown", "thiserror", "zeroize"];

// SPEC: R-aes-timing
#[test]
fn cryptography_is_of_crates_that_were_looked_at() {
    let manifest = include_str!("../../Cargo.toml");
    let (_, rest) = manifest.split_once("[dependencies]\n").unwrap();
    let (dependencies, _) = rest.split_once("\n[").unwrap();
    let names = dependencies.lines().filter_map(|line| line.split(['=', '.', ' ']).next());
    for name in names.filter(|name| !name.is_empty()) {
        assert!(
            LOOKED_AT.contains(&name) || OTHERS.contains(&name),
            "{name}: does its timing depend on secrets?"
        );
    }
}

// SPEC: R-constant-time
#[test]
fn secrets_are_compared_in_one_place() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/crypto"), &mut files);
    assert!(files.len() > 8);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for line in code.lines().map(str::trim) {
            let compares = line.contains(" == ") || line.contains(" != ") || line.contains("ct_eq");
            // The id of a key is no secret, and the one place is hash::same.
            let is_known = line.ends_with("!= self.id {") || line == "a.ct_eq(b).into()";
            assert!(!compares || is_known, "{}: {line}", file.display());
        }
    }
}
