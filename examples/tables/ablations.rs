//! Adapter pairs that were distilled in other ways, a folder each.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use candle_core::DType;
use icd::model::ModelChoice;

use super::bench::{Way, open};

/// The ways of the adapter pairs in the folders of `folder`, in the order of
/// their names, which say what they are.
pub(crate) fn ways(model: &str, folder: &Path) -> Result<Vec<(String, Way)>> {
    let folders = listed(folder)?.into_iter().filter(|path| path.is_dir());
    let way = |folder: PathBuf| {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let (_order, name) = name.split_once('_').unwrap_or(("", &name));
        let way = Way::of(&open(
            ModelChoice {
                model: model.into(),
                forward_adapter: Some(adapter(&folder, "forward")?),
                reverse_adapter: Some(adapter(&folder, "reverse")?),
                ..ModelChoice::default()
            },
            DType::F32,
        )?)?;
        Ok((name.replace('_', " "), way))
    };
    folders.map(way).collect()
}

/// The adapter of a direction, as `icd distill` names it.
fn adapter(folder: &Path, direction: &str) -> Result<String> {
    let is = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(direction) && name.ends_with(".safetensors")
    };
    let found = listed(folder)?.into_iter().find(is);
    let found = found.with_context(|| format!("{}: no {direction} adapter", folder.display()))?;
    Ok(found.display().to_string())
}

fn listed(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths: Vec<_> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    paths.sort();
    Ok(paths)
}
