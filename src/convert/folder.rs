//! The output of a conversion: a file, or a UNet's folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Conversion, Input, Kind, input::CONFIG};
use crate::{
    error::{Error, Result},
    io::{Existing, write_file},
};

/// The weights file of a UNet in the diffusers layout.
const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// File extensions that are refused as output.
const OTHERS: [&str; 6] = ["pt", "pth", "bin", "ckpt", "onnx", "json"];

/// The output of a conversion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A safetensors file.
    File(PathBuf),
    /// A folder in the diffusers layout.
    Folder(PathBuf),
}

impl Output {
    /// Interprets `path`: a safetensors file by its extension, else a folder,
    /// which is allowed for a UNet only.
    pub fn of(path: &Path, input: &Input) -> Result<Self> {
        let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
        let ending = ending.to_string_lossy();
        let fault = |reason: String| Error::setting(format!("{}: {reason}", path.display()));
        match &ending[..] {
            "safetensors" if path.is_dir() => Err(fault("it is a folder".into())),
            "safetensors" => Ok(Self::File(path.into())),
            other if OTHERS.contains(&other) => {
                let reason = format!("only safetensors files are written, not .{other}");
                Err(fault(reason))
            }
            _ if input.kind() == Kind::Unet => Ok(Self::Folder(path.into())),
            _ => {
                let reason = "name a file that ends in .safetensors: only a UNet makes a folder";
                Err(fault(reason.into()))
            }
        }
    }

    /// The files that are written.
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::File(file) => vec![file.clone()],
            Self::Folder(folder) => vec![folder.join(CONFIG), folder.join(WEIGHTS)],
        }
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Folder(path) => path,
        }
    }

    /// Writes the conversion of `input`, and returns the size of the weights file.
    pub fn write(
        &self,
        input: &Input,
        conversion: &Conversion,
        existing: Existing,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<u64> {
        match self {
            Self::File(file) => conversion.write(file, existing, progress),
            Self::Folder(folder) => write_folder(folder, input, conversion, existing, progress),
        }
    }
}

fn write_folder(
    folder: &Path,
    input: &Input,
    conversion: &Conversion,
    existing: Existing,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<u64> {
    let config = config(input)?;
    let is_new = !folder.exists();
    if is_new {
        fs::create_dir(folder).map_err(|error| Error::io(folder, error))?;
    }
    let weights = conversion.write(&folder.join(WEIGHTS), existing, progress);
    let written = weights.and_then(|length| {
        write_file(&folder.join(CONFIG), &config, existing)?;
        Ok(length)
    });
    if written.is_err() && is_new {
        // Report the original error, not one of the cleanup.
        let _ = fs::remove_dir(folder);
    }
    written
}

/// The configuration next to a UNet's weights.
fn config(input: &Input) -> Result<Vec<u8>> {
    let found = input.config().map_err(|_| {
        let reason = "there is no config.json beside it, which a folder needs: put the UNet's \
                      there, or write to a .safetensors file";
        Error::config(input.checkpoint.file(), reason)
    })?;
    Ok(found.bytes()?.into_owned())
}
