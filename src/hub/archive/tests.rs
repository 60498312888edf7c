use flate2::{Compression, write::GzEncoder};
use tar::{Builder, Header};

use super::*;

/// An archive of one entry whose header is as `set` makes it.
fn archive(folder: &Path, name: &str, kind: EntryType) -> PathBuf {
    let file = folder.join("x.tar.gz");
    let mut builder = Builder::new(GzEncoder::new(
        File::create(&file).unwrap(),
        Compression::fast(),
    ));
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(if kind == EntryType::Regular { 3 } else { 0 });
    header.set_mode(0o644);
    if kind == EntryType::Symlink {
        header.set_link_name("/etc/passwd").unwrap();
    }
    header.set_cksum();
    let content: &[u8] = if kind == EntryType::Regular {
        b"abc"
    } else {
        b""
    };
    builder.append(&header, content).unwrap();
    builder.into_inner().unwrap().finish().unwrap();
    file
}

#[test]
fn files_are_unpacked_below_the_folder_and_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let file = archive(folder.path(), "./a/w.pt", EntryType::Regular);
    let into = folder.path().join("out");
    let files = unpack(&file, &into).unwrap();
    assert_eq!(files, [into.join("a/w.pt")]);
    assert_eq!(fs::read(&files[0]).unwrap(), b"abc");
    let error = unpack(&file, &into).unwrap_err().to_string();
    assert!(error.contains("exists already"), "{error}");
}

#[test]
fn paths_that_lead_out_are_errors_and_nothing_is_written() {
    for (name, kind) in [
        ("../evil", EntryType::Regular),
        ("/tmp/evil", EntryType::Regular),
        ("a/../../evil", EntryType::Regular),
        ("link", EntryType::Symlink),
        ("hard", EntryType::Link),
        ("device", EntryType::Char),
        ("pipe", EntryType::Fifo),
        ("a\u{1b}[2J", EntryType::Regular),
        (".bashrc", EntryType::Regular),
        ("./.ssh/authorized_keys", EntryType::Regular),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = archive(folder.path(), name, kind);
        let into = folder.path().join("out");
        let error = unpack(&file, &into).unwrap_err().to_string();
        assert!(
            error.contains(name) && error.contains("x.tar.gz"),
            "{name}: {error}"
        );
        assert!(!into.exists() && !folder.path().join("evil").exists());
    }
}

#[test]
fn all_files_get_their_names_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.tar.gz");
    let into = folder.path().join("out");
    for (names, words) in [
        (["b", "a", "./a"], "it contains a twice"),
        (["b", "d/a", "d//a"], "it contains d/a twice"),
        (["b", "a", "a/c"], "a"),
        (["b", "a/c", "a"], "a"),
        (["b", "a", "./."], "without a name"),
    ] {
        let encoder = GzEncoder::new(File::create(&file).unwrap(), Compression::fast());
        let mut builder = Builder::new(encoder);
        for name in names {
            let mut header = Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(3);
            header.set_cksum();
            builder.append(&header, &b"abc"[..]).unwrap();
        }
        builder.into_inner().unwrap().finish().unwrap();
        let error = unpack(&file, &into).unwrap_err().to_string();
        assert!(error.contains(words), "{names:?}: {error}");
        assert!(!into.exists(), "{names:?}");
    }
}

#[test]
fn only_archives_are_fetched_from_an_address() {
    let name = |url| archive_name(url).ok();
    assert_eq!(name("https://x.y/a/w.tar.gz?z=1"), Some("w.tar.gz"));
    assert_eq!(name("https://x.y/w.tgz"), Some("w.tgz"));
    assert_eq!(name("http://[::1]:80/w.tgz"), Some("w.tgz"));
    assert_eq!(name("http://[::1]/w.tgz"), Some("w.tgz"));
    for url in [
        "https://x.y/",
        "https://x.y/w.pt",
        "https://x.y/.tar.gz",
        "https://x.y/w.tar.gz/",
        "https:///w.tar.gz",
        "https://x.y/a b.tar.gz",
        "https://x.y/a\n.tar.gz",
        "https://x.y/é.tar.gz",
        "https://x.y:99999/w.tar.gz",
        "https://x.y:0/w.tar.gz",
    ] {
        assert_eq!(name(url), None, "{url}");
    }
}

#[test]
fn a_damaged_archive_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = archive(folder.path(), "w.pt", EntryType::Regular);
    let bytes = fs::read(&file).unwrap();
    for cut in [0, 5, bytes.len() / 2] {
        fs::write(&file, &bytes[..cut]).unwrap();
        let into = folder.path().join("out");
        assert!(
            unpack(&file, &into).is_err() || !into.join("w.pt").exists(),
            "{cut}"
        );
    }
}

#[test]
fn a_flipped_bit_is_found_before_anything_gets_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = archive(folder.path(), "a/w.pt", EntryType::Regular);
    let whole = fs::read(&file).unwrap();
    for bit in 0..8 * whole.len() {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&file, &bytes).unwrap();
        let into = folder.path().join("out");
        // The header of gzip has fields that mean nothing.
        match unpack(&file, &into) {
            Ok(files) => {
                assert_eq!(fs::read(&files[0]).unwrap(), b"abc", "bit {bit}");
                fs::remove_dir_all(&into).unwrap();
            }
            Err(_) => assert!(!into.exists(), "bit {bit}"),
        }
    }
}

#[cfg(unix)]
#[test]
fn links_in_the_folder_are_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let file = archive(folder.path(), "sub/w.pt", EntryType::Regular);
    let (into, outside) = (folder.path().join("out"), folder.path().join("outside"));
    for folder in [&into, &outside] {
        fs::create_dir(folder).unwrap();
    }
    std::os::unix::fs::symlink("../outside", into.join("sub")).unwrap();
    let error = unpack(&file, &into).unwrap_err().to_string();
    assert!(error.contains("sub: this is a link"), "{error}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn bombs_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.tar.gz");
    let packed = |name: &str, kind: EntryType, size: u64| {
        let encoder = GzEncoder::new(File::create(&file).unwrap(), Compression::fast());
        let mut builder = Builder::new(encoder);
        let mut header = Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_cksum();
        builder
            .append(&header, io::repeat(b'a').take(size))
            .unwrap();
        builder.into_inner().unwrap().finish().unwrap();
        unpack(&file, &folder.path().join("out"))
            .unwrap_err()
            .to_string()
    };
    let error = packed("w.pt", EntryType::Regular, SMALL + 1);
    assert!(error.contains("far more"), "{error}");
    for kind in [EntryType::GNULongName, EntryType::XHeader] {
        let error = packed("w.pt", kind, MAX_EXTENSION + 1);
        assert!(error.contains("more than 64 KiB"), "{error}");
    }
    assert!(!folder.path().join("out").exists());
}
