//! A folder as a manifest: its pictures, with captions and masks beside them.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    Storage,
    job::{Entry, Fault, Job},
};
use crate::{
    error::{Error, Result},
    io::decoded_text,
};

/// Endings of pictures, in any case.
const PICTURES: [&str; 6] = ["png", "jpg", "jpeg", "webp", "gif", "bmp"];

/// The tags of files that are no pictures to edit: masks, and results that went into the
/// folder of their pictures.
const MASK: &str = "mask";
const RESULT: &str = "edited-";

/// A job for each picture of a folder, in the order of their names: `image`, its caption
/// `NAME.txt` as `src_prompt`, and `NAME.mask.png` as `mask` if there is one. A folder without
/// pictures is an error.
pub fn jobs_of_folder(storage: &dyn Storage, folder: &Path) -> Result<Vec<Entry>> {
    let files: BTreeSet<_> = storage.files(folder)?.into_iter().collect();
    let pictures = files.iter().filter(|file| is_picture(file));
    let jobs = pictures.map(|picture| job(picture, &files, storage));
    let jobs: Vec<_> = jobs.collect();
    if jobs.is_empty() {
        let reason = format!("there are no pictures in it ({})", PICTURES.join(", "));
        return Err(Error::config(folder, reason));
    }
    let entries = jobs.into_iter().enumerate();
    let entries = entries.map(|(index, content)| Entry {
        line: index + 1,
        content,
    });
    Ok(entries.collect())
}

fn is_picture(file: &Path) -> bool {
    let ending = file.extension().unwrap_or_default().to_ascii_lowercase();
    let stem = Path::new(file.file_stem().unwrap_or_default());
    let tag = stem.extension().unwrap_or_default().to_string_lossy();
    let is_hidden = stem.as_os_str().as_encoded_bytes().starts_with(b".");
    PICTURES.iter().any(|known| ending == *known)
        && !is_hidden
        && tag != MASK
        && !tag.starts_with(RESULT)
}

/// The job of a picture among the files of its folder.
fn job(picture: &Path, files: &BTreeSet<PathBuf>, storage: &dyn Storage) -> Result<Job, Fault> {
    let name = |path: &Path| Value::String(path.to_string_lossy().into_owned());
    let mut job = Job::from_iter([("image".to_owned(), name(picture))]);
    let mask = beside(picture, ".mask.png");
    if files.contains(&mask) {
        job.insert("mask".into(), name(&mask));
    }
    let caption = beside(picture, ".txt");
    let fault = |reason: String| Fault {
        kept: job.clone(),
        reason,
    };
    if picture.to_str().is_none() {
        return Err(fault("its name is not UTF-8: rename it".into()));
    }
    if !files.contains(&caption) {
        let name = caption.display();
        return Err(fault(format!(
            "{name}: a caption of the picture is missing"
        )));
    }
    let words = storage.read(&caption).and_then(|bytes| {
        let text = decoded_text(bytes);
        text.map_err(|reason| Error::config(&caption, reason))
    });
    let words = words.map_err(|error| fault(error.to_string()))?;
    job.insert("src_prompt".into(), words.trim().into());
    Ok(job)
}

/// `a/NAME` + ending, for a picture `a/NAME.png`.
fn beside(picture: &Path, ending: &str) -> PathBuf {
    let mut name = picture.file_stem().unwrap_or(OsStr::new("")).to_os_string();
    name.push(ending);
    picture.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::batch::Disk;

    #[test]
    fn captions_and_masks_belong_to_the_picture_of_their_name() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        for name in [
            "b.JPG",
            "a.png",
            "a.mask.png",
            "a.edited-01234567.png",
            "c.webp",
            ".d.png",
            "notes.md",
        ] {
            fs::write(at(name), "x").unwrap();
        }
        fs::write(at("a.txt"), "\u{feff}a bird\r\n").unwrap();
        fs::write(at("b.txt"), b"caf\xe9").unwrap();
        let found = jobs_of_folder(&Disk, home.path()).unwrap();
        let path = |name: &str| at(name).to_string_lossy().into_owned();
        let job =
            json!({ "image": path("a.png"), "mask": path("a.mask.png"), "src_prompt": "a bird" });
        assert_eq!(found[0].content.clone().map(Value::Object), Ok(job));
        let told = |index: usize| found[index].content.clone().unwrap_err();
        assert!(told(1).reason.contains("b.txt") && told(1).reason.contains("UTF-8"));
        assert!(told(2).reason.contains("c.txt"), "{}", told(2).reason);
        assert_eq!(told(2).kept["image"], path("c.webp"));
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn a_folder_without_pictures_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        assert!(jobs_of_folder(&Disk, home.path()).is_err());
        assert!(jobs_of_folder(&Disk, &home.path().join("nowhere")).is_err());
    }
}
