//! Distribution of work to threads, in parts whose size does not depend on the number of
//! threads, so that the results do not either.
//!
//! Work comes as `dyn`: its parts are large, and so the distribution is compiled once for
//! each type of part and not for each closure.

use rayon::prelude::*;

/// Values per part: 128 KiB.
pub(super) const PART: usize = 1 << 15;

/// Up to this number of values, waking another thread takes longer than the work.
const ALONE: usize = 1 << 13;

/// Calls `work` with the index and the values of each part of `out`, of `part` values
/// except the last.
pub(super) fn share(out: &mut [f32], part: usize, work: Work) {
    let part = part.max(1);
    if out.len() <= ALONE {
        let parts = out.chunks_mut(part).enumerate();
        return parts.for_each(|(i, out)| work(i, out));
    }
    each_part(out, part, work);
}

/// What is done with a part of an output, given its index.
pub(super) type Work<'a> = &'a (dyn Fn(usize, &mut [f32]) + Sync);

/// As [`share`], where a few values are worth a thread.
pub(super) fn each_part(out: &mut [f32], part: usize, work: Work) {
    each_chunk(out, part, work);
}

/// Calls `work` with the index and the values of each of the parts.
pub(super) fn each<T: Send>(parts: Vec<T>, work: &(dyn Fn(usize, T) + Sync)) {
    let parts = parts.into_par_iter().enumerate();
    parts.for_each(|(i, part)| work(i, part));
}

/// Calls `work` with the index and the values of each `length` of them.
pub(super) fn each_chunk<T: Send>(
    out: &mut [T],
    length: usize,
    work: &(dyn Fn(usize, &mut [T]) + Sync),
) {
    let chunks = out.par_chunks_mut(length.max(1)).enumerate();
    chunks.for_each(|(i, chunk)| work(i, chunk));
}

/// The results of `work` for each of the parts.
pub(super) fn map<T: Send, U: Send>(
    parts: Vec<T>,
    work: &(dyn Fn(usize, T) -> U + Sync),
) -> Vec<U> {
    let parts = parts.into_par_iter().enumerate();
    parts.map(|(i, part)| work(i, part)).collect()
}

/// Replaces the contents of a vector by the results of `work` for each of so many indices.
pub(super) fn fill<T: Send>(out: &mut Vec<T>, count: usize, work: &(dyn Fn(usize) -> T + Sync)) {
    (0..count).into_par_iter().map(work).collect_into_vec(out);
}

/// The results of `work` for each part, of `values` values in total.
pub(super) fn map_parts<T: Send>(
    parts: usize,
    values: usize,
    work: &(dyn Fn(usize) -> T + Sync),
) -> Vec<T> {
    match values <= ALONE {
        true => (0..parts).map(work).collect(),
        false => (0..parts).into_par_iter().map(work).collect(),
    }
}

/// The number of values, about [`PART`], of complete rows of `columns`.
pub(super) fn whole_rows(columns: usize) -> usize {
    PART.next_multiple_of(columns.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_worked_on_once_and_found_in_order() {
        for (values, part) in [(0, 3), (1, 5), (10, 3), (ALONE + 1, 1000), (100_000, 77)] {
            let mut out = vec![0f32; values];
            share(&mut out, part, &|i, out| {
                for x in out {
                    *x += 1.0 + i as f32;
                }
            });
            let expected = (0..values).map(|i| 1.0 + (i / part) as f32);
            assert_eq!(out, expected.collect::<Vec<_>>());
            let mut filled = vec![1];
            fill(&mut filled, values, &|i| i * i);
            assert_eq!(filled, (0..values).map(|i| i * i).collect::<Vec<_>>());
            let squares = map_parts(part, values, &|i| i * i);
            assert_eq!(squares, (0..part).map(|i| i * i).collect::<Vec<_>>());
        }
    }
}
