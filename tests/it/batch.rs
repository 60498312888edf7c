//! `icd batch`: what it makes is what each verb makes alone, and nothing that fails, ends or
//! is in the way of something else costs a result.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::support::{Done, Run, data, device, icd};

/// A run of a manifest with the tiny model, in a folder with a picture and a mask.
fn batch(manifest: &str, content: &[u8]) -> Run {
    given(icd("batch").args(manifest).args("--output-dir out")).file(manifest, content)
}

/// A run with the tiny model and the files of jobs.
fn given(run: Run) -> Run {
    let picture = fs::read(data("square.png")).unwrap();
    run.path("--model", &data("sd"))
        .args("--size 64")
        .file("in.png", &picture)
        .file("mask.png", &picture)
}

/// JSON lines.
fn lines(jobs: &[Value]) -> Vec<u8> {
    let lines: Vec<_> = jobs.iter().map(Value::to_string).collect();
    lines.join("\n").into_bytes()
}

/// An edit of the picture to a target.
fn edit(target: &str, output: &str) -> Value {
    json!({ "image": "in.png", "src_prompt": "a photo of a bird", "tgt_prompt": target,
            "output": output })
}

/// An edit with more settings.
fn edit_with(target: &str, output: &str, more: &Value) -> Value {
    let mut job = edit(target, output);
    for (key, value) in more.as_object().unwrap() {
        job[key] = value.clone();
    }
    job
}

/// The names of results, ledgers left out.
fn results(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).map_or(Vec::new(), |entries| {
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        entries.map(|entry| name(entry.unwrap())).collect()
    });
    let mut names: Vec<_> = entries
        .into_iter()
        .filter(|name| Path::new(name).extension() != Some("jsonl".as_ref()))
        .collect();
    names.sort();
    names
}

/// The failures of a list, by line.
fn failures(file: &Path) -> BTreeMap<u64, Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let failures = text.lines().map(|line| serde_json::from_str(line).unwrap());
    failures
        .map(|failure: Value| (failure["line"].as_u64().unwrap(), failure))
        .collect()
}

