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

/// Whether the kernels run on a device.
pub fn is_supported(device: &Device) -> bool {
    matches!(Gpu::of(device), Ok(Some(_)))
}

/// The number of GPUs.
pub fn count() -> Result<usize> {
    let count = CudaContext::device_count().w()?;
    Ok(usize::try_from(count).unwrap_or_default())
}

/// Bytes of a GPU's memory that are free, and all.
pub fn memory(device: &Device) -> Option<[u64; 2]> {
    let Device::Cuda(device) = device else {
        return None;
    };
    let context = device.cuda_stream().context().clone();
    let (free, all) = context.mem_get_info().ok()?;
    Some([free as u64, all as u64])
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
    let stream = device.cuda_stream();
    let context = stream.context();
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut pool = std::ptr::null_mut();
    let mut kept = u64::MAX;
    let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device exists, its default pool lives as long, and the attribute's value
    // is a 64-bit number, which the call reads.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&raw mut pool, context.cu_device())
            .result()
            .w()?;
        sys::cuMemPoolSetAttribute(pool, threshold, (&raw mut kept).cast())
            .result()
            .w()?;
    }
    Ok(())
}
