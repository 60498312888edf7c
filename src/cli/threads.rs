//! candle's own thread pool.

use std::{env, process::Command};

/// The variable for the number of threads that candle uses per operation.
const THREADS: &str = "CANDLE_NUM_THREADS";

/// Re-executes the program with candle limited to a single thread, unless the
/// user has set the variable. candle's threads busy-wait, which takes cores from
/// the parts of a training step that run in parallel; candle reads their number
/// only from the environment, before its first operation. If re-executing fails,
/// the program continues, slower.
pub(crate) fn leave_candle_one_thread() {
    if env::var_os(THREADS).is_some() {
        return;
    }
    if let Ok(program) = env::current_exe() {
        let mut again = Command::new(program);
        again.args(env::args_os().skip(1)).env(THREADS, "1");
        replace_by(&mut again);
    }
}

#[cfg(unix)]
fn replace_by(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    let _ = command.exec(); // returns only on failure
}

#[cfg(not(unix))]
fn replace_by(_: &mut Command) {}