/// Runs a command in a folder that holds what another run left.
fn again(done: &Done, args: &str) -> (i32, String, String) {
    let mut command = assert_cmd::Command::cargo_bin("icd").unwrap();
    let output = command
        .args(args.split_whitespace())
        .arg("--model")
        .arg(data("sd"))
        .args(["--size", "64"])
        .env("ICD_DEVICE", device())
        .env("ICD_DTYPE", "f32")
        .env("ICD_CONFIG", "none")
        .env_remove("ICD_MODEL")
        .current_dir(done.path(""))
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap_or(-1),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn every_result_is_that_of_its_own_command() {
    let jobs = [
        edit("a photo of a dog", "dog.png"),
        edit_with("a photo of a cat", "cat.png", &json!({ "seed": 3 })),
        edit("a photo of a lego bird", "deep/lego.png"),
        edit_with(
            "a photo of a dog",
            "blend.png",
            &json!({ "blend": ["bird:dog"] }),
        ),
        edit_with(
            "a photo of a dog",
            "masked.png",
            &json!({ "mask": "mask.png" }),
        ),
        edit_with(
            "a photo of a hat",
            "hat.png",
            &json!({ "model_size": true }),
        ),
        json!({ "image": "in.png", "src_prompt": "a photo of a bird",
                "tgt_prompt": ["a fish", "a photo of a dog"], "output": "two.png" }),
        edit_with(
            "a photo of a dog",
            "bare.png",
            &json!({ "no_metadata": true }),
        ),
        edit_with(
            "a photo of a cow",
            "cow.jpg",
            &json!({ "tau": 0.7, "guidance": 9 }),
        ),
        json!({ "verb": "generate", "prompt": "an owl", "seed": 5, "output": "owl.png" }),
        json!({ "verb": "invert", "image": "in.png", "prompt": "a photo of a bird",
                "output": "bird.safetensors" }),
    ];
    let all = batch("jobs.jsonl", &lines(&jobs)).succeeds();
    assert_eq!(all.stdout.lines().count(), 12, "{}", all.stdout);
    for job in &jobs {
        let verb = job["verb"].as_str().unwrap_or("edit");
        let output = job["output"].as_str().unwrap();
        let name = output.rsplit('/').next().unwrap();
        let mut run = given(icd(verb)).with("--output", name);
        for (key, value) in job.as_object().unwrap() {
            let flag = format!("--{}", key.replace('_', "-"));
            let text = |value: &Value| match value {
                Value::String(text) => text.clone(),
                value => value.to_string(),
            };
            run = match (key.as_str(), value) {
                ("verb" | "output", _) => run,
                (_, Value::Bool(true)) => run.args(&flag),
                (_, Value::Array(values)) => {
                    (values.iter()).fold(run, |run, value| run.with(&flag, text(value)))
                }
                (_, value) => run.with(&flag, text(value)),
            };
        }
        let alone = run.succeeds();
        let folder = Path::new("out").join(output);
        let folder = folder.parent().unwrap();
        let made = alone.files();
        let mut made: Vec<_> = made
            .iter()
            .filter(|file| !["in.png", "mask.png"].contains(&file.as_str()))
            .collect();
        made.sort();
        assert!(!made.is_empty());
        for file in made {
            let in_batch = all.bytes(folder.join(file).to_str().unwrap());
            assert!(in_batch == alone.bytes(file), "{file}");
        }
    }
}

#[test]
fn what_is_finished_is_not_made_again() {
    let jobs = [
        edit("a photo of a dog", "dog.png"),
        edit_with(
            "a photo of a cat",
            "bare.png",
            &json!({ "no_metadata": true }),
        ),
        edit("a photo of a cow", "cow.jpg"),
        json!({ "verb": "invert", "image": "in.png", "prompt": "a bird", "output": "a.safetensors" }),
        json!({ "verb": "generate", "prompt": "an owl", "seed": "random", "count": 2 }),
    ];
    let done = batch("jobs.jsonl", &lines(&jobs)).succeeds();
    let made = results(&done.path("out"));
    assert_eq!(made.len(), 6, "{made:?}");
    let command = "batch jobs.jsonl --output-dir out";
    let (code, stdout, stderr) = again(&done, command);
    assert_eq!((code, stdout.as_str()), (0, ""), "{stderr}");
    assert!(
        stderr.contains("5 jobs: 0 done, 5 finished before, 0 failed"),
        "{stderr}"
    );

    // One is missing, one has other content, one other settings.
    fs::remove_file(done.path("out/dog.png")).unwrap();
    fs::write(done.path("out/cow.jpg"), "changed").unwrap();
    let other = fs::read(
        done.path("out")
            .join(made.iter().find(|name| name.ends_with("-1.png")).unwrap()),
    );
    fs::write(done.path("out/bare.png"), other.unwrap()).unwrap();
    let (code, stdout, stderr) = again(&done, command);
    assert_eq!((code, stdout.trim()), (1, "out/dog.png"), "{stderr}");
    let failed = failures(&done.path("out/failed.jsonl"));
    assert_eq!(failed.keys().copied().collect::<Vec<_>>(), [2, 3]);
    assert!(
        failed[&2]["error"].as_str().unwrap().contains("--force"),
        "{failed:?}"
    );
    assert_eq!(fs::read(done.path("out/cow.jpg")).unwrap(), b"changed");

    let (code, stdout, stderr) = again(&done, &format!("{command} --force"));
    assert_eq!((code, stdout.lines().count()), (0, 2), "{stderr}");
    assert!(!done.path("out/failed.jsonl").exists());
    // The input has changed: its results are of other settings.
    let photo = fs::read(data("photo.png")).unwrap();
    fs::write(done.path("in.png"), photo).unwrap();
    let (code, _, stderr) = again(&done, command);
    assert_eq!(
        (code, stderr.matches("this file exists").count()),
        (1, 4),
        "{stderr}"
    );
}

/// Lines that are no jobs or cannot run, and what is said of each.
fn faults() -> Vec<(String, &'static str)> {
    let with = |more: Value| edit_with("a photo of a dog", "x.png", &more).to_string();
    let plain = |job: Value| job.to_string();
    vec![
        ("{\"image\": \"in.png\",".into(), "not JSON"),
        ("[\"in.png\"]".into(), "not a job"),
        ("{\"seed\": 1, \"seed\": 2}".into(), "given twice"),
        (
            with(json!({ "verb": "inspect" })),
            "write one of edit, generate, invert",
        ),
        (
            with(json!({ "tgt_promt": "x" })),
            "tgt_promt: no setting of icd edit",
        ),
        (
            with(json!({ "comparison": "c.png" })),
            "writes its output alone",
        ),
        (with(json!({ "device": "cpu" })), "flag of the whole batch"),
        (with(json!({ "tau": "much" })), "'much' for '--tau <TAU>'"),
        (
            with(json!({ "seed": [1, 2] })),
            "seed: a text or a number is expected",
        ),
        (
            with(json!({ "model_size": 3 })),
            "true or false is expected",
        ),
        (
            with(json!({ "output": "/tmp/x.png" })),
            "neither absolute nor with ..",
        ),
        (
            with(json!({ "output": "a/../../x.png" })),
            "neither absolute nor with ..",
        ),
        (with(json!({ "output": "x.gif" })), "must be named .png"),
        (with(json!({ "output": 3 })), "output: a text"),
        (with(json!({ "output": "x.jsonl" })), ".jsonl"),
        (with(json!({ "image": "-" })), "stdin"),
        (with(json!({ "image": "nowhere.png" })), "nowhere.png"),
        (with(json!({ "image": "jobs.jsonl" })), "jobs.jsonl"),
        (with(json!({ "mask": "nowhere.png" })), "nowhere.png"),
        (with(json!({ "blend": "cat:dog" })), "cat"),
        (with(json!({ "amplify": ["horse=2"] })), "horse"),
        (with(json!({ "model": "nowhere" })), "nowhere"),
        (with(json!({ "input_sha256": "00" })), "input_sha256"),
        (with(json!({ "sweep": "tau=0.7,0.8" })), "a job is one edit"),
        (with(json!({ "latents": "in.png" })), "cannot be used with"),
        (
            plain(json!({ "image": "in.png", "tgt_prompt": "x" })),
            "--src-prompt",
        ),
        (
            plain(json!({ "image": "in.png", "src_prompt": "x" })),
            "--tgt-prompt",
        ),
        (
            plain(json!({ "verb": "generate", "prompt": "x", "count": 0 })),
            "--count",
        ),
        (plain(json!({ "verb": "invert", "prompt": "x" })), "--image"),
        (
            plain(json!({ "verb": "invert", "image": "in.png", "prompt": "x", "output": "x.png" })),
            "safetensors",
        ),
    ]
}

#[test]
fn what_cannot_run_stops_nothing_and_runs_once_it_is_mended() {
    let faults = faults();
    let mut manifest = Vec::new();
    for (index, (fault, _)) in faults.iter().enumerate() {
        // Each has an output of its own.
        manifest.push(fault.replace("\"x.png\"", &format!("\"x{index}.png\"")));
    }
    manifest.push(edit("a photo of a dog", "good.png").to_string());
    let done = batch("jobs.jsonl", manifest.join("\n").as_bytes())
        .fails(1, &["jobs.jsonl:1: not JSON", "30 of 31 jobs failed"]);
    assert_eq!(results(&done.path("out")), ["good.png"]);
    let list = done.path("out/failed.jsonl");
    let failed = failures(&list);
    assert_eq!(failed.len(), faults.len());
    for (index, (fault, says)) in faults.iter().enumerate() {
        let told = failed[&(index as u64 + 1)]["error"].as_str().unwrap();
        assert!(told.contains(says), "{fault}\n{told}");
    }
    assert_eq!(failed[&1]["text"], "{\"image\": \"in.png\",");

    // The list is a manifest: run as it is it is the same again.
    let command = "batch out/failed.jsonl --output-dir out";
    let (code, _, stderr) = again(&done, command);
    assert_eq!(code, 1, "{stderr}");
    let told = |failed: &BTreeMap<u64, Value>| {
        let errors = failed.values().map(|one| one["error"].clone());
        errors.collect::<Vec<_>>()
    };
    assert_eq!(told(&failures(&list)), told(&failed));
    let mended = (0..faults.len()).map(|index| match index {
        0 => json!({ "line": 1, "text": edit("a fish", "x0.png").to_string(), "error": "x" }),
        index => edit("a fish", &format!("x{index}.png")),
    });
    fs::write(&list, lines(&mended.collect::<Vec<_>>())).unwrap();
    let (code, stdout, stderr) = again(&done, command);
    assert_eq!(
        (code, stdout.lines().count()),
        (0, faults.len()),
        "{stderr}"
    );
    assert!(!list.exists());
}

#[test]
fn results_stay_in_their_folder_and_apart() {
    let jobs = [
        edit("a dog", "a.png"),
        edit("a cat", "./a.png"),
        json!({ "image": "in.png", "src_prompt": "a bird", "tgt_prompt": ["x", "y"], "output": "b.png" }),
        edit("a cat", "b-2.png"),
        edit("a dog", "c.png"),
    ];
    let done = batch("jobs.jsonl", &lines(&jobs)).fails(1, &["4 of 5 jobs failed"]);
    assert_eq!(results(&done.path("out")), ["c.png"]);
    let failed = failures(&done.path("out/failed.jsonl"));
    assert!(
        failed[&1]["error"]
            .as_str()
            .unwrap()
            .contains("line 2 has the same output")
    );
    assert!(
        failed[&4]["error"]
            .as_str()
            .unwrap()
            .contains("line 3 has the same output")
    );

    let job = json!({ "image": "out/c.png", "src_prompt": "a dog", "tgt_prompt": "a cat" });
    fs::write(
        done.path("more.jsonl"),
        lines(&[edit("a dog", "c.png"), job]),
    )
    .unwrap();
    let (code, _, stderr) = again(&done, "batch more.jsonl --output-dir out --force");
    assert!(
        code == 1 && stderr.contains("this is the input of a job"),
        "{stderr}"
    );
}

#[cfg(unix)]
#[test]
fn links_lead_no_result_out_of_the_folder() {
    let jobs = [edit("a dog", "away/a.png"), edit("a cat", "there.png")];
    let run = batch("jobs.jsonl", &lines(&jobs))
        .folder("out")
        .folder("elsewhere");
    let run = run.link("out/away", Path::new("../elsewhere"));
    let run = run.link("out/there.png", Path::new("../elsewhere/b.png"));
    let done = run.args("--force").fails(1, &["links lead out", "2 of 2"]);
    assert!(results(&done.path("elsewhere")).is_empty());
}

#[test]
fn csv_and_json_say_the_same() {
    let csv = b"image,src_prompt,tgt_prompt,seed,model_size,output\r\n\
        in.png,\"a \"\"red\"\" bird,\nsitting\",\"[\"\"a dog\"\", \"\"a cat\"\"]\",7,true,a.png\r\n\
        \r\n,,,,,\r\nin.png,a bird,a dog,,false,b.png\r\nin.png,a bird\r\n";
    let of_csv = batch("jobs.csv", csv).fails(1, &["jobs.csv:7: 2 cells", "1 of 3"]);
    let jobs = [
        json!({ "image": "in.png", "src_prompt": "a \"red\" bird,\nsitting", "seed": 7,
                "tgt_prompt": ["a dog", "a cat"], "model_size": true, "output": "a.png" }),
        edit_with("a dog", "b.png", &json!({ "src_prompt": "a bird" })),
    ];
    let of_json = batch("jobs", &lines(&jobs)).succeeds();
    assert_eq!(
        results(&of_csv.path("out")),
        ["a-1.png", "a-2.png", "b.png"]
    );
    for file in ["out/a-1.png", "out/a-2.png", "out/b.png"] {
        assert!(of_csv.bytes(file) == of_json.bytes(file), "{file}");
    }
}

#[test]
fn a_folder_is_edited_by_its_captions() {
    let picture = fs::read(data("square.png")).unwrap();
    let run = icd("batch").args("pictures --output-dir out --size 64");
    let run = run
        .path("--model", &data("sd"))
        .with("--replace", "bird=lego bird");
    let run = run.folder("pictures");
    let run = ["a.png", "b.PNG", "c.png", "b.mask.png"]
        .into_iter()
        .fold(run, |run, name| {
            run.file(&format!("pictures/{name}"), &picture)
        });
    let run = run.file("pictures/a.txt", b"a bird, not birds\n");
    let run = run.file("pictures/b.txt", b"\xef\xbb\xbfthe bird\r\n");
    let done = run.fails(1, &["c.txt: a caption", "1 of 3"]);
    let made = results(&done.path("out"));
    assert_eq!(made.len(), 2);
    assert!(made[0].starts_with("a.edited-") && made[0].len() == "a.edited-01234567.png".len());
    let told = |name: &str| {
        let file = done.path("out").join(name);
        let told = icd("inspect").path("--json", &file).succeeds().stdout;
        serde_json::from_str::<Value>(&told).unwrap()
    };
    assert_eq!(
        told(&made[0])["tgt_prompt"],
        json!(["a lego bird, not birds"])
    );
    let second = told(&made[1]);
    assert_eq!(second["src_prompt"], "the bird");
    assert_eq!(second["mask"], "pictures/b.mask.png");
    // The list has all that the command line gave.
    let failed = failures(&done.path("out/failed.jsonl"));
    assert_eq!(failed[&3]["image"], "pictures/c.png");
}

#[test]
fn the_settings_of_a_result_are_a_job() {
    let jobs = [edit("a photo of a lego bird", "a.png")];
    let done = batch("jobs.jsonl", &lines(&jobs)).succeeds();
    let told = icd("inspect")
        .path("--json", &done.path("out/a.png"))
        .succeeds()
        .stdout;
    fs::write(done.path("again.jsonl"), told).unwrap();
    let (code, stdout, stderr) = again(&done, "batch again.jsonl --output-dir again");
    assert_eq!(code, 0, "{stderr}");
    let made = done.bytes(stdout.trim());
    assert!(made == done.bytes("out/a.png"));

    // Or only some of them are, as with --from.
    let job = json!({ "from": "out/a.png", "seed": 5, "output": "b.png" });
    fs::write(done.path("more.jsonl"), job.to_string()).unwrap();
    let (code, _, stderr) = again(&done, "batch more.jsonl --output-dir out");
    assert_eq!(code, 0, "{stderr}");
    let (code, _, stderr) = again(&done, "edit --from out/a.png --seed 5 --output b.png");
    assert_eq!(code, 0, "{stderr}");
    assert!(done.bytes("out/b.png") == done.bytes("b.png"));
}

#[test]
fn shards_make_all_together_and_status_tells_of_all() {
    let jobs = (0..7).map(|index| edit(&format!("a dog {index}"), &format!("{index}.png")));
    let mut jobs: Vec<_> = jobs.collect();
    jobs.push(json!({ "image": "in.png" }));
    let manifest = lines(&jobs);
    let first = batch("jobs.jsonl", &manifest)
        .args("--shard 1/3")
        .succeeds();
    let made = results(&first.path("out")).len();
    assert_eq!(made, 2, "8 jobs in 3 shards");
    let status = "batch jobs.jsonl --output-dir out --status --json";
    let (code, stdout, _) = again(&first, status);
    let told: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (
            code,
            &told["jobs"],
            &told["done"],
            &told["failed"],
            &told["missing"]
        ),
        (1, &json!(8), &json!(2), &json!(1), &json!(5))
    );
    let other = |task: &str| {
        let mut command = assert_cmd::Command::cargo_bin("icd").unwrap();
        let args = [
            "batch",
            "jobs.jsonl",
            "--output-dir",
            "out",
            "--size",
            "64",
            "--shard",
            "auto/3",
        ];
        let command = command
            .args(args)
            .arg("--model")
            .arg(data("sd"))
            .env("ICD_CONFIG", "none");
        let command = command
            .env("ICD_DEVICE", device())
            .env("ICD_DTYPE", "f32")
            .env("JOB_COMPLETION_INDEX", task);
        command
            .current_dir(first.path(""))
            .output()
            .unwrap()
            .status
            .code()
    };
    assert_eq!(
        (other("1"), other("2"), other("3")),
        (Some(0), Some(1), Some(2))
    );
    assert_eq!(results(&first.path("out")).len(), 7);
    assert!(first.path("out/failed-3-of-3.jsonl").exists());
    let (code, stdout, _) = again(&first, "batch jobs.jsonl --output-dir out --status");
    assert_eq!(
        (code, stdout.as_str()),
        (1, "jobs: 8\ndone: 7\nfailed: 1\nmissing: 0\n")
    );
}

