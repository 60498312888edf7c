//! Networks of Stable Diffusion 1.5's full size beside diffusers in double
//! precision, in the folder that ICD_FULL names (tests/oracle/full_networks.py
//! makes it). Skipped, loudly, where there is no such folder. And how much the
//! autoencoder of that size takes, with any weights.

use std::{collections::HashMap, io::Write, path::PathBuf, time::Instant};

use candle_core::{DType, Device, Tensor};
use icd::{
    io::Checkpoint,
    model::{
        Conditioning,
        attention::NoControl,
        clip::{Clip, ClipConfig},
        unet::{Unet, UnetConfig, UnetInput},
        vae::{Tiling, Vae, VaeConfig},
    },
    nn::{Placement, RandomInit, Weights},
    schedule::Timestep,
};

use crate::support::{plain, tensors};

/// How far a value may be off, as a share of the root mean square of all:
/// Winograd's convolutions and the fast exponential take part.
const FAST: f64 = 1e-4;

struct Full {
    folder: PathBuf,
    placement: Placement,
    expected: HashMap<String, Tensor>,
}

impl Full {
    fn open(placement: Placement) -> Option<Self> {
        let Some(folder) = std::env::var_os("ICD_FULL").map(PathBuf::from) else {
            tell("SKIPPED: networks of full size: ICD_FULL names no folder");
            return None;
        };
        let expected = tensors(&folder.join("networks.safetensors"));
        Some(Self {
            folder,
            placement,
            expected,
        })
    }

    fn network<T>(&self, file: &str, build: impl Fn(&Weights) -> icd::Result<T>) -> T {
        let checkpoint = Checkpoint::open(self.folder.join(file)).expect("a checkpoint");
        build(&Weights::new(&checkpoint, &self.placement)).expect("the network loads")
    }

    /// Compares the error with that of PyTorch in bf16 on the same weights.
    fn errs_as_pytorch(&self, name: &str, work: impl Fn() -> Tensor) {
        let expected = &self.expected[name];
        let [ours, theirs] =
            [&work(), &self.expected[&format!("{name}_bf16")]].map(|found| gaps(found, expected).1);
        tell(&format!(
            "{name} in {}: rms {ours:.2e} off, PyTorch in bf16 {theirs:.2e}: {:.2}",
            self.placement.arithmetic().name(),
            ours / theirs
        ));
        assert!(ours < 1.2 * theirs, "{name}: {ours} for {theirs}");
    }

    /// Runs `work` on one thread and on two and compares both results.
    fn agree(&self, name: &str, work: impl Fn() -> Tensor + Sync) {
        if self.placement.dtype == DType::BF16 {
            return self.errs_as_pytorch(name, work);
        }
        let expected = &self.expected[name];
        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let found = pool.build().expect("threads").install(&work);
            let (largest, mean) = gaps(&found, expected);
            tell(&format!(
                "{name}, {threads} threads: off by {largest:.1e}, rms {mean:.1e}"
            ));
            assert!(largest < FAST, "{name} is {largest} of its rms off");
        }
    }
}

/// Says it, whatever becomes of the test.
fn tell(line: &str) {
    writeln!(std::io::stderr(), "{line}").expect("stderr");
}

/// The largest and the root mean square difference, over `expected`'s rms.
fn gaps(found: &Tensor, expected: &Tensor) -> (f64, f64) {
    let wide = |x: &Tensor| x.flatten_all().unwrap().to_dtype(DType::F64).unwrap();
    let (found, expected) = (wide(found), wide(expected));
    let rms = |x: &Tensor| {
        let mean = x.sqr().unwrap().mean_all().unwrap();
        mean.to_scalar::<f64>().unwrap().sqrt()
    };
    let gap = (found - &expected).unwrap();
    let largest = gap.abs().unwrap().max_all().unwrap();
    let largest = largest.to_scalar::<f64>().unwrap();
    (largest / rms(&expected), rms(&gap) / rms(&expected))
}

#[test]
fn networks_of_full_size_agree_with_double_precision() {
    let Some(full) = Full::open(plain()) else {
        return;
    };
    text_encoder(&full);
    unet(&full);
    autoencoder(&full);
}

#[test]
fn networks_of_full_size_round_no_more_than_pytorch_in_bf16() {
    let placement = Placement::new(DType::BF16, Device::Cpu);
    let Some(full) = Full::open(placement) else {
        return;
    };
    text_encoder(&full);
    unet(&full);
    autoencoder(&full);
}

