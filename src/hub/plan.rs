//! What a model needs of the hub, what of that is missing, and what fetching it
//! means.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::PathBuf,
};

use super::{
    Cache, Hub, Progress, Repository,
    download::{check_room, persevere, unfinished},
    listing::{Listing, RemoteFile},
    remote::hub_error,
};
use crate::error::{Error, Result};

/// A file that is needed: the first of some that a repository has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Where it lies.
    pub repository: Repository,
    /// Its names, the best one first.
    pub names: Vec<String>,
    /// Whether a repository may lack it.
    pub optional: bool,
}

impl Need {
    /// The file, where the cache has it.
    pub fn file(&self, cache: &Cache) -> Option<PathBuf> {
        let mut names = self.names.iter();
        names.find_map(|name| cache.file(&self.repository, name))
    }
}

/// A file to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where from.
    pub repository: Repository,
    /// Which state of it.
    pub commit: String,
    /// The file.
    pub file: RemoteFile,
}

impl Wanted {
    /// Whether the cache has the whole content.
    pub(super) fn is_here(&self, cache: &Cache) -> bool {
        let content = cache.content(&self.repository, &self.file.digest);
        fs::metadata(content).is_ok_and(|found| found.len() == self.file.size)
    }

    /// Bytes that are still to come.
    fn missing(&self, cache: &Cache) -> u64 {
        let content = cache.content(&self.repository, &self.file.digest);
        let part = fs::metadata(unfinished(&content)).map_or(0, |found| found.len());
        match self.is_here(cache) {
            true => 0,
            false => self.file.size.saturating_sub(part),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.repository, self.file.name)
    }
}

/// What is to be fetched.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The repositories, and the licences that their pages name.
    pub licences: Vec<(Repository, Option<String>)>,
    /// The files, repository by repository.
    pub files: Vec<Wanted>,
    /// Bytes that are still to come.
    pub bytes: u64,
}

impl Hub {
    /// What of some needs is missing in the cache, as the hub tells it. It is
    /// asked about repositories only of which something is missing.
    pub fn plan(
        &self,
        cache: &Cache,
        needs: &[Need],
        tell: &mut dyn FnMut(Progress),
    ) -> Result<Plan> {
        let mut plan = Plan::default();
        for (repository, needs) in by_repository(needs) {
            let missing = needs
                .iter()
                .find(|need| !need.optional && need.file(cache).is_none());
            let Some(missing) = missing else { continue };
            self.check_online(cache, missing)?;
            let ask = |_: &mut dyn FnMut(Progress)| self.listing(repository);
            let listing = persevere(self.patience, &repository.to_string(), ask, tell)?;
            plan.add(repository, &needs, listing)?;
        }
        plan.bytes = plan.files.iter().map(|file| file.missing(cache)).sum();
        Ok(plan)
    }

    /// Fetches all of a plan. `tell` learns of which file what happens.
    pub fn fetch_all(
        &self,
        cache: &Cache,
        plan: &Plan,
        tell: &mut dyn FnMut(&Wanted, Progress),
    ) -> Result<()> {
        check_room(cache.root(), plan.bytes)?;
        for wanted in &plan.files {
            self.fetch(cache, wanted, &mut |progress| tell(wanted, progress))?;
        }
        // Only now, so that a state of which half is here does not hide one that is whole.
        let states = plan
            .files
            .iter()
            .map(|wanted| (&wanted.repository, &wanted.commit));
        let states: BTreeSet<_> = states.collect();
        states
            .into_iter()
            .try_for_each(|(repository, commit)| cache.remember(repository, commit))
    }

    fn check_online(&self, cache: &Cache, missing: &Need) -> Result<()> {
        match self.is_offline() {
            false => Ok(()),
            true => Err(Error::Hub {
                what: format!("{}/{}", missing.repository, missing.names[0]),
                reason: format!(
                    "it is not in the cache {}, and HF_HUB_OFFLINE forbids to fetch it",
                    cache.root().display()
                ),
            }),
        }
    }
}

impl Plan {
    /// Adds what is needed of one repository.
    fn add(&mut self, repository: &Repository, needs: &[&Need], listing: Listing) -> Result<()> {
        let commit = listing.commit.clone();
        for need in needs {
            match first(need, &listing) {
                Some(file) => self.files.push(Wanted {
                    repository: repository.clone(),
                    commit: commit.clone(),
                    file: file.clone(),
                }),
                None if need.optional => {}
                None => {
                    let reason = format!("it has no {}", need.names.join(", nor "));
                    return Err(hub_error(repository, reason));
                }
            }
        }
        self.licences.push((repository.clone(), listing.licence));
        Ok(())
    }
}

/// The best of a need's files that a repository has.
fn first<'a>(need: &Need, listing: &'a Listing) -> Option<&'a RemoteFile> {
    let file = |name: &String| listing.files.iter().find(|file| file.name == *name);
    need.names.iter().find_map(file)
}

/// The repositories of some needs, each once.
pub fn repositories(needs: &[Need]) -> BTreeSet<&Repository> {
    needs.iter().map(|need| &need.repository).collect()
}

fn by_repository(needs: &[Need]) -> BTreeMap<&Repository, Vec<&Need>> {
    let mut grouped: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for need in needs {
        grouped.entry(&need.repository).or_default().push(need);
    }
    grouped
}
