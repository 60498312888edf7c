//! Clock, memory, and the printed lines.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use candle_core::{Device, Tensor};
use icd::{
    kernel::{
        Arithmetic, Epilogue, PackedLinear, linear, peak_flops,
        profile::{self, Spent},
    },
    nn::Placement,
};
use serde_json::{Value, json};

use super::{
    Case, Family,
    work::{Laps, What},
};

/// The figures of one measurement.
pub(crate) struct Line {
    name: String,
    about: Value,
    seconds: Vec<f64>,
    parts: Vec<(String, f64)>,
    flops: Option<f64>,
    setup: f64,
    peak: f64,
    run_peak: f64,
    busy: f64,
}

/// Builds the work and runs it, once untimed, except for a whole edit.
pub(crate) fn measure(case: Case, threads: usize, runs: usize, profiled: bool) -> Result<Line> {
    let memory = Peak::new();
    let start = Instant::now();
    let mut run = case.what.build(case)?;
    let setup = start.elapsed().as_secs_f64();
    let whole = case.what == What::Edit;
    if !whole {
        run()?;
    }
    let (running, clock, processor) = (Peak::new(), Instant::now(), processor_seconds());
    let mut laps = Vec::new();
    let runs = if whole { 1 } else { runs };
    if profiled {
        profile::start();
    }
    for _ in 0..runs {
        laps.push(run()?);
    }
    if profiled {
        eprintln!(
            "{}",
            profile_table(&profile::finish(), runs, peak_gigaflops(case.storage)?)
        );
    }
    let busy = (processor_seconds() - processor) / clock.elapsed().as_secs_f64();
    let seconds: Vec<f64> = laps.iter().map(Laps::total).collect();
    Ok(Line {
        name: case.name(),
        about: case.about(threads),
        parts: Laps::medians(&laps),
        flops: case.what.flops(case),
        seconds,
        setup,
        peak: memory.gib(),
        run_peak: running.gib(),
        busy,
    })
}

/// What each operation takes of a run, and how near it comes to the fastest
/// matrix product of this machine.
fn profile_table(spent: &BTreeMap<String, Spent>, runs: usize, peak: f64) -> String {
    let mut rows: Vec<_> = spent.iter().collect();
    rows.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
    let all: f64 = spent.values().map(|spent| spent.seconds).sum();
    let row = |(name, spent): &(&String, &Spent)| {
        let (ms, share) = (
            1e3 * spent.seconds / runs as f64,
            100.0 * spent.seconds / all,
        );
        let speed = spent.flops / spent.seconds / 1e9;
        let (calls, of_peak) = (spent.calls / runs, 100.0 * speed / peak);
        format!("\n| {name} | {calls} | {ms:.1} | {share:.1} | {speed:.0} | {of_peak:.0} |")
    };
    let head = "| operation | calls | ms | % of all | GFLOP/s | % of peak |\n|---|---:|---:|---:|---:|---:|";
    let rows: String = rows.iter().map(row).collect();
    format!(
        "{head}{rows}\n\npeak: {peak:.0} GFLOP/s, the best of a product that stays in the caches"
    )
}

/// The fastest of some matrix products that stay in the caches, or the loop of the unit that
/// multiplies bf16.
fn peak_gigaflops(placement: &Placement) -> Result<f64> {
    if let Arithmetic::Bf16(unit) = placement.arithmetic() {
        return Ok(peak_flops(unit) / 1e9);
    }
    let (rows, inputs, outputs) = (1536, 288, 288);
    let normal = |shape| Tensor::randn(0f32, 1.0, shape, &Device::Cpu);
    let (x, weight) = (normal((rows, inputs))?, normal((outputs, inputs))?);
    let dense = Arc::new(PackedLinear::new(&weight)?);
    let mut best = f64::INFINITY;
    for _ in 0..200 {
        let start = Instant::now();
        linear(&x, &dense, Epilogue::default())?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * (rows * inputs * outputs) as f64 / best / 1e9)
}