fn text_encoder(full: &Full) {
    let clip = full.network("text_encoder/model.safetensors", |w| {
        Clip::new(w, ClipConfig::vit_l())
    });
    let row = |step: u32| (0..77).map(|i| 320 + step * i).collect::<Vec<_>>();
    let (first, second) = (row(7), row(11));
    full.agree("text_states", || {
        clip.forward(&[&first, &second], &[76, 76]).unwrap().last
    });
}

fn unet(full: &Full) {
    let unet = full.network("unet/diffusion_pytorch_model.safetensors", |w| {
        Unet::new(w, UnetConfig::sd15())
    });
    let text = Conditioning {
        hidden_states: full.expected["unet_text"].clone(),
        pooled: None,
    };
    full.agree("unet_eps", || {
        let input = UnetInput {
            latent: &full.expected["unet_latent"],
            times: &[Timestep(779), Timestep(259)],
            guidance: &[0.0, 19.0],
            text: &unet.prepare(&text).unwrap(),
        };
        unet.forward(input, &mut NoControl).unwrap()
    });
}

fn autoencoder(full: &Full) {
    let vae = full.network("vae/diffusion_pytorch_model.safetensors", |w| {
        Vae::new(w, VaeConfig::sd15())
    });
    full.agree("vae_mean", || {
        let posterior = vae.encode(&full.expected["vae_picture"]).unwrap();
        posterior.mean().unwrap()
    });
    full.agree("vae_decoded", || {
        vae.decode(&full.expected["vae_latent"]).unwrap()
    });
}

/// GiB that this process has in memory: `VmRSS` now, `VmHWM` at most.
#[cfg(target_os = "linux")]
fn resident(which: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix(which));
    let kib = line.and_then(|rest| rest.trim_matches([':', ' ', '\t', 'k', 'B']).parse().ok());
    kib.map_or(0.0, |kib: f64| kib / f64::from(1 << 20))
}

/// What `work` makes, its seconds, and the GiB that it took at most.
#[cfg(target_os = "linux")]
fn measured(name: &str, work: impl FnOnce() -> icd::Result<Tensor>) -> (Tensor, f64, f64) {
    std::fs::write("/proc/self/clear_refs", "5").expect("the peak begins anew");
    let (before, clock) = (resident("VmRSS"), Instant::now());
    let made = work().expect(name);
    let (seconds, peak) = (clock.elapsed().as_secs_f64(), resident("VmHWM") - before);
    tell(&format!("{name}: {seconds:.1} s, {peak:.2} GiB"));
    (made, seconds, peak)
}

/// A picture of ICD_SIDE pixels a side, 2048 where nothing is said.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "it takes a quarter of an hour and 12 GiB of memory"]
fn a_large_picture_takes_3_gib_in_strips() {
    let side = std::env::var("ICD_SIDE").map_or(2048, |side| side.parse().expect("a side"));
    let fresh = RandomInit::new(0);
    let normal = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap();
    let latent = (normal(&[1, 4, side / 8, side / 8]) * 0.18215).unwrap();
    let picture = normal(&[1, 3, side, side]).clamp(-1f32, 1f32).unwrap();
    let strips = match side > 1024 {
        true => Tiling::Auto,
        false => Tiling::On,
    };
    let runs = [strips, Tiling::Off].map(|tiling| {
        let vae = Vae::new(&Weights::initial(&fresh, &plain()), VaeConfig::sd15()).unwrap();
        let vae = vae.with_tiling(tiling);
        let encode = || vae.encode(&picture)?.mean();
        [
            measured(&format!("decoded, strips {tiling:?}"), || {
                vae.decode(&latent)
            }),
            measured(&format!("encoded, strips {tiling:?}"), encode),
        ]
    });
    let [strips, whole] = &runs;
    for ((found, seconds, peak), (expected, without, _)) in strips.iter().zip(whole) {
        let (largest, mean) = gaps(found, expected);
        let times = seconds / without;
        tell(&format!(
            "off by {largest:.1e}, rms {mean:.1e}; {times:.2} times as long"
        ));
        assert!(largest < FAST, "{largest} of its rms off");
        assert!(*peak < 3.0, "{peak} GiB");
    }
}