#[test]
fn a_plan_counts_and_loads_nothing() {
    let jobs = [
        edit("a dog", "a.png"),
        edit("a cat", "b.png"),
        json!({ "image": "in.png" }),
    ];
    let done = batch("jobs.jsonl", &lines(&jobs))
        .args("--dry-run --json")
        .fails(1, &["jobs.jsonl:3"]);
    let told: Value = serde_json::from_str(&done.stdout).unwrap();
    // Four steps back and four forth for each, source and target side by side.
    assert_eq!(
        (&told["jobs"], &told["failed"], &told["results"]),
        (&json!(3), &json!(1), &json!(2))
    );
    assert_eq!(
        (&told["evaluations"], &told["evaluated_rows"]),
        (&json!(16), &json!(24))
    );
    assert!(told["seconds"].as_f64().unwrap() > 0.0);
    assert!(!done.path("out").exists(), "nothing is written");
}

#[test]
fn wrong_usage_is_told_from_failed_jobs() {
    let empty = b"";
    batch("nowhere", empty)
        .args("--shard 4/3")
        .fails(2, &["--shard"]);
    icd("batch")
        .args("nowhere --output-dir out")
        .fails(2, &["nowhere"]);
    batch("jobs.csv", b"no header\n").fails(2, &["jobs.csv", "names the keys"]);
    batch("jobs.jsonl", b"{}")
        .args("--shard auto")
        .fails(2, &["auto"]);
    icd("batch")
        .args("- --output-dir out --shard 1/2")
        .fails(2, &["stdin"]);
    batch("jobs.jsonl", empty).succeeds();
}

