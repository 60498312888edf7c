//! What a repository holds, as the hub tells it.

use serde::Deserialize;

use super::{Digest, Repository, remote::hub_error, repository::is_inside};
use crate::error::Result;

/// What a repository holds.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    /// The commit that its branch or tag is now.
    pub(super) commit: String,
    /// The licence as its page names it.
    pub(super) licence: Option<String>,
    pub(super) files: Vec<RemoteFile>,
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its path in the repository.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// What its content must be.
    pub digest: Digest,
}

/// What the hub tells of a repository: <https://huggingface.co/docs/hub/api>,
/// `/api/models/{id}/revision/{revision}` with `blobs=true`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Told {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
    card_data: Option<Card>,
}

#[derive(Deserialize)]
struct Card {
    license: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Large>,
}

#[derive(Deserialize)]
struct Large {
    sha256: String,
    size: u64,
}

impl Told {
    pub(super) fn listing(self, repository: &Repository) -> Result<Listing> {
        let is_commit = self.sha.len() == 40 && Digest::of_name(&self.sha).is_some();
        if !is_commit {
            let reason = format!("the hub names no commit, but {:?}", self.sha);
            return Err(hub_error(repository, reason));
        }
        let licence = self.card_data.and_then(|card| card.license);
        Ok(Listing {
            commit: self.sha,
            licence: licence.and_then(|licence| Some(licence.as_str()?.to_owned())),
            files: self
                .siblings
                .into_iter()
                .filter_map(Sibling::file)
                .collect(),
        })
    }
}

impl Sibling {
    /// The file, unless its content is not told or its name could leave a folder.
    fn file(self) -> Option<RemoteFile> {
        let (size, digest) = match self.lfs {
            Some(large) => (large.size, large.sha256),
            None => (self.size?, self.blob_id?),
        };
        is_inside(&self.rfilename).then_some(RemoteFile {
            name: self.rfilename,
            size,
            digest: Digest::of_name(&digest)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_read_as_the_hub_tells_it() {
        let text = format!(
            r#"{{"sha": "{}", "id": "a/b", "cardData": {{"license": "mit"}}, "siblings": [
                {{"rfilename": "x.json", "size": 3, "blobId": "{}"}},
                {{"rfilename": "w/y.bin", "size": 1, "blobId": "{}",
                  "lfs": {{"sha256": "{}", "size": 7, "pointerSize": 1}}}},
                {{"rfilename": "../evil", "size": 3, "blobId": "{}"}},
                {{"rfilename": "unknown"}}]}}"#,
            "a".repeat(40),
            "b".repeat(40),
            "c".repeat(40),
            "d".repeat(64),
            "e".repeat(40),
        );
        let told: Told = serde_json::from_str(&text).unwrap();
        let listing = told.listing(&Repository::new("a/b")).unwrap();
        assert_eq!(listing.commit, "a".repeat(40));
        assert_eq!(listing.licence.as_deref(), Some("mit"));
        let files: Vec<_> = listing
            .files
            .iter()
            .map(|file| (file.name.as_str(), file.size))
            .collect();
        assert_eq!(files, [("x.json", 3), ("w/y.bin", 7)]);
        assert_eq!(listing.files[1].digest, Digest::Sha256("d".repeat(64)));
    }
}
