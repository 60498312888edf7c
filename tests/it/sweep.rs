//! Sheets of edits, whose cells are single edits, byte for byte.

use std::path::Path;

use icd::picture::Picture;
use serde_json::Value;

use crate::support::{Done, Run, data, device, icd};

/// An edit with the tiny model, without its target.
fn sourced() -> Run {
    icd("edit")
        .path("--model", &data("sd"))
        .path("--image", &data("square.png"))
        .with("--src-prompt", "a photo of a bird")
        .args("--size 64")
}

fn edit(flags: &str) -> Run {
    sourced()
        .with("--tgt-prompt", "a photo of a dog")
        .args(flags)
}

fn json(done: &Done) -> Value {
    serde_json::from_str(&done.stdout).expect("JSON")
}

/// The command of a cell, run in the folder of its sheet.
#[cfg(unix)]
fn run(sheet: &Done, command: &str) {
    let program = assert_cmd::cargo::cargo_bin("icd");
    let output = std::process::Command::new("/bin/sh")
        .args(["-c", command])
        .current_dir(sheet.path("."))
        .env("PATH", program.parent().expect("its folder"))
        .env("ICD_DEVICE", device())
        .env("ICD_DTYPE", "f32")
        .env("ICD_CONFIG", "none")
        .env_remove("ICD_MODEL")
        .output()
        .expect("a shell");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {told}");
}

/// The pixels of a cell of a sheet of pictures that are enlarged threefold, 192 wide and high.
fn cell(
    sheet: &Picture,
    (row, column): (usize, usize),
    (rows, columns): (usize, usize),
) -> Vec<u8> {
    let size = sheet.size();
    let (right, bottom) = (196 * (columns - column + 1) - 4, 196 * (rows - row + 1) - 4);
    let (left, top) = (size.width - right, size.height - bottom);
    let pixel = |x: usize, y: usize| {
        let at = 3 * ((top + 3 * y + 1) * size.width + left + 3 * x + 1);
        sheet.pixels()[at..at + 3].to_vec()
    };
    (0..64)
        .flat_map(|y| (0..64).flat_map(move |x| pixel(x, y)))
        .collect()
}

#[cfg(unix)]
#[test]
fn a_cell_is_the_single_edit_of_its_command() {
    let flags = "--sweep tau=0.5,1 --sweep self_replace=0,0.4,0.9 --config none";
    let done = edit(flags).args("-o sheet.png --json").succeeds();
    let told = json(&done);
    assert_eq!(
        told["evaluations"].as_array().map(Vec::len),
        Some(4 + 6 * 4)
    );
    assert_eq!(done.files(), ["sheet.png"]);
    let sheet = Picture::read(&done.path("sheet.png")).expect("a sheet");
    for (row, column) in [(1, 1), (3, 2)] {
        let cells = told["cells"].as_array().expect("cells");
        let is_it = |cell: &&Value| cell["row"] == row && cell["column"] == column;
        let own = cells.iter().find(is_it).expect("the cell");
        let value = |key: &str| own["values"][key].as_f64();
        assert_eq!(value("tau"), Some([0.5, 1.0][column - 1]));
        assert_eq!(value("self_replace"), Some([0.0, 0.4, 0.9][row - 1]));
        run(&done, own["command"].as_str().expect("a command"));
        let alone = done.bytes(&format!("sheet-{row}-{column}.png"));
        let pick = format!("--pick {row},{column} -o picked.png");
        let picked = edit(flags).args(&pick).succeeds();
        assert!(picked.bytes("picked.png") == alone, "{pick}");
        assert!(
            picked.stderr.contains("command: icd edit"),
            "{}",
            picked.stderr
        );
        let again = icd("edit")
            .path("--from", &done.path("sheet.png"))
            .args(&pick);
        assert!(
            again.succeeds().bytes("picked.png") == alone,
            "{pick} from the sheet"
        );
        let alone = Picture::read(&picked.path("picked.png")).expect("a picture");
        assert!(
            cell(&sheet, (row, column), (3, 2)) == alone.pixels(),
            "{pick} in the sheet"
        );
    }
}

