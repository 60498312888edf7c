//! The listing of a repository.

use serde::Deserialize;

use super::{Digest, Repository, repository::is_inside};
use crate::error::{Error, Result};

/// The contents of a repository.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    /// The current commit of the branch or tag.
    pub(super) commit: String,
    /// The licence named on the page of the repository.
    pub(super) licence: Option<String>,
    pub(super) files: Vec<RemoteFile>,
    /// Names of files whose hash or size is not stated.
    pub(super) unverifiable: Vec<String>,
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Path in the repository.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Hash of the content.
    pub digest: Digest,
}

/// The response of `/api/models/{id}/revision/{revision}` with `blobs=true`
/// (<https://huggingface.co/docs/hub/api>).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RepoInfo {
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
    #[serde(alias = "oid")]
    sha256: Option<String>,
    size: Option<u64>,
}

impl RepoInfo {
    pub(super) fn listing(self, repository: &Repository) -> Result<Listing> {
        let Some(Digest::Blob(commit)) = Digest::parse(&self.sha) else {
            let reason = format!("the hub returns {:?} instead of a commit", self.sha);
            return Err(Error::hub(repository, reason));
        };
        let licence = self.card_data.and_then(|card| card.license);
        let mut listing = Listing {
            commit,
            licence: licence.and_then(|licence| Some(licence.as_str()?.to_owned())),
            files: Vec::new(),
            unverifiable: Vec::new(),
        };
        // Only paths that stay inside the folder.
        let siblings = self.siblings.into_iter();
        for sibling in siblings.filter(|sibling| is_inside(&sibling.rfilename)) {
            match sibling.content() {
                Some((size, digest)) => listing.files.push(RemoteFile {
                    name: sibling.rfilename,
                    size,
                    digest,
                }),
                None => listing.unverifiable.push(sibling.rfilename),
            }
        }
        Ok(listing)
    }
}

impl Sibling {
    /// Size and hash, if they are stated.
    fn content(&self) -> Option<(u64, Digest)> {
        let (size, digest) = match &self.lfs {
            Some(large) => (large.size.or(self.size)?, large.sha256.as_ref()?),
            None => (self.size?, self.blob_id.as_ref()?),
        };
        Some((size, Digest::parse(digest)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listing_of_the_hub_is_parsed() {
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
        let info: RepoInfo = serde_json::from_str(&text).unwrap();
        let listing = info.listing(&Repository::new("a/b")).unwrap();
        assert_eq!(listing.commit, "a".repeat(40));
        assert_eq!(listing.licence.as_deref(), Some("mit"));
        let files: Vec<_> = listing
            .files
            .iter()
            .map(|file| (file.name.as_str(), file.size))
            .collect();
        assert_eq!(files, [("x.json", 3), ("w/y.bin", 7)]);
        assert_eq!(listing.files[1].digest, Digest::Sha256("d".repeat(64)));
        assert_eq!(listing.unverifiable, ["unknown"]);
    }

    #[test]
    fn hashes_may_be_written_otherwise() {
        let text = format!(
            r#"{{"sha": "{}", "siblings": [
                {{"rfilename": "a", "lfs": {{"sha256": "{}", "size": 7}}}},
                {{"rfilename": "b", "lfs": {{"oid": "sha256:{}", "size": 7}}}},
                {{"rfilename": "c", "size": 7, "blobId": "{}"}},
                {{"rfilename": "d", "size": 7, "blobId": "short"}},
                {{"rfilename": "e", "size": 7, "lfs": {{}}}}]}}"#,
            "A".repeat(40),
            "D".repeat(64),
            "d".repeat(64),
            "B".repeat(40),
        );
        let info: RepoInfo = serde_json::from_str(&text).unwrap();
        let listing = info.listing(&Repository::new("a/b")).unwrap();
        assert_eq!(listing.commit, "a".repeat(40));
        let digests: Vec<_> = listing
            .files
            .iter()
            .map(|file| file.digest.name())
            .collect();
        assert_eq!(digests, ["d".repeat(64), "d".repeat(64), "b".repeat(40)]);
        assert_eq!(listing.unverifiable, ["d", "e"]);
    }
}
