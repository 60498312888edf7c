//! Weights from a hub that is slow, wrong, full, closed or not there.

mod fake;
pub(crate) mod proxy;

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use icd::hub::{Cache, DownloadPlan, Hub, Progress, Repository, RequiredFile, RetryPolicy};
use tempfile::TempDir;

use crate::support::{Done, Run, data, icd};
pub(crate) use fake::FakeHub;
pub(crate) use fake::Fault;
pub(crate) use proxy::FakeProxy;

const REPOSITORY: &str = "owner/name";
const ADAPTERS: &str = "dbaranchuk/icd-lora-sd15";
const BASE: &str = "stable-diffusion-v1-5/stable-diffusion-v1-5";

/// A hub without mercy for tests that wait.
const HASTE: RetryPolicy = RetryPolicy {
    stall: Duration::from_millis(600),
    pause: Duration::from_millis(1),
    longest: Duration::from_secs(2),
    attempts: 4,
};

/// Bytes that differ everywhere.
fn weights(count: usize) -> Vec<u8> {
    (0..count).map(|i| (i * i % 251) as u8).collect()
}

/// A cache of its own, and what is fetched into it.
struct Bench {
    folder: TempDir,
    hub: FakeHub,
    token: Option<String>,
}

impl Bench {
    fn new(hub: FakeHub) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            hub,
            token: None,
        }
    }

    fn cache(&self) -> Cache {
        Cache::new(self.folder.path())
    }

    fn plan(&self, name: &str) -> icd::Result<(Hub, DownloadPlan)> {
        let hub = Hub::new(&self.hub.endpoint(), self.token.clone(), HASTE)?;
        let need = RequiredFile {
            repository: Repository::new(REPOSITORY),
            names: vec![name.into()],
            optional: false,
        };
        let plan = hub.plan(&self.cache(), &[need], &mut |_| {})?;
        Ok((hub, plan))
    }

    /// Fetches a file; gives it and how often an attempt was made anew.
    fn fetch(&self, name: &str) -> icd::Result<(PathBuf, usize)> {
        let (hub, plan) = self.plan(name)?;
        let mut again = 0;
        hub.fetch_all(&self.cache(), &plan, &mut |_, progress| {
            again += usize::from(matches!(progress, Progress::Again(..)));
        })?;
        let file = self.cache().file(&Repository::new(REPOSITORY), name);
        Ok((file.expect("what was fetched is found"), again))
    }

    #[track_caller]
    fn fails(&self, name: &str, says: &[&str]) {
        let error = self.fetch(name).unwrap_err().to_string();
        for word in says {
            assert!(error.contains(word), "{word:?} is not said in: {error}");
        }
    }

    /// The contents that the cache holds, whole or not.
    fn contents(&self) -> Vec<String> {
        let blobs = self.folder.path().join("models--owner--name/blobs");
        let entries = fs::read_dir(blobs).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.file_name().display().to_string())
            .collect()
    }
}

fn hub_of(content: &[u8]) -> FakeHub {
    FakeHub::new()
        .with(REPOSITORY, "unet/w.safetensors", content)
        .with(REPOSITORY, "a.json", b"{}")
}

#[test]
fn what_is_fetched_lies_in_the_cache_as_every_program_of_the_hub_expects() {
    let content = weights(5000);
    let mut bench = Bench::new(hub_of(&content).closed("secret"));
    bench.token = Some("secret".into());
    let (large, _) = bench.fetch("unet/w.safetensors").unwrap();
    let (small, _) = bench.fetch("a.json").unwrap();
    assert_eq!(fs::read(&large).unwrap(), content);
    assert_eq!(fs::read(&small).unwrap(), b"{}");
    let home = bench.folder.path().join("models--owner--name");
    let snapshot = home.join("snapshots").join(bench.hub.commit());
    assert_eq!(large, snapshot.join("unet/w.safetensors"));
    assert_eq!(
        fs::read_to_string(home.join("refs/main")).unwrap(),
        bench.hub.commit()
    );
    #[cfg(unix)]
    {
        let link = fs::read_link(&large).unwrap();
        assert!(link.starts_with("../../../blobs"), "{}", link.display());
        assert_eq!(link.file_name().unwrap().len(), 64); // its SHA-256
        let link = fs::read_link(&small).unwrap();
        assert!(link.starts_with("../../blobs"), "{}", link.display());
        assert_eq!(link.file_name().unwrap().len(), 40); // git's name for it
    }
    // The token stays with the hub.
    assert!(
        bench
            .hub
            .asked("/resolve/")
            .iter()
            .all(|asked| asked.token.is_some())
    );
    let elsewhere = bench.hub.asked("/cdn/");
    assert!(
        elsewhere.len() == 1 && elsewhere[0].token.is_none(),
        "{elsewhere:?}"
    );
}

