//! The attention kernels, and the choice between them.

use std::cmp::Reverse;

/// A kernel of attention or of attention maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// Width of a head.
    pub(super) width: usize,
    /// Queries of a block.
    pub(super) queries: usize,
    /// Threads of a block.
    pub(super) threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub(super) shared: u32,
}

const fn kind(width: usize, queries: usize, threads: u32, shared: u32) -> Kind {
    Kind {
        width,
        queries,
        threads,
        shared,
    }
}

/// The kernels of attention.
const ATTENTION: [Kind; 9] = [
    kind(40, 64, 128, 25_600),
    kind(64, 64, 128, 46_080),
    kind(80, 64, 128, 56_320),
    kind(128, 64, 128, 87_040),
    kind(160, 64, 128, 107_520),
    kind(64, 96, 96, 50_688),
    kind(40, 128, 128, 30_720),
    kind(64, 128, 128, 55_296),
    kind(64, 160, 160, 59_904),
];

/// The kernels of attention maps.
const MAPS: [Kind; 5] = [
    kind(40, 64, 128, 15_360),
    kind(64, 64, 128, 27_648),
    kind(80, 64, 128, 33_792),
    kind(128, 64, 128, 52_224),
    kind(160, 64, 128, 64_512),
];

/// What reading keys and values costs, in queries that could be computed meanwhile.
const READING: usize = 32;

/// The fastest kernel for `rows` heads of a width in all, with `n` queries each: larger
/// blocks read keys and values less often, but all multiprocessors should end together.
pub(super) fn attention(
    width: usize,
    [rows, n]: [usize; 2],
    multiprocessors: usize,
) -> Option<Kind> {
    let time = |kind: &Kind| {
        let blocks = rows * n.div_ceil(kind.queries);
        let rounds = blocks.div_ceil(multiprocessors);
        (rounds * (kind.queries + READING), Reverse(kind.queries))
    };
    let kinds = ATTENTION.into_iter().filter(|kind| kind.width == width);
    kinds.min_by_key(time)
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
    fn blocks_are_large_where_the_gpu_stays_occupied() {
        let queries = |width, rows, n| attention(width, [rows, n], GPU).map(|kind| kind.queries);
        assert_eq!(queries(40, 16, 4096), Some(128));
        assert_eq!(queries(40, 8, 256), Some(64));
        assert_eq!(queries(160, 16, 4096), Some(64));
        assert_eq!(queries(48, 16, 4096), None);
        assert_eq!(queries(64, 20, 4096), Some(160));
        // 160 blocks of 128 queries would take as many rounds as 220 of 96.
        assert_eq!(queries(64, 20, 1024), Some(96));
        assert_eq!(maps(80).map(|kind| kind.queries), Some(64));
        assert_eq!(maps(48), None);
    }

    /// The kernels in the rows of the source's table whose first cell begins with `name`.
    fn stated(name: &str, queries: impl Fn(&str) -> usize) -> Vec<Kind> {
        let numbers = |text: &str| -> Vec<u32> {
            let numbers = text.split(',').map(|number| number.trim().parse());
            numbers.collect::<Result<_, _>>().unwrap()
        };
        let lines = include_str!("attention.cu").lines();
        let cells = lines.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
        let rows = cells.filter(|cells| cells.len() == 6 && cells[1].starts_with(name));
        let kinds = rows.flat_map(|cells| {
            let (queries, threads) = (queries(cells[1]), numbers(cells[3])[0]);
            let widths = numbers(cells[2]).into_iter().zip(numbers(cells[4]));
            let kinds =
                widths.map(|(width, shared)| kind(width as usize, queries, threads, shared));
            kinds.collect::<Vec<_>>()
        });
        kinds.collect()
    }

    #[test]
    fn the_kernels_are_those_of_the_source() {
        let queries = |name: &str| name.rsplit('q').next().unwrap().parse().unwrap();
        assert_eq!(stated("attention_T_d{D}_q", queries), ATTENTION);
        assert_eq!(stated("attention_maps_T_d{D}", |_| 64), MAPS);
    }
}
