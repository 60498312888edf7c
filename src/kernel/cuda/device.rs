//! Opening a GPU.

#![expect(unsafe_code, reason = "settings of the driver")]

use candle_core::{
    CudaDevice, Device, Result,
    cuda_backend::{
        WrapErr,
        cudarc::driver::{CudaContext, sys},
    },
};

use super::gpu::Gpu;
use crate::error::DeviceMemory;

/// Whether the kernels run on a device.
pub fn is_supported(device: &Device) -> bool {
    matches!(Gpu::of(device), Ok(Some(_)))
}

/// The number of GPUs.
pub fn count() -> Result<usize> {
    let count = CudaContext::device_count().w()?;
    Ok(usize::try_from(count).unwrap_or_default())
}

/// The memory of a GPU. What this program has freed counts as free.
pub fn memory(device: &Device) -> Option<DeviceMemory> {
    let Device::Cuda(device) = device else {
        return None;
    };
    let stream = device.cuda_stream();
    return_freed_memory(device).ok()?;
    let (free, total) = stream.context().mem_get_info().ok()?;
    Some(DeviceMemory {
        free: free as u64,
        total: total as u64,
    })
}

/// Opens a GPU for fast use: all threads launch on one stream, and freed memory is kept for
/// the next tensor.
pub fn open(ordinal: usize) -> Result<Device> {
    let device = CudaDevice::new_with_stream(ordinal)?;
    // SAFETY: events order the uses of memory on different streams. All work of this device
    // goes to the one stream that was just made, in the order of the calls.
    unsafe {
        device.disable_event_tracking();
    }
    keep_freed_memory(&device)?;
    Ok(Device::Cuda(device))
}

/// By default the driver returns freed memory to the system whenever the program waits
/// for the GPU, and maps it again for the next evaluation.
fn keep_freed_memory(device: &CudaDevice) -> Result<()> {
    let Some(pool) = pool(device)? else {
        return Ok(());
    };
    let mut kept = u64::MAX;
    let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the pool lives as long as the device, and the attribute's value is a 64-bit
    // number, which the call reads.
    unsafe { sys::cuMemPoolSetAttribute(pool, threshold, (&raw mut kept).cast()) }
        .result()
        .w()
}

/// Returns the freed memory that is kept.
fn return_freed_memory(device: &CudaDevice) -> Result<()> {
    let Some(pool) = pool(device)? else {
        return Ok(());
    };
    device.cuda_stream().synchronize().w()?;
    // SAFETY: the pool lives as long as the device; what is in use stays.
    unsafe { sys::cuMemPoolTrimTo(pool, 0) }.result().w()
}

/// The pool of a device's memory, if it has one.
fn pool(device: &CudaDevice) -> Result<Option<sys::CUmemoryPool>> {
    let stream = device.cuda_stream();
    let context = stream.context();
    if !context.has_async_alloc() {
        return Ok(None);
    }
    let mut pool = std::ptr::null_mut();
    // SAFETY: the device exists, and the call writes the handle of its default pool.
    unsafe { sys::cuDeviceGetDefaultMemPool(&raw mut pool, context.cu_device()) }
        .result()
        .w()?;
    Ok(Some(pool))
}
