//! The device, data type and backend of a network.

use std::sync::OnceLock;

use candle_core::{DType, Device, Result};

#[cfg(feature = "cuda")]
use super::ops::Cuda;
use super::ops::{Composed, Metal, Ops, Packed};
#[cfg(feature = "cuda")]
use crate::kernel::cuda;
use crate::{error::DeviceMemory, kernel::Arithmetic};

/// The implementation of the operations of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The CPU kernels, in the [`Arithmetic`] for the type of the weights.
    Packed,
    /// candle's operations in the type of the weights, on any device.
    Composed,
    /// The same with candle's fused kernels for Metal.
    Metal,
    /// The CUDA kernels, in the type of the weights; candle's operations for what they do not
    /// take, as products in f32.
    #[cfg(feature = "cuda")]
    Cuda,
}

/// The device, data type and backend of a network.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The type of the stored weights: f32, f16 or bf16.
    pub dtype: DType,
    /// The device of the weights.
    pub device: Device,
    /// The backend of the layers.
    pub backend: Backend,
}

impl Placement {
    /// Places a network on a device, with the fastest backend.
    pub fn new(dtype: DType, device: Device) -> Self {
        let backend = match device {
            Device::Cpu => Backend::Packed,
            #[cfg(feature = "cuda")]
            Device::Cuda(_) if cuda::is_supported(&device) => Backend::Cuda,
            Device::Metal(_) => Backend::Metal,
            Device::Cuda(_) => Backend::Composed,
        };
        Self {
            dtype,
            device,
            backend,
        }
    }

    /// f32 on the CPU.
    pub fn cpu_f32() -> Self {
        Self::new(DType::F32, Device::Cpu)
    }

    /// The same with weights in f32.
    pub fn in_f32(&self) -> Self {
        Self {
            dtype: DType::F32,
            ..self.clone()
        }
    }

    /// How the CPU kernels compute products.
    pub fn arithmetic(&self) -> Arithmetic {
        match self.backend {
            Backend::Packed => Arithmetic::of(self.dtype),
            Backend::Composed | Backend::Metal => Arithmetic::F32,
            #[cfg(feature = "cuda")]
            Backend::Cuda => Arithmetic::F32,
        }
    }

    /// The placement of a network's first and last convolutions: in f32 where products round
    /// to bf16, because they are small and their rounding errors affect every pixel.
    pub fn of_ends(&self) -> Self {
        match self.arithmetic() {
            Arithmetic::F32 => self.clone(),
            Arithmetic::Bf16(_) => self.in_f32(),
        }
    }

    /// The backend's operations.
    pub fn ops(&self) -> &'static dyn Ops {
        match self.backend {
            Backend::Packed => packed(self.arithmetic()),
            Backend::Composed => &Composed,
            Backend::Metal => &Metal,
            #[cfg(feature = "cuda")]
            Backend::Cuda => &Cuda,
        }
    }

    /// The type of the activations.
    pub fn compute_dtype(&self) -> DType {
        self.ops().compute_dtype(self.dtype)
    }
}

/// The number of NVIDIA's GPUs; none without the feature `cuda`.
pub fn cuda_count() -> Result<usize> {
    #[cfg(feature = "cuda")]
    let count = cuda::count();
    #[cfg(not(feature = "cuda"))]
    let count = Ok(0);
    count
}

/// The memory of a GPU of NVIDIA's, with the feature `cuda`.
#[cfg_attr(
    not(feature = "cuda"),
    expect(unused_variables, reason = "no GPU tells")
)]
pub fn device_memory(device: &Device) -> Option<DeviceMemory> {
    #[cfg(feature = "cuda")]
    let memory = cuda::memory(device);
    #[cfg(not(feature = "cuda"))]
    let memory = None;
    memory
}

/// The CPU kernels in an arithmetic, of which a process has two at most.
fn packed(arithmetic: Arithmetic) -> &'static Packed {
    static ROUNDED: OnceLock<Packed> = OnceLock::new();
    match arithmetic {
        Arithmetic::F32 => &Packed::F32,
        Arithmetic::Bf16(_) => ROUNDED.get_or_init(|| Packed(arithmetic)),
    }
}

/// Opens a GPU of NVIDIA's with one stream for all threads.
pub fn open_cuda(ordinal: usize) -> Result<Device> {
    #[cfg(feature = "cuda")]
    let device = cuda::open(ordinal);
    #[cfg(not(feature = "cuda"))]
    let device = Device::new_cuda_with_stream(ordinal); // the reason why there is none
    device
}
