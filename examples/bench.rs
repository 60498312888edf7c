//! Times the networks at the shapes of Stable Diffusion, with random weights.
//!
//! ```text
//! cargo run --release --example bench -- --what unet,vae-decode --rows 1,2
//! cargo run --release --example bench -- --what edit --model DIR
//! cargo run --release --features cuda --example bench -- --device cuda --dtype f16
//! ```
//!
//! `examples/bench/compare.py` runs this beside PyTorch and OpenVINO.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it prints")]

#[path = "bench/meter.rs"]
mod meter;
#[path = "bench/work.rs"]
mod work;

use std::path::PathBuf;

use anyhow::Result;
use candle_core::{DType, Device};
use clap::{Parser, ValueEnum};
use icd::{
    model::vae::Tiling,
    nn::{Backend, Placement, open_cuda},
};

use meter::{Line, measure};
use work::What;

/// Times the networks at the shapes of Stable Diffusion, with random weights.
#[derive(Parser)]
pub(crate) struct Options {
    /// What to time
    #[arg(long, value_enum, value_delimiter = ',', default_value = "unet")]
    what: Vec<What>,
    /// The family whose shapes are used
    #[arg(long, value_enum, default_value = "sd15")]
    family: Family,
    /// Side of the picture in pixels
    #[arg(long, value_delimiter = ',', default_value = "512")]
    size: Vec<usize>,
    /// Types that the weights are stored in; bf16 is also the arithmetic of products on a
    /// processor that multiplies it faster
    #[arg(long, value_delimiter = ',', default_value = "f32")]
    dtype: Vec<Stored>,
    /// Rows that are evaluated together; a text encoder always reads 2, a
    /// training step always takes 32
    #[arg(long, value_delimiter = ',', default_value = "1")]
    rows: Vec<usize>,
    /// Whether the autoencoder works in strips
    #[arg(long, value_enum, default_value = "auto")]
    vae_tiling: Strips,
    /// Where the networks run; memory is then not that of the networks
    #[arg(long, value_enum, default_value = "cpu")]
    device: Place,
    /// The layers' operations
    #[arg(long, value_enum, default_value = "fastest")]
    backend: Operations,
    /// Timed runs, after one that is not
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// A folder with a model and its adapters, for `edit`
    #[arg(long)]
    model: Option<PathBuf>,
    /// Tell what each operation takes
    #[arg(long)]
    profile: bool,
    /// One JSON object per line instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Family {
    Sd15,
    Sdxl,
}

#[derive(Clone, Copy, ValueEnum)]
enum Stored {
    F32,
    F16,
    Bf16,
}

impl Stored {
    fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Place {
    Cpu,
    Cuda,
    Metal,
}

impl Place {
    fn device(self) -> candle_core::Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda => open_cuda(0),
            Self::Metal => Device::new_metal(0),
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Operations {
    /// The fastest on the device
    Fastest,
    /// Composed of candle's
    Composed,
}

impl Operations {
    fn on(self, placement: Placement) -> Placement {
        match self {
            Self::Fastest => placement,
            Self::Composed => Placement {
                backend: Backend::Composed,
                ..placement
            },
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Strips {
    Auto,
    On,
    Off,
}

impl Strips {
    fn tiling(self) -> Tiling {
        match self {
            Self::Auto => Tiling::Auto,
            Self::On => Tiling::On,
            Self::Off => Tiling::Off,
        }
    }
}

/// One measurement.
#[derive(Clone, Copy)]
pub(crate) struct Case<'a> {
    what: What,
    family: Family,
    size: usize,
    storage: &'a Placement,
    rows: usize,
    tiling: Tiling,
    model: Option<&'a PathBuf>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads)
        .build_global()?;
    let device = options.device.device()?;
    let storages = options
        .dtype
        .iter()
        .map(|dtype| Placement::new(dtype.dtype(), device.clone()))
        .map(|placement| options.backend.on(placement));
    let storages: Vec<_> = storages.collect();
    let mut lines = Vec::new();
    for case in cases(&options, &storages) {
        let line = measure(case, options.threads, options.runs, options.profile)?;
        match options.json {
            true => println!("{}", line.json()),
            false => eprintln!("{} {:.3} s", line.name(), line.median()),
        }
        lines.push(line);
    }
    if !options.json {
        println!("{}", Line::table(&lines));
    }
    Ok(())
}

/// Every combination that was asked for, and makes sense.
fn cases<'a>(options: &'a Options, storages: &'a [Placement]) -> Vec<Case<'a>> {
    let mut cases = Vec::new();
    for &what in &options.what {
        for &size in &options.size {
            for storage in storages {
                let rows = what.rows().map_or(options.rows.clone(), |rows| vec![rows]);
                cases.extend(rows.into_iter().map(|rows| Case {
                    what,
                    family: options.family,
                    size,
                    storage,
                    rows,
                    tiling: options.vae_tiling.tiling(),
                    model: options.model.as_ref(),
                }));
            }
        }
    }
    cases
}
