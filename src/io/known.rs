//! Kinds of files by their first bytes: those that are read, and those that people have
//! in the place of weights and configurations.

use std::{fs::File, io::Read, path::Path};

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A picture that can be read.
    Picture,
    /// Weights that can be read.
    Weights,
    /// Something else.
    Other,
}

/// A kind of files.
#[derive(Debug, PartialEq, Eq)]
pub struct KnownFile {
    /// What it holds.
    pub role: Role,
    /// Its name, with an article.
    pub name: &'static str,
    /// What to do with such a file where another one is required.
    pub remedy: &'static str,
}

/// The number of bytes by which files are told apart.
const BEGINNING: usize = 512;

impl KnownFile {
    /// The kind of the file with this beginning (the first 512 bytes suffice).
    pub fn of(begin: &[u8]) -> Option<&'static Self> {
        let fits = |(place, magic, _): &&(usize, &[u8], Self)| {
            let there = begin.get(*place..);
            there.is_some_and(|there| there.starts_with(magic))
        };
        let by_bytes = BY_BYTES.iter().find(fits).map(|(_, _, kind)| kind);
        by_bytes.or_else(|| by_structure(begin))
    }

    /// The kind of a file, if it can be read and is known.
    pub fn at(file: &Path) -> Option<&'static Self> {
        let mut begin = Vec::new();
        let reader = File::open(file).ok()?;
        reader.take(BEGINNING as u64).read_to_end(&mut begin).ok()?;
        Self::of(&begin)
    }

    /// What it is and what to do, where another kind is required.
    pub fn told(&self) -> String {
        format!("it is {}: {}", self.name, self.remedy)
    }
}

/// Kinds that no fixed bytes tell.
fn by_structure(begin: &[u8]) -> Option<&'static KnownFile> {
    let text = begin.trim_ascii_start();
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let tag = text[..text.len().min(9)].to_ascii_lowercase();
    match begin {
        // The length of a header, which is JSON and never so long that the last byte is used.
        [_, _, _, _, _, _, _, 0, b'{', ..] => Some(&SAFETENSORS),
        // Two bytes are too few: a length of safetensors may begin with them. Four more are 0.
        [b'B', b'M', _, _, _, _, 0, 0, 0, 0, ..] => Some(&BMP),
        // Protocol buffers: a version, then the name of the program that wrote it.
        [8, 1..=32, 0x12, ..] => Some(&ONNX),
        _ if tag.starts_with(b"<!doctype") || tag.starts_with(b"<html") => Some(&WEB_PAGE),
        _ => None,
    }
}

const fn other(name: &'static str, remedy: &'static str) -> KnownFile {
    let role = Role::Other;
    KnownFile { role, name, remedy }
}

const fn picture(name: &'static str) -> KnownFile {
    KnownFile {
        role: Role::Picture,
        name,
        remedy: "name a file of weights",
    }
}

const fn weights(name: &'static str) -> KnownFile {
    KnownFile {
        role: Role::Weights,
        name,
        remedy: "name a picture (PNG, JPEG, WebP, GIF or BMP)",
    }
}

const fn unpack(name: &'static str) -> KnownFile {
    other(name, "unpack it first")
}

const BMP: KnownFile = picture("a BMP picture");
const SAFETENSORS: KnownFile = weights("a safetensors file");
const ONNX: KnownFile = other(
    "an ONNX model",
    "get the safetensors files that it was exported from",
);
const WEB_PAGE: KnownFile = other(
    "a web page, not the file that it is about",
    "download the file itself (on the hub from an address with /resolve/, not /blob/)",
);
const OLD_PYTORCH: KnownFile = other(
    "an old PyTorch file, from before version 1.6",
    "read it with torch.load, save it with torch.save, and use that file",
);
const PICKLE: KnownFile = other(
    "a bare Python pickle",
    "save a state dict from it with torch.save",
);

/// The place and the bytes that tell a kind; the first that fits.
static BY_BYTES: &[(usize, &[u8], KnownFile)] = &[
    (0, b"\x89PNG\r\n\x1a\n", picture("a PNG picture")),
    (0, b"\xff\xd8\xff", picture("a JPEG picture")),
    (8, b"WEBP", picture("a WebP picture")),
    (0, b"GIF87a", picture("a GIF picture")),
    (0, b"GIF89a", picture("a GIF picture")),
    (
        0,
        b"PK\x03\x04",
        weights("a PyTorch file or other zip archive"),
    ),
    (
        0,
        b"version https://git-lfs",
        other(
            "a Git LFS pointer, not the file that it stands for",
            "run `git lfs pull` in its repository, or download the file itself",
        ),
    ),
    (
        0,
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9\x20j\xa8P\x19.",
        OLD_PYTORCH,
    ),
    (0, b"\x80\x02", PICKLE),
    (0, b"\x80\x03", PICKLE),
    (0, b"\x80\x04", PICKLE),
    (0, b"\x80\x05", PICKLE),
    (
        0,
        b"GGUF",
        other(
            "a GGUF file of quantised weights",
            "get the safetensors file of the model",
        ),
    ),
    (
        0,
        b"\x89HDF\r\n\x1a\n",
        other(
            "an HDF5 file, as of Keras",
            "get the safetensors file of the model",
        ),
    ),
    (
        0,
        b"\x93NUMPY",
        other("a NumPy array", "save its arrays as a safetensors file"),
    ),
    (0, b"\x1f\x8b", unpack("a gzip archive")),
    (0, b"7z\xbc\xaf\x27\x1c", unpack("a 7z archive")),
    (0, b"Rar!", unpack("a RAR archive")),
    (0, b"\xfd7zXZ\0", unpack("an xz archive")),
    (0, b"\x28\xb5\x2f\xfd", unpack("a zstd archive")),
    (0, b"BZh", unpack("a bzip2 archive")),
    (257, b"ustar", unpack("a tar archive")),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn name(begin: &[u8]) -> &'static str {
        KnownFile::of(begin).map_or("", |kind| kind.name)
    }

    #[test]
    fn files_are_told_by_their_content() {
        for (begin, told) in [
            (
                &b"version https://git-lfs.github.com/spec/v1\noid"[..],
                "LFS",
            ),
            (b"\n  <!DOCTYPE html><html>", "web page"),
            (b"\xef\xbb\xbf<HTML lang", "web page"),
            (
                b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02",
                "before version 1.6",
            ),
            (b"\x80\x04\x95\x10", "pickle"),
            (b"GGUF\x03\0\0\0", "GGUF"),
            (b"\x08\x07\x12\x07pytorch", "ONNX"),
            (b"RIFF\x10\0\0\0WEBPVP8L", "WebP"),
            (b"GIF89a\x01\0", "GIF"),
            (b"BM\x3a\0\0\0\0\0\0\0\x36\0", "BMP"),
            (b"\x40\0\0\0\0\0\0\0{\"w\":", "safetensors"),
            (b"BM\0\0\0\0\0\0{\"w\":", "safetensors"),
        ] {
            assert!(name(begin).contains(told), "{told}: {:?}", name(begin));
        }
        let mut tar = vec![b'a'; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert!(name(&tar).contains("tar archive"));
        for unknown in [
            &b""[..],
            b"text",
            b"{\"weight_map\": {}}",
            b"\x40\0\0\0\0\0\0\x01{",
        ] {
            assert_eq!(name(unknown), "", "{unknown:?}");
        }
    }
}
