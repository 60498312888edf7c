//! Evaluations read their data as `tests/oracle/pie_bench.py` does, measure the same, and come
//! to the same tables however often they were interrupted or divided.

use std::{
    fs,
    path::{Path, PathBuf},
};

use icd::{
    eval::{Area, Data, pie_bench},
    picture::{Picture, Size},
};
use serde_json::{Value, json};

use crate::support::{Done, Run, data, icd};

const SIDE: usize = 512;

/// `drawn` of the oracle.
fn drawn(seed: i64, width: usize, height: usize) -> Vec<u8> {
    let value = |x: i64, y: i64, c: i64| {
        let sum = x * (3 + c + seed % 5) / 7 + y * (2 + c) / 5 + ((x * y) >> 9) * (1 + seed % 3);
        ((sum + 40 * seed) % 256) as u8
    };
    let places = (0..width * height).map(|i| ((i % width) as i64, (i / width) as i64));
    places
        .flat_map(|(x, y)| [0, 1, 2].map(|c| value(x, y, c)))
        .collect()
}

fn png(pixels: Vec<u8>, width: usize) -> Vec<u8> {
    let size = Size::new(width, pixels.len() / 3 / width);
    let picture = Picture::new(size, pixels).unwrap();
    picture.encode(icd::picture::Format::Png).unwrap()
}

/// `result_of` of the oracle.
fn result(index: i64) -> Vec<u8> {
    let source = drawn(index, SIDE, SIDE);
    let changed = source.iter().map(|value| match index {
        7 => *value,
        _ => (i64::from(*value) * (200 + index) / 256 + 9) as u8,
    });
    let changed: Vec<u8> = changed.collect();
    if index % 3 != 0 {
        return png(changed, SIDE);
    }
    let before = drawn(index + 50, 3 * SIDE, SIDE);
    let rows = before.chunks(9 * SIDE).zip(changed.chunks(3 * SIDE));
    png(
        rows.flat_map(|(left, right)| [left, right].concat())
            .collect(),
        4 * SIDE,
    )
}

/// The first `count` edits of the made-up list, with the results of another method.
fn stage(home: &Path, count: usize) -> PathBuf {
    let samples = Data::PieBench
        .samples(&data("pie_bench"), None, &[], home)
        .unwrap();
    for (index, sample) in samples.iter().take(count).enumerate() {
        let picture = png(drawn(index as i64, SIDE, SIDE), SIDE);
        let places = [
            ("bench/annotation_images", picture),
            ("other", result(index as i64)),
        ];
        for (folder, bytes) in places {
            let file = home.join(folder).join(&sample.result);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, bytes).unwrap();
        }
    }
    let mapping = home.join("bench").join(pie_bench::MAPPING);
    fs::copy(data("pie_bench/mapping_file.json"), mapping).unwrap();
    home.join("bench")
}

#[test]
fn every_entry_is_read_as_the_oracle_reads_it() {
    let read = fs::read(data("pie_bench/read.json")).unwrap();
    let read: Value = serde_json::from_slice(&read).unwrap();
    let samples = Data::PieBench
        .samples(&data("pie_bench"), None, &[], Path::new(""))
        .unwrap();
    assert_eq!(samples.len(), 20);
    for sample in &samples {
        let Area::Mask(mask) = &sample.area else {
            panic!("no mask");
        };
        let edited = mask.edited().iter().filter(|edited| **edited).count();
        assert_eq!(json!(edited), read["masks"][&sample.key], "{}", sample.key);
        let prompts = json!([sample.source_prompt, sample.target_prompt]);
        assert_eq!(prompts, read["prompts"][&sample.key], "{}", sample.key);
    }
    let kinds: Vec<_> = samples.iter().take(10).map(|one| &one.kind[..]).collect();
    assert_eq!(kinds, pie_bench::KINDS);
}

/// The rows of a CSV.
fn rows(text: &str) -> Vec<Vec<String>> {
    let lines = text.lines();
    lines
        .map(|line| line.split(',').map(str::to_owned).collect())
        .collect()
}