#[cfg(unix)]
mod processes {
    use std::{
        io::{BufRead, BufReader, Write},
        process::{Child, Command, Stdio},
        time::{Duration, Instant},
    };

    use super::*;

    fn start(folder: &Path, args: &str) -> Child {
        Command::new(assert_cmd::cargo::cargo_bin("icd"))
            .args(args.split_whitespace())
            .arg("--model")
            .arg(data("sd"))
            .args(["--size", "64"])
            .env("ICD_DEVICE", device())
            .env("ICD_DTYPE", "f32")
            .env("ICD_CONFIG", "none")
            .env_remove("ICD_MODEL")
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::copy(data("square.png"), folder.path().join("in.png")).unwrap();
        folder
    }

    #[test]
    fn a_worker_answers_each_job_before_it_reads_the_next() {
        let folder = folder();
        let mut worker = start(folder.path(), "batch - --output-dir out");
        let mut jobs = worker.stdin.take().unwrap();
        let mut answers = BufReader::new(worker.stdout.take().unwrap()).lines();
        let mut ask = |job: &str| -> Value {
            writeln!(jobs, "{job}").unwrap();
            serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap()
        };
        let first = ask(&edit("a photo of a dog", "a.png").to_string());
        assert_eq!(
            (&first["status"], &first["line"]),
            (&json!("done"), &json!(1))
        );
        assert_eq!(first["evaluations"], json!([1, 1, 1, 1, 2, 2, 2, 2]));
        // Inverted already.
        let second = ask(&edit("a photo of a cat", "b.png").to_string());
        assert_eq!(second["evaluations"], json!([2, 2, 2, 2]));
        assert_eq!(second["outputs"], json!(["out/b.png"]));
        let broken = ask("\n{");
        assert_eq!(
            (&broken["status"], &broken["line"]),
            (&json!("failed"), &json!(4))
        );
        let same = ask(&edit("a photo of a dog", "a.png").to_string());
        assert_eq!(same["status"], "finished");
        let other = ask(&edit("a photo of a cat", "a.png").to_string());
        assert!(
            other["error"].as_str().unwrap().contains("--force"),
            "{other}"
        );
        let drawn = json!({ "verb": "generate", "prompt": "an owl" });
        assert_eq!(ask(&drawn.to_string())["status"], "done");
        drop(jobs);
        assert_eq!(worker.wait().unwrap().code(), Some(1));
        let failed = failures(&folder.path().join("out/failed-worker-1.jsonl"));
        assert_eq!(failed.keys().copied().collect::<Vec<_>>(), [4, 6]);
    }