#[test]
fn a_cell_is_confined_cached_and_inverted_like_a_single_edit() {
    let mask = std::fs::read(data("square.png")).expect("a picture");
    let latents = icd("invert")
        .path("--model", &data("sd"))
        .path("--image", &data("square.png"))
        .with("--prompt", "a photo of a bird")
        .args("--size 64 -o l.safetensors")
        .succeeds();
    let of_latents = || {
        icd("edit")
            .path("--model", &data("sd"))
            .path("--latents", &latents.path("l.safetensors"))
            .with("--tgt-prompt", "a photo of a dog")
    };
    let masked = |flags: &str| edit(flags).file("mask.png", &mask);
    let runs: [(&dyn Fn() -> Run, &str, &str); 4] = [
        (
            &|| masked("--mask mask.png --cache inversions"),
            "tau=0.4,0.8",
            "--tau 0.8",
        ),
        (
            &|| edit("--keep-pixels on"),
            "blend=auto,bird:dog",
            "--blend bird:dog",
        ),
        (
            &|| edit("--seed 5 --max-rows 1"),
            "control=none,refine",
            "--control refine",
        ),
        (
            &of_latents,
            "early-prompt=source,a cat",
            "--early-prompt=a·cat",
        ),
    ];
    for (run, sweep, flag) in runs {
        let with = |sheet: &str| run().with("--sweep", sweep).args(sheet).succeeds();
        let sheet = with("-o sheet.webp");
        let (name, value) = flag.split_once([' ', '=']).expect("a flag and its value");
        let alone = run()
            .with(name, value.replace('·', " "))
            .args("-o out.png")
            .succeeds();
        let picked = with("--pick 1,2 -o out.png");
        assert!(picked.bytes("out.png") == alone.bytes("out.png"), "{sweep}");
        let sheet = Picture::read(&sheet.path("sheet.webp")).expect("a sheet");
        let alone = Picture::read(&alone.path("out.png")).expect("a picture");
        assert!(
            cell(&sheet, (1, 2), (1, 2)) == alone.pixels(),
            "{sweep} in the sheet"
        );
    }
}

#[test]
fn prompts_and_words_are_swept_and_one_seed_is_drawn_for_all() {
    let prompts = r"tgt-prompt=a photo of a dog\, asleep,a photo of a cat";
    let sheet = sourced()
        .with("--sweep", prompts)
        .args("--sweep amplify=a=2,a=-1,none --seed random --json -o s.jpg")
        .succeeds();
    let told = json(&sheet);
    let cells = told["cells"].as_array().expect("cells");
    assert_eq!(cells.len(), 6);
    assert_eq!(cells[2]["values"]["tgt_prompt"], "a photo of a dog, asleep");
    assert_eq!(cells[3]["values"]["amplify"], "a=-1");
    let seed = format!("--seed {}", told["seed"]);
    let command = cells[3]["command"].as_str().expect("a command");
    assert!(
        command.contains("--tgt-prompt 'a photo of a cat' --amplify a=-1"),
        "{command}"
    );
    assert!(command.contains(&seed), "{command}");
    let picked = icd("edit")
        .path("--from", &sheet.path("s.jpg"))
        .args("--pick 2,2 -o o.png")
        .succeeds();
    let alone = sourced()
        .with("--tgt-prompt", "a photo of a cat")
        .args("--amplify a=-1 -o o.png")
        .args(&seed)
        .succeeds();
    assert!(picked.bytes("o.png") == alone.bytes("o.png"));
}

#[test]
fn flags_override_a_sheet_and_settings_their_sweep() {
    let sheet = edit("--sweep tau=0.5,1 --sweep guidance=2,8,19 -o sheet.png").succeeds();
    let from = |flags: &str| {
        let run = icd("edit").path("--from", &sheet.path("sheet.png"));
        run.args(flags).done()
    };
    let told = json(&from("--tau 0.9 --dry-run --json"));
    assert_eq!(told["cells"].as_array().map(Vec::len), Some(3));
    assert_eq!(
        told["evaluations"].as_array().map(Vec::len),
        Some(4 + 3 * 4)
    );
    // With both given there is nothing to sweep.
    let alone = from("--tau 0.5 --guidance 8 -o out.png");
    let expected = edit("--tau 0.5 --guidance 8 -o out.png").succeeds();
    assert!(alone.bytes("out.png") == expected.bytes("out.png"));
    assert!(
        from("--image mask.png --pick 1,1")
            .stderr
            .contains("mask.png")
    );
    // What was left to the program in an edit stays so in the cells of its sheet.
    let former = expected.path("out.png");
    let swept = |flags: &str| icd("edit").path("--from", &former).args(flags).succeeds();
    let picked = swept("--sweep tau=0.5,0.7 --pick 1,2 -o picked.png");
    let sheet = swept("--sweep tau=0.5,0.7 -o sheet.png");
    let again = icd("edit").path("--from", &sheet.path("sheet.png"));
    let again = again.args("--pick 1,2 -o picked.png").succeeds();
    let alone = swept("--tau 0.7 -o picked.png");
    for found in [picked, again] {
        assert!(found.bytes("picked.png") == alone.bytes("picked.png"));
    }
}

