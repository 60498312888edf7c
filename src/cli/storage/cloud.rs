//! Object stores: `s3://bucket/key`, `gs://bucket/key` and `az://container/key`.
//!
//! Credentials and endpoints are read from the environment: all variables `AWS_*`, `GOOGLE_*`
//! and `AZURE_*` that the crate `object_store` knows.
//!
//! An object is whole or absent whatever happens to a connection, and one that is to be kept
//! is created only if nothing has its name, in one request. So no two workers write a result
//! twice, and nothing has to be locked. Each result carries its [`Record`] as metadata: a
//! request without content tells whether it is finished.

mod connector;
mod place;

use std::{
    collections::HashMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use icd::{
    Error, Result,
    batch::{Kind, Record, Stat, Storage},
    error::abridged,
    io::Existing,
};
use object_store::{
    Attribute, AttributeValue, Attributes, GetOptions, ObjectStore, PutMode, PutOptions,
};
use tokio::runtime::{Builder, Runtime};

use self::{
    connector::{Connector, Cut},
    place::Place,
};
use crate::cli::ui::lines::{foreign, log_line};

/// Most bytes of an object that is read.
const MAX_BYTES: u64 = 1 << 30;

/// Pauses between the attempts of a request whose connection is cut, or that the server asks
/// to repeat.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_millis(1500),
    Duration::from_secs(5),
    Duration::from_secs(15),
];

/// Most bytes of what a server says.
const MAX_SAID: usize = 300;

/// The name of the record in the metadata of an object.
const RECORD: &str = "icd";

/// Receives notes on requests that are repeated.
type Notes = Box<dyn Fn(&str) + Send + Sync>;

static NOTES: OnceLock<Notes> = OnceLock::new();

/// Sends notes on requests that are repeated here, instead of to stderr.
pub(crate) fn tell_with(notes: impl Fn(&str) + Send + Sync + 'static) {
    // The first one stays.
    let _ = NOTES.set(Box::new(notes));
}

/// All object stores of this process, which share their connections.
struct Cloud {
    /// Only ever waits: requests are made on the thread that asks.
    runtime: Runtime,
    connector: Connector,
    buckets: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
}

/// The object store of a URL.
pub(crate) fn storage(file: &Path) -> Result<&'static dyn Storage> {
    static CLOUD: OnceLock<Cloud> = OnceLock::new();
    if let Some(cloud) = CLOUD.get() {
        return Ok(cloud);
    }
    let runtime = Builder::new_current_thread().enable_time().build();
    let cloud = Cloud {
        runtime: runtime.map_err(|error| Error::io(file, error))?,
        connector: Connector::from_env()?,
        buckets: Mutex::default(),
    };
    Ok(CLOUD.get_or_init(|| cloud))
}

impl Cloud {
    fn bucket(&self, file: &Path, place: &Place) -> Result<Arc<dyn ObjectStore>> {
        // A panic while it is held leaves the map valid.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let name = place.bucket_url();
        if let Some(known) = buckets.get(&name) {
            return Ok(known.clone());
        }
        let opened = place.open(self.connector.clone());
        let opened = opened.map_err(|error| refused(file, &error))?;
        buckets.insert(name, opened.clone());
        Ok(opened)
    }

    /// Asks the store of a file, again if the connection fails.
    fn ask<T, F: Future<Output = object_store::Result<T>>>(
        &self,
        file: &Path,
        request: impl Fn(Arc<dyn ObjectStore>, object_store::path::Path) -> F,
    ) -> Result<Result<T, object_store::Error>> {
        let place = Place::of(file)?;
        let bucket = self.bucket(file, &place)?;
        let mut pauses = PAUSES.iter();
        loop {
            let asked = request(bucket.clone(), place.key.clone());
            let error = match self.runtime.block_on(asked) {
                Ok(answer) => return Ok(Ok(answer)),
                Err(error) => error,
            };
            let Some(cut) = cut(&error) else {
                return Ok(Err(error));
            };
            let Some(pause) = pauses.next() else {
                let reason = format!("{}, {} times", foreign(&cut.to_string()), PAUSES.len() + 1);
                return Err(fault(file, io::ErrorKind::NetworkDown, reason));
            };
            note(&format!(
                "{}: {}; again in {} s",
                foreign(&file.to_string_lossy()),
                foreign(&cut.to_string()),
                pause.as_secs_f64()
            ));
            thread::sleep(*pause);
        }
    }

    /// The answer to a request, of which a refusal is an error.
    fn answer<T, F: Future<Output = object_store::Result<T>>>(
        &self,
        file: &Path,
        request: impl Fn(Arc<dyn ObjectStore>, object_store::path::Path) -> F,
    ) -> Result<T> {
        self.ask(file, request)?
            .map_err(|error| refused(file, &error))
    }

