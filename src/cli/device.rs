//! Where the networks run.

use anyhow::{Context, Result};
use candle_core::{Device, DeviceLocation};
use icd::Error;

/// The device of that name, or for `auto` the best that works. `tell` hears why
/// one that this program was built for is passed over.
pub(super) fn device(name: &str, tell: &dyn Fn(&str)) -> Result<Device> {
    match name {
        "auto" => return Ok(best(tell)),
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

/// How a device is called on stderr.
pub(super) fn name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => format!("cpu, {} threads", rayon::current_num_threads()),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// The first accelerator that works, else the CPU.
fn best(tell: &dyn Fn(&str)) -> Device {
    let built = ACCELERATORS.iter().filter(|accelerator| accelerator.built);
    let mut working = built.filter_map(|accelerator| {
        let told = |error: &anyhow::Error| {
            let name = accelerator.name;
            let reason = error.to_string();
            let reason = reason.lines().next().unwrap_or_default(); // no backtrace
            tell(&format!("device: {name} does not work here: {reason}"));
        };
        accelerator.open(0).inspect_err(told).ok()
    });
    working.next().unwrap_or(Device::Cpu)
}

/// A kind of device beside the CPU.
struct Accelerator {
    name: &'static str,
    /// Whether this program was built for it.
    built: bool,
    new: fn(usize) -> candle_core::Result<Device>,
}

const ACCELERATORS: [Accelerator; 2] = [
    Accelerator {
        name: "cuda",
        built: cfg!(feature = "cuda"),
        // One stream for all threads: candle's other way gives each its own, in no order.
        new: Device::new_cuda_with_stream,
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
