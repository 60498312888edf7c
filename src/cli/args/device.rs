//! The device that the networks run on.

use anyhow::{Context, Result};
use candle_core::{Device, DeviceLocation};
use clap::Args;
use icd::Error;

/// Where the networks run.
#[derive(Args, Clone, Debug)]
pub(crate) struct DeviceArgs {
    /// auto, cpu, cuda[:N] or metal[:N].
    #[arg(
        long,
        env = "ICD_DEVICE",
        hide_env_values = true,
        default_value = "auto"
    )]
    device: String,
    /// CPU threads; all cores by default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl DeviceArgs {
    /// Starts the CPU threads and opens the device; `note` receives the reason if a
    /// device that this program was built for is not usable.
    pub(crate) fn open(&self, note: &dyn Fn(&str)) -> Result<Device> {
        let threads = self.threads.map_or(0, usize::from); // 0: as many as cores
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build_global()?;
        device(&self.device, note)
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
    let unknown = || {
        Error::setting(format!(
            "--device {name}: write auto, cpu, cuda, cuda:1, metal or metal:1"
        ))
    };
    let index: usize = index.parse().map_err(|_| unknown())?;
    let accelerator = Accelerator::named(kind).ok_or_else(unknown)?;
    accelerator
        .open(index)
        .with_context(|| format!("--device {name} cannot be used; --device cpu always can"))
}

/// The display name of a device.
pub(crate) fn name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => format!("cpu, {} threads", rayon::current_num_threads()),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// The first usable accelerator, else the CPU.
fn best(note: &dyn Fn(&str)) -> Device {
    let built = ACCELERATORS.iter().filter(|accelerator| accelerator.built);
    let mut working = built.filter_map(|accelerator| {
        let report = |error: &anyhow::Error| {
            let name = accelerator.name;
            let reason = error.to_string();
            let reason = reason.lines().next().unwrap_or_default(); // no backtrace
            note(&format!("device: {name} does not work here: {reason}"));
        };
        accelerator.open(0).inspect_err(report).ok()
    });
    working.next().unwrap_or(Device::Cpu)
}

/// A kind of device other than the CPU.
struct Accelerator {
    name: &'static str,
    /// Whether this program was built with support for it.
    built: bool,
    new: fn(usize) -> candle_core::Result<Device>,
}

const ACCELERATORS: [Accelerator; 2] = [
    Accelerator {
        name: "cuda",
        built: cfg!(feature = "cuda"),
        // One stream for all threads: `new_cuda` gives each its own, unsynchronised.
        new: icd::nn::open_cuda,
    },
    Accelerator {
        name: "metal",
        built: cfg!(feature = "metal"),
        new: Device::new_metal,
    },
];

impl Accelerator {
    fn named(name: &str) -> Option<&'static Self> {
        ACCELERATORS.iter().find(|known| known.name == name)
    }

    fn open(&self, index: usize) -> Result<Device> {
        if !self.built {
            let name = self.name;
            let reason = format!(
                "this icd was built without {name}: cargo install --path . --features {name}"
            );
            return Err(Error::setting(reason).into());
        }
        Ok((self.new)(index)?)
    }
}
