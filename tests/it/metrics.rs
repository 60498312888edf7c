//! Measures agree with torchmetrics, lpips, timm, transformers and scikit-image on networks of
//! random weights, which `tests/oracle/metrics.py` draws by the same formula.

use std::{collections::HashMap, path::Path};

use candle_core::{Device, Tensor, safetensors};
use icd::{
    hub::Cache,
    metrics::{
        Antialias, ClipScore, Dinov2, Lpips, Mask, Network, NetworkFiles, Region, StructureDistance,
    },
    picture::{Border, Picture, Size},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{data, plain};

const TOLERANCE: f64 = 1e-4;

struct Oracle(Value);

impl Oracle {
    fn read() -> Self {
        let text = std::fs::read_to_string(data("metrics.json")).unwrap();
        Self(serde_json::from_str(&text).unwrap())
    }

    #[track_caller]
    fn check(&self, name: &str, found: f64) {
        let expected = self.0["values"].pointer(name).and_then(Value::as_f64);
        let expected = expected.unwrap_or_else(|| panic!("no value {name}"));
        assert!(expected != 0.0, "{name} says nothing");
        let gap = (found - expected).abs() / expected.abs();
        assert!(gap < TOLERANCE, "{name}: {found}, expected {expected}");
    }

    fn prompt(&self, index: usize) -> &str {
        self.0["prompts"][index].as_str().unwrap()
    }

    /// A folder with the drawn weights of a network.
    fn network(&self, network: Network) -> (TempDir, NetworkFiles) {
        let home = tempfile::tempdir().unwrap();
        self.write(network, home.path());
        let files = files(network, home.path());
        (home, files)
    }

    /// Writes the drawn weights of a network into a folder.
    fn write(&self, network: Network, home: &Path) {
        let key = match network {
            Network::Lpips => "lpips",
            Network::Clip => "clip",
            Network::Dino => "dino",
            Network::Dinov2 => "dinov2",
        };
        let shapes = self.0["shapes"][key].as_object().unwrap();
        let tensors = shapes.iter().map(|(name, shape)| {
            let shape: Vec<usize> = serde_json::from_value(shape.clone()).unwrap();
            (name.clone(), drawn(name, &shape))
        });
        write(home, network, &tensors.collect());
    }
}

/// Writes the drawn weights of a small CLIP into a folder.
pub(crate) fn write_clip(home: &Path) {
    Oracle::read().write(Network::Clip, home);
}

fn write(home: &Path, network: Network, tensors: &HashMap<String, Tensor>) {
    let save = |tensors: &HashMap<_, _>, name| safetensors::save(tensors, home.join(name)).unwrap();
    match network {
        Network::Lpips => {
            let tensors = tensors.clone().into_iter();
            let (linear, squeezenet) = tensors.partition(|(name, _)| name.starts_with("lin"));
            save(&squeezenet, "squeezenet1_1.safetensors");
            save(&linear, "squeeze.safetensors");
        }
        _ => save(tensors, "model.safetensors"),
    }
    if network == Network::Clip {
        for name in ["vocab.json", "merges.txt", "tokenizer_config.json"] {
            let from = data("sd/tokenizer").join(name);
            std::fs::copy(from, home.join(name)).unwrap();
        }
    }
}

fn files(network: Network, home: &Path) -> NetworkFiles {
    let cache = Cache::new("no/such/cache");
    NetworkFiles::named(network, &home.display().to_string(), &cache).unwrap()
}

/// Weights that follow from their name and shape: `drawn` of the oracle.
fn drawn(name: &str, shape: &[usize]) -> Tensor {
    const WORD: u64 = 1 << 32;
    let salt = name.bytes().fold(7, |salt: u64, byte| {
        (salt ^ u64::from(byte)) * 16_777_619 % WORD
    });
    let count: usize = shape.iter().product();
    let fan_in = count / shape[0];
    let value = |i: u64| {
        let mut bits = (i * 2_654_435_761 + salt) % WORD;
        bits ^= bits >> 16;
        bits = bits * 73_244_475 % WORD;
        bits ^= bits >> 16;
        let unit = 2.0 * (bits as f64 / WORD as f64) - 1.0;
        let is_scale = ["weight", "gamma", "lambda1"]
            .iter()
            .any(|end| name.ends_with(end));
        let value = match (shape.len() >= 2, is_scale) {
            (true, _) if fan_in > 1 => unit * (3.0 / fan_in as f64).sqrt(),
            (true, _) => 0.5 * unit,
            (false, true) => 1.0 + 0.2 * unit,
            (false, false) => 0.2 * unit,
        };
        value as f32
    };
    let values: Vec<_> = (0..count as u64).map(value).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// A photo, the same mirrored, and what may change.
fn pictures() -> (Picture, Picture, Mask) {
    let photo = Picture::read(&data("photo.png")).unwrap();
    let Size { width, height } = photo.size();
    let pixel = |x: usize, y: usize| photo.pixels()[3 * (y * width + x)..][..3].to_vec();
    let places = (0..width * height).map(|i| (i % width, i / width));
    let mirrored = places.clone().flat_map(|(x, y)| pixel(width - 1 - x, y));
    let mirrored = Picture::new(photo.size(), mirrored.collect()).unwrap();
    let edited = places.map(|(x, y)| (30..80).contains(&x) && (20..70).contains(&y));
    let mask = Mask::new(photo.size(), edited.collect()).unwrap();
    (photo, mirrored, mask)
}

/// The left of a picture, as wide as high, enlarged.
fn square(picture: &Picture) -> Picture {
    let Size { width, height } = picture.size();
    let rows = picture.pixels().chunks_exact(3 * width);
    let pixels = rows.flat_map(|row| row[..3 * height].iter().copied());
    let square = Picture::new(Size::new(height, height), pixels.collect()).unwrap();
    square.resized(Size::new(320, 320))
}

#[test]
fn likenesses_are_those_of_torchmetrics_with_both_rules_for_the_border() {
    let (oracle, (a, b, mask)) = (Oracle::read(), pictures());
    let kept = |picture| mask.applied(picture, Region::Preserved).unwrap();
    for (name, a, b) in [("whole", &a, &b), ("preserved", &kept(&a), &kept(&b))] {
        oracle.check(&format!("/{name}/psnr"), a.psnr(b).unwrap());
        oracle.check(&format!("/{name}/mse"), a.mse(b).unwrap());
        let ssim = |border| a.ssim_with(b, border).unwrap();
        oracle.check(&format!("/{name}/ssim_cut"), ssim(Border::Cut));
        oracle.check(&format!("/{name}/ssim_mirrored"), ssim(Border::Mirrored));
    }
}

#[test]
fn lpips_is_that_of_torchmetrics() {
    let (oracle, (a, b, mask)) = (Oracle::read(), pictures());
    let (_home, files) = oracle.network(Network::Lpips);
    let lpips = Lpips::open(&files, &plain()).unwrap();
    let kept = |picture| mask.applied(picture, Region::Preserved).unwrap();
    oracle.check("/lpips/0", lpips.distance(&a, &b).unwrap());
    oracle.check("/lpips/1", lpips.distance(&kept(&a), &kept(&b)).unwrap());
    assert_eq!(lpips.distance(&a, &a).unwrap(), 0.0);
}

#[test]
fn the_clip_score_is_that_of_transformers() {
    let (oracle, (a, b, mask)) = (Oracle::read(), pictures());
    let (_home, files) = oracle.network(Network::Clip);
    let clip = ClipScore::open(&files, &plain()).unwrap();
    oracle.check("/clip/0", clip.score(&a, oracle.prompt(0)).unwrap());
    oracle.check("/clip/1", clip.score(&b, oracle.prompt(1)).unwrap());
    let edited = mask.applied(&b, Region::Edited).unwrap();
    oracle.check("/clip/2", clip.score(&edited, oracle.prompt(1)).unwrap());
}

#[test]
fn the_structure_distance_is_that_of_timms_network_and_torchvisions_sizes() {
    let (oracle, (a, b, _)) = (Oracle::read(), pictures());
    let (_home, files) = oracle.network(Network::Dino);
    for (name, antialias) in [("on", Antialias::On), ("off", Antialias::Off)] {
        let structure = StructureDistance::open(&files, &plain(), antialias).unwrap();
        let distance = structure.distance(&square(&a), &square(&b)).unwrap();
        oracle.check(&format!("/structure/{name}/0"), distance);
    }
}

#[test]
fn the_similarity_of_dinov2_is_that_of_transformers() {
    let (oracle, (a, b, _)) = (Oracle::read(), pictures());
    let (_home, files) = oracle.network(Network::Dinov2);
    let dinov2 = Dinov2::open(&files, &plain()).unwrap();
    oracle.check("/dinov2/0", dinov2.similarity(&a, &b).unwrap());
}

#[test]
fn weights_of_another_network_are_refused_by_name() {
    let oracle = Oracle::read();
    let (home, _) = oracle.network(Network::Dino);
    let other = |network| files(network, home.path());
    let told = |error: icd::Error| error.to_string();
    let clip = told(
        ClipScore::open(&other(Network::Clip), &plain())
            .err()
            .unwrap(),
    );
    assert!(
        clip.contains("text_model") && clip.contains("missing"),
        "{clip}"
    );
    let lpips = Lpips::open(&other(Network::Lpips), &plain()).err().unwrap();
    assert!(told(lpips).contains("squeezenet1_1"));
    let file = home.path().join("model.safetensors").display().to_string();
    let file = NetworkFiles::named(Network::Lpips, &file, &Cache::new("none")).unwrap();
    let lpips = told(Lpips::open(&file, &plain()).err().unwrap());
    assert!(lpips.contains("features.0.weight"), "{lpips}");
    let mixed = told(Dinov2::open(&file, &plain()).err().unwrap());
    assert!(
        mixed.contains("DINOv2 was given the files of SqueezeNet"),
        "{mixed}"
    );
    for shape in [&[1, 786, 128], &[1, 0, 128], &[1, 785, 0]] {
        let tensors = [
            ("cls_token", drawn("cls_token", &[1, 1, 128])),
            (
                "pos_embed",
                Tensor::zeros(&shape[..], candle_core::DType::F32, &Device::Cpu).unwrap(),
            ),
            ("patch_embed.proj.weight", drawn("p", &[128, 3, 8, 8])),
            ("patch_embed.proj.bias", drawn("p.bias", &[128])),
            ("blocks.0.norm1.weight", drawn("n.weight", &[128])),
        ];
        let tensors = tensors.map(|(name, tensor)| (name.to_owned(), tensor));
        write(home.path(), Network::Dino, &tensors.into());
        let dino = StructureDistance::open(&other(Network::Dino), &plain(), Antialias::On);
        let dino = told(dino.err().unwrap());
        assert!(dino.contains("position_embeddings"), "{dino}");
    }
}
