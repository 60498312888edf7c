//! The modules of the library use those below them, never those above.

use std::{collections::BTreeSet, fs, path::Path};

/// From the highest to the lowest.
const LAYERS: [&str; 21] = [
    "eval",
    "batch",
    "convert",
    "distill",
    "pipeline",
    "control",
    "diffusion",
    "metrics",
    "model",
    "lora",
    "nn",
    "kernel",
    "layout",
    "hub",
    "picture",
    "prompt",
    "guidance",
    "schedule",
    "noise",
    "io",
    "error",
];

/// The modules that code names as `crate::x` or in `crate::{x, y::{..}}`.
fn used(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for path in code.split("crate::").skip(1) {
        let (mut depth, mut begins, mut name) = (0, true, String::new());
        for c in path.chars().filter(|c| !c.is_whitespace()) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                'a'..='z' | '0'..='9' | '_' if begins && depth <= 1 => name.push(c),
                _ => begins = c == ',' && depth == 1,
            }
            if !begins || c == '}' {
                used.insert(std::mem::take(&mut name));
                if depth == 0 {
                    break;
                }
            }
        }
    }
    used
}

/// The source files below a folder or of a file, those of tests left out.
fn sources(path: &Path) -> Vec<(String, String)> {
    if path.is_dir() {
        let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
        return entries.flat_map(|entry| sources(&entry.path())).collect();
    }
    let name = path.display().to_string();
    let of_tests = ["tests.rs", "testing.rs", "oracle.rs", "conformance.rs"];
    let is_test = of_tests.iter().any(|end| name.ends_with(end)) || name.contains("/conformance/");
    let is_source = path.extension().is_some_and(|ending| ending == "rs");
    if is_test || !is_source {
        return Vec::new();
    }
    let source = fs::read_to_string(path).unwrap();
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let code = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    vec![(name, code.collect::<Vec<_>>().join("\n"))]
}

#[test]
fn no_module_uses_one_above_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (depth, layer) in LAYERS.iter().enumerate() {
        let mut files = sources(&src.join(layer).with_extension("rs"));
        if src.join(layer).is_dir() {
            files.extend(sources(&src.join(layer)));
        }
        for (file, code) in files {
            let used = used(&code);
            let above = LAYERS[..depth].iter().find(|above| used.contains(**above));
            assert_eq!(above, None, "{file} uses a module above `{layer}`");
        }
    }
}

#[test]
fn the_map_lists_every_module_from_high_to_low() {
    let lib = include_str!("../../src/lib.rs");
    let modules = lib.lines().filter_map(|line| line.strip_prefix("pub mod "));
    let modules: Vec<_> = modules.map(|name| name.trim_end_matches(';')).collect();
    assert_eq!(modules, LAYERS);
    let map = lib.split("# The map").nth(1).unwrap();
    let rows = LAYERS.map(|layer| map.find(&format!("[`{layer}`]")));
    assert!(
        rows.iter().all(Option::is_some),
        "a row is missing: {rows:?}"
    );
}

#[test]
fn uses_are_found_in_every_form() {
    let used = used(
        "use crate::io;\nuse crate::{\n  nn::{Conv, Linear},\n  model::Model,\n};\ncrate::hub::x()",
    );
    let used: Vec<_> = used
        .iter()
        .map(String::as_str)
        .filter(|name| LAYERS.contains(name))
        .collect();
    assert_eq!(used, ["hub", "io", "model", "nn"]);
}
