//! The examples of SPEC.md, section 20: written here, and a failure if the page says otherwise.

use std::fs;
use std::path::Path;
use std::string::String;

use super::bytes::Page;
use super::exchange::Exchange;
use super::packets;

const BEGIN: &str = "<!-- examples: begin -->\n";
const END: &str = "<!-- examples: end -->";

/// The examples, as they stand between the marks.
fn page() -> String {
    let mut page = Page(String::new());
    let exchange = Exchange::new();
    exchange.write(&mut page);
    packets::write(&mut page, &exchange);
    page.0
}

#[test]
fn spec_has_the_examples_that_the_code_writes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("SPEC.md");
    let text = fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(BEGIN).expect("SPEC.md has a place for the examples");
    let (old, tail) = rest.split_once(END).expect("the place for the examples ends");
    let new = page();
    if std::env::var_os("MPP_BLESS").is_some() {
        fs::write(&path, [head, BEGIN, &new, END, tail].concat()).unwrap();
        return;
    }
    let differing = old.lines().zip(new.lines()).find(|(a, b)| a != b);
    assert!(
        old == new,
        "the examples of SPEC.md are not what the code writes; if the change is meant, run \
         `MPP_BLESS=1 cargo test -p mpp-proto spec`. First difference: {differing:?}"
    );
}