#[test]
fn what_is_here_is_not_fetched_again() {
    let bench = Bench::new(hub_of(&weights(5000)));
    bench.fetch("unet/w.safetensors").unwrap();
    let asked = bench.hub.asked("").len();
    let (_, plan) = bench.plan("unet/w.safetensors").unwrap();
    assert!(plan.files.is_empty() && plan.bytes == 0);
    assert_eq!(bench.hub.asked("").len(), asked);
}

#[test]
fn a_file_that_is_cut_twenty_times_is_fetched_once() {
    let content = weights(1 << 20);
    let cuts = (1..=20).map(|i: usize| Fault::Cut(i * i * 7919 % 60_000));
    let bench = Bench::new(hub_of(&content).failing("/cdn/", cuts));
    let (file, again) = bench.fetch("unet/w.safetensors").unwrap();
    assert_eq!(again, 20);
    assert!(fs::read(file).unwrap() == content);
    let asked = bench.hub.asked("/cdn/");
    let sent: usize = asked.iter().map(|asked| asked.sent).sum();
    assert_eq!((asked.len(), sent), (21, content.len()));
    assert!(asked[1..].iter().all(|asked| asked.range.is_some()));
}

#[test]
fn what_another_run_began_is_gone_on_with() {
    let content = weights(50_000);
    let bench = Bench::new(hub_of(&content).failing(
        "/cdn/",
        [
            Fault::Cut(20_000),
            Fault::Cut(0),
            Fault::Cut(0),
            Fault::Cut(0),
        ],
    ));
    bench.fails(
        "unet/w.safetensors",
        &["at byte 20000", "owner/name/unet/w.safetensors"],
    );
    assert!(
        bench
            .cache()
            .file(&Repository::new(REPOSITORY), "unet/w.safetensors")
            .is_none()
    );
    let (_, plan) = bench.plan("unet/w.safetensors").unwrap();
    assert_eq!(plan.bytes, 30_000);
    let (file, _) = bench.fetch("unet/w.safetensors").unwrap();
    assert!(fs::read(file).unwrap() == content);
    assert_eq!(
        bench.hub.asked("/cdn/").last().unwrap().range.as_deref(),
        Some("bytes=20000-")
    );
}

#[test]
fn a_server_that_does_not_go_on_or_packs_is_read_from_the_start() {
    let content = weights(50_000);
    for fault in [Fault::Whole, Fault::Packed] {
        let bench = Bench::new(hub_of(&content).failing("/cdn/", [Fault::Cut(20_000), fault]));
        let (file, _) = bench.fetch("unet/w.safetensors").unwrap();
        assert!(fs::read(file).unwrap() == content);
    }
}

#[test]
fn damage_on_the_way_is_found_and_mended_once() {
    let content = weights(5000);
    for fault in [Fault::Damage, Fault::Longer] {
        let once = Bench::new(hub_of(&content).failing("/cdn/", [fault.clone()]));
        let (file, again) = once.fetch("unet/w.safetensors").unwrap();
        assert!(fs::read(file).unwrap() == content && again == 1);

        let twice = Bench::new(hub_of(&content).failing("/cdn/", [fault.clone(), fault]));
        twice.fails(
            "unet/w.safetensors",
            &[
                "owner/name/unet/w.safetensors",
                "the received file is wrong",
                "twice",
            ],
        );
        assert!(twice.contents().is_empty(), "{:?}", twice.contents());
    }
    let small = Bench::new(hub_of(&content).failing("a.json", [Fault::Damage, Fault::Damage]));
    small.fails("a.json", &["its hash differs"]);
}

