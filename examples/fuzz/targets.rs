//! What is fed, and what it begins with.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use clap::ValueEnum;
use flate2::{Compression, Crc, write::GzEncoder};
use icd::{
    batch::entries,
    control::{StepRange, WordPair},
    distill::DistillConfig,
    eval::Data,
    guidance::Tau,
    hub::{Repository, unpack},
    io::{Checkpoint, Source, safetensors_metadata},
    lora::{Adapter, AdapterOptions, forward_timesteps, reverse_timesteps},
    model::{ModelChoice, ModelFiles, config},
    picture::{Format, Picture, Size, fit::Fit, note::note},
    pipeline::Latents,
    prompt::{Refine, Replace, Tokenizer, words},
    schedule::Timesteps,
};
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

use crate::{models, settings};

/// What reads the input.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Target {
    /// Pictures of every kind, their metadata, and masks
    Picture,
    /// The markers and codes of JPEGs
    Jpeg,
    /// The chunks of PNGs, under right checksums
    Png,
    /// EXIF and XMP
    Exif,
    /// Checkpoints and latents
    Safetensors,
    /// PyTorch's state dicts
    Pickle,
    /// Adapters: their names, shapes and metadata
    Adapter,
    /// Configurations of adapters: beside the file and in its metadata
    AdapterConfig,
    /// Prompts: tokens, words and alignments
    Prompt,
    /// Configurations, tokenizers and the small languages of flags
    Config,
    /// Model folders: their icd.toml
    Recipe,
    /// Archives of weights
    Archive,
    /// The instructions of PyTorch's state dicts, in a whole zip file
    Opcodes,
    /// The configurations of a model that then edits a picture
    Model,
    /// The settings in a PNG, by the program beside this one
    Settings,
    /// Manifests of jobs: JSON lines and CSV
    Manifest,
    /// Data of evaluations: PIE-Bench's list and CSV
    Evaluation,
}

/// Takes an input, and says whether it was taken for good.
pub(crate) type Feed = Box<dyn FnMut(&[u8]) -> bool>;

impl Target {
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// Whole inputs to damage, and what they are fed to.
    pub(crate) fn open(self) -> Result<(Vec<Vec<u8>>, Feed)> {
        match self {
            Self::Picture => pictures(),
            Self::Jpeg => Ok((bytes(&JPEGS)?, Box::new(is_picture))),
            Self::Png => pngs(),
            Self::Exif => exifs(),
            Self::Safetensors => checkpoints(&[
                "sd/vae/diffusion_pytorch_model.safetensors",
                "sd/forward-19-259-519-779.safetensors",
            ]),
            Self::Pickle => pickles(),
            Self::Adapter => adapters(),
            Self::AdapterConfig => adapter_configs(),
            Self::Prompt => prompts(),
            Self::Config => configs(),
            Self::Recipe => recipes(),
            Self::Archive => archives(),
            Self::Opcodes => opcodes(),
            Self::Model => models::open(),
            Self::Settings => settings::open(),
            Self::Manifest => Ok(manifests()),
            Self::Evaluation => evaluations(),
        }
    }
}

pub(crate) fn data(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/data").join(name)
}

fn bytes(names: &[&str]) -> Result<Vec<Vec<u8>>> {
    let read = |name: &&str| Ok(fs::read(data(name))?);
    names.iter().map(read).collect()
}

fn pictures() -> Result<(Vec<Vec<u8>>, Feed)> {
    let photo = Picture::read(&data("square.png"))?;
    let small = photo.resized(Size::new(24, 18));
    let mut seeds = bytes(&JPEGS)?;
    for format in [Format::Png, Format::Jpeg, Format::WebP] {
        seeds.push(small.encode(format)?);
    }
    for format in [Format::Png, Format::Jpeg, Format::WebP] {
        seeds.push(small.encode_noted(format, "{\"verb\":\"edit\"}")?);
    }
    Ok((seeds, Box::new(is_picture)))
}

const JPEGS: [&str; 3] = ["cmyk.jpg", "progressive.jpg", "scans.jpg"];

fn is_picture(input: &[u8]) -> bool {
    let _ = note(input);
    let _ = Picture::decode_mask(input, Path::new("fuzz"));
    Picture::decode(input, Path::new("fuzz")).is_ok()
}

