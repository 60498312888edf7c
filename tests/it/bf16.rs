//! Products of operands that are rounded to bf16, by the emulation that every processor has.

use serde_json::Value;

use crate::support::{Run, agree, data, icd};

/// An edit whose products are rounded.
fn edit(threads: usize) -> Run {
    icd("edit")
        .path("--model", &data("sd"))
        .path("--image", &data("square.png"))
        .args("--src-prompt bird --tgt-prompt dog --size 64 --no-metadata -o out.png")
        .args("--save-latents x.safetensors")
        .with("--threads", threads)
        .env("ICD_SIMD", "emulated")
        .env("ICD_DTYPE", "bf16")
}

#[test]
fn the_number_of_threads_changes_no_byte() {
    let [one, two] = [1, 2].map(|threads| edit(threads).succeeds());
    assert_eq!(one.bytes("out.png"), two.bytes("out.png"));
    assert_eq!(one.bytes("x.safetensors"), two.bytes("x.safetensors"));
}

#[test]
fn rounding_changes_an_edit_a_little() {
    let latent = |run: Run| run.succeeds().tensors("x.safetensors")["latent"].clone();
    let (rounded, exact) = (latent(edit(2)), latent(edit(2).env("ICD_DTYPE", "f32")));
    let bits = |x: &candle_core::Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(bits(&rounded) != bits(&exact));
    agree("bf16", &rounded, &exact, 2e-1);
}

#[test]
fn what_rounds_says_so() {
    let dry = |simd: &str, dtype: &str| {
        let run = icd("generate").path("--model", &data("sd"));
        let run = run
            .args("--prompt bird --size 64 --dry-run --json")
            .env("ICD_SIMD", simd);
        let done = run.env("ICD_DTYPE", dtype).succeeds();
        let told: Value = serde_json::from_str(&done.stdout).expect("JSON");
        (
            told["products"].as_str().expect("an arithmetic").to_owned(),
            done.stderr,
        )
    };
    let (products, told) = dry("emulated", "bf16");
    assert_eq!(products, "bf16 (emulated)");
    assert!(
        told.contains("weights in bf16, products in bf16 (emulated)"),
        "{told}"
    );
    // Without the instructions, bf16 is how weights are stored, and auto is f32.
    let (products, told) = dry("avx2", "bf16");
    assert_eq!(products, "f32");
    assert!(
        told.contains("weights in bf16") && !told.contains("products"),
        "{told}"
    );
    for simd in ["avx2", "plain", "emulated"] {
        let (products, told) = dry(simd, "auto");
        assert_eq!(products, "f32");
        assert!(told.contains("weights in f32"), "{told}");
    }
}

#[test]
fn pictures_state_the_arithmetic_unless_it_is_exact() {
    let stated = |dtype: &str| {
        let run = icd("generate").path("--model", &data("sd"));
        let run = run.args("--prompt bird --size 64 -o out.png");
        let run = run.env("ICD_SIMD", "emulated").env("ICD_DTYPE", dtype);
        let done = run.succeeds();
        let bytes = done.bytes("out.png");
        String::from_utf8_lossy(&bytes).contains("bf16 (emulated)")
    };
    assert!(stated("bf16"));
    assert!(!stated("f32"));
}

#[test]
fn an_inversion_of_another_arithmetic_is_not_used() {
    let cache = tempfile::tempdir().expect("a folder");
    let evaluations = |simd: &str| {
        let run = icd("invert").path("--model", &data("sd"));
        let run = run
            .path("--image", &data("square.png"))
            .path("--cache", cache.path());
        let run = run.args("--prompt bird --size 64 --json -o x.safetensors");
        let run = run.env("ICD_SIMD", simd).env("ICD_DTYPE", "bf16");
        let told: Value = serde_json::from_str(&run.succeeds().stdout).expect("JSON");
        told["evaluations"].as_array().expect("a list").len()
    };
    assert_eq!(evaluations("emulated"), 4);
    assert_eq!(evaluations("emulated"), 0);
    // The same weights and vectors, with products in f32.
    assert_eq!(evaluations("avx2"), 4);
}
