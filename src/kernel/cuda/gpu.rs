//! A GPU, the kernels that are loaded on it, and their launches.

#![expect(unsafe_code, reason = "launches on a GPU, and their memory")]

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use candle_core::{
    CudaDevice, CudaStorage, DType, Device, Layout, Result, Shape, Storage, Tensor,
    backend::BackendDevice,
    bail,
    cuda_backend::{
        CudaStorageSlice, DeviceId, WrapErr,
        cudarc::{
            driver::{
                CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, DevicePtrMut,
                LaunchConfig, PushKernelArg, SyncOnDrop, sys,
            },
            nvrtc::Ptx,
        },
    },
    op::BackpropOp,
};

/// The oldest compute capability (major) with the instructions of the kernels: products of
/// bf16 and asynchronous copies.
const OLDEST: i32 = 8;

/// Bytes of shared memory that a block has without asking for more.
const SHARED_BY_DEFAULT: u32 = 48 << 10;

/// The largest grid along its second and third axis.
const LARGEST_GRID: usize = 65535;

/// A compiled source file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Module {
    Gemm,
    Rows,
    Attention,
    Norm,
}

impl Module {
    /// The compiler's output: PTX and, where the build names an architecture, machine code.
    fn image(self) -> &'static [u8] {
        match self {
            Self::Gemm => include_bytes!(concat!(env!("OUT_DIR"), "/gemm.fatbin")),
            Self::Rows => include_bytes!(concat!(env!("OUT_DIR"), "/rows.fatbin")),
            Self::Attention => include_bytes!(concat!(env!("OUT_DIR"), "/attention.fatbin")),
            Self::Norm => include_bytes!(concat!(env!("OUT_DIR"), "/norm.fatbin")),
        }
    }
}

/// A kernel and the resources of its blocks.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    pub(super) module: Module,
    pub(super) name: String,
    /// Threads of a block.
    pub(super) threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub(super) shared: u32,
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Argument {
    /// `T*`; 0 is absent.
    Pointer(u64),
    /// `int`.
    Int(i32),
    /// `long long`.
    Long(i64),
    /// `float`.
    Float(f32),
}

impl Argument {
    /// A size, which [`takes`](super::operand::takes) has checked.
    pub(super) fn int(size: usize) -> Self {
        Self::Int(size as i32)
    }
}

/// The kernels of one GPU.
#[derive(Debug)]
pub(super) struct Gpu {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    multiprocessors: usize,
    loaded: Mutex<Loaded>,
}

/// What has been used so far.
#[derive(Debug, Default)]
struct Loaded {
    modules: HashMap<Module, Arc<CudaModule>>,
    functions: HashMap<String, CudaFunction>,
}

/// The GPUs in use, or `None` for those that are too old.
static GPUS: LazyLock<Mutex<HashMap<DeviceId, Option<Arc<Gpu>>>>> = LazyLock::new(Mutex::default);

impl Gpu {
    /// The GPU behind a device, if it is one that runs the kernels.
    pub(super) fn of(device: &Device) -> Result<Option<Arc<Self>>> {
        let Device::Cuda(device) = device else {
            return Ok(None);
        };
        let mut gpus = GPUS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = gpus.get(&device.id()) {
            return Ok(known.clone());
        }
        let gpu = Self::new(device)?.map(Arc::new);
        gpus.insert(device.id(), gpu.clone());
        Ok(gpu)
    }

    fn new(device: &CudaDevice) -> Result<Option<Self>> {
        let stream = device.cuda_stream();
        let context = stream.context();
        if context.compute_capability().w()?.0 < OLDEST {
            return Ok(None);
        }
        let count = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = context.attribute(count).w()?;
        Ok(Some(Self {
            device: device.clone(),
            multiprocessors: multiprocessors.max(1) as usize,
            stream,
            loaded: Mutex::default(),
        }))
    }

    /// Number of multiprocessors.
    pub(super) fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// Calls `work` with the addresses of tensors on this GPU, 0 for absent ones.
    pub(super) fn with<const N: usize, R>(
        &self,
        tensors: [Option<&Tensor>; N],
        work: impl FnOnce([Argument; N]) -> Result<R>,
    ) -> Result<R> {
        let held = tensors.map(|x| x.map(Tensor::storage_and_layout));
        let (mut pointers, mut guards) = ([Argument::Pointer(0); N], Vec::with_capacity(N));
        for (pointer, held) in pointers.iter_mut().zip(&held) {
            if let Some((storage, layout)) = held {
                let (address, guard) = self.address(storage, layout)?;
                *pointer = Argument::Pointer(address);
                guards.push(guard);
            }
        }
        work(pointers) // the guards end after the launch
    }

