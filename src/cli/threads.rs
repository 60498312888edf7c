//! candle's own thread pool.

use std::{env, process::Command};

/// The number of threads that candle splits its operations among.
const THREADS: &str = "CANDLE_NUM_THREADS";

/// Starts the program anew with candle on a single thread, unless the person
/// has said how many it has. While candle waits for its threads it spins, which
/// takes the cores from parts of a step that are learnt side by side; it reads
/// their number from the environment alone, before its first operation. Where
/// that cannot be done the program goes on, slower.
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
    let _ = command.exec(); // comes back only where it failed
}

#[cfg(not(unix))]
fn replace_by(_: &mut Command) {}
