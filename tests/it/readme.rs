//! What the README shows is what happens: each of its commands runs.

#![cfg(unix)]

use std::{fs, path::Path};

// The examples of the library, as modules: built as programs they would each be linked anew.
#[path = "../../examples/edit.rs"]
#[expect(dead_code, reason = "its main")]
mod edit;
#[path = "../../examples/roundtrip.rs"]
#[expect(dead_code, reason = "its main")]
mod roundtrip;
#[path = "../../examples/variations.rs"]
#[expect(dead_code, reason = "its main")]
mod variations;

use crate::{
    hub::{FakeHub, sd15},
    stage::{distillations, shell, weights},
    support::data,
};

/// The lines of all blocks of shell, those that go on joined.
fn blocks(text: &str) -> Vec<String> {
    let blocks = text.split("```sh\n").skip(1);
    let blocks = blocks.filter_map(|rest| rest.split("```").next());
    let joined: Vec<_> = blocks.map(|block| block.replace("\\\n", " ")).collect();
    let lines = joined.iter().flat_map(|block| block.lines());
    lines.map(|line| line.trim().to_owned()).collect()
}

/// The jobs that the README shows.
fn jobs() -> String {
    let readme = fs::read_to_string("README.md").expect("the README");
    let (_, jobs) = readme.split_once("```json\n").expect("jobs");
    jobs.split("```").next().expect("their end").to_owned()
}

/// A folder with the files that the README's commands take for granted.
fn stage() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    for picture in ["bird.png", "mask.png", "pictures/a.png"] {
        fs::create_dir_all(at("pictures")).expect("a folder");
        fs::copy(data("square.png"), at(picture)).expect("a picture");
    }
    fs::write(at("pictures/a.txt"), "a bird").expect("a caption");
    fs::write(at("jobs.jsonl"), jobs()).expect("jobs");
    distillations(&at);
    weights(&at);
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    std::os::unix::fs::symlink(examples, at("examples")).expect("a link");
    folder
}

fn run(command: &str, folder: &Path, hub: &FakeHub) {
    shell(command, folder, hub, &[("ICD_YES", Path::new("true"))]);
}

#[test]
fn every_command_of_the_readme_does_what_it_says() {
    let readme = fs::read_to_string("README.md").expect("the README");
    let (folder, hub) = (stage(), sd15());
    let commands = blocks(&readme).into_iter().map(|line| {
        let command = line
            .strip_prefix("cargo run --release -- ")
            .map(|rest| format!("icd {rest}"));
        command.unwrap_or(line)
    });
    let commands: Vec<_> = commands.filter(|line| line.starts_with("icd ")).collect();
    assert!(commands.len() >= 10, "{commands:?}");
    for command in commands {
        run(&command, folder.path(), &hub);
    }
}

#[test]
fn the_examples_of_the_library_do_what_they_say() {
    let folder = tempfile::tempdir().expect("a folder");
    let picture = folder.path().join("edited.png");
    edit::edit(&picture).expect("an edit");
    let [before, after] = [Path::new("examples/still-life.png"), &picture].map(|file| {
        let picture = image::open(file).expect("a picture").into_rgb8();
        picture.get_pixel(25, 53).0 // in the mug
    });
    assert!(
        before[2] > before[1] && after[1] > after[2],
        "{before:?} {after:?}"
    );

    let sheet = folder.path().join("sheet.png");
    let caption =
        "at the front left a large red ball on a marble table before a teal wall in warm light";
    variations::draw(caption, &sheet).expect("a sheet");
    assert!(image::open(sheet).expect("a sheet").width() > 8 * 128);

    let measured = roundtrip::measure().expect("figures");
    let psnr: Vec<_> = measured.iter().map(|(_, _, psnr)| psnr).collect();
    assert!(
        psnr.len() == 4 && psnr[0] > psnr[3] && psnr[2] > psnr[3],
        "{measured:?}"
    );
}