    /// The address of the first value, and a guard of its use.
    fn address<'a>(
        &'a self,
        storage: &'a Storage,
        layout: &Layout,
    ) -> Result<(u64, SyncOnDrop<'a>)> {
        let storage = match storage {
            Storage::Cuda(storage) if storage.device.id() == self.device.id() => storage,
            _ => bail!("the arguments of a kernel are on different devices"),
        };
        let stream = &self.stream;
        let (base, guard) = match &storage.slice {
            CudaStorageSlice::F16(x) => x.device_ptr(stream),
            CudaStorageSlice::BF16(x) => x.device_ptr(stream),
            CudaStorageSlice::F32(x) => x.device_ptr(stream),
            _ => bail!("the CUDA kernels take f32, f16 and bf16"),
        };
        let offset = layout.start_offset() * bytes(storage);
        Ok((base + offset as u64, guard))
    }

    /// A tensor whose values `work` writes to an address.
    pub(super) fn filled(
        &self,
        shape: impl Into<Shape>,
        dtype: DType,
        work: impl FnOnce(Argument) -> Result<()>,
    ) -> Result<Tensor> {
        let shape = shape.into();
        // SAFETY: the kernels write every value of their output.
        let mut storage = unsafe { self.device.alloc_uninit(&shape, dtype)? };
        let stream = &self.stream;
        let (address, guard) = match &mut storage.slice {
            CudaStorageSlice::F16(y) => y.device_ptr_mut(stream),
            CudaStorageSlice::BF16(y) => y.device_ptr_mut(stream),
            CudaStorageSlice::F32(y) => y.device_ptr_mut(stream),
            _ => bail!("the CUDA kernels write f32, f16 and bf16"),
        };
        work(Argument::Pointer(address))?;
        drop(guard);
        Ok(Tensor::from_storage(
            Storage::Cuda(storage),
            shape,
            BackpropOp::none(),
            false,
        ))
    }

    /// Calls `work` with the address of `count` values in f32 for intermediate results.
    pub(super) fn with_scratch<R>(
        &self,
        count: usize,
        work: impl FnOnce(Argument) -> Result<R>,
    ) -> Result<R> {
        // SAFETY: the kernels write what they read of it.
        let mut scratch: CudaSlice<f32> = unsafe { self.device.alloc(count)? };
        let (address, guard) = scratch.device_ptr_mut(&self.stream);
        let done = work(Argument::Pointer(address));
        drop(guard);
        done
    }

    /// Launches a kernel on the device's stream, after all that was launched before.
    ///
    /// # Safety
    ///
    /// The arguments must be those that the source declares, in number, order and type, and
    /// the memory they point to must be as large as the kernel's comment states for them.
    pub(super) unsafe fn launch(
        &self,
        kernel: &Kernel,
        grid: [usize; 3],
        arguments: &[Argument],
    ) -> Result<()> {
        let [x, y, z] = grid;
        if y > LARGEST_GRID || z > LARGEST_GRID {
            bail!("{}: a grid of {grid:?} blocks is too large", kernel.name);
        }
        let function = self.function(kernel)?;
        let mut launch = self.stream.launch_builder(&function);
        for argument in arguments {
            match argument {
                Argument::Pointer(value) => launch.arg(value),
                Argument::Int(value) => launch.arg(value),
                Argument::Long(value) => launch.arg(value),
                Argument::Float(value) => launch.arg(value),
            };
        }
        let config = LaunchConfig {
            grid_dim: (x as u32, y as u32, z as u32),
            block_dim: (kernel.threads, 1, 1),
            shared_mem_bytes: kernel.shared,
        };
        // SAFETY: the caller's promise.
        unsafe { launch.launch(config) }.w()?;
        Ok(())
    }

    /// A kernel, loaded on first use.
    fn function(&self, kernel: &Kernel) -> Result<CudaFunction> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = loaded.functions.get(&kernel.name) {
            return Ok(function.clone());
        }
        let module = loaded.module(kernel.module, &self.stream)?;
        let function = module.load_function(&kernel.name).w()?;
        if kernel.shared > SHARED_BY_DEFAULT {
            let size = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(size, kernel.shared as i32).w()?;
        }
        loaded
            .functions
            .insert(kernel.name.clone(), function.clone());
        Ok(function)
    }
}

impl Loaded {
    fn module(&mut self, module: Module, stream: &CudaStream) -> Result<Arc<CudaModule>> {
        if let Some(loaded) = self.modules.get(&module) {
            return Ok(loaded.clone());
        }
        let image = Ptx::from_binary(module.image().to_vec());
        let loaded = stream.context().load_module(image).w()?;
        self.modules.insert(module, loaded.clone());
        Ok(loaded)
    }
}

/// Bytes of a value.
fn bytes(storage: &CudaStorage) -> usize {
    match storage.slice {
        CudaStorageSlice::F32(_) => 4,
        _ => 2,
    }
}
