//! The attention kernels, and the choice between them.

/// A kernel of attention or, in [`MAPS`], of maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// Width of a head.
    pub(super) width: usize,
    /// Queries of a block.
    pub(super) queries: usize,
    /// Bytes of dynamic shared memory of a block.
    pub(super) shared: u32,
}

/// Threads of a block.
pub(super) const THREADS: u32 = 128;

const fn kind(width: usize, queries: usize, shared: u32) -> Kind {
    Kind {
        width,
        queries,
        shared,
    }
}

/// The kernels of attention, of each width those with the most queries first.
const ATTENTION: [Kind; 7] = [
    kind(40, 128, 43_008),
    kind(40, 64, 35_840),
    kind(64, 128, 55_296),
    kind(64, 64, 46_080),
    kind(80, 64, 56_320),
    kind(128, 64, 87_040),
    kind(160, 64, 107_520),
];

/// The kernels of attention maps.
const MAPS: [Kind; 5] = [
    kind(40, 64, 21_504),
    kind(64, 64, 27_648),
    kind(80, 64, 33_792),
    kind(128, 64, 52_224),
    kind(160, 64, 64_512),
];

/// The kernel for `rows` heads of a width, batch by batch, with `n` queries each. Blocks of
/// more queries read keys and values less often: preferred where they occupy the GPU twice.
pub(super) fn attention(
    width: usize,
    [rows, n]: [usize; 2],
    multiprocessors: usize,
) -> Option<Kind> {
    let kinds = || ATTENTION.iter().filter(|kind| kind.width == width);
    let occupies = |kind: &&Kind| rows * n.div_ceil(kind.queries) >= 2 * multiprocessors;
    kinds().find(occupies).or(kinds().next_back()).copied()
}

/// The kernel of the maps of heads of a width.
pub(super) fn maps(width: usize) -> Option<Kind> {
    MAPS.into_iter().find(|kind| kind.width == width)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An H100.
    const GPU: usize = 132;

    #[test]
    fn many_queries_share_a_block_where_the_gpu_stays_occupied() {
        let queries = |width, rows, n| attention(width, [rows, n], GPU).map(|kind| kind.queries);
        assert_eq!(queries(40, 16, 4096), Some(128));
        assert_eq!(queries(40, 8, 1024), Some(64));
        assert_eq!(queries(64, 20, 1024), Some(64));
        assert_eq!(queries(160, 16, 4096), Some(64));
        assert_eq!(queries(48, 16, 4096), None);
        assert_eq!(maps(80), Some(kind(80, 64, 33_792)));
        assert_eq!(maps(48), None);
    }

    #[test]
    fn the_kernels_are_those_of_the_source() {
        let rows = |name: &str, queries: usize| {
            let lines = include_str!("attention.cu").lines();
            let mut rows = lines.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
            let row = rows.find(|row| row.get(1) == Some(&name)).expect("a row");
            assert_eq!(row[3], queries.to_string());
            let numbers = |text: &str| -> Vec<u32> {
                let numbers = text.split(',').map(|number| number.trim().parse());
                numbers.collect::<Result<_, _>>().unwrap()
            };
            let rows = numbers(row[2]).into_iter().zip(numbers(row[4]));
            rows.map(move |(width, shared)| kind(width as usize, queries, shared))
                .collect::<Vec<_>>()
        };
        let stated =
            [128, 64].map(|queries| rows(&format!("attention_T_d{{D}}_q{queries}"), queries));
        let mut known = ATTENTION.to_vec();
        known.sort_by_key(|kind| (std::cmp::Reverse(kind.queries), kind.width));
        assert_eq!(stated.concat(), known);
        assert_eq!(rows("attention_maps_T_d{D}", 64), MAPS);
    }
}