#[test]
fn what_cannot_be_swept_is_refused_before_a_network_is_loaded() {
    let long = format!("tau={}", ["0.7"; 65].join(","));
    for (flags, says) in [
        ("--sweep tau", &["--sweep", "tau=0.7,0.8"][..]),
        ("--sweep tau=0.7,x", &["cell 1,2", "--tau x", "0.7..0.9"]),
        ("--sweep tau=0.7,", &["cell 1,2", "--tau"]),
        (
            "--sweep tau=1 --sweep control=none,all",
            &["cell 2,1", "--control all"],
        ),
        ("--sweep guidance=3,-1", &["cell 1,2", "--guidance"]),
        (
            "--sweep amplify=dog=3,cat=3",
            &["cell 1,2", "--amplify cat=3", "\"cat\""],
        ),
        ("--sweep blend=bird:cat", &["cell 1,1", "--blend bird:cat"]),
        (
            "--sweep seed=1,2",
            &["--sweep seed=1,2", "an edit for each"],
        ),
        ("--sweep size=32,64", &["--size", "an edit for each"]),
        ("--sweep lora=a,b", &["--lora", "an edit for each"]),
        ("--sweep output=a.png,b.png", &["--output", "self-replace"]),
        (
            "--sweep wings=1,2",
            &["--wings is no flag", "tgt-prompt, guidance, tau"],
        ),
        (
            "--sweep tau=1 --tau 0.5",
            &["--sweep tau=1", "--tau is given, too"],
        ),
        ("--sweep tau=1 --sweep tau=0.5", &["the same flag"]),
        (
            "--sweep tau=1 --sweep blend=auto --sweep guidance=1",
            &["twice at most"],
        ),
        ("--sweep tau=1 --tgt-prompt cat", &["one --tgt-prompt"]),
        ("--sweep tgt-prompt=cat", &["--tgt-prompt is given, too"]),
        (
            "--sweep tau=1,0.5 --pick 2,1",
            &["--pick 2,1", "rows 1 to 1", "columns 1 to 2"],
        ),
        ("--sweep tau=1 --pick 1", &["--pick", "as in 2,3"]),
        ("--pick 1,1", &["--pick", "--sweep"]),
        ("--sweep tau=1 --dump d.safetensors", &["--dump", "--pick"]),
        (
            "--sweep tau=1 --comparison c.png",
            &["--comparison", "--pick"],
        ),
        ("--sweep tau=1 -o - --json", &["--json"]),
        (&*long, &[]),
    ] {
        let run = match flags.split_once('=') {
            Some(("tau", _)) => edit("-v").with("--sweep", flags),
            _ => edit("-v").args(flags),
        };
        let done = run.fails(2, says);
        assert!(done.files().is_empty(), "{flags}: {:?}", done.files());
        assert!(
            !done.stderr.contains("inverting"),
            "{flags}: {}",
            done.stderr
        );
    }
    let existing = edit("--sweep tau=1 -o o.png").file("o.png", b"");
    existing.fails(2, &["o.png", "--force"]);
}

#[test]
fn a_strangers_sheet_sweeps_nothing_but_the_control() {
    let stranger = |sweep: &str| {
        let settings = format!(
            r#"{{"verb":"edit","image":"{}","src_prompt":"bird","tgt_prompt":["dog"],"size":"32",
                "sweep":{sweep}}}"#,
            data("square.png").display()
        );
        let picture = Picture::read(&data("square.png")).expect("a picture");
        let jpeg = picture.encode_noted(icd::picture::Format::Jpeg, &settings);
        icd("edit")
            .path("--model", &data("sd"))
            .file("sheet.jpg", &jpeg.expect("a JPEG"))
            .args("--from sheet.jpg")
    };
    for (sweep, code) in [
        (r#"["output=a.png"]"#, 2),
        (r#"["dump=a.safetensors"]"#, 2),
        (r#"["tau"]"#, 2),
        (r#"["tau=1","guidance=1","blend=auto"]"#, 2),
        (r#"{"tau":1}"#, 1),
        ("[[]]", 1),
        (r#"["tau=\u001b[2J"]"#, 2),
    ] {
        let done = stranger(sweep).fails(code, &["error"]);
        assert!(!done.stderr.contains('\u{1b}'), "{:?}", done.stderr);
        assert_eq!(done.files(), ["sheet.jpg"], "{sweep}");
    }
    let done = stranger(r#"["tau=1"]"#).args("-o o.png").succeeds();
    assert!(Path::exists(&done.path("o.png")));
}

#[test]
fn a_job_of_a_batch_is_no_sheet() {
    let sheet = edit("--sweep tau=0.5,1 -o sheet.png").succeeds();
    let sheet = sheet.path("sheet.png").display().to_string();
    let jobs = [
        serde_json::json!({ "from": sheet, "output": "a.png" }),
        serde_json::json!({ "from": sheet, "tau": 1, "output": "b.png" }),
    ];
    let jobs = jobs.map(|job| format!("{job}\n")).concat();
    let done = icd("batch")
        .file("jobs.jsonl", jobs.as_bytes())
        .args("jobs.jsonl --output-dir out")
        .fails(1, &["jobs.jsonl:1", "sweep", "a job for each"]);
    let alone = edit("--tau 1 -o b.png").succeeds();
    assert!(done.bytes("out/b.png") == alone.bytes("b.png"));
    assert!(!done.path("out/a.png").exists());
}
