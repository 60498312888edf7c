//! Networks of Stable Diffusion 1.5's full size beside diffusers in double
//! precision, in the folder that ICD_FULL names (tests/oracle/full_networks.py
//! makes it). Skipped, loudly, where there is no such folder.

use std::{collections::HashMap, io::Write, path::PathBuf};

use candle_core::{DType, Tensor};
use icd::{
    model::{
        Conditioning,
        attention::Untouched,
        clip::{Clip, ClipConfig},
        unet::{Input, Unet, UnetConfig},
        vae::{Vae, VaeConfig},
    },
    nn::{Checkpoint, Weights},
    schedule::Timestep,
};

use crate::support::{plain, tensors};

/// How far a value may be off, as a share of the root mean square of all:
/// Winograd's convolutions and the fast exponential take part.
const FAST: f64 = 1e-4;

struct Full {
    folder: PathBuf,
    expected: HashMap<String, Tensor>,
}

impl Full {
    fn open() -> Option<Self> {
        let Some(folder) = std::env::var_os("ICD_FULL").map(PathBuf::from) else {
            let line = b"SKIPPED: networks of full size: ICD_FULL names no folder\n";
            std::io::stderr().write_all(line).expect("stderr");
            return None;
        };
        let expected = tensors(&folder.join("networks.safetensors"));
        Some(Self { folder, expected })
    }

    fn network<T>(&self, file: &str, build: impl Fn(&Weights) -> icd::Result<T>) -> T {
        let checkpoint = Checkpoint::open(self.folder.join(file)).expect("a checkpoint");
        build(&Weights::new(&checkpoint, &plain())).expect("the network loads")
    }

    /// Runs `work` on one thread and on two and compares both results.
    fn agree(&self, name: &str, work: impl Fn() -> Tensor + Sync) {
        let expected = &self.expected[name];
        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let found = pool.build().expect("threads").install(&work);
            let (largest, mean) = gaps(&found, expected);
            let line = format!("{name}, {threads} threads: off by {largest:.1e}, rms {mean:.1e}\n");
            std::io::stderr()
                .write_all(line.as_bytes())
                .expect("stderr");
            assert!(largest < FAST, "{name} is {largest} of its rms off");
        }
    }
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
    let Some(full) = Full::open() else { return };
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
        tokens: full.expected["unet_text"].clone(),
        pooled: None,
    };
    full.agree("unet_eps", || {
        let input = Input {
            latent: &full.expected["unet_latent"],
            times: &[Timestep(779), Timestep(259)],
            guidance: &[0.0, 19.0],
            text: &unet.read(&text).unwrap(),
        };
        unet.forward(input, &mut Untouched).unwrap()
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