fn pngs() -> Result<(Vec<Vec<u8>>, Feed)> {
    let small = Picture::read(&data("square.png"))?.resized(Size::new(12, 9));
    let seeds = vec![
        small.encode(Format::Png)?,
        small.encode_noted(Format::Png, "{\"verb\":\"edit\"}")?,
        small
            .with_profile(Some([7; 200].into()))
            .encode(Format::Png)?,
    ];
    let feed = |input: &[u8]| is_picture(&summed(input.to_vec()));
    Ok((seeds, Box::new(feed)))
}

/// The PNG with the checksums of its chunks made right.
fn summed(mut png: Vec<u8>) -> Vec<u8> {
    let mut at = 8;
    while let Some(length) = png.get(at..at + 4) {
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let Some(chunk) = png.get(at + 4..at + 8 + length) else {
            break;
        };
        let mut crc = Crc::new();
        crc.update(chunk);
        let sum = at + 8 + length;
        match png.get_mut(sum..sum + 4) {
            Some(place) => place.copy_from_slice(&crc.sum().to_be_bytes()),
            None => break,
        }
        at = sum + 4;
    }
    png
}

/// Metadata in a segment of a JPEG.
fn exifs() -> Result<(Vec<Vec<u8>>, Feed)> {
    let jpeg = fs::read(data("progressive.jpg"))?;
    let seeds = [
        &b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"[..],
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x04\0\x01\0\0\0\x06\0\0\0\0\0\0\0",
        b"http://ns.adobe.com/xap/1.0/\0<d tiff:Orientation=\"6\"/>",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x1a\0\0\0\0\
          \0\x01\x92\x86\0\x07\0\0\0\x0e\0\0\0\x2c\0\0\0\0ASCII\0\0\0icd {}",
    ];
    let feed = move |input: &[u8]| {
        let content = &input[..input.len().min(65_533)];
        let length = (content.len() as u16 + 2).to_be_bytes();
        let whole = [&[0xff, 0xd8, 0xff, 0xe1], &length[..], content, &jpeg[2..]].concat();
        let noted = note(&whole).is_some();
        let picture = Picture::decode(&whole, Path::new("fuzz"));
        // Whatever it says, the pixels are there.
        let size = picture.expect("a picture").size();
        noted || size.width < size.height
    };
    Ok((seeds.map(Vec::from).into(), Box::new(feed)))
}

/// A file that is written anew for every input.
fn scratch(ending: &str) -> Result<(tempfile::TempDir, PathBuf)> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join(format!("fuzz.{ending}"));
    Ok((folder, file))
}

fn checkpoints(names: &[&str]) -> Result<(Vec<Vec<u8>>, Feed)> {
    let (folder, file) = scratch("bin")?;
    let feed = move |input: &[u8]| {
        let _stays = &folder;
        // A new file each time: the last one may still be mapped.
        let _ = fs::remove_file(&file);
        fs::write(&file, input).is_ok() && read_all(&file)
    };
    Ok((bytes(names)?, Box::new(feed)))
}

/// PyTorch's archives: one of its own, and one of protocol 4 with strides, a view and a
/// state dict beside other values.
fn pickles() -> Result<(Vec<Vec<u8>>, Feed)> {
    const PROTOCOL_4: &[u8] = b"\x80\x04}\x94(\x8c\x05epoch\x94K\x01\x8c\x0astate_dict\x94}\x94\
        \x8c\x08a.weight\x94\x8c\x0ctorch._utils\x94\x8c\x12_rebuild_tensor_v2\x94\x93\x94\
        ((\x8c\x07storage\x94\x8c\x05torch\x94\x8c\x0cFloatStorage\x94\x93\x94\
        \x8c\x010\x94\x8c\x03cpu\x94K\x08t\x94QK\x01K\x03K\x02\x86\x94K\x01K\x03\x86\x94\
        \x89}\x94t\x94R\x94su.";
    let (mut seeds, feed) = checkpoints(&["sd/unet_part.pt"])?;
    let mut archive = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in [("x/data.pkl", PROTOCOL_4), ("x/data/0", &[1; 32])] {
        archive.start_file(name, stored)?;
        io::Write::write_all(&mut archive, bytes)?;
    }
    seeds.push(archive.finish()?.into_inner());
    Ok((seeds, feed))
}

fn read_all(file: &Path) -> bool {
    let _ = Latents::read(file);
    let _ = safetensors_metadata(&file.into());
    let Ok(checkpoint) = Checkpoint::open(file) else {
        return false;
    };
    let names = checkpoint.names();
    let loads = |name: &String| checkpoint.load(name, &Device::Cpu).is_ok();
    names.iter().filter(|name| loads(name)).count() == names.len()
}

