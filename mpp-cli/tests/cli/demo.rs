//! A newcomer's first command.

use std::time::Duration;

use crate::support::{Home, is_gone};

#[test]
fn the_demo_checks_all_it_claims() {
    let home = Home::new();
    let demo = home.start(&["demo"]).end(Duration::from_secs(30));
    assert_eq!(demo.code(), 0, "{demo:#?}");
    let text = demo.out.join("\n");
    assert!(text.contains("checks true") && !text.contains("FAILED"), "{text}");
    assert!(!text.contains('\u{1b}'), "no colour where nobody looks: {text}");
    assert!(text.lines().all(|l| l.chars().count() <= 100), "fits a terminal: {text}");
    assert!(is_gone(&home.path("mpp")), "it leaves nothing behind");
}