#[test]
fn a_hub_that_is_busy_is_asked_again() {
    let busy = [
        Fault::Status(503, None),
        Fault::Status(429, Some("0")),
        Fault::Status(500, None),
    ];
    for path in ["/api/", "/cdn/", "/resolve/"] {
        let bench = Bench::new(hub_of(&weights(5000)).failing(path, busy.clone()));
        bench.fetch("unet/w.safetensors").unwrap();
    }
    let long =
        Bench::new(hub_of(&weights(5000)).failing("/cdn/", [Fault::Status(429, Some("86400"))]));
    long.fails("unet/w.safetensors", &["429"]);
    let always =
        Bench::new(hub_of(&weights(5000)).failing("/api/", vec![Fault::Status(503, None); 9]));
    always.fails("unet/w.safetensors", &["503", "owner/name"]);
    assert_eq!(always.hub.asked("/api/").len(), 4);
}

#[test]
fn an_answer_that_would_be_the_same_again_is_final() {
    let here = "location: /api/models/owner/name/revision/main\r\n";
    let headers = "x: y\r\n".repeat(300);
    let long = format!("x: {}\r\n", "y".repeat(1 << 20));
    for (answer, asked, says) in [
        (
            Fault::Head(302, here.into()),
            11,
            "redirects more than 10 times",
        ),
        (Fault::Head(200, headers), 1, "header"),
        (Fault::Head(200, long), 1, "header"),
        (
            Fault::Head(200, "content-length: x\r\n".into()),
            1,
            "length",
        ),
    ] {
        let hub = hub_of(&weights(5000)).failing("/api/", vec![answer; 99]);
        let bench = Bench::new(hub);
        bench.fails("unet/w.safetensors", &["owner/name", says]);
        assert_eq!(bench.hub.asked("/api/").len(), asked, "{says}");
    }
}

