//! Every input that fuzzing keeps, through its target: the corpus, and inputs that once showed a fault.

use std::path::{Path, PathBuf};

fn inputs(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    paths
}

fn replay(target: &str, run: fn(&[u8]), least: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = inputs(&root.join("corpus").join(target));
    assert!(corpus.len() >= least, "{target}: the corpus has only {} inputs", corpus.len());
    for path in corpus.into_iter().chain(inputs(&root.join("found").join(target))) {
        let input = std::fs::read(&path).expect("readable");
        // Shown when the test fails: which input it was.
        eprintln!("{}", path.display());
        run(&input);
    }
}

#[test]
fn decode_frame() {
    replay("decode_frame", roost_fuzz::decode_frame, 50);
}

#[test]
fn connection_bytes() {
    replay("connection_bytes", roost_fuzz::connection_bytes, 20);
}

#[test]
fn connection_operations() {
    replay("connection_operations", roost_fuzz::connection_operations, 20);
}
