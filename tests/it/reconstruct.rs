//! A reconstruction shows how well a picture was inverted, and nothing else.

use crate::{
    single::style,
    support::{data, icd},
};

#[test]
fn a_style_does_not_change_a_reconstruction() {
    let (_folder, style) = style();
    let run = || {
        icd("invert")
            .path("--model", &data("sd"))
            .path("--image", &data("square.png"))
            .args("--prompt bird --size 64 --json --reconstruct back.png -o x.safetensors")
    };
    let plain = run().succeeds();
    let styled = run().path("--lora", &style).succeeds();
    for file in ["back.png", "x.safetensors"] {
        assert!(plain.bytes(file) == styled.bytes(file), "{file}");
    }
    let psnr = |stdout: &str| {
        let told: serde_json::Value = serde_json::from_str(stdout).expect("JSON");
        told["psnr"].as_f64().expect("a PSNR")
    };
    assert_eq!(psnr(&plain.stdout), psnr(&styled.stdout));
}