#[test]
fn a_date_to_come_again_at_is_read() {
    let past = Fault::Status(429, Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    let bench = Bench::new(hub_of(&weights(5000)).failing("/cdn/", [past]));
    assert_eq!(bench.fetch("unet/w.safetensors").unwrap().1, 1);
    // Later than anybody waits.
    let late = Fault::Status(429, Some("Fri, 31 Dec 9999 23:59:59 GMT"));
    let bench = Bench::new(hub_of(&weights(5000)).failing("/cdn/", [late]));
    bench.fails("unet/w.safetensors", &["429"]);
    assert_eq!(bench.hub.asked("/cdn/").len(), 1);
}

#[test]
fn a_damaged_file_of_the_right_length_is_fetched_again() {
    let content = weights(5000);
    let bench = Bench::new(hub_of(&content));
    let (hub, plan) = bench.plan("unet/w.safetensors").unwrap();
    let fetch = || {
        let mut again = 0;
        hub.fetch(&bench.cache(), &plan.files[0], &mut |progress| {
            again += usize::from(matches!(progress, Progress::Again(..)));
        })
        .map(|file| (fs::read(file).unwrap(), again))
    };
    assert_eq!(fetch().unwrap(), (content.clone(), 0));
    let blobs = bench.folder.path().join("models--owner--name/blobs");
    let mut damaged = content.clone();
    damaged[4000] ^= 1;
    fs::write(blobs.join(plan.files[0].file.digest.name()), damaged).unwrap();
    assert_eq!(fetch().unwrap(), (content.clone(), 1));
    assert_eq!(fetch().unwrap(), (content, 0));
}

#[test]
fn a_renamed_repository_is_followed_with_the_token_on_its_own_host_only() {
    let moved = |host: &str| {
        let to = format!("{host}/api/models/owner/name/revision/main");
        [Fault::Moved(to)]
    };
    let closed = || hub_of(&weights(5000)).closed("secret");
    let mut bench = Bench::new(closed().failing("/api/", moved("")));
    bench.token = Some("secret".into());
    bench.fetch("unet/w.safetensors").unwrap();

    let hub = closed();
    let elsewhere = hub.endpoint().replace("127.0.0.1", "localhost");
    let mut bench = Bench::new(hub.failing("/api/", moved(&elsewhere)));
    bench.token = Some("secret".into());
    bench.fails("a.json", &["HF_TOKEN has no access to it"]);
    let tokens = bench
        .hub
        .asked("/api/")
        .into_iter()
        .map(|asked| asked.token);
    assert_eq!(tokens.collect::<Vec<_>>(), [Some("secret".into()), None]);
}

#[test]
fn a_redirect_without_an_end_is_followed_for_a_while() {
    let round = vec![Fault::Moved("/api/models/owner/name/revision/main".into()); 99];
    let bench = Bench::new(hub_of(b"").failing("/api/", round));
    bench.fails("a.json", &["owner/name", "redirects more than 10 times"]);
    assert_eq!(bench.hub.asked("/api/").len(), 11);
    let odd = hub_of(b"").failing("/api/", [Fault::Moved("ftp://x/y".into())]);
    Bench::new(odd).fails("a.json", &["ftp://x/y"]);
}

#[test]
fn a_file_whose_hash_is_not_told_is_no_missing_file() {
    let hub = || hub_of(&weights(5000)).unhashed("a.json");
    Bench::new(hub()).fails("a.json", &["owner/name", "no hash", "a.json"]);
    Bench::new(hub()).fetch("unet/w.safetensors").unwrap();
}

#[test]
fn a_silent_connection_is_given_up_and_gone_on_with() {
    let content = weights(50_000);
    let stalls = [Fault::Stall(0), Fault::Stall(10_000), Fault::Stall(30_000)];
    let bench = Bench::new(hub_of(&content).failing("/cdn/", stalls));
    let began = std::time::Instant::now();
    let (file, again) = bench.fetch("unet/w.safetensors").unwrap();
    assert!(fs::read(file).unwrap() == content && again == 3);
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn refusals_say_what_to_do() {
    let closed = || hub_of(&weights(5000)).closed("secret");
    Bench::new(closed()).fails("a.json", &["owner/name", "licence", "HF_TOKEN"]);
    let mut stranger = Bench::new(closed());
    stranger.token = Some("wrong".into());
    stranger.fails("a.json", &["HF_TOKEN has no access to it"]);
    Bench::new(FakeHub::new()).fails("a.json", &["owner/name", "no such repository"]);
    Bench::new(hub_of(b"")).fails("b.json", &["owner/name", "it has no b.json"]);
    let gone = hub_of(&weights(5000)).failing("/cdn/", [Fault::Status(404, None)]);
    Bench::new(gone).fails(
        "unet/w.safetensors",
        &["no such repository, revision or file"],
    );
}

#[test]
fn a_packed_list_of_files_is_read() {
    let bench = Bench::new(hub_of(&weights(5000)).failing("/api/", [Fault::Packed]));
    bench.fetch("unet/w.safetensors").unwrap();
}

/// The name of the unfinished download of `unet/w.safetensors`.
fn unfinished(bench: &Bench) -> PathBuf {
    let (_, plan) = bench.plan("unet/w.safetensors").unwrap();
    let blobs = bench.folder.path().join("models--owner--name/blobs");
    fs::create_dir_all(&blobs).unwrap();
    blobs.join(format!("{}.incomplete", plan.files[0].file.digest))
}

#[test]
#[cfg(unix)]
fn a_pipe_in_the_place_of_a_download_is_told() {
    let bench = Bench::new(hub_of(&weights(5000)));
    let part = unfinished(&bench);
    let made = std::process::Command::new("mkfifo").arg(&part).status();
    assert!(made.unwrap().success());
    bench.fails(
        "unet/w.safetensors",
        &[".incomplete", "no file", "remove it"],
    );
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_told_and_leaves_no_file() {
    let content = weights(5000);
    let bench = Bench::new(hub_of(&content));
    std::os::unix::fs::symlink("/dev/full", unfinished(&bench)).unwrap();
    bench.fails("unet/w.safetensors", &[".incomplete", "No space left"]);
    assert!(
        bench
            .cache()
            .file(&Repository::new(REPOSITORY), "unet/w.safetensors")
            .is_none()
    );
}

#[test]
fn two_that_want_the_same_fetch_it_once() {
    let content = weights(200_000);
    let slow = [Fault::Stall(100_000)]; // long enough for the other to come
    let bench = Bench::new(hub_of(&content).failing("/cdn/", slow));
    thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| bench.fetch("unet/w.safetensors").unwrap().0));
        for one in both {
            assert!(fs::read(one.join().unwrap()).unwrap() == content);
        }
    });
    let sent: usize = bench
        .hub
        .asked("/cdn/")
        .iter()
        .map(|asked| asked.sent)
        .sum();
    assert_eq!(sent, content.len());
    assert_eq!(bench.contents().len(), 1);
}