#[test]
fn both_protocols_measure_what_the_oracle_measures() {
    // Of the 20 edits: strips, equal pictures, full and empty masks, every form of runs.
    const COUNT: usize = 8;
    let home = tempfile::tempdir().unwrap();
    let bench = stage(home.path(), COUNT);
    for protocol in ["pie-2023", "pie-now"] {
        let out = home.path().join(protocol);
        icd("eval")
            .args("editing")
            .with("--limit", COUNT)
            .with("--protocol", protocol)
            .path("--results", &home.path().join("other"))
            .path("--out", &out)
            .args(&bench.display().to_string())
            .succeeds();
        let found = rows(&fs::read_to_string(out.join("evaluation_result.csv")).unwrap());
        let expected = fs::read_to_string(data(&format!("pie_bench/{protocol}.csv"))).unwrap();
        let expected = rows(&expected);
        assert_eq!(found[0], expected[0]);
        for (found, expected) in found[1..].iter().zip(&expected[1..]) {
            assert_eq!(found[0], expected[0]);
            for (found, expected) in found[1..].iter().zip(&expected[1..]) {
                let numbers: [f64; 2] = [found, expected].map(|text| text.parse().unwrap());
                let same =
                    found == expected || (numbers[0] - numbers[1]).abs() <= 1e-4 * numbers[1].abs();
                assert!(same, "{protocol}: {found}, expected {expected}");
            }
        }
        let metrics: Value =
            serde_json::from_slice(&fs::read(out.join("metrics.json")).unwrap()).unwrap();
        // The second has a full mask; the eighth equals its source.
        let psnr = &metrics["means"]["psnr_unedit_part"];
        let infinite = u64::from(protocol == "pie-now");
        assert_eq!(
            (&psnr["nan"], &psnr["infinite"]),
            (&json!(2), &json!(infinite))
        );
        assert_eq!(psnr["count"], json!(COUNT as u64 - 2 - infinite));
        assert_eq!(
            metrics["values"][7]["values"]["psnr_unedit_part"].is_null(),
            infinite == 1
        );
    }
}

fn toy(out: &Path, more: &str) -> Run {
    icd("eval")
        .args("editing tabletop")
        .args(more)
        .path("--out", out)
}

fn tables(out: &Path) -> [String; 2] {
    let text = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    [text("metrics.json"), text("evaluation_result.csv")]
}

#[test]
fn what_was_interrupted_or_divided_comes_to_the_same_tables() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    toy(&at("whole"), "--limit 6").succeeds();
    // Two shards, of which one is cut off: a result and a score are missing, a line is torn.
    toy(&at("parts"), "--limit 6 --shard 1/2").succeeds();
    toy(&at("parts"), "--limit 6 --shard 2/2").succeeds();
    fs::remove_file(at("parts/pictures/0001.png")).unwrap();
    let scores = at("parts/scores-2-of-2.jsonl");
    let text = fs::read(&scores).unwrap();
    fs::write(&scores, &text[..text.len() - 30]).unwrap();
    let done: Done = toy(&at("parts"), "--limit 6 --verbose").succeeds();
    assert!(
        done.stderr.contains("1 done, 5 finished before"),
        "{}",
        done.stderr
    );
    assert_eq!(tables(&at("parts")), tables(&at("whole")));
    let page = fs::read_to_string(at("whole/report.html")).unwrap();
    assert_eq!(page.matches("<li class=\"pair\"").count(), 6);
    assert!(
        !page.contains("http://") && !page.contains("https://"),
        "it needs the network"
    );
}

#[test]
fn results_are_known_again_from_another_folder() {
    let first = toy(Path::new("out"), "--limit 2").succeeds();
    let again = toy(&first.path("out"), "--limit 2 --verbose").succeeds();
    let told = "0 done, 2 finished before";
    assert!(again.stderr.contains(told), "{}", again.stderr);
}

#[test]
fn without_control_an_edit_is_another_and_is_told_apart() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    toy(&out, "--limit 6").succeeds();
    toy(
        &out,
        "--limit 6 --control none --amplify none --self-replace 0",
    )
    .fails(1, &["--force", "6 of 6 jobs failed"]);
    let metrics = fs::read_to_string(out.join("metrics.json")).unwrap();
    assert!(
        metrics.contains("\"edits\": 0"),
        "other results are not these"
    );
    toy(
        &out,
        "--limit 6 --control none --amplify none --self-replace 0 --force",
    )
    .succeeds();
    let metrics: Value =
        serde_json::from_slice(&fs::read(out.join("metrics.json")).unwrap()).unwrap();
    assert_eq!(metrics["settings"]["control"], "none");
    assert_eq!(metrics["means"]["edit_right"]["count"], 6);
}

#[test]
fn a_missing_picture_of_the_data_is_told_and_not_drawn() {
    let list = "file_name,old_caption,edited_caption\na.png,a bird,a cat\n";
    let run = icd("eval")
        .args("editing list.csv --out out")
        .path("--model", &data("sd"))
        .file("list.csv", list.as_bytes());
    let failed = run.fails(1, &["a.png"]);
    assert!(!failed.path("a.png").exists());
}

#[test]
fn the_bundled_world_is_meant_beside_a_folder_of_its_name() {
    let run = |data: &str| {
        icd("eval")
            .folder("tabletop")
            .args(&format!("editing {data} --limit 1 --out out"))
    };
    assert!(run("tabletop").succeeds().path("out/metrics.json").exists());
    run("./tabletop").fails(1, &["./tabletop"]);
}

