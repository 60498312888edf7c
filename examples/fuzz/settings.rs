//! The settings in a PNG, read by `icd edit --from`.
//!
//! They are read by the program itself, which must be built: its report and the folder it
//! runs in are checked.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use icd::picture::{Format, Picture, Size};

use crate::targets::{Feed, data};

const SEEDS: [&str; 4] = [
    r#"{"verb":"edit","version":"0.1.0","model":"tabletop","image":"in.png","src_prompt":"a red star","tgt_prompt":["a blue star"],"size":"32","seed":"0","guidance":"4","tau":"0.8","fit":"pad","restore_size":true}"#,
    r#"{"verb":"edit","model":"tabletop","image":"in.png","src_prompt":"a red star","tgt_prompt":["a heart","a\u001b[2J star"],"blend":["star:heart"],"cross_replace":["0.4","star=0.2..0.9"],"self_replace":"0.6","amplify":["heart=2"],"reverse_timesteps":"999,779,519,259,0","mask":"in.png"}"#,
    r#"{"verb":"edit","dump=x.safetensors":true,"save-latents":"y","output":"z.png","threads":"1024","cache":"c","lora":["in.png=1"],"early_prompt":"target","vae_tiling":"on","device":"cuda:7"}"#,
    r#"{"verb":"edit","model":"tabletop","image":"in.png","src_prompt":"a red star","tgt_prompt":["a blue star"],"size":"32","sweep":["tau=0.7,1","amplify=star=2,none"]}"#,
];

pub(crate) fn open() -> Result<(Vec<Vec<u8>>, Feed)> {
    let program = program()?;
    let folder = tempfile::tempdir()?;
    let photo = Picture::read(&data("square.png"))?.resized(Size::new(16, 16));
    fs::write(
        folder.path().join("in.png"),
        photo.encode_noted(Format::Png, "")?,
    )?;
    let feed = move |input: &[u8]| {
        let note = String::from_utf8_lossy(input).replace('\0', "?");
        let Ok(png) = photo.encode_noted(Format::Png, &note) else {
            return false;
        };
        fs::write(folder.path().join("from.png"), png).expect("a folder that can be written");
        run(&program, folder.path())
    };
    let seeds = SEEDS.map(|seed| seed.as_bytes().to_vec());
    Ok((seeds.into(), Box::new(feed)))
}

/// The program beside this example.
fn program() -> Result<PathBuf> {
    let here = env::current_exe()?;
    let folder = here.parent().and_then(Path::parent);
    let program = folder.context("a target folder")?.join("icd");
    ensure!(program.exists(), "{}: build it first", program.display());
    Ok(program)
}

/// Runs an edit with the settings of `from.png`; false if they are refused.
fn run(program: &Path, folder: &Path) -> bool {
    let done = Command::new(program)
        .args([
            "edit",
            "--from",
            "from.png",
            "-o",
            "out.png",
            "--force",
            "--threads",
            "1",
        ])
        .current_dir(folder)
        .output()
        .expect("the program runs");
    let told = String::from_utf8_lossy(&done.stderr);
    let code = done.status.code();
    assert!(matches!(code, Some(0..=2)), "it ends with {code:?}: {told}");
    let is_raw = |char: char| char.is_control() && !['\n', '\t'].contains(&char);
    assert!(
        !told.contains("panicked") && !told.contains(is_raw) && told.len() < 20_000,
        "{told}"
    );
    let files = fs::read_dir(folder).expect("the folder").flatten();
    let others: Vec<_> = files
        .map(|file| file.file_name())
        .filter(|name| !is_expected(&name.to_string_lossy()))
        .collect();
    assert!(others.is_empty(), "it writes {others:?}");
    code == Some(0)
}

/// Whether it is a file of this folder, or a result: several are numbered.
fn is_expected(name: &str) -> bool {
    let number = name
        .strip_prefix("out-")
        .and_then(|name| name.strip_suffix(".png"));
    let is_result = number.is_some_and(|number| number.parse::<usize>().is_ok());
    is_result || ["in.png", "from.png", "out.png"].contains(&name)
}