    /// Whether an object has this content.
    fn holds(&self, file: &Path, bytes: &[u8]) -> Result<bool> {
        match self.read(file) {
            Ok(found) => Ok(found == bytes),
            // Another one is being created at this moment, or was removed.
            Err(Error::Io { reason, .. }) if reason.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Storage for Cloud {
    fn kind(&self) -> Kind {
        Kind::Objects
    }

    fn read(&self, file: &Path) -> Result<Vec<u8>> {
        let bytes = self.answer(file, |bucket, key| async move {
            let found = bucket.get_opts(&key, GetOptions::default()).await?;
            match found.meta.size > MAX_BYTES {
                true => Ok(None),
                false => found.bytes().await.map(Some),
            }
        })?;
        let bytes = bytes.ok_or_else(|| {
            let reason = "it is larger than 1 GiB".to_owned();
            fault(file, io::ErrorKind::FileTooLarge, reason)
        })?;
        Ok(bytes.into())
    }

    fn stat(&self, file: &Path) -> Result<Option<Stat>> {
        let head = || GetOptions {
            head: true,
            ..GetOptions::default()
        };
        let found = self.ask(file, |bucket, key| async move {
            bucket.get_opts(&key, head()).await
        })?;
        match found {
            Ok(found) => Ok(Some(Stat::File {
                bytes: found.meta.size,
                record: stated(&found.attributes),
            })),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(refused(file, &error)),
        }
    }

    fn files(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let bucket = Place::of(folder)?.bucket_url();
        let listed = self.answer(folder, |bucket, key| async move {
            bucket.list_with_delimiter(Some(&key)).await
        })?;
        let name = |key: &object_store::path::Path| PathBuf::from(format!("{bucket}/{key}"));
        let names = listed.objects.iter().map(|object| name(&object.location));
        let mut names: Vec<_> = names.collect();
        names.sort();
        Ok(names)
    }

    fn is_folder(&self, path: &Path) -> Result<bool> {
        Ok(self.stat(path)?.is_none() && !self.files(path)?.is_empty())
    }

    /// Folders are prefixes of names and need not be created. One answer tells that the bucket
    /// is there and can be read.
    fn create_folder(&self, folder: &Path) -> Result<()> {
        self.stat(&folder.join("failed.jsonl")).map(drop)?;
        self.answer(folder, |bucket, key| async move {
            bucket.list_with_delimiter(Some(&key)).await.map(drop)
        })
    }

    /// Creates an object, or replaces it. One of a result that is there already with the same
    /// content is the own one, of which the answer was lost, or that of another worker.
    fn write(
        &self,
        file: &Path,
        bytes: &[u8],
        record: Option<&Record>,
        existing: Existing,
    ) -> Result<()> {
        let options = PutOptions {
            mode: match existing {
                Existing::Keep => PutMode::Create,
                Existing::Replace => PutMode::Overwrite,
            },
            attributes: record.map_or_else(Attributes::new, attributes),
            ..PutOptions::default()
        };
        let put = self.ask(file, |bucket, key| {
            let (options, bytes) = (options.clone(), bytes.to_vec());
            async move { bucket.put_opts(&key, bytes.into(), options).await }
        })?;
        match put {
            Ok(_) => Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => {
                if record.is_some() && self.holds(file, bytes)? {
                    return Ok(());
                }
                let reason = "an object of this name exists and was left as it is".to_owned();
                Err(fault(file, io::ErrorKind::AlreadyExists, reason))
            }
            Err(error) => Err(refused(file, &error)),
        }
    }

    fn remove(&self, file: &Path) -> Result<()> {
        use object_store::ObjectStoreExt;

        if self.stat(file)?.is_none() {
            return Ok(());
        }
        self.answer(file, |bucket, key| async move { bucket.delete(&key).await })
    }
}

fn note(line: &str) {
    match NOTES.get() {
        Some(notes) => notes(line),
        None => log_line(line),
    }
}

/// The record of an object as metadata, in ASCII: its name is that of the object.
fn attributes(record: &Record) -> Attributes {
    let record = Record {
        output: String::new(),
        ..record.clone()
    };
    let text = serde_json::to_string(&record).unwrap_or_default();
    let entry = (
        Attribute::Metadata(RECORD.into()),
        AttributeValue::from(text),
    );
    Attributes::from_iter([entry])
}

/// The record that metadata state; another program may have written them.
fn stated(attributes: &Attributes) -> Option<Record> {
    let text = attributes.get(&Attribute::Metadata(RECORD.into()))?;
    serde_json::from_str(text.as_ref()).ok()
}

fn fault(file: &Path, kind: io::ErrorKind, reason: String) -> Error {
    Error::io(file, io::Error::new(kind, reason))
}

/// The cut connection behind an error, if it is one.
fn cut(error: &object_store::Error) -> Option<&Cut> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// What a store does not do, and why.
fn refused(file: &Path, error: &object_store::Error) -> Error {
    use io::ErrorKind::{InvalidInput, NotFound, Other, PermissionDenied};
    use object_store::Error as Of;
    let (kind, what) = match error {
        Of::NotFound { .. } => (NotFound, "there is no such object, or no such bucket"),
        Of::PermissionDenied { .. } => (
            PermissionDenied,
            "it may not be used with the credentials of the environment",
        ),
        Of::Unauthenticated { .. } => (
            PermissionDenied,
            "the credentials of the environment are not valid",
        ),
        Of::InvalidPath { .. } => (InvalidInput, "this is no name of an object"),
        _ => (Other, "the request failed"),
    };
    fault(file, kind, format!("{what}{}", said(error)))
}

/// What the server says of it, in brackets: a stranger's text.
fn said(error: &object_store::Error) -> String {
    let last = causes(error)
        .last()
        .map_or_else(String::new, ToString::to_string);
    let tag = |name: &str| {
        let (_, rest) = last.split_once(&format!("<{name}>"))?;
        Some(rest.split_once('<')?.0)
    };
    let text = match (tag("Code"), tag("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        _ => last,
    };
    match text.is_empty() {
        true => text,
        false => format!(" ({})", foreign(&abridged(&text, MAX_SAID))),
    }
}

impl fmt::Debug for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cloud").finish_non_exhaustive()
    }
}