impl Case<'_> {
    fn name(&self) -> String {
        let (size, rows, dtype) = (self.size, self.rows, self.storage.dtype);
        format!("{} {size} px, {rows} rows, {dtype:?}", self.what.name())
    }

    fn about(&self, threads: usize) -> Value {
        let family = match self.family {
            Family::Sd15 => "sd15",
            Family::Sdxl => "sdxl",
        };
        let dtype = self.storage.dtype.as_str();
        let device = match self.storage.device {
            Device::Cpu => "cpu",
            Device::Cuda(_) => "cuda",
            Device::Metal(_) => "metal",
        };
        json!({"side": "icd", "what": self.what.name(), "family": family, "size": self.size,
               "rows": self.rows, "dtype": dtype,
               "products": self.storage.arithmetic().name(), "device": device, "threads": threads})
    }
}

impl Line {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn median(&self) -> f64 {
        median(self.seconds.clone())
    }

    fn gigaflops(&self) -> Option<f64> {
        self.flops.map(|flops| flops / self.median() / 1e9)
    }

    pub(crate) fn json(&self) -> Value {
        let best = self.seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let parts: serde_json::Map<_, _> = self
            .parts
            .iter()
            .map(|(name, seconds)| (name.clone(), json!(seconds)))
            .collect();
        let mut line = self.about.clone();
        line["median_s"] = json!(self.median());
        line["best_s"] = json!(best);
        line["runs"] = json!(self.seconds);
        line["gflops"] = json!(self.gigaflops());
        line["setup_s"] = json!(self.setup);
        line["peak_gib"] = json!(self.peak);
        line["run_peak_gib"] = json!(self.run_peak);
        line["busy_cores"] = json!(self.busy);
        if parts.len() > 1 {
            line["parts"] = Value::Object(parts);
        }
        line
    }

    /// All lines as a markdown table.
    pub(crate) fn table(lines: &[Self]) -> String {
        let head = "| what | s | GFLOP/s | GiB | set-up s |\n|---|---:|---:|---:|---:|";
        let row = |line: &Line| {
            let speed = line.gigaflops().map_or("-".into(), |g| format!("{g:.0}"));
            let (name, seconds) = (&line.name, line.median());
            let mut rows = format!(
                "\n| {name} | {seconds:.3} | {speed} | {:.2} | {:.1} |",
                line.peak, line.setup
            );
            if line.parts.len() > 1 {
                let part = |(part, s): &(String, f64)| format!("\n| .. {part} | {s:.3} | | | |");
                rows.extend(line.parts.iter().map(part));
            }
            rows
        };
        head.to_owned() + &lines.iter().map(row).collect::<String>()
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() % 2 {
        1 => values[half],
        _ => f64::midpoint(values[half - 1], values[half]),
    }
}

/// The highest anonymous resident memory of this process, sampled from a
/// thread (Linux; elsewhere 0).
struct Peak {
    done: Arc<AtomicBool>,
    watcher: thread::JoinHandle<f64>,
}

impl Peak {
    fn new() -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let told = done.clone();
        let watcher = thread::spawn(move || {
            let mut highest = anonymous_gib();
            while !told.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(10));
                highest = anonymous_gib().max(highest);
            }
            highest
        });
        Self { done, watcher }
    }

    fn gib(self) -> f64 {
        self.done.store(true, Ordering::Relaxed);
        self.watcher.join().unwrap_or_default()
    }
}

fn anonymous_gib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = kib.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or_default() / f64::from(1 << 20)
}

/// Seconds that all threads have run so far (Linux; elsewhere 0).
fn processor_seconds() -> f64 {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten();
    let of_task = |task: std::io::Result<fs::DirEntry>| {
        let times = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        times.split(' ').next()?.parse::<f64>().ok()
    };
    tasks.filter_map(of_task).sum::<f64>() / 1e9
}
