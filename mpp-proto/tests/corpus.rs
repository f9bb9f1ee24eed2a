//! Every input that fuzzing began with or found runs again, on the bodies that the fuzzers run.

use std::fs;
use std::path::{Path, PathBuf};

use mpp_proto::fuzzing;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

#[test]
fn every_input_of_the_corpus_passes() {
    for (target, body) in fuzzing::TARGETS {
        let inputs = fs::read_dir(corpus().join(target)).unwrap();
        let mut names: Vec<_> = inputs.map(|entry| entry.unwrap().path()).collect();
        names.sort();
        assert!(!names.is_empty(), "no corpus for {target}");
        for name in names {
            let bytes = fs::read(&name).unwrap();
            // Shown by the test harness if the body panics.
            println!("{}: {} bytes", name.display(), bytes.len());
            body(&bytes);
        }
    }
}

/// With `MPP_WRITE_SEEDS=1` in the environment the seeds are written instead of compared.
#[test]
fn the_seeds_are_those_that_are_committed() {
    for (target, name, bytes) in fuzzing::seeds() {
        let file = corpus().join(target).join(name);
        if std::env::var_os("MPP_WRITE_SEEDS").is_some() {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, bytes).unwrap();
        } else {
            let committed = fs::read(&file).unwrap_or_default();
            assert_eq!(committed, bytes, "{} is not what it should be", file.display());
        }
    }
}
