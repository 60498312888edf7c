//! Every way that input can be bad: a clear word, an exit code, and nothing
//! half-written.

use std::{collections::HashMap, io::Cursor, path::Path};

use candle_core::{DType, Device, Tensor};
use icd::{
    io::{Existing, write_tensors},
    picture::{Format, Picture, Size},
};

use crate::support::{Run, copy, data, icd, tensors};

/// What is wrong, the run that meets it, its exit code, and words of its error.
pub(crate) type Fault = (&'static str, Run, i32, &'static [&'static str]);

/// Runs all of a table, and tells every row that does not hold.
#[track_caller]
pub(crate) fn hold(faults: Vec<Fault>) {
    let mut broken = Vec::new();
    for (what, run, code, words) in faults {
        let before = run.files();
        let done = run.done();
        let told = &done.stderr;
        let lines = told.lines().filter(|line| !line.starts_with("device:"));
        let mut wrong: Vec<_> = words
            .iter()
            .filter(|word| !told.contains(**word))
            .map(|word| format!("{word:?} is not said"))
            .collect();
        if done.code != code {
            wrong.push(format!("the code is {}, not {code}", done.code));
        }
        let is_error = |line: &str| line.starts_with("error: ") || line.starts_with("{\"error\":");
        if !lines.clone().any(is_error) || told.contains("panicked") {
            wrong.push("it is no error message".into());
        }
        if done.files() != before {
            wrong.push(format!("{:?} is left behind", done.files()));
        }
        if !done.stdout.is_empty() {
            wrong.push(format!("stdout has {:?}", done.stdout));
        }
        if !wrong.is_empty() {
            broken.push(format!("{what}: {}\n  {told}", wrong.join("; ")));
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

/// An inversion with the tiny model, but for its picture.
fn invert(picture: &str) -> Run {
    icd("invert")
        .path("--model", &data("sd"))
        .with("--image", picture)
        .args("--prompt bird")
}

/// An inversion of a file of these bytes.
fn of(bytes: &[u8]) -> Run {
    invert("in.png").file("in.png", bytes)
}

/// A whole edit with the tiny model.
fn edit() -> Run {
    on(&data("sd")).args("--size 64")
}

/// The same with another model.
fn on(model: &Path) -> Run {
    icd("edit")
        .path("--model", model)
        .path("--image", &data("square.png"))
        .with("--src-prompt", "a photo of a bird")
        .with("--tgt-prompt", "a photo of a dog")
}

fn generate() -> Run {
    icd("generate")
        .path("--model", &data("sd"))
        .args("--prompt bird --size 64")
}

fn picture(format: Format) -> Vec<u8> {
    let picture = Picture::read(&data("photo.png")).expect("a photo");
    picture.encode(format).expect("its bytes")
}

/// The first `part` eighths of some bytes.
pub(crate) fn cut(bytes: &[u8], part: usize) -> Vec<u8> {
    bytes[..bytes.len() * part / 8].to_vec()
}

/// A PNG whose head promises sides that its pixels do not have.
fn promising(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(Cursor::new(&mut bytes), width, height);
    encoder.set_color(png::ColorType::Rgb);
    drop(encoder.write_header().expect("a header"));
    bytes
}

#[test]
fn pictures() {
    let png = picture(Format::Png);
    let mut flipped = png.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0xff;
    let mut rows: Vec<Fault> = vec![
        ("a missing picture", invert("none.png"), 1, &["none.png"]),
        ("a folder", invert("."), 1, &["."]),
        ("an empty file", of(b""), 1, &["in.png", "empty"]),
        ("text", of(b"hello"), 1, &["in.png", "PNG, JPEG, WebP"]),
        (
            "a GIF without a frame",
            of(b"GIF89a\x01\0\x01\0\0\0\0;"),
            1,
            &["in.png", "damaged"],
        ),
        (
            "a BMP's start alone",
            of(b"BM\x3a\0\0\0\0\0\0\0\x36\0\0\0"),
            1,
            &["in.png", "cut off"],
        ),
        (
            "an SVG",
            of(b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
            1,
            &["in.png"],
        ),
        (
            "a signature alone",
            of(&png[..8]),
            1,
            &["in.png", "cut off"],
        ),
        ("a JPEG's start alone", of(b"\xff\xd8\xff"), 1, &["in.png"]),
        ("a flipped byte", of(&flipped), 1, &["in.png", "damaged"]),
        ("no pixels", of(&promising(9, 9)), 1, &["in.png", "cut off"]),
        (
            "20000 pixels a side",
            of(&promising(20000, 20000)),
            1,
            &["in.png", "too large", "16384"],
        ),
        (
            "one side too long",
            of(&promising(16385, 1)),
            1,
            &["in.png", "too large"],
        ),
        (
            "weights",
            invert("in.safetensors").file("in.safetensors", &tiny_weights()),
            1,
            &["in.safetensors"],
        ),
        (
            "a mask that is missing",
            edit().args("--mask none.png"),
            1,
            &["none.png"],
        ),
        (
            "a mask of text",
            edit().args("--mask in.png").file("in.png", b"text"),
            1,
            &["in.png"],
        ),
    ];
    for format in [Format::Png, Format::Jpeg, Format::WebP] {
        let bytes = picture(format);
        rows.push((
            "a third of a picture",
            of(&cut(&bytes, 3)),
            1,
            &["in.png", "cut off"],
        ));
        rows.push((
            "most of a picture",
            of(&cut(&bytes, 7)),
            1,
            &["in.png", "cut off"],
        ));
    }
    hold(rows);
}

/// The bytes of a safetensors file of one tensor.
fn saved(name: &str, tensor: &Tensor, notes: &[(&str, &str)]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let notes: HashMap<_, _> = notes
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    let tensors = vec![(name.into(), tensor.clone())];
    write_tensors(file.path(), &tensors, notes, Existing::Replace).expect("tensors");
    std::fs::read(file.path()).expect("bytes")
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).expect("zeros")
}

fn tiny_weights() -> Vec<u8> {
    saved("x", &zeros(&[1]), &[])
}

/// An edit of a dump of these bytes.
fn dumped(bytes: &[u8]) -> Run {
    icd("edit")
        .path("--model", &data("sd"))
        .args("--latents in.safetensors --src-prompt bird --tgt-prompt dog")
        .file("in.safetensors", bytes)
}

#[test]
fn latents() {
    let whole = saved("latent", &zeros(&[1, 4, 8, 8]), &[("prompt", "bird")]);
    let numberless = (zeros(&[1, 4, 8, 8]) / 0.0).expect("no numbers");
    let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    let missing = icd("edit")
        .path("--model", &data("sd"))
        .args("--latents none.safetensors --tgt-prompt dog");
    hold(vec![
        ("a missing dump", missing, 1, &["none.safetensors"]),
        ("an empty dump", dumped(b""), 1, &["in.safetensors"]),
        (
            "a dump of text",
            dumped(b"hello, this is text"),
            1,
            &["in.safetensors"],
        ),
        (
            "a dump cut off",
            dumped(&cut(&whole, 5)),
            1,
            &["in.safetensors"],
        ),
        ("a head without end", dumped(&huge), 1, &["in.safetensors"]),
        (
            "no latent",
            dumped(&tiny_weights()),
            1,
            &["in.safetensors", "latent"],
        ),
        (
            "three axes",
            dumped(&saved("latent", &zeros(&[4, 8, 8]), &[])),
            1,
            &["in.safetensors", "[4, 8, 8]"],
        ),
        (
            "two pictures",
            dumped(&saved("latent", &zeros(&[2, 4, 8, 8]), &[])),
            1,
            &["in.safetensors", "[2, 4, 8, 8]"],
        ),
        (
            "five channels",
            dumped(&saved("latent", &zeros(&[1, 5, 8, 8]), &[])),
            1,
            &["in.safetensors", "5 channels"],
        ),
        (
            "another model's",
            dumped(&saved(
                "latent",
                &zeros(&[1, 4, 8, 8]),
                &[("model", "sdxl 0")],
            )),
            1,
            &["in.safetensors", "another model", "sdxl 0"],
        ),
        (
            "no numbers",
            dumped(&saved("latent", &numberless, &[])),
            1,
            &["not numbers"],
        ),
        (
            "no size to restore",
            dumped(&whole).args("--restore-size"),
            2,
            &["--restore-size", "invert the photo again"],
        ),
    ]);
}

/// A PNG that carries a note.
fn noted(note: &str) -> Vec<u8> {
    let picture = Picture::new(Size::new(1, 1), vec![0; 3]).expect("a pixel");
    picture.encode_noted(Format::Png, note).expect("its bytes")
}

fn from(bytes: &[u8]) -> Run {
    icd("edit").args("--from in.png").file("in.png", bytes)
}

#[test]
fn outputs_that_share_a_name() {
    let photo = picture(Format::Png);
    let tensors = "--dump ./a.safetensors";
    hold(vec![
        (
            "latents and values of an inversion",
            of(&photo).args("-o a.safetensors").args(tensors),
            2,
            &["a.safetensors", "two outputs"],
        ),
        (
            "latents and values of a generation",
            generate()
                .args("--save-latents a.safetensors")
                .args(tensors),
            2,
            &["a.safetensors", "two outputs"],
        ),
        (
            "a picture and the maps",
            edit().args("-o x.png --attention-maps x.png"),
            2,
            &["x.png", "a folder and a file"],
        ),
        (
            "a picture and the cache",
            edit().args("-o x.png --cache ./x.png"),
            2,
            &["x.png", "a folder and a file"],
        ),
        (
            "latents and the cache",
            of(&photo).args("-o a.safetensors --cache a.safetensors"),
            2,
            &["a.safetensors", "a folder and a file"],
        ),
    ]);
}

#[test]
fn settings() {
    hold(vec![
        (
            "no such file",
            icd("edit").args("--from none.png"),
            1,
            &["none.png"],
        ),
        (
            "no picture",
            from(b"text"),
            1,
            &["in.png", "no icd settings"],
        ),
        (
            "no settings",
            from(&picture(Format::Png)),
            1,
            &["in.png", "no icd settings"],
        ),
        (
            "no JSON",
            from(&noted("{")),
            1,
            &["in.png", "no JSON object"],
        ),
        (
            "no object",
            from(&noted("[1]")),
            1,
            &["in.png", "no JSON object"],
        ),
        (
            "another verb's",
            from(&noted("{\"verb\":\"generate\"}")),
            1,
            &["in.png", "icd generate"],
        ),
        (
            "an unknown flag",
            from(&noted("{\"verb\":\"edit\",\"abacus\":\"1\"}")),
            1,
            &["in.png", "abacus"],
        ),
    ]);
}

#[test]
fn numbers_of_a_model_that_no_computer_could_hold() {
    let huge = 1_u64 << 40;
    let changed = |file: &str, field: &str, value: u64| {
        let text = std::fs::read_to_string(data("sd").join(file)).expect("a configuration");
        let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        config[field] = value.into();
        model_with(&[(file, Some(config.to_string().as_bytes()))])
    };
    for (file, field, value) in [
        ("unet/config.json", "layers_per_block", huge),
        ("unet/config.json", "sample_size", 1_000_000),
        ("unet/config.json", "norm_num_groups", 0),
        ("unet/config.json", "attention_head_dim", 0),
        ("vae/config.json", "layers_per_block", huge),
        ("vae/config.json", "latent_channels", huge),
        ("text_encoder/config.json", "max_position_embeddings", huge),
        ("text_encoder/config.json", "vocab_size", huge),
        ("text_encoder/config.json", "num_hidden_layers", huge),
    ] {
        let model = changed(file, field, value);
        let named = format!("{field} = {value} is out of range");
        on(model.path()).fails(1, &[file, &named]);
    }
    let model = changed("unet/config.json", "sample_size", 8192);
    on(model.path()).fails(2, &["8192 times 8 pixels"]);
}

/// A copy of the tiny model with some files changed; what is none is removed.
fn model_with(changes: &[(&str, Option<&[u8]>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&data("sd"), folder.path(), &|_| true);
    for (name, bytes) in changes {
        let file = folder.path().join(name);
        match bytes {
            Some(bytes) => std::fs::write(file, bytes).expect("a changed file"),
            None => std::fs::remove_file(file).expect("a removed file"),
        }
    }
    folder
}

#[test]
fn models() {
    const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
    const VAE: &str = "vae/diffusion_pytorch_model.safetensors";
    let empty = tempfile::tempdir().expect("a folder");
    let folders = [
        model_with(&[("model_index.json", Some(b"{\"_class_name\": \"Abacus\"}"))]),
        model_with(&[("model_index.json", Some(b"{"))]),
        model_with(&[("icd.toml", Some(b"abacus = 1"))]),
        model_with(&[("icd.toml", Some(b"guidance = \"strong\""))]),
        model_with(&[("icd.toml", Some(b"unet = \"none.pt\""))]),
        model_with(&[("icd.toml", Some(b"reverse_timesteps = [0, 999]"))]),
        model_with(&[("icd.toml", Some(b"forward_path = [19, 1000]"))]),
        model_with(&[("icd.toml", Some(b"guidance = -1"))]),
        model_with(&[("icd.toml", Some(b"tau = 1.5"))]),
        model_with(&[("icd.toml", Some(b"adapter_alpha = nan"))]),
        model_with(&[("icd.toml", Some(b"blend = \"cat:dog\""))]),
        model_with(&[("unet/config.json", Some(b"[]"))]),
        model_with(&[(VAE, None)]),
        model_with(&[(VAE, Some(b"text"))]),
        model_with(&[(UNET, None)]),
        model_with(&[("tokenizer/vocab.json", Some(b"{"))]),
        model_with(&[("tokenizer/merges.txt", None)]),
        model_with(&[("text_encoder/model.safetensors", Some(b""))]),
    ];
    let words: [(&str, &[&str]); 18] = [
        ("an unknown pipeline", &["model_index.json", "Abacus"]),
        ("a broken index", &["model_index.json"]),
        ("an unknown key", &["icd.toml", "abacus"]),
        ("a value of another kind", &["icd.toml", "guidance"]),
        ("an icd.toml that names nothing", &["none.pt"]),
        (
            "timesteps of the manifest upside down",
            &["icd.toml", "reverse_timesteps = [0", "descending order"],
        ),
        (
            "timesteps of the manifest beyond the last",
            &["icd.toml", "forward_path = [", "greater than 999"],
        ),
        ("guidance below none", &["icd.toml", "guidance = -1"]),
        ("a tau beyond noise", &["icd.toml", "tau = 1.5"]),
        ("an alpha that is no number", &["icd.toml", "alpha = nan"]),
        (
            "a blend of words that prompts may lack",
            &["icd.toml", "blend", "difference"],
        ),
        ("a broken UNet configuration", &["unet/config.json"]),
        ("no autoencoder", &[VAE]),
        ("an autoencoder of text", &[VAE]),
        ("no UNet", &["unet"]),
        ("a broken vocabulary", &["vocab.json"]),
        ("no merges", &["merges.txt"]),
        ("an empty text encoder", &["text_encoder/model.safetensors"]),
    ];
    let mut rows: Vec<Fault> = vec![
        (
            "no model",
            on(Path::new("nowhere")),
            1,
            &["nowhere", "preset"],
        ),
        ("an empty folder", on(empty.path()), 1, &["preset"]),
        (
            "a variant of a folder",
            edit().args("--variant 3"),
            2,
            &["--variant"],
        ),
        (
            "half a hub name",
            edit().args("--unet hub:owner"),
            2,
            &["hub:owner/name"],
        ),
    ];
    for (folder, (what, words)) in folders.iter().zip(words) {
        rows.push((what, on(folder.path()).args("--size 64"), 1, words));
    }
    hold(rows);
}

/// A drawing with other UNet weights.
fn drawing(unet: &[u8]) -> Run {
    generate()
        .args("--unet unet.safetensors")
        .file("unet.safetensors", unet)
}

/// The tiny UNet's weights, changed.
fn unet_with(change: impl FnOnce(&mut HashMap<String, Tensor>)) -> Vec<u8> {
    let mut weights = tensors(&data("sd/unet/diffusion_pytorch_model.safetensors"));
    change(&mut weights);
    let file = tempfile::NamedTempFile::new().expect("a file");
    candle_core::safetensors::save(&weights, file.path()).expect("weights");
    std::fs::read(file.path()).expect("bytes")
}

#[test]
fn weights() {
    let whole = unet_with(|_| {});
    let missing = unet_with(|weights| {
        weights.remove("conv_in.weight");
    });
    let misshapen = unet_with(|weights| {
        weights.insert("conv_in.weight".into(), zeros(&[2, 4, 3, 3]));
    });
    let numberless = unet_with(|weights| {
        let nan = (zeros(&[4]) / 0.0).expect("no numbers");
        weights.insert("conv_out.bias".into(), nan);
    });
    let mut header = whole.clone();
    header[20] ^= 0xff;
    let zip = [b"PK\x03\x04".as_slice(), &[7; 90]].concat();
    hold(vec![
        (
            "weights that are missing",
            generate().args("--unet none.safetensors"),
            1,
            &["none.safetensors"],
        ),
        ("empty weights", drawing(b""), 1, &["unet.safetensors"]),
        (
            "weights of text",
            drawing(b"hello, this is text"),
            1,
            &["unet.safetensors"],
        ),
        (
            "half of the weights",
            drawing(&cut(&whole, 4)),
            1,
            &["unet.safetensors"],
        ),
        (
            "a damaged header",
            drawing(&header),
            1,
            &["unet.safetensors"],
        ),
        ("a zip of nothing", drawing(&zip), 1, &["unet.safetensors"]),
        (
            "a missing tensor",
            drawing(&missing),
            1,
            &["unet.safetensors", "conv_in.weight"],
        ),
        (
            "a tensor of another shape",
            drawing(&misshapen),
            1,
            &["conv_in.weight", "[4, 4, 3, 3]", "[2, 4, 3, 3]"],
        ),
        (
            "weights that are no numbers",
            drawing(&numberless),
            1,
            &["not numbers"],
        ),
    ]);
}

fn adapted(adapter: &[u8]) -> Run {
    generate()
        .args("--reverse-adapter reverse.safetensors --reverse-timesteps 999,0")
        .file("reverse.safetensors", adapter)
}

#[test]
fn adapters() {
    let down = ("unet.conv_in.lora_A.weight", zeros(&[2, 4, 3, 3]));
    let half = saved(down.0, &down.1, &[]);
    let other = std::fs::read(data("sdxl/reverse-259-519-779-999.safetensors"));
    let whole = std::fs::read(data("sd/reverse-259-519-779-999.safetensors")).expect("an adapter");
    let untold = generate()
        .args("--reverse-adapter a.safetensors")
        .file("a.safetensors", &half);
    let mistold = saved(down.0, &down.1, &[("icd.path", "up and down")]);
    let mistold = generate()
        .args("--reverse-adapter a.safetensors")
        .file("a.safetensors", &mistold);
    let mut rows: Vec<Fault> = vec![
        (
            "an adapter that is missing",
            generate().args("--reverse-adapter none.safetensors"),
            1,
            &["none.safetensors"],
        ),
        (
            "an adapter of text",
            adapted(b"hello, this is text"),
            1,
            &["reverse.safetensors"],
        ),
        (
            "an adapter cut off",
            adapted(&cut(&whole, 6)),
            1,
            &["reverse.safetensors"],
        ),
        (
            "no adapter",
            adapted(&tiny_weights()),
            1,
            &["reverse.safetensors", "fit no layer"],
        ),
        (
            "half an adapter",
            adapted(&half),
            1,
            &["reverse.safetensors", "conv_in", "lora_B"],
        ),
        ("no path", untold, 2, &["--reverse-timesteps"]),
        (
            "a path of words",
            mistold,
            1,
            &["a.safetensors", "up and down"],
        ),
    ];
    if let Ok(other) = other {
        rows.push((
            "another family's",
            adapted(&other),
            1,
            &["reverse.safetensors", "another model"],
        ));
    }
    hold(rows);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn flags() {
    let table: [(&str, &str, &[&str]); 43] = [
        (
            "a path that turns",
            "--reverse-timesteps 999,259,519,0",
            &["ascending or descending order"],
        ),
        (
            "a path upside down",
            "--forward-timesteps 999,779,19",
            &["--forward-timesteps", "ascending order"],
        ),
        (
            "a path of words",
            "--forward-timesteps one,two",
            &["--forward-timesteps", "one"],
        ),
        (
            "an empty path",
            "--forward-timesteps=",
            &["--forward-timesteps"],
        ),
        ("a path of one step", "--forward-timesteps 19", &["19"]),
        (
            "a path past the end",
            "--forward-timesteps 19,2000",
            &["2000"],
        ),
        (
            "a word to amplify that is not there",
            "--amplify cat=2",
            &["cat", "dog"],
        ),
        (
            "a word to amplify without a factor",
            "--amplify dog",
            &["--amplify", "bird=4"],
        ),
        (
            "a factor that is no number",
            "--amplify dog=nan",
            &["--amplify"],
        ),
        (
            "a source word to blend that is not there",
            "--blend cat:dog",
            &["cat", "bird"],
        ),
        (
            "a target word to blend that is not there",
            "--blend bird:cat",
            &["cat", "dog"],
        ),
        ("half a blend", "--blend bird", &["--blend", "bird:lego"]),
        (
            "a bound word that is not there",
            "--cross-replace cat=0.5",
            &["cat", "dog"],
        ),
        ("a share above one", "--cross-replace 2", &["from 0 to 1"]),
        (
            "a share of words",
            "--self-replace most",
            &["--self-replace", "most"],
        ),
        ("a tau above one", "--tau 1.5", &["1.5"]),
        ("a tau that falls", "--tau 0.9..0.7", &["--tau"]),
        ("a tau that is no number", "--tau nan", &["--tau"]),
        ("guidance below none", "--guidance=-1", &["-1"]),
        ("guidance without end", "--guidance inf", &["inf"]),
        ("guidance of words", "--guidance strong", &["strong"]),
        ("no size", "--size 0", &["multiples of 8"]),
        ("an odd size", "--size 513", &["multiples of 8"]),
        ("half a size", "--size 512x", &["multiples of 8"]),
        ("a huge size", "--size 9000", &["8192"]),
        (
            "an unknown fit",
            "--fit squeeze",
            &["aspect", "stretch", "crop", "pad"],
        ),
        (
            "an unknown control",
            "--control magic",
            &["replace", "refine"],
        ),
        ("an unknown device", "--device abacus", &["abacus", "cpu"]),
        ("a device with a bad number", "--device cuda:x", &["cuda:x"]),
        ("an unknown type", "--dtype f8", &["f32", "bf16"]),
        ("no threads", "--threads 0", &["--threads"]),
        ("a seed below none", "--seed=-1", &["--seed"]),
        ("quiet and loud", "-q -v", &["--quiet", "--verbose"]),
        ("an unknown flag", "--abacus", &["--abacus"]),
        ("an unknown ending", "-o out.xyz", &["out.xyz", ".png"]),
        ("no ending", "-o out", &["out", ".png"]),
        (
            "a comparison of an unknown ending",
            "--comparison out.txt",
            &["out.txt", ".png"],
        ),
        (
            "one name twice",
            "-o a.png --comparison a.png",
            &["a.png", "two outputs"],
        ),
        (
            "one name in two spellings",
            "-o a.png --comparison ./a.png",
            &["a.png", "two outputs"],
        ),
        (
            "an alpha that is no number",
            "--adapter-alpha nan",
            &["NaN"],
        ),
        ("JSON behind a picture", "-o - --json", &["--json"]),
        (
            "two pictures in one stream",
            "-o - --tgt-prompt x",
            &["one"],
        ),
        ("an alpha of words", "--adapter-alpha eight", &["eight"]),
    ];
    let rows = table.into_iter();
    hold(
        rows.map(|(what, flags, words)| (what, on(&data("sd")).args(flags), 2, words))
            .collect(),
    );
}

#[test]
fn usage() {
    let prompts = "--src-prompt bird --tgt-prompt dog";
    hold(vec![
        (
            "nothing to edit",
            icd("edit").args(prompts),
            2,
            &["--image"],
        ),
        (
            "two things to edit",
            edit().args("--latents x.safetensors"),
            2,
            &["--latents", "--image"],
        ),
        (
            "no target",
            icd("edit").args("--image a.png --src-prompt bird"),
            2,
            &["--tgt-prompt"],
        ),
        (
            "no source",
            icd("edit").args("--image a.png --tgt-prompt bird"),
            2,
            &["--src-prompt"],
        ),
        ("an unknown verb", icd("embroider"), 2, &["embroider"]),
        (
            "words that no flag takes",
            edit().args("extra"),
            2,
            &["extra"],
        ),
        (
            "other word counts",
            edit()
                .args("--control replace")
                .with("--tgt-prompt", "a photo of a big dog"),
            2,
            &["words"],
        ),
        (
            "no pictures wanted",
            generate().args("--count 0"),
            2,
            &["--count"],
        ),
        (
            "many pictures in one stream",
            generate().args("--count 2 -o -"),
            2,
            &["--count"],
        ),
        (
            "an unknown shell",
            icd("completions").args("abacus"),
            2,
            &["abacus", "bash"],
        ),
        (
            "nothing to inspect",
            icd("inspect").args("nowhere"),
            1,
            &["nowhere"],
        ),
        (
            "text to inspect",
            icd("inspect").args("a.txt").file("a.txt", b"text"),
            1,
            &["a.txt"],
        ),
        (
            "no run to distil",
            icd("distill").args("guidance none.toml"),
            1,
            &["none.toml"],
        ),
        (
            "a broken run",
            icd("distill")
                .args("guidance a.toml")
                .file("a.toml", b"steps ="),
            1,
            &["a.toml"],
        ),
        (
            "an unknown stage",
            icd("distill").args("wine a.toml"),
            2,
            &["wine"],
        ),
    ]);
}

#[test]
fn outputs() {
    let taken = || edit().args("-o a.png").file("a.png", b"mine");
    let folder = || edit().args("-o a.png").folder("a.png");
    hold(vec![
        (
            "a folder that is missing",
            edit().args("-o no/such/a.png"),
            1,
            &["no/such"],
        ),
        ("an output that exists", taken(), 2, &["a.png", "--force"]),
        ("an output that is a folder", folder(), 2, &["a.png"]),
        (
            "a dump that exists",
            edit()
                .args("--dump d.safetensors")
                .file("d.safetensors", b"mine"),
            2,
            &["d.safetensors", "--force"],
        ),
        (
            "a sheet that exists",
            edit()
                .args("--attention-maps looks")
                .folder("looks")
                .file("looks/target.png", b"mine"),
            2,
            &["target.png", "--force"],
        ),
        (
            "heat maps into a file",
            edit().args("--attention-maps looks").file("looks", b"mine"),
            2,
            &["looks", "not a folder"],
        ),
        (
            "heat maps into nowhere",
            edit().args("--attention no/such/looks"),
            1,
            &["no/such"],
        ),
        (
            "latents into nowhere",
            edit().args("--save-latents no/such/x.safetensors"),
            1,
            &["no/such"],
        ),
        (
            "an inversion that exists",
            invert(&data("square.png").to_string_lossy())
                .args("-o x.safetensors")
                .file("x.safetensors", b"mine"),
            2,
            &["x.safetensors", "--force"],
        ),
        (
            "a drawing that exists",
            generate().args("-o a.png").file("a.png", b"mine"),
            2,
            &["a.png", "--force"],
        ),
        (
            "a dump into stdout",
            edit().args("--dump -"),
            2,
            &["stdout"],
        ),
        (
            "latents into stdout",
            generate().args("--save-latents -"),
            2,
            &["stdout"],
        ),
        (
            "an inversion into stdout",
            invert(&data("square.png").to_string_lossy()).args("-o -"),
            2,
            &["stdout"],
        ),
        (
            "one drawing of many that exists",
            generate()
                .args("--count 3 -o a.png")
                .file("a-2.png", b"mine"),
            2,
            &["a-2.png", "--force"],
        ),
    ]);
    assert_eq!(taken().done().bytes("a.png"), b"mine");
    let forced = taken().args("--force").succeeds();
    assert!(forced.bytes("a.png").starts_with(b"\x89PNG"));
}