    #[test]
    fn a_killed_run_goes_on_where_it_was() {
        let folder = folder();
        let jobs = (0..12)
            .map(|seed| edit_with("a dog", &format!("{seed}.jpg"), &json!({ "seed": seed })));
        fs::write(
            folder.path().join("jobs.jsonl"),
            lines(&jobs.collect::<Vec<_>>()),
        )
        .unwrap();
        let command = "batch jobs.jsonl --output-dir out --threads 1";
        let out = folder.path().join("out");
        let mut run = start(folder.path(), command);
        let began = Instant::now();
        while results(&out)
            .iter()
            .filter(|name| !name.starts_with('.'))
            .count()
            < 2
        {
            assert!(began.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(2));
        }
        run.kill().unwrap();
        run.wait().unwrap();
        let before = results(&out)
            .iter()
            .filter(|name| !name.starts_with('.'))
            .count();
        assert!(before < 12, "it was killed too late");
        // Killed within a line of the ledger.
        let ledger = out.join("ledger.jsonl");
        let mut text = fs::read(&ledger).unwrap();
        text.extend_from_slice(b"{\"output\":\"");
        fs::write(&ledger, text).unwrap();
        let run = start(folder.path(), command).wait_with_output().unwrap();
        assert_eq!(run.status.code(), Some(0));
        let made = String::from_utf8(run.stdout).unwrap().lines().count();
        assert_eq!(made, 12 - before, "only what was missing");
        assert_eq!(results(&out).len(), 12, "and nothing else is left");
    }