fn opcodes() -> Result<(Vec<Vec<u8>>, Feed)> {
    let mut whole = ZipArchive::new(fs::File::open(data("sd/unet_part.pt"))?)?;
    let mut parts = Vec::new();
    for index in 0..whole.len() {
        let mut entry = whole.by_index(index)?;
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        parts.push((entry.name()?.into_owned(), bytes));
    }
    let is_pickle = |name: &str| name.rsplit('/').next() == Some("data.pkl");
    let seeds = parts
        .iter()
        .filter(|(name, _)| is_pickle(name))
        .map(|(_, bytes)| bytes.clone());
    let seeds = seeds.collect();
    let (folder, file) = scratch("pt")?;
    let feed = move |input: &[u8]| {
        let _stays = &folder;
        let written = fs::File::create(&file)
            .map(ZipWriter::new)
            .is_ok_and(|mut zip| {
                let stored =
                    SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
                let added = parts.iter().all(|(name, bytes)| {
                    let bytes = if is_pickle(name) { input } else { bytes };
                    zip.start_file(name, stored).is_ok() && zip.write_all(bytes).is_ok()
                });
                added && zip.finish().is_ok()
            });
        written && read_all(&file)
    };
    Ok((seeds, Box::new(feed)))
}

fn adapters() -> Result<(Vec<Vec<u8>>, Feed)> {
    let seeds = bytes(&[
        "sd/forward-19-259-519-779.safetensors",
        "sd/forward-19-259-519-779.kohya.safetensors",
        "sd/forward-19-259-519-779.diffusers.safetensors",
    ])?;
    let base = Checkpoint::open(data("sd/unet/diffusion_pytorch_model.safetensors"))?;
    let (folder, file) = scratch("safetensors")?;
    let reading = AdapterOptions {
        alpha: Some(8.0),
        weight: 1.0,
        rounding: DType::F16,
    };
    let feed = move |input: &[u8]| {
        let _stays = &folder;
        let _ = fs::remove_file(&file);
        let _ = fs::write(&file, input);
        let source = Source::from(&file);
        let _ = (forward_timesteps(&source), reverse_timesteps(&source));
        let name = String::from_utf8_lossy(&input[..input.len().min(80)]).into_owned();
        let named = Source::from(Path::new(&name));
        let _ = (forward_timesteps(&named), reverse_timesteps(&named));
        Adapter::read(&file, &base, reading).is_ok()
    };
    Ok((seeds, Box::new(feed)))
}

/// The input is PEFT's configuration beside an adapter, and then what diffusers writes
/// into the metadata of one.
fn adapter_configs() -> Result<(Vec<Vec<u8>>, Feed)> {
    let seeds = [
        r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 16, "use_rslora": true, "use_dora": false,
            "alpha_pattern": {"^conv_in": 4, "mid_block.*to_(q|k)": 2.5}, "rank_pattern": {},
            "layers_pattern": null, "target_modules": ["conv_in"], "init_lora_weights": true}"#,
        r#"{"unet.r": 2, "unet.lora_alpha": 1e1, "unet.rank_pattern": {"conv\w+": 2},
            "text_encoder.lora_alpha": 8, "text_encoder.bias": "none", "r": null}"#,
    ];
    let base = Checkpoint::open(data("sd/unet/diffusion_pytorch_model.safetensors"))?;
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
    let tensors = [
        ("conv_in.lora_A.weight", zeros(&[2, 4, 3, 3])?),
        ("conv_in.lora_B.weight", zeros(&[4, 2, 1, 1])?),
    ];
    let folder = tempfile::tempdir()?;
    let reading = AdapterOptions {
        alpha: None,
        weight: 1.0,
        rounding: DType::F32,
    };
    let feed = move |input: &[u8]| {
        let at = |name: &str| folder.path().join(name);
        let text = String::from_utf8_lossy(input).into_owned();
        let read = |name: &str, metadata| {
            let _ = fs::remove_file(at(name));
            let metadata = Some(HashMap::from([metadata]));
            let bytes = safetensors::serialize(tensors.clone(), metadata);
            let written = bytes.is_ok_and(|bytes| fs::write(at(name), bytes).is_ok());
            written && Adapter::read(at(name), &base, reading).is_ok()
        };
        let _ = fs::write(at("adapter_config.json"), input);
        let note = ("format".into(), "pt".into());
        let beside = read("adapter_model.safetensors", note);
        let _ = fs::remove_file(at("adapter_config.json"));
        let within = ("lora_adapter_metadata".into(), text);
        read("other.safetensors", within) || beside
    };
    Ok((
        seeds.map(|seed| seed.as_bytes().to_vec()).into(),
        Box::new(feed),
    ))
}

