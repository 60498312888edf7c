//! Shards: the parts of a manifest that several processes work on.

use std::{collections::HashMap, fmt, ops::Range, str::FromStr};

use crate::error::{Error, Result};

/// A shard and the number of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Counted from 0.
    index: usize,
    count: usize,
}

impl Shard {
    /// The shard with this index, counted from 0; `None` if there are no more than `index`.
    pub fn new(index: usize, count: usize) -> Option<Self> {
        (index < count).then_some(Self { index, count })
    }

    /// The positions in a list of so many that are this shard's. Those of all shards are
    /// disjoint and complete, and differ by one at most.
    fn range(self, total: usize) -> Range<usize> {
        let bound = |index: usize| {
            let bound = total as u128 * index as u128 / self.count as u128;
            bound as usize // at most `total`
        };
        bound(self.index)..bound(self.index + 1)
    }

    /// The indices of the jobs that are this shard's, given what each shares with others, as
    /// its model and its inversion: in order of the first, then of the second. All shards have
    /// the same number of jobs, or one more, and jobs that share something are divided at the
    /// bound between two shards only. What is already done plays no part.
    pub fn of<K: AsRef<str>>(self, shared: &[[K; 2]]) -> Vec<usize> {
        let order = together(shared);
        order[self.range(shared.len())].to_vec()
    }
}

/// The indices of a list, equal items together, in the order in which they first appear.
fn together<K: AsRef<str>>(items: &[[K; 2]]) -> Vec<usize> {
    let mut order: Vec<_> = (0..items.len()).collect();
    let mut places = HashMap::new();
    let keys = items.iter().map(|[first, second]| {
        let (first, second) = (first.as_ref(), second.as_ref());
        let own = place(&mut places, [first, ""]);
        (own, place(&mut places, [first, second]))
    });
    let keys: Vec<_> = keys.collect();
    order.sort_by_key(|index| keys[*index]); // stable
    order
}

/// The place of a key among those that came before.
fn place<'a>(places: &mut HashMap<[&'a str; 2], usize>, key: [&'a str; 2]) -> usize {
    let next = places.len();
    *places.entry(key).or_insert(next)
}

impl FromStr for Shard {
    type Err = Error;

    /// Reads `K/N`, K from 1.
    fn from_str(text: &str) -> Result<Self> {
        let numbers = text.split_once('/');
        let numbers = numbers.and_then(|(k, n)| Some((number(k)?, number(n)?)));
        let shard = numbers.and_then(|(k, n)| Self::new(k.checked_sub(1)?, n));
        let reason = "write the number of a shard, from 1, and that of all, as in 1/4";
        shard.ok_or_else(|| Error::setting(reason))
    }
}

/// A number of digits alone.
pub(super) fn number(text: &str) -> Option<usize> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index + 1, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_disjoint_and_complete_whatever_their_number() {
        let shared: Vec<_> = (0..37)
            .map(|job: usize| [(job % 2).to_string(), (job % 5).to_string()])
            .collect();
        for count in 1..60 {
            let shards = (0..count).map(|index| Shard::new(index, count).unwrap().of(&shared));
            let shards: Vec<_> = shards.collect();
            let lengths = || shards.iter().map(Vec::len);
            assert!(lengths().max().unwrap() - lengths().min().unwrap() <= 1);
            let mut all = shards.concat();
            all.sort_unstable();
            assert_eq!(all, (0..37).collect::<Vec<_>>(), "{count} shards");
        }
    }

    #[test]
    fn jobs_that_share_something_stay_together() {
        let shared = ["a", "b", "a", "b", "a", "c"].map(|picture| ["model", picture]);
        let of = |text: &str| text.parse::<Shard>().unwrap().of(&shared);
        assert_eq!((of("1/2"), of("2/2")), (vec![0, 2, 4], vec![1, 3, 5]));
        assert_eq!(of("1/1"), [0, 2, 4, 1, 3, 5]);
        assert!(of("1/7").is_empty());
        let shared = [["x", "a"], ["y", "a"], ["x", "b"], ["y", "a"], ["x", "a"]];
        assert_eq!(Shard::new(0, 1).unwrap().of(&shared), [0, 4, 2, 1, 3]);
    }

    #[test]
    fn shards_are_counted_from_one() {
        for bad in [
            "0/4", "5/4", "1", "1/0", "a/4", "1/b", "-1/4", "1/4/4", "+1/4", "", "/",
        ] {
            assert!(bad.parse::<Shard>().is_err(), "{bad:?}");
        }
        assert_eq!("4/4".parse::<Shard>().unwrap().to_string(), "4/4");
    }
}
