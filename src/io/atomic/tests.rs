use std::ffi::OsString;

use super::*;

fn names(folder: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}

#[test]
fn a_written_file_stands_alone_and_replaces_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    write_file(&path, b"old and long", Existing::Replace).unwrap();
    write_file(&path, b"new", Existing::Replace).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(names(folder.path()), ["a.bin"]);
}

#[test]
fn a_failure_leaves_no_temporary_file() {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("taken");
    fs::create_dir(&taken).unwrap();
    let error = write_file(&taken, b"x", Existing::Replace)
        .unwrap_err()
        .to_string();
    assert!(error.contains("taken"), "{error}");
    assert_eq!(names(folder.path()), ["taken"]);
}

#[cfg(unix)]
#[test]
fn a_socket_is_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(write_file(&path, b"x", Existing::Replace).is_err());
    assert!(is_special(&path));
    assert_eq!(names(folder.path()), ["socket"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let error = write_file(&missing.join("a.bin"), b"x", Existing::Replace).unwrap_err();
    let start = format!("{}: ", missing.display());
    assert!(error.to_string().starts_with(&start), "{error}");
}

#[test]
fn checking_for_permission_leaves_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    fs::write(&path, b"old").unwrap();
    check_writable(&path).unwrap();
    check_writable(&folder.path().join("b.bin")).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(names(folder.path()), ["a.bin"]);
    let missing = folder.path().join("missing").join("a.bin");
    assert!(check_writable(&missing).is_err());
}

#[test]
fn nothing_is_written_while_writing_is_held() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    let held = hold_writing();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_file(&path, b"x", Existing::Replace));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(names(folder.path()).is_empty());
        drop(held);
        writer.join().unwrap().unwrap();
    });
    assert_eq!(names(folder.path()), ["a.bin"]);
}

#[test]
fn a_path_without_a_name_is_an_error() {
    let error = write_file(Path::new("/"), b"x", Existing::Replace)
        .unwrap_err()
        .to_string();
    assert!(error.contains("folder"), "{error}");
}

#[test]
fn the_pieces_make_one_file_that_replaces_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    fs::write(&path, b"old").unwrap();
    let mut file = AtomicFile::create(&path, Existing::Replace).unwrap();
    file.append(b"one ").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    file.append(b"two").unwrap();
    file.finish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one two");
    assert_eq!(names(folder.path()).len(), 1);
}

#[test]
fn an_unfinished_file_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = AtomicFile::create(&folder.path().join("a.bin"), Existing::Replace).unwrap();
    file.append(b"half").unwrap();
    assert_eq!(names(folder.path()).len(), 1);
    drop(file);
    assert_eq!(names(folder.path()).len(), 0);
    assert!(AtomicFile::create(&folder.path().join("no/a.bin"), Existing::Replace).is_err());
}

#[test]
fn a_folder_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("taken");
    fs::create_dir(&taken).unwrap();
    let error = AtomicFile::create(&taken, Existing::Replace)
        .unwrap()
        .finish()
        .unwrap_err();
    assert!(error.to_string().contains("taken"), "{error}");
    assert_eq!(names(folder.path()).len(), 1);
}

#[test]
fn a_kept_file_stays_even_if_it_appears_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    let mut file = AtomicFile::create(&path, Existing::Keep).unwrap();
    file.append(b"late").unwrap();
    fs::write(&path, b"precious").unwrap();
    let error = file.finish().unwrap_err().to_string();
    assert!(
        error.contains("a.bin: a file of this name exists"),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    assert_eq!(names(folder.path()), ["a.bin"]);
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_modes_kept() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let (real, link) = (folder.path().join("real"), folder.path().join("link"));
    fs::write(&real, b"old").unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o600)).unwrap();
    symlink("real", &link).unwrap();
    assert!(write_file(&link, b"new", Existing::Keep).is_err());
    write_file(&link, b"new", Existing::Replace).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(&real).unwrap(), b"new");
    assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, 0o600);

    let (nowhere, other) = (folder.path().join("nowhere"), folder.path().join("other"));
    symlink("other", &nowhere).unwrap();
    assert!(write_file(&nowhere, b"x", Existing::Keep).is_err());
    write_file(&nowhere, b"x", Existing::Replace).unwrap();
    assert_eq!(fs::read(&other).unwrap(), b"x");
    // A new file has the mode that the umask gives.
    fs::write(folder.path().join("plain"), b"").unwrap();
    let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().mode();
    assert_eq!(mode("other"), mode("plain"));

    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    symlink(&two, &one).unwrap();
    symlink(&one, &two).unwrap();
    let error = write_file(&one, b"x", Existing::Replace).unwrap_err();
    assert!(error.to_string().contains("loop"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_file_has_one_path_whatever_it_is_called() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("real")).unwrap();
    symlink("real", path("folder")).unwrap();
    symlink("folder/a", path("link")).unwrap();
    let one = resolved(&path("real/a"));
    assert!(one.ends_with("real/a"));
    for name in ["folder/a", "link", "./real/../folder/a"] {
        assert_eq!(resolved(&path(name)), one, "{name}");
    }
    assert_eq!(
        resolved(&path("folder/new/b")),
        resolved(&path("real/new/b"))
    );
    assert_ne!(resolved(&path("real/b")), one);
    assert!(resolved(Path::new("only-a-name")).is_absolute());
}

#[test]
fn the_longest_names_can_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x".repeat(255));
    write_file(&path, b"x", Existing::Keep).unwrap();
    assert_eq!(names(folder.path()).len(), 1);
}

#[test]
fn only_stale_temporary_files_are_cleared() {
    let folder = tempfile::tempdir().unwrap();
    let stale = folder.path().join(".icd-killed.tmp");
    fs::write(&stale, b"half").unwrap();
    fs::write(folder.path().join(".other.tmp"), b"").unwrap();
    let locked = temporary_in(folder.path()).unwrap();
    clear_stale(folder.path());
    assert!(!stale.exists());
    assert!(locked.path().exists());
    assert!(folder.path().join(".other.tmp").exists());
}
