//! A hub on this machine that behaves as the real one does, and as badly as is
//! asked of it.

use std::{
    collections::{HashMap, VecDeque},
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use sha1::Sha1;
use sha2::Sha256;

/// Files from so many bytes on lie with another host.
const LARGE: usize = 1000;

/// Something that goes wrong with one request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// The connection stays silent after so many bytes of the body.
    Stall(usize),
    /// An answer of this status, and when to come again.
    Status(u16, Option<&'static str>),
    /// An answer of this status and with these headers, which are whole lines.
    Head(u16, String),
    /// What is asked for lies at another address.
    Moved(String),
    /// One byte of the body is another.
    Damage,
    /// The body is one byte longer.
    Longer,
    /// All of the file, whatever was asked for.
    Whole,
    /// A packed body, whatever was asked for.
    Packed,
}

/// What was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) token: Option<String>,
    /// Bytes of the body that were sent.
    pub(crate) sent: usize,
}

#[derive(Default)]
struct State {
    /// Repository and file.
    files: HashMap<(String, String), Vec<u8>>,
    /// Faults of requests whose path contains a text, first come first served.
    faults: Vec<(String, VecDeque<Fault>)>,
    asked: Vec<Asked>,
    /// The token without which nothing is given.
    token: Option<String>,
    commit: String,
    /// Files whose hashes are not told.
    unhashed: Vec<String>,
}

/// The hub; it ends with the tests.
#[derive(Clone)]
pub(crate) struct FakeHub {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl FakeHub {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let hub = Self {
            port: listener.local_addr().expect("an address").port(),
            state: Arc::default(),
        };
        hub.state().commit = "c0ffee".repeat(7)[..40].into();
        let serving = hub.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let hub = serving.clone();
                thread::spawn(move || hub.serve(stream));
            }
        });
        hub
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no request panics")
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn commit(&self) -> String {
        self.state().commit.clone()
    }

    /// Puts a file into a repository.
    pub(crate) fn with(self, repository: &str, name: &str, content: &[u8]) -> Self {
        let place = (repository.into(), name.into());
        self.state().files.insert(place, content.to_vec());
        self
    }

    /// Puts what is wanted of a folder into a repository.
    pub(crate) fn with_folder(self, repository: &str, folder: &Path, wanted: &[&str]) -> Self {
        wanted.iter().fold(self, |hub, part| {
            let path = folder.join(part);
            if !path.is_dir() {
                let content = std::fs::read(&path).expect("a file");
                return hub.with(repository, part, &content);
            }
            let entries = std::fs::read_dir(&path).expect("a folder");
            entries.flatten().fold(hub, |hub, entry| {
                let name = format!("{part}/{}", entry.file_name().display());
                let content = std::fs::read(entry.path()).expect("a file");
                hub.with(repository, &name, &content)
            })
        })
    }

    /// Lets requests whose path contains a text go wrong, one after the other.
    pub(crate) fn failing(self, path: &str, faults: impl IntoIterator<Item = Fault>) -> Self {
        let faults = faults.into_iter().collect();
        self.state().faults.push((path.into(), faults));
        self
    }

    /// Gives nothing without this token.
    pub(crate) fn closed(self, token: &str) -> Self {
        self.state().token = Some(token.into());
        self
    }

    /// Does not tell the hash of a file.
    pub(crate) fn unhashed(self, name: &str) -> Self {
        self.state().unhashed.push(name.into());
        self
    }

    /// What was asked for so far whose path contains a text.
    pub(crate) fn asked(&self, path: &str) -> Vec<Asked> {
        let state = self.state();
        let asked = state.asked.iter().filter(|asked| asked.path.contains(path));
        asked.cloned().collect()
    }

    fn serve(&self, stream: TcpStream) {
        let Some(asked) = read(&stream) else { return };
        let fault = self.fault(&asked.path);
        let answer = self.answer(&asked, fault.as_ref());
        let body = spoilt(answer.body.clone(), fault.as_ref());
        let sent = sent(&body, fault.as_ref());
        // Told before it is sent: whoever has the answer may ask about it.
        self.state().asked.push(Asked { sent, ..asked });
        send(&stream, &answer, &body, sent);
        if let Some(Fault::Stall(_)) = fault {
            thread::sleep(Duration::from_secs(3)); // and the stream stays open
        }
    }

    fn fault(&self, path: &str) -> Option<Fault> {
        let mut state = self.state();
        let mut faults = state
            .faults
            .iter_mut()
            .filter(|(part, _)| path.contains(part.as_str()));
        faults.find_map(|(_, faults)| faults.pop_front())
    }

    fn answer(&self, asked: &Asked, fault: Option<&Fault>) -> Answer {
        if let Some(Fault::Status(status, after)) = fault {
            let after = after.map(|after| format!("retry-after: {after}\r\n"));
            return Answer::new(*status, after.unwrap_or_default(), Vec::new());
        }
        if let Some(Fault::Head(status, headers)) = fault {
            return Answer::new(*status, headers.clone(), b"{}".to_vec());
        }
        if let Some(Fault::Moved(to)) = fault {
            return Answer::new(307, format!("location: {to}\r\n"), Vec::new());
        }
        if let Some(name) = asked.path.strip_prefix("/cdn/") {
            return self
                .content(name)
                .map_or(Answer::missing(), |content| ranged(content, asked, fault));
        }
        let wanted = self.state().token.clone();
        if wanted.is_some() && wanted != asked.token {
            return Answer::new(401, String::new(), Vec::new());
        }
        match asked.path.strip_prefix("/api/models/") {
            Some(rest) => self.listing(rest, fault),
            None => self.file(asked, fault),
        }
    }

    /// A content by its hash.
    fn content(&self, sha256: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let mut contents = state.files.values();
        contents
            .find(|content| hex::<Sha256>(b"", content) == sha256)
            .cloned()
    }

    fn listing(&self, rest: &str, fault: Option<&Fault>) -> Answer {
        let state = self.state();
        let id = rest.split("/revision/").next().unwrap_or_default();
        let files = state
            .files
            .iter()
            .filter(|((repository, _), _)| repository == id);
        let siblings: Vec<_> = files
            .map(|((_, name), content)| match state.unhashed.contains(name) {
                true => serde_json::json!({ "rfilename": name }),
                false => sibling(name, content),
            })
            .collect();
        if siblings.is_empty() {
            return Answer::missing();
        }
        let told = serde_json::json!({
            "id": id, "sha": state.commit, "cardData": { "license": "a-licence" }, "siblings": siblings,
        });
        let text = told.to_string().into_bytes();
        match fault {
            Some(Fault::Packed) => {
                Answer::new(200, "content-encoding: gzip\r\n".into(), packed(&text))
            }
            _ => Answer::new(200, String::new(), text),
        }
    }

    /// A file as it is, or where it lies.
    fn file(&self, asked: &Asked, fault: Option<&Fault>) -> Answer {
        let resolve = format!("/resolve/{}/", self.commit());
        let Some((id, name)) = asked.path[1..].split_once(&resolve) else {
            return Answer::missing();
        };
        let found = self.state().files.get(&(id.into(), name.into())).cloned();
        match found {
            None => Answer::missing(),
            Some(content) if content.len() < LARGE => ranged(content, asked, fault),
            Some(content) => {
                // Another host, as far as a client can see.
                let (port, sha256) = (self.port, hex::<Sha256>(b"", &content));
                let place = format!("location: http://localhost:{port}/cdn/{sha256}\r\n");
                Answer::new(302, place, Vec::new())
            }
        }
    }
}

struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16, headers: String, body: Vec<u8>) -> Self {
        Self {
            status,
            headers,
            body,
        }
    }

    fn missing() -> Self {
        Self::new(404, String::new(), Vec::new())
    }
}

fn read(stream: &TcpStream) -> Option<Asked> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let headers: HashMap<_, _> = lines
        .map_while(|line| line.ok().filter(|line| !line.is_empty()))
        .filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_lowercase(), value.to_owned()))
        })
        .collect();
    let token = headers
        .get("authorization")
        .and_then(|value| value.strip_prefix("Bearer "));
    Some(Asked {
        path: first.split(' ').nth(1)?.split('?').next()?.into(),
        range: headers.get("range").cloned(),
        token: token.map(str::to_owned),
        sent: 0,
    })
}

/// The part of a content that is asked for.
fn ranged(content: Vec<u8>, asked: &Asked, fault: Option<&Fault>) -> Answer {
    let size = content.len();
    let from = asked
        .range
        .as_deref()
        .and_then(|range| range.strip_prefix("bytes="));
    let from: usize = from.map_or(0, |from| {
        from.trim_end_matches('-').parse().expect("a number")
    });
    match fault {
        Some(Fault::Packed) => {
            Answer::new(200, "content-encoding: gzip\r\n".into(), packed(&content))
        }
        Some(Fault::Whole) => Answer::new(200, String::new(), content),
        _ if from == 0 => Answer::new(200, String::new(), content),
        _ if from >= size => Answer::new(416, String::new(), Vec::new()),
        _ => {
            let range = format!("content-range: bytes {from}-{}/{size}\r\n", size - 1);
            Answer::new(206, range, content[from..].to_vec())
        }
    }
}

/// A body as the fault has it.
fn spoilt(mut body: Vec<u8>, fault: Option<&Fault>) -> Vec<u8> {
    match fault {
        Some(Fault::Damage) => *body.last_mut().expect("a body") ^= 1,
        Some(Fault::Longer) => body.push(0),
        _ => {}
    }
    body
}

/// How much of a body the fault lets through.
fn sent(body: &[u8], fault: Option<&Fault>) -> usize {
    match fault {
        Some(&(Fault::Cut(at) | Fault::Stall(at))) => at.min(body.len()),
        _ => body.len(),
    }
}

/// Sends the head of an answer and so many bytes of its body.
fn send(mut stream: &TcpStream, answer: &Answer, body: &[u8], sent: usize) {
    let Answer {
        status, headers, ..
    } = answer;
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n"
    );
    // A client that has gone has what it wanted.
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(&body[..sent]));
}

fn sibling(name: &str, content: &[u8]) -> serde_json::Value {
    let size = content.len();
    let header = format!("blob {size}\0");
    let blob = hex::<Sha1>(header.as_bytes(), content);
    if size < LARGE {
        return serde_json::json!({ "rfilename": name, "size": size, "blobId": blob });
    }
    let sha256 = hex::<Sha256>(b"", content);
    let lfs = serde_json::json!({ "sha256": sha256, "size": size, "pointerSize": 130 });
    serde_json::json!({ "rfilename": name, "size": size, "blobId": blob, "lfs": lfs })
}

fn hex<D: sha2::Digest>(before: &[u8], content: &[u8]) -> String {
    let bytes = D::new()
        .chain_update(before)
        .chain_update(content)
        .finalize();
    bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .concat()
}

fn packed(content: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(content).expect("memory");
    packer.finish().expect("memory")
}