fn prompts() -> Result<(Vec<Vec<u8>>, Feed)> {
    let file = |name: &str| Source::from(&data(&format!("sd/tokenizer/{name}")));
    let tokenizer = Tokenizer::from_bpe(&file("vocab.json"), &file("merges.txt"), None)?;
    let seeds = [
        "a photo of a bird standing on a branch",
        "a (lego:1.5) bird's \u{201c}nest\u{201d} <|endoftext|> \u{1f426}\u{200d}\u{1f525}",
        "\u{9ce5} \u{e9}\u{301} \u{202e}abc \t\n the The THE",
    ];
    let mut last = tokenizer.encode(seeds[0], 77)?;
    let feed = move |input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        let context = 2 + input.len() % 80;
        let Ok(prompt) = tokenizer.encode(&text, context.max(3)) else {
            return false;
        };
        let _ = words::new_words(&last, &prompt);
        let _ = words::changed_pairs(&last, &prompt);
        let _ = Refine::new(&last, &prompt);
        let _ = Replace::new(&last, &prompt);
        let mut words = prompt.words().iter();
        let all = words.all(|word| prompt.find(&word.text).is_ok());
        last = prompt;
        all
    };
    Ok((
        seeds.map(|seed| seed.as_bytes().to_vec()).into(),
        Box::new(feed),
    ))
}

fn configs() -> Result<(Vec<Vec<u8>>, Feed)> {
    let mut seeds = bytes(&[
        "sd/unet/config.json",
        "sd/vae/config.json",
        "sd/text_encoder/config.json",
        "sd/scheduler/scheduler_config.json",
        "sd/tokenizer/vocab.json",
        "sd/tokenizer/merges.txt",
        "sd/tokenizer/tokenizer_config.json",
        "sdxl/unet/config.json",
    ])?;
    let texts = [
        "model = \"sd15\"\ndata = \"pictures\"\nout = \"run\"\nsteps = 10\nbatch = 2\n",
        "19,259,519,779,999",
        "0.7..0.9",
        "768x512",
    ];
    seeds.extend(texts.map(|text| text.as_bytes().to_vec()));
    let (folder, file) = scratch("json")?;
    let merges = Source::from(&data("sd/tokenizer/merges.txt"));
    let vocabulary = Source::from(&data("sd/tokenizer/vocab.json"));
    let feed = move |input: &[u8]| {
        let _stays = &folder;
        let _ = fs::write(&file, input);
        let source = Source::from(&file);
        let text = String::from_utf8_lossy(input);
        let text = text.trim();
        let taken = [
            config::unet_config(&source).is_ok(),
            config::vae_config(&source).is_ok(),
            config::clip_config(&source, false).is_ok(),
            config::clip_config(&source, true).is_ok(),
            config::schedule(&source).is_ok(),
            Tokenizer::from_bpe(&source, &merges, None).is_ok(),
            Tokenizer::from_bpe(&vocabulary, &source, None).is_ok(),
            Tokenizer::from_bpe(&vocabulary, &merges, Some(&source)).is_ok(),
            DistillConfig::read(&file).is_ok(),
            text.parse::<Timesteps>().is_ok(),
            text.parse::<Tau>().is_ok(),
            text.parse::<StepRange>().is_ok(),
            text.parse::<WordPair>().is_ok(),
            text.parse::<Repository>().is_ok(),
            text.parse::<Size>().is_ok(),
            Fit::from_str(text, false).is_ok(),
        ];
        taken.contains(&true)
    };
    Ok((seeds, Box::new(feed)))
}

