//! The hub by the variables of the environment: proxies, folders, tokens, revisions.

use std::{fs, path::Path};

use tempfile::TempDir;

use crate::{
    hub::{FakeHub, FakeProxy},
    support::{Run, icd},
};

fn hub() -> FakeHub {
    FakeHub::new().with("owner/name", "a.json", b"{}")
}

/// A download of `what` by a program that knows the hub and nothing else.
fn fetch_of(what: &str, hub: &FakeHub) -> Run {
    let unset = [
        "HF_HOME",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "XDG_CACHE_HOME",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_TOKEN_PATH",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
    ];
    let fetch = icd("model").args("fetch --yes").args(what);
    let fetch = unset.iter().fold(fetch, |fetch, name| fetch.env(name, ""));
    fetch.env("HF_ENDPOINT", hub.endpoint())
}

fn fetch(hub: &FakeHub, home: &TempDir) -> Run {
    fetch_of("hub:owner/name/a.json", hub).env("HOME", home.path().display())
}

/// Whether a cache holds the file.
fn holds(cache: &Path) -> bool {
    cache.join("models--owner--name/refs/main").exists()
}

fn home() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn a_proxy_that_cannot_be_used_ends_the_run_unless_it_is_not_needed() {
    let hub = hub();
    for (value, word) in [
        ("socks5://127.0.0.1:9", "socks5"),
        ("socks5h://127.0.0.1:9", "socks5h"),
        ("http://127.0.0.1:99999", "address of a proxy"),
    ] {
        for name in ["ALL_PROXY", "http_proxy"] {
            let run = fetch(&hub, &home()).env(name, value);
            run.fails(1, &[name, word, "owner/name"]);
        }
        let elsewhere = fetch(&hub, &home()).env("HTTPS_PROXY", value);
        elsewhere.succeeds();
        let exempt = fetch(&hub, &home()).env("ALL_PROXY", value);
        exempt.env("no_proxy", "example.com, 127.0.0.1").succeeds();
    }
    assert_eq!(hub.asked("/api/").len(), 6);
}

#[test]
fn what_a_proxy_refuses_is_not_asked_again() {
    let hub = hub();
    for status in [403, 407] {
        let proxy = FakeProxy::answering(&hub, status);
        let run = fetch(&hub, &home()).env("HTTP_PROXY", proxy.address());
        let address = proxy.address().replace("http://", "");
        run.fails(
            1,
            &["owner/name", &address, &status.to_string(), "NO_PROXY"],
        );
        assert_eq!(proxy.asked().len(), 1);
    }
}

#[test]
fn the_cache_is_where_current_or_former_variables_say() {
    let hub = hub();
    for (name, value, cache) in [
        ("HF_HUB_CACHE", "~/a", "a"),
        ("HUGGINGFACE_HUB_CACHE", "$HOME/b", "b"),
        ("HF_HOME", "${HOME}/c", "c/hub"),
        ("XDG_CACHE_HOME", "~/d", "d/huggingface/hub"),
        ("ICD_NOTHING", "", ".cache/huggingface/hub"),
    ] {
        let home = home();
        let done = fetch(&hub, &home).env(name, value).succeeds();
        assert!(holds(&home.path().join(cache)), "{name}");
        assert!(done.files().is_empty(), "{name}: {:?}", done.files());
    }
    let (first, second) = (home(), home());
    fetch(&hub, &first)
        .env("HF_HUB_CACHE", second.path().display())
        .env("HUGGINGFACE_HUB_CACHE", "~/former")
        .succeeds();
    assert!(holds(second.path()) && !first.path().join("former").exists());
}

#[test]
fn the_token_is_where_current_or_former_variables_say() {
    let hub = hub().closed("secret");
    fetch(&hub, &home()).fails(1, &["HF_TOKEN"]);
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        fetch(&hub, &home()).env(name, "secret").succeeds();
    }
    let home = home();
    fs::write(home.path().join("mine"), "\u{feff}secret\r\n").expect("a file");
    let run = fetch(&hub, &home).env("HF_TOKEN_PATH", "~/mine");
    run.succeeds();
    fs::write(home.path().join("mine"), b"s\0e\0c\0").expect("a file");
    let run = fetch(&hub, &home).env("HF_HUB_CACHE", "~/other");
    run.env("HF_TOKEN_PATH", "~/mine")
        .fails(1, &["mine", "UTF-16"]);
}

#[test]
fn downloads_are_forbidden_by_either_name() {
    let hub = hub();
    for name in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
        fetch(&hub, &home()).env(name, "YES").fails(1, &[name]);
    }
    let contrary = fetch(&hub, &home()).env("TRANSFORMERS_OFFLINE", "1");
    contrary.env("HF_HUB_OFFLINE", "0").succeeds();
    assert_eq!(hub.asked("/api/").len(), 1);
}

#[test]
fn revisions_may_hold_slashes() {
    let hub = hub();
    for (written, asked, file) in [
        ("refs/pr/3", "refs%2Fpr%2F3", "refs/refs/pr/3"),
        ("my%2Fbranch", "my%2Fbranch", "refs/my/branch"),
    ] {
        let home = home();
        let what = format!("hub:owner/name@{written}/a.json");
        let run = || fetch_of(&what, &hub).env("HOME", home.path().display());
        let folder = run().succeeds().stdout;
        assert!(Path::new(folder.trim()).join("a.json").exists(), "{folder}");
        assert_eq!(hub.asked(&format!("/revision/{asked}")).len(), 1);
        let cache = home
            .path()
            .join(".cache/huggingface/hub/models--owner--name");
        assert!(cache.join(file).exists(), "{file}");
        run().env("HF_HUB_OFFLINE", "1").succeeds();
    }
}