    #[test]
    fn a_full_disk_is_not_the_fault_of_jobs() {
        let folder = folder();
        let jobs = (0..3).map(|index| edit(&format!("a dog {index}"), &format!("{index}.png")));
        fs::write(
            folder.path().join("jobs.jsonl"),
            lines(&jobs.collect::<Vec<_>>()),
        )
        .unwrap();
        let program = assert_cmd::cargo::cargo_bin("icd");
        let command = format!(
            "ulimit -f 4; {} batch jobs.jsonl --output-dir out --size 64 --model {}",
            program.display(),
            data("sd").display()
        );
        let run = Command::new("bash")
            .args(["-c", &command])
            .env("ICD_DEVICE", device())
            .env("ICD_DTYPE", "f32")
            .env("ICD_CONFIG", "none")
            .current_dir(folder.path())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(75), "{told}");
        assert!(told.contains("the machine failed"), "{told}");
        let out = folder.path().join("out");
        assert!(results(&out).is_empty() && !out.join("failed.jsonl").exists());
        let run = start(folder.path(), "batch jobs.jsonl --output-dir out");
        assert_eq!(run.wait_with_output().unwrap().status.code(), Some(0));
        assert_eq!(results(&out).len(), 3);
    }

    #[test]
    fn two_runs_of_one_part_are_refused() {
        let folder = folder();
        let mut worker = start(folder.path(), "batch - --output-dir out");
        let second = start(folder.path(), "batch - --output-dir out");
        drop(worker.stdin.take());
        let second = second.wait_with_output().unwrap();
        assert_eq!(
            second.status.code(),
            Some(0),
            "workers have ledgers of their own"
        );
        worker.wait().unwrap();
        let files: Vec<PathBuf> = fs::read_dir(folder.path().join("out"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(!files.is_empty());
    }
}

#[test]
fn all_gpus_are_for_batches_alone() {
    let jobs = lines(&[edit("a photo of a dog", "dog.png")]);
    if !cfg!(feature = "cuda") {
        let run = batch("jobs.jsonl", &jobs).args("--device cuda:all");
        run.fails(
            2,
            &["--device cuda:all cannot be used", "built without cuda"],
        );
    }
    let alone = given(icd("edit").args("--image in.png --device cuda:all"));
    let alone = alone.with("--src-prompt", "a bird");
    alone
        .with("--tgt-prompt", "a dog")
        .fails(2, &["is for icd batch"]);
}

#[cfg(not(feature = "cloud"))]
#[test]
fn urls_need_a_program_that_was_built_for_them() {
    let image = json!({ "image": "s3://bucket/in.png" });
    let jobs = lines(&[edit_with("a photo of a dog", "dog.png", &image)]);
    batch("jobs.jsonl", &jobs).fails(1, &["--features cloud"]);
    let manifest = icd("batch").args("s3://bucket/jobs.jsonl --output-dir out");
    given(manifest).fails(2, &["s3://bucket/jobs.jsonl", "--features cloud"]);
    let folder = icd("batch").args("jobs.jsonl --output-dir gs://bucket/out");
    let folder = given(folder).file("jobs.jsonl", &jobs);
    folder.fails(2, &["gs://bucket/out", "--features cloud"]);
}