fn manifests() -> (Vec<Vec<u8>>, Feed) {
    let seeds = [
        "{\"image\": \"a.png\", \"tgt_prompt\": [\"a\", \"b\"], \"tau\": 0.7}\n{\"text\": \"{}\"}\n",
        "image,src_prompt,tgt_prompt\r\na.png,\"a \"\"red\"\" bird,\nsitting\",\"[\"\"x\"\"]\"\r\n\nb,c,d\n",
        "image;tau\na.png;0.7\n\"b.png;1\n",
    ];
    let feed = |input: &[u8]| {
        let read = |name: &str| entries(Path::new(name), input);
        let all = [read("a.jsonl"), read("a.csv"), read("a")];
        let jobs = all.into_iter().flatten().flatten();
        jobs.filter(|entry| entry.content.is_ok()).count() > 0
    };
    (
        seeds.map(|seed| seed.as_bytes().to_vec()).into(),
        Box::new(feed),
    )
}

fn evaluations() -> Result<(Vec<Vec<u8>>, Feed)> {
    let seeds = [
        "{\"000000000001\": {\"image_path\": \"a/b.jpg\", \"original_prompt\": \"a [red] cat\", \
         \"editing_prompt\": \"a dog\", \"editing_type_id\": \"1\", \"blended_word\": \"cat dog\", \
         \"mask\": [0, 9, 262000, 99999]}, \"2\": {}}",
        ",file_name,old_caption,edited_caption,blended_words\n0,a.jpg,\"a, cat\",a dog,\"('a', 'b')\"\n",
    ];
    let home = tempfile::tempdir()?;
    let feed = move |input: &[u8]| {
        let read = |name: &str, data: Data| {
            let file = home.path().join(name);
            fs::write(&file, input).expect("a file of the run");
            data.samples(&file, None, &[], home.path()).is_ok()
        };
        read("list.json", Data::PieBench) | read("list.csv", Data::List)
    };
    let seeds = seeds.map(|seed| seed.as_bytes().to_vec());
    Ok((seeds.into(), Box::new(feed)))
}

fn recipes() -> Result<(Vec<Vec<u8>>, Feed)> {
    let seeds = [
        "unet = \"teacher.pt\"\nadapter_alpha = 8\nguidance = 19\ntau = 0.8\n",
        "forward_adapter = \"hub:owner/name@main/forward-19-259.safetensors\"\n\
         forward_timesteps = [19, 259, 519, 779, 999]\nreverse_timesteps = [999, 779, 519, 259, 0]\n",
    ];
    let folder = tempfile::tempdir()?;
    fs::create_dir(folder.path().join("unet"))?;
    let choice = ModelChoice::named(folder.path().to_string_lossy());
    let feed = move |input: &[u8]| {
        let written = fs::write(folder.path().join("icd.toml"), input);
        written.is_ok() && ModelFiles::find(&choice).is_ok()
    };
    Ok((
        seeds.map(|seed| seed.as_bytes().to_vec()).into(),
        Box::new(feed),
    ))
}

/// Damage to what lies within the compression and under the checksums, which
/// would notice any other.
fn archives() -> Result<(Vec<Vec<u8>>, Feed)> {
    let seeds = [
        archive(&["weights/a.safetensors", "weights/b.txt", "c.json"])?,
        archive(&["a", "weights/../../b.txt"])?,
    ];
    let feed = |input: &[u8]| {
        let folder = tempfile::tempdir().expect("a folder for what is unpacked");
        let file = folder.path().join("fuzz.tar.gz");
        let into = folder.path().join("into");
        let taken = fs::create_dir(&into).is_ok()
            && packed(signed(input.to_vec()), &file).is_ok()
            && unpack(&file, &into).is_ok();
        let beside = fs::read_dir(folder.path()).map_or(0, Iterator::count);
        assert_eq!(beside, 2, "something was unpacked outside of the folder");
        taken
    };
    Ok((seeds.into(), Box::new(feed)))
}

fn archive(names: &[&str]) -> Result<Vec<u8>> {
    let mut files = tar::Builder::new(Vec::new());
    for name in names {
        let mut header = tar::Header::new_ustar();
        // `set_path` would refuse to leave a folder.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(name.len() as u64);
        header.set_cksum();
        files.append(&header, name.as_bytes())?;
    }
    Ok(files.into_inner()?)
}

/// The archive with the checksums of its headers made right.
fn signed(mut archive: Vec<u8>) -> Vec<u8> {
    for block in archive.chunks_exact_mut(512) {
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        if header.as_ustar().is_some() {
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
    archive
}

fn packed(archive: Vec<u8>, file: &Path) -> io::Result<()> {
    let mut out = GzEncoder::new(fs::File::create(file)?, Compression::none());
    out.write_all(&archive)?;
    out.finish().map(drop)
}
