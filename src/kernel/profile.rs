//! A profile by operation.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use candle_core::{Result, Tensor};

static ON: AtomicBool = AtomicBool::new(false);
static TABLE: Mutex<BTreeMap<String, Spent>> = Mutex::new(BTreeMap::new());

/// The cost of an operation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// Number of calls.
    pub calls: usize,
    /// Total time in seconds.
    pub seconds: f64,
    /// Number of multiplications and additions of the plain algorithm.
    pub flops: f64,
}

/// Starts a new profile.
pub fn start() {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner).clear();
    ON.store(true, Ordering::Relaxed);
}

/// Ends the profile and returns the operations by name.
pub fn finish() -> BTreeMap<String, Spent> {
    ON.store(false, Ordering::Relaxed);
    std::mem::take(&mut TABLE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Runs `work` and records its time if profiling is on. `about` returns the name and the
/// number of floating point operations for the output.
pub(crate) fn of(
    about: impl FnOnce(&Tensor) -> (String, f64),
    work: impl FnOnce() -> Result<Tensor>,
) -> Result<Tensor> {
    if !ON.load(Ordering::Relaxed) {
        return work();
    }
    let start = Instant::now();
    let result = work()?;
    let seconds = start.elapsed().as_secs_f64();
    let (name, flops) = about(&result);
    let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    let spent = table.entry(name).or_default();
    spent.calls += 1;
    spent.seconds += seconds;
    spent.flops += flops;
    Ok(result)
}