#[test]
fn reconstructions_are_those_of_the_inversions_own_command() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    icd("eval")
        .args("inversion tabletop --limit 2")
        .path("--out", &out)
        .succeeds();
    let metrics: Value =
        serde_json::from_slice(&fs::read(out.join("metrics.json")).unwrap()).unwrap();
    let sample = Data::Bundled
        .reconstructions(Path::new("tabletop"), None, &out)
        .unwrap()
        .remove(1);
    let own = icd("invert")
        .args("--model tabletop --json --reconstruct back.png -o x.safetensors")
        .path("--image", &out.join("sources/scene-0001.png"))
        .with("--prompt", &sample.source_prompt)
        .with("--seed", sample.seed.unwrap())
        .succeeds();
    let own: Value = serde_json::from_str(own.stdout.trim()).unwrap();
    let found = metrics["values"][1]["values"]["psnr_unedit_part"]
        .as_f64()
        .unwrap();
    assert!(
        (found - own["psnr"].as_f64().unwrap()).abs() < 1e-9,
        "{found} {own}"
    );
}

#[test]
fn text_of_the_data_is_no_markup_of_the_report() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    fs::create_dir(at("data")).unwrap();
    fs::create_dir(at("made")).unwrap();
    for name in ["data/a.png", "made/a.png"] {
        fs::copy(data("square.png"), at(name)).unwrap();
    }
    let prompt = "a <script>alert(1)</script> \"bird\" {{style}} \u{202e}";
    fs::write(at("data/a.txt"), prompt).unwrap();
    fs::write(at("data/a.target.txt"), "<img src=x onerror=alert(2)>").unwrap();
    icd("eval")
        .args("editing")
        .args(&at("data").display().to_string())
        .path("--results", &at("made"))
        .path("--out", &at("out"))
        .succeeds();
    let page = fs::read_to_string(at("out/report.html")).unwrap();
    assert!(
        page.contains(
            "a &lt;script&gt;alert(1)&lt;/script&gt; &quot;bird&quot; {{style}} \u{fffd}"
        )
    );
    assert!(!page.contains("<script>alert") && !page.contains("<img src=x"));
}

#[test]
fn bad_data_is_named_with_its_entry() {
    let entry = |more: Value| {
        let mut entry = json!({ "image_path": "a.jpg", "original_prompt": "a", "editing_prompt": "b",
            "editing_type_id": "1", "blended_word": "", "mask": [] });
        for (key, value) in more.as_object().unwrap() {
            entry[key] = value.clone();
        }
        json!({ "000000000001": entry }).to_string()
    };
    for (text, says) in [
        (entry(json!({ "mask": [1, 2, 3] })), "000000000001"),
        (entry(json!({ "mask": [-1, 2] })), "mask"),
        (entry(json!({ "editing_type_id": "10" })), "0 to 9"),
        (entry(json!({ "image_path": "../a.jpg" })), "inside"),
        ("[]".to_owned(), "object"),
        ("{\"a\": 1".to_owned(), "line 1"),
    ] {
        icd("eval")
            .file("mapping.json", text.as_bytes())
            .args("editing mapping.json --out out")
            .fails(1, &["mapping.json", says]);
    }
    icd("eval")
        .args("editing nowhere --out out")
        .fails(1, &["nowhere"]);
}

#[test]
fn two_pictures_are_compared_in_text_and_json() {
    let photo = fs::read(data("square.png")).unwrap();
    let other = png(drawn(3, 64, 64), 64);
    let run = || {
        icd("metrics")
            .file("a.png", &photo)
            .file("b.png", &other)
            .file("white.png", &png(vec![255; 3 * 64 * 64], 64))
    };
    let same = run().args("a.png a.png").succeeds().stdout;
    assert!(
        same.contains("psnr: identical\n") && same.contains("mse: 0.000000"),
        "{same}"
    );
    let json_of = |args: &str| -> Value {
        serde_json::from_str(run().args(args).succeeds().stdout.trim()).unwrap()
    };
    let same = json_of("a.png a.png --json");
    assert_eq!((&same["psnr"], &same["ssim"]), (&Value::Null, &json!(1.0)));
    let apart = json_of("a.png b.png --json");
    assert!(apart["psnr"].as_f64().unwrap() < 30.0);
    let now = apart["ssim"].as_f64().unwrap();
    let then = json_of("a.png b.png --json --protocol pie-2023")["ssim"]
        .as_f64()
        .unwrap();
    assert!((now - then).abs() > 1e-6, "the protocols differ");
    let nothing = run().args("a.png b.png --mask white.png").succeeds().stdout;
    assert!(nothing.contains("psnr: the region is empty"), "{nothing}");
    run()
        .args("a.png b.png --metric clip")
        .fails(2, &["--prompt"]);
    run()
        .args("a.png b.png --metric sharpness")
        .fails(2, &["psnr", "dinov2", "all"]);
    run()
        .args("a.png b.png --metric lpips")
        .fails(2, &["squeezenet1_1", "--weights lpips"]);
    run()
        .args("a.png b.png --weights psnr=x")
        .fails(2, &["needs no weights"]);
    run().args("a.png none.png").fails(1, &["none.png"]);
}
