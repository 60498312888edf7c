//! The files that a model requires from the hub, and the plan to download those that are
//! missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::PathBuf,
};

use super::{
    Cache, Hub, Progress, Repository,
    download::{check_room, retry, unfinished},
    listing::{Listing, RemoteFile},
};
use crate::error::{Error, Result};

/// A file that a model requires, under the first of several names that its repository has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredFile {
    /// The repository.
    pub repository: Repository,
    /// Alternative names, in order of preference.
    pub names: Vec<String>,
    /// Whether it may be missing in the repository.
    pub optional: bool,
}

impl RequiredFile {
    /// The file, if it is in the cache.
    pub fn file(&self, cache: &Cache) -> Option<PathBuf> {
        let mut names = self.names.iter();
        names.find_map(|name| cache.file(&self.repository, name))
    }
}

/// A file to download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedFile {
    /// The repository.
    pub repository: Repository,
    /// The commit of the repository.
    pub commit: String,
    /// The file.
    pub file: RemoteFile,
}

impl PlannedFile {
    /// Whether the complete file is in the cache.
    pub(super) fn is_here(&self, cache: &Cache) -> bool {
        let content = cache.blob(&self.repository, &self.file.digest);
        fs::metadata(content).is_ok_and(|found| found.len() == self.file.size)
    }

    /// Number of bytes to download.
    fn missing(&self, cache: &Cache) -> u64 {
        let content = cache.blob(&self.repository, &self.file.digest);
        let part = fs::metadata(unfinished(&content)).map_or(0, |found| found.len());
        match self.is_here(cache) {
            true => 0,
            false => self.file.size.saturating_sub(part),
        }
    }
}

impl fmt::Display for PlannedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.repository, self.file.name)
    }
}

/// The files to download.
#[derive(Clone, Debug, Default)]
pub struct DownloadPlan {
    /// The repositories, with the licences named on their pages.
    pub licences: Vec<(Repository, Option<String>)>,
    /// The files, grouped by repository.
    pub files: Vec<PlannedFile>,
    /// Number of bytes to download.
    pub bytes: u64,
}

impl Hub {
    /// Plans the download of the required files that are missing in the cache. Only
    /// repositories with missing files are requested from the hub.
    pub fn plan(
        &self,
        cache: &Cache,
        needs: &[RequiredFile],
        report: &mut dyn FnMut(Progress),
    ) -> Result<DownloadPlan> {
        let mut plan = DownloadPlan::default();
        for (repository, needs) in by_repository(needs) {
            let missing = needs
                .iter()
                .find(|need| !need.optional && need.file(cache).is_none());
            let Some(missing) = missing else { continue };
            let root = cache.root()?;
            if self.is_offline() {
                let reason = format!(
                    "it is not in the cache {}, and HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids downloads",
                    root.display()
                );
                let file = format!("{}/{}", missing.repository, missing.names[0]);
                return Err(Error::hub(file, reason));
            }
            let ask = |_: &mut dyn FnMut(Progress)| self.listing(repository);
            let listing = retry(self.retry_policy, &repository.to_string(), ask, report)?;
            plan.add(repository, &needs, listing)?;
        }
        let missing = plan.files.iter().map(|file| file.missing(cache));
        plan.bytes = missing.fold(0, u64::saturating_add);
        Ok(plan)
    }

    /// Downloads all files of a plan and reports the progress of each.
    pub fn fetch_all(
        &self,
        cache: &Cache,
        plan: &DownloadPlan,
        report: &mut dyn FnMut(&PlannedFile, Progress),
    ) -> Result<()> {
        check_room(cache.root()?, plan.bytes)?;
        for wanted in &plan.files {
            self.fetch(cache, wanted, &mut |progress| report(wanted, progress))?;
        }
        // Only when all files are complete: a partial commit must not replace a complete one.
        for file in &plan.files {
            cache.write_ref(&file.repository, &file.commit)?;
        }
        Ok(())
    }
}

impl DownloadPlan {
    /// Adds the required files of one repository.
    fn add(
        &mut self,
        repository: &Repository,
        needs: &[&RequiredFile],
        listing: Listing,
    ) -> Result<()> {
        let found = |name: &String| listing.files.iter().find(|file| file.name == *name);
        let unverifiable = |name: &&String| listing.unverifiable.contains(name);
        for need in needs {
            let file = need.names.iter().find_map(found);
            match (file, need.names.iter().find(unverifiable)) {
                (Some(file), _) => self.files.push(PlannedFile {
                    repository: repository.clone(),
                    commit: listing.commit.clone(),
                    file: file.clone(),
                }),
                (None, Some(name)) => {
                    let reason = format!(
                        "the hub states no hash and size of {name}, so that a download could not \
                         be checked; put the file into a folder and name that"
                    );
                    return Err(Error::hub(repository, reason));
                }
                (None, None) if need.optional => {}
                (None, None) => {
                    let reason = format!("it has no {}", need.names.join(" or "));
                    return Err(Error::hub(repository, reason));
                }
            }
        }
        self.licences.push((repository.clone(), listing.licence));
        Ok(())
    }
}

/// The repositories of the required files, without duplicates.
pub fn repositories(needs: &[RequiredFile]) -> BTreeSet<&Repository> {
    needs.iter().map(|need| &need.repository).collect()
}

fn by_repository(needs: &[RequiredFile]) -> BTreeMap<&Repository, Vec<&RequiredFile>> {
    let mut grouped: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for need in needs {
        grouped.entry(&need.repository).or_default().push(need);
    }
    grouped
}