#[test]
fn an_archive_is_fetched_in_parts_and_unpacked() {
    let folder = tempfile::tempdir().unwrap();
    let mut packed = tar::Builder::new(flate2::write::GzEncoder::new(
        Vec::new(),
        flate2::Compression::none(),
    ));
    let content = weights(30_000);
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    packed
        .append_data(&mut header, "sd15/w.pt", &content[..])
        .unwrap();
    let archive = packed.into_inner().unwrap().finish().unwrap();
    let hub = FakeHub::new()
        .with("x", "y", &archive)
        .failing("/cdn/", [Fault::Cut(9000)]);
    let sha256 = hub.with("x/y", "w.tar.gz", &archive);
    let url = format!(
        "{}/x/y/resolve/{}/w.tar.gz",
        sha256.endpoint(),
        sha256.commit()
    );
    let here = Hub::new("http://127.0.0.1:1", None, HASTE).unwrap();
    let files = here
        .fetch_archive(&url, folder.path(), &mut |_| {})
        .unwrap();
    assert_eq!(files, [folder.path().join("sd15/w.pt")]);
    assert!(fs::read(&files[0]).unwrap() == content);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn archives_come_by_the_program_and_replace_nothing() {
    let mut packed = tar::Builder::new(flate2::write::GzEncoder::new(
        Vec::new(),
        flate2::Compression::fast(),
    ));
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    packed
        .append_data(&mut header, "w.pt", &b"abc"[..])
        .unwrap();
    let archive = packed.into_inner().unwrap().finish().unwrap();
    let hub = FakeHub::new().with("x/y", "w.tar.gz", &archive);
    let url = format!("{}/x/y/resolve/{}/w.tar.gz", hub.endpoint(), hub.commit());
    let run = || icd("model").args("fetch").args(&url);
    let done = run().args("--into out").succeeds();
    assert_eq!(done.stdout.trim(), "out/w.pt");
    assert_eq!(done.bytes("out/w.pt"), b"abc");
    let kept = run()
        .file("w.tar.gz", b"mine")
        .fails(1, &["w.tar.gz", "exists already"]);
    assert_eq!(kept.bytes("w.tar.gz"), b"mine");
    // Whole, but not yet known to be.
    let again = run().file("w.tar.gz.incomplete", &archive).succeeds();
    assert_eq!(again.bytes("w.pt"), b"abc");
    run()
        .env("HF_HUB_OFFLINE", "1")
        .fails(1, &["HF_HUB_OFFLINE"]);
    let other = url.replace(".tar.gz", ".pt");
    icd("model")
        .args("fetch")
        .args(&other)
        .fails(2, &[".tar.gz"]);
    let stranger = icd("model").args("fetch hub:a/b").file("no.pem", b"x");
    let stranger = stranger
        .env("SSL_CERT_FILE", "no.pem")
        .env("HF_HOME", "hub");
    stranger.fails(1, &["no.pem", "holds no certificates"]);
}

#[test]
fn what_can_never_be_asked_is_not_asked_again() {
    let home = tempfile::tempdir().unwrap();
    let fetch = |name: &str, value: &str| {
        icd("model")
            .args("fetch hub:owner/name --yes")
            .env("HF_HOME", home.path().display())
            .env(name, value)
    };
    fetch("HF_ENDPOINT", "hf-mirror.com").fails(2, &["HF_ENDPOINT hf-mirror.com", "https://"]);
    fetch("HF_TOKEN", "hf_a\nb").fails(2, &["HF_TOKEN", "line break"]);
}

#[test]
fn a_yes_of_the_environment_is_any_yes() {
    for (yes, code) in [("1", 0), ("true", 0), ("0", 2), ("", 2)] {
        let (hub, home) = (sd15(), tempfile::tempdir().unwrap());
        let done = at(icd("model").args("fetch sd15"), &hub, home.path());
        let done = done.env("ICD_YES", yes).done();
        assert_eq!(done.code, code, "{yes:?}: {}", done.stderr);
    }
}

#[test]
fn a_file_of_the_hub_is_no_model() {
    icd("generate")
        .args("--prompt bird --model hub:a/b/c.safetensors")
        .fails(2, &["names a file"]);
}

/// A hub with small stand-ins for all that the preset `sd15` needs. One of them
/// is blown up with blanks, so that a person is asked.
pub(crate) fn sd15() -> FakeHub {
    let base = [
        "vae",
        "text_encoder",
        "tokenizer",
        "scheduler",
        "model_index.json",
    ];
    let hub = FakeHub::new();
    let hub = hub.with_folder(BASE, &data("sd"), &base);
    let config = data("sd/scheduler/scheduler_config.json");
    let config = [&fs::read(config).unwrap()[..], &vec![b' '; 2 << 20]].concat();
    let hub = hub.with(BASE, "scheduler/scheduler_config.json", &config);
    let unet = ["config.json", "diffusion_pytorch_model.safetensors"];
    let hub = hub.with_folder("dbaranchuk/sd15-cfg-distill-unet", &data("sd/unet"), &unet);
    let adapters = [
        "forward-19-259-519-779.safetensors",
        "reverse-259-519-779-999.safetensors",
    ];
    let hub = hub.with_folder(ADAPTERS, &data("sd"), &adapters);
    let three = [
        "forward-19-339-699.safetensors",
        "reverse-339-699-999.safetensors",
    ];
    (three.iter().zip(adapters)).fold(hub, |hub, (name, stand_in)| {
        hub.with(
            ADAPTERS,
            name,
            &fs::read(data("sd").join(stand_in)).unwrap(),
        )
    })
}

/// A run whose hub and cache are these.
fn at(run: Run, hub: &FakeHub, home: &Path) -> Run {
    run.env("HF_ENDPOINT", hub.endpoint())
        .env("HF_HOME", home.display())
}

fn edit() -> Run {
    icd("edit")
        .path("--image", &data("square.png"))
        .args("--size 32 --src-prompt bird --tgt-prompt cat -o out.png")
}

fn pixels(done: &Done) -> image::RgbImage {
    image::load_from_memory(&done.bytes("out.png"))
        .unwrap()
        .into_rgb8()
}

#[test]
fn the_first_edit_fetches_the_model_and_the_second_needs_no_network() {
    let (hub, home) = (sd15(), tempfile::tempdir().unwrap());
    let first = at(edit(), &hub, home.path()).args("--yes").succeeds();
    for word in [
        "stable-diffusion-v1-5/stable-diffusion-v1-5, licence: a-licence",
        "to download from http",
    ] {
        assert!(first.stderr.contains(word), "{}", first.stderr);
    }
    let asked = hub.asked("").len();
    let second = at(edit(), &hub, home.path())
        .env("HF_HUB_OFFLINE", "1")
        .succeeds();
    assert!(first.bytes("out.png") == second.bytes("out.png"));
    assert_eq!(hub.asked("").len(), asked);
    let local = edit().path("--model", &data("sd")).succeeds();
    assert!(pixels(&first) == pixels(&local));
}

#[test]
fn nothing_is_fetched_unasked() {
    let (hub, home) = (sd15(), tempfile::tempdir().unwrap());
    let done = at(edit(), &hub, home.path()).fails(
        2,
        &[
            "cannot ask for confirmation",
            "--yes",
            "dbaranchuk/icd-lora-sd15",
        ],
    );
    assert!(done.files().is_empty());
    assert!(hub.asked("/resolve/").is_empty());
    at(edit(), &hub, home.path())
        .env("HF_HUB_OFFLINE", "1")
        .fails(1, &["HF_HUB_OFFLINE", "it is not in the cache"]);
    let nowhere = edit()
        .env("HF_ENDPOINT", "http://no.such.host.invalid")
        .env("HF_HOME", home.path().display());
    nowhere.fails(1, &["cannot be reached", "as the model"]);
}

#[test]
fn models_are_listed_fetched_and_verified() {
    let (hub, home) = (sd15(), tempfile::tempdir().unwrap());
    let run = |words: &str| at(icd("model").args(words), &hub, home.path());
    let before = run("list").succeeds().stdout;
    assert!(
        before.contains("sd15    not downloaded") && before.contains("tabletop  built in"),
        "{before}"
    );
    run("verify sd15").fails(1, &["it is not in the cache", "icd model fetch"]);
    let fetched = run("fetch sd15 --yes").succeeds().stdout;
    assert_eq!(fetched.lines().count(), 3);
    assert!(
        fetched.lines().all(|line| Path::new(line).is_dir()),
        "{fetched}"
    );
    let list = run("list").succeeds().stdout;
    assert!(list.contains("sd15    downloaded"), "{list}");
    let verified = run("verify sd15").succeeds().stdout;
    assert!(verified.contains("vae/config.json: whole"), "{verified}");

    let vae = Path::new(fetched.lines().last().unwrap()).join("vae");
    fs::rename(vae.join("config.json"), vae.join("aside.json")).unwrap();
    let list = run("list").succeeds().stdout;
    assert!(list.contains("sd15    partly downloaded"), "{list}");
    fs::rename(vae.join("aside.json"), vae.join("config.json")).unwrap();

    let file =
        Path::new(fetched.lines().next().unwrap()).join("forward-19-259-519-779.safetensors");
    let mut content = fs::read(&file).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(&file, content).unwrap();
    run("verify sd15").fails(1, &["1 of the files are damaged", "blobs"]);
    fs::remove_file(fs::canonicalize(&file).unwrap()).unwrap();
    run("fetch sd15 --yes").succeeds();
    run("verify sd15").succeeds();
    let one = run("fetch hub:dbaranchuk/icd-lora-sd15/reverse-339-699-999.safetensors --yes");
    let folder = one.succeeds().stdout;
    let file = Path::new(folder.trim()).join("reverse-339-699-999.safetensors");
    assert!(file.exists(), "{folder}");
    let three = "hub:dbaranchuk/icd-lora-sd15/forward-339-699.safetensors";
    run(&format!("convert {three} x.safetensors --yes")).fails(1, &["it has no forward-339-699"]);
    let three = three.replace("forward-", "forward-19-");
    run(&format!(
        "convert {three} x.safetensors --naming kohya --yes"
    ))
    .succeeds();
    let local = run("verify no/such/model").fails(1, &["error: no/such/model: it is neither"]);
    assert!(!local.stderr.contains("fetch"), "{}", local.stderr);
    let shapes = run("verify tabletop").succeeds().stdout;
    assert!(shapes.contains("UNet"), "{shapes}");
}

#[test]
fn any_model_of_the_hub_is_named_by_its_repository() {
    let parts = [
        "vae",
        "unet",
        "text_encoder",
        "text_encoder_2",
        "tokenizer",
        "tokenizer_2",
        "scheduler",
        "model_index.json",
        "icd.toml",
        "forward-19-249-499-699.safetensors",
        "reverse-249-499-699-999.safetensors",
    ];
    let hub = FakeHub::new().with_folder("some/model", &data("sdxl"), &parts); // its UNet is in shards
    let home = tempfile::tempdir().unwrap();
    let far = at(edit(), &hub, home.path())
        .args("--yes --model hub:some/model")
        .succeeds();
    let near = edit().path("--model", &data("sdxl")).succeeds();
    assert!(pixels(&far) == pixels(&near));
    let pinned = format!("hub:some/model@{}", hub.commit());
    let alias = pinned.replace("hub:", "hf://");
    for name in [pinned, alias, "hf://some/model".into()] {
        at(edit(), &hub, home.path())
            .with("--model", name)
            .succeeds();
    }
    let fetch = icd("model").args("fetch hf://some/model/unet/config.json --yes");
    let folder = at(fetch, &hub, home.path()).succeeds().stdout;
    assert!(Path::new(folder.trim()).join("unet/config.json").exists());
}

#[test]
fn a_proxy_carries_everything_but_what_is_left_out() {
    let content = weights(5000);
    let hub = hub_of(&content);
    let (proxy, home) = (FakeProxy::before(&hub), tempfile::tempdir().unwrap());
    let fetch = |endpoint: &str, folder: &str| {
        icd("model")
            .args("fetch hub:owner/name/unet/w.safetensors --yes")
            .env("HTTP_PROXY", proxy.address())
            .env("HF_ENDPOINT", endpoint)
            .env("HF_HOME", home.path().join(folder).display())
    };
    let fetched = fetch("http://hub.example", "a").succeeds().stdout;
    let file = Path::new(fetched.trim()).join("unet/w.safetensors");
    assert!(fs::read(file).unwrap() == content);
    let asked = proxy.asked();
    let hosts = ["hub.example:80", "localhost:"]; // the hub, and where its files lie
    for host in hosts {
        assert!(
            asked.iter().any(|asked| asked.starts_with(host)),
            "{asked:?}"
        );
    }
    fetch(&hub.endpoint(), "b")
        .env("NO_PROXY", "127.0.0.1,localhost")
        .succeeds();
    assert_eq!(proxy.asked(), asked);
}
