//! The device that the networks run on.

use std::{num::NonZero, thread};

use anyhow::{Context, Result, ensure};
use candle_core::{Device, DeviceLocation};
use clap::Args;
use icd::Error;

/// Most threads for each core.
const PER_CORE: usize = 4;

/// The name of all NVIDIA's GPUs.
const ALL_CUDA: &str = "cuda:all";

/// Bytes of a thread's stack, whatever `RUST_MIN_STACK` says.
const STACK: usize = 2 << 20;

/// Where the networks run.
#[derive(Args, Clone, Debug)]
pub(crate) struct DeviceArgs {
    /// auto, cpu, cuda[:N] or metal[:N]; for `icd batch` also cuda:all, a worker on each GPU.
    #[arg(
        long,
        env = "ICD_DEVICE",
        hide_env_values = true,
        default_value = "auto",
        value_parser = checked_name
    )]
    device: String,
    /// CPU threads, at most 4 per core; as many as cores by default.
    #[arg(
        long,
        env = "ICD_THREADS",
        hide_env_values = true,
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..=1024)
    )]
    threads: Option<u16>,
}

impl DeviceArgs {
    /// Starts the CPU threads and opens the device; `note` receives the reason if a
    /// device that this program was built for is not usable.
    pub(crate) fn open(&self, note: &dyn Fn(&str)) -> Result<Device> {
        let reason = "--device cuda:all is for icd batch: name one GPU, as in cuda:0";
        ensure!(self.device != ALL_CUDA, Error::setting(reason));
        self.start_threads(note)?;
        device(&self.device, note)
    }

    /// Starts the CPU threads and opens all devices that the flag names, one or more.
    pub(crate) fn open_all(&self, note: &dyn Fn(&str)) -> Result<Vec<Device>> {
        if self.device != ALL_CUDA {
            return Ok(vec![self.open(note)?]);
        }
        self.start_threads(note)?;
        all_cuda().with_context(|| unusable(ALL_CUDA))
    }

    fn start_threads(&self, note: &dyn Fn(&str)) -> Result<()> {
        let threads = self.threads(note);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let pool = pool.stack_size(STACK);
        pool.build_global()
            .with_context(|| format!("{threads} threads cannot be started: use fewer --threads"))
    }

    /// The number of CPU threads. Many more than cores would wait for each other: 1024 on 2
    /// cores take 200 times as long.
    fn threads(&self, note: &dyn Fn(&str)) -> usize {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let (wanted, most) = (self.threads.map_or(cores, usize::from), cores * PER_CORE);
        if wanted > most {
            note(&format!(
                "--threads {wanted}: {most} are used, {PER_CORE} per core"
            ));
        }
        wanted.min(most)
    }
}

/// A device's name, if it is one.
fn checked_name(name: &str) -> Result<String, Error> {
    let (kind, index) = name.split_once(':').unwrap_or((name, "0"));
    let is_numbered = ["cuda", "metal"].contains(&kind) && index.parse::<usize>().is_ok();
    match is_numbered || ["auto", "cpu", ALL_CUDA].contains(&name) {
        true => Ok(name.to_owned()),
        false => Err(Error::setting(
            "write auto, cpu, cuda, cuda:1, metal or metal:1",
        )),
    }
}

/// The device with this name, or for `auto` the best available one.
fn device(name: &str, note: &dyn Fn(&str)) -> Result<Device> {
    match name {
        "auto" => return Ok(best(note)),
        "cpu" => return Ok(Device::Cpu),
        _ => {}
    }
    let (kind, index) = name.split_once(':').unwrap_or((name, "0"));
    accelerator(kind, index.parse().unwrap_or(0)).with_context(|| unusable(name))
}

fn unusable(name: &str) -> String {
    format!("--device {name} cannot be used; --device cpu always can")
}

/// All GPUs of NVIDIA's, at least one.
fn all_cuda() -> Result<Vec<Device>> {
    check_built("cuda")?;
    let count = icd::nn::cuda_count()?;
    ensure!(count > 0, Error::setting("no GPU of NVIDIA's is found"));
    (0..count).map(|index| accelerator("cuda", index)).collect()
}

/// The display name of a device.
pub(crate) fn name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => match rayon::current_num_threads() {
            1 => "cpu, 1 thread".to_owned(),
            threads => format!("cpu, {threads} threads"),
        },
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// The first usable accelerator, else the CPU.
fn best(note: &dyn Fn(&str)) -> Device {
    let mut working = BUILT.iter().filter_map(|name| {
        let report = |error: &anyhow::Error| {
            let reason = error.to_string();
            let reason = reason.lines().next().unwrap_or_default(); // no backtrace
            note(&format!("device: {name} does not work here: {reason}"));
        };
        accelerator(name, 0).inspect_err(report).ok()
    });
    working.next().unwrap_or(Device::Cpu)
}

/// The accelerators that this program was built for.
const BUILT: &[&str] = &[
    #[cfg(feature = "cuda")]
    "cuda",
    #[cfg(feature = "metal")]
    "metal",
];

/// Fails for a kind of accelerator that this program was not built for.
fn check_built(name: &str) -> Result<()> {
    let absent =
        || format!("this icd was built without {name}: cargo install --path . --features {name}");
    ensure!(BUILT.contains(&name), Error::setting(absent()));
    Ok(())
}

fn accelerator(name: &str, index: usize) -> Result<Device> {
    check_built(name)?;
    Ok(match name {
        "metal" => Device::new_metal(index)?,
        // One stream for all threads: `new_cuda` gives each its own, unsynchronised.
        _ => icd::nn::open_cuda(index)?,
    })
}
