//! `examples/batch.sh` edits what it can, by literal words, and tells what it could not.
#![cfg(unix)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use assert_cmd::cargo::cargo_bin;
use tempfile::TempDir;

use crate::support::{data, icd};

/// A folder with pictures of these names and descriptions.
fn folder(pictures: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (picture, description) in pictures {
        let picture = folder.path().join(picture);
        fs::copy(data("square.png"), &picture).expect("a picture");
        fs::write(picture.with_extension("txt"), description).expect("its description");
    }
    folder
}

/// Replaces words in the folder `in` of a folder.
fn batch(home: &Path, from: &str, to: &str) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/batch.sh");
    let program = cargo_bin("icd");
    let program = program.parent().expect("its folder").display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    Command::new("sh")
        .arg(script)
        .arg(home)
        .args([from, to])
        .arg(home.join("out"))
        .args(["--model", "shapes", "--size", "64"])
        .env("PATH", format!("{program}:{path}"))
        .output()
        .expect("a shell")
}

/// The target prompt of a result.
fn target(result: PathBuf) -> String {
    let facts = icd("inspect").path("--json", &result).succeeds().stdout;
    let facts: serde_json::Value = serde_json::from_str(&facts).expect("JSON");
    facts["tgt_prompt"][0]
        .as_str()
        .expect("a prompt")
        .to_owned()
}

#[test]
fn words_are_replaced_literally_and_whole() {
    let home = folder(&[
        ("a.png", b"covered in blue/white. Not blue/whites"),
        ("-b.PNG", b"\xef\xbb\xbfblue/white\r\n"),
    ]);
    let done = batch(home.path(), "blue/white", "- R&B \\1");
    assert!(done.status.success(), "{done:?}");
    let out = home.path().join("out");
    assert_eq!(
        target(out.join("a.png")),
        "covered in - R&B \\1. Not blue/whites"
    );
    assert_eq!(target(out.join("-b.png")), "- R&B \\1");
}

#[test]
fn what_cannot_be_edited_is_listed_at_the_end() {
    let home = folder(&[
        ("a.png", b"a blue star"),
        ("a.jpg", b"a blue star"),
        ("b.png", b"a covered star"),
        ("c.png", b"blue"),
        ("d.png", b"a blue caf\xe9"),
    ]);
    fs::write(home.path().join("e.webp"), "no picture").expect("a file");
    fs::write(home.path().join("e.txt"), "a blue star").expect("a file");
    fs::write(home.path().join("f.png"), "not described").expect("a file");
    let done = batch(home.path(), "blue", "");
    let told = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{told}");
    let (_, list) = told.split_once("not edited:").expect("a list");
    let names = list
        .split_whitespace()
        .map(|path| path.rsplit_once('/').unwrap().1);
    let names: Vec<_> = names.collect();
    assert_eq!(
        names,
        ["b.png", "c.png", "d.png", "f.png", "a.jpg", "e.webp"]
    );
    let mut results: Vec<_> = fs::read_dir(home.path().join("out")).unwrap().collect();
    results.retain(|entry| entry.as_ref().unwrap().path().is_file());
    assert_eq!(results.len(), 1);
    assert_eq!(target(home.path().join("out/a.png")), "a  star");
}
