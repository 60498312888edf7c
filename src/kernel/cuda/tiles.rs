//! How a product is divided among the multiprocessors: the tile of a block, and the number
//! of parts that its inner dimension is split into.

/// The part of a product that one block computes, as `gemm.cu` is compiled for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tile {
    /// Rows.
    pub(super) rows: usize,
    /// Columns.
    pub(super) columns: usize,
    /// Threads of a block.
    pub(super) threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub(super) shared: u32,
    /// Number of blocks that a multiprocessor runs at once.
    at_once: usize,
    /// Microseconds before a block's first product and after its last.
    start: f64,
    /// Microseconds of a block for each step of the sums, on a multiprocessor full of blocks:
    /// several take as many times as long.
    step: f64,
    /// Microseconds of a block for a step if it is alone: several take no less.
    alone: f64,
}

/// The tiles of `gemm.cu`.
pub(super) const TILES: [Tile; 5] = [
    Tile {
        rows: 256,
        columns: 128,
        threads: 256,
        shared: 101_376,
        at_once: 1,
        start: 8.2,
        step: 0.57,
        alone: 0.57,
    },
    Tile {
        rows: 256,
        columns: 64,
        threads: 128,
        shared: 64_512,
        at_once: 2,
        start: 3.0,
        step: 0.38,
        alone: 0.38,
    },
    Tile {
        rows: 128,
        columns: 128,
        threads: 128,
        shared: 67_072,
        at_once: 2,
        start: 4.3,
        step: 0.32,
        alone: 0.32,
    },
    Tile {
        rows: 128,
        columns: 64,
        threads: 128,
        shared: 50_688,
        at_once: 3,
        start: 2.9,
        step: 0.23,
        alone: 0.28,
    },
    Tile {
        rows: 64,
        columns: 64,
        threads: 128,
        shared: 49_920,
        at_once: 4,
        start: 2.5,
        step: 0.11,
        alone: 0.17,
    },
];

/// The size of a product (m, k) x (k, n).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    /// Rows of the output.
    pub(super) m: usize,
    /// Columns of the output.
    pub(super) n: usize,
    /// Terms of each sum.
    pub(super) k: usize,
}

/// How a product is divided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Division {
    pub(super) tile: Tile,
    /// Number of parts of the sums, computed by different blocks and added afterwards.
    pub(super) splits: usize,
}

/// Terms of the sums in a step.
const STEP: usize = 32;

/// Numbers of parts of a sum.
const SPLITS: [usize; 8] = [1, 2, 3, 4, 6, 8, 12, 16];

/// Fewest terms in a part of a sum.
const FEWEST_TERMS: usize = 8 * STEP;

/// Bytes that all blocks read in a microsecond, mostly from the second level cache.
const BYTES: f64 = 8.3e6;

/// Bytes of parts that are written and read again in a microsecond.
const PART_BYTES: f64 = 4.9e6;

/// Microseconds of one more launch, with a little more, so that parts that hardly gain are not
/// made.
const LAUNCH: f64 = 3.5;

/// The fastest division by an estimate for a GPU of that many multiprocessors.
pub(super) fn divide(size: Size, multiprocessors: usize) -> Division {
    let long = |&splits: &usize| splits == 1 || size.k >= splits * FEWEST_TERMS;
    let parts = SPLITS.into_iter().filter(long);
    let all = parts.flat_map(|splits| TILES.map(|tile| Division { tile, splits }));
    fastest(all, size, multiprocessors)
}

/// The fastest tile for a product that is not split.
pub(super) fn whole(size: Size, multiprocessors: usize) -> Tile {
    let all = TILES.map(|tile| Division { tile, splits: 1 });
    fastest(all.into_iter(), size, multiprocessors).tile
}

fn fastest(all: impl Iterator<Item = Division>, size: Size, multiprocessors: usize) -> Division {
    let timed = all.map(|division| (division.time(size, multiprocessors), division));
    let fastest = timed.min_by(|(a, _), (b, _)| a.total_cmp(b));
    fastest.expect("there are tiles").1
}

impl Tile {
    /// Blocks for the columns and for the rows of a product.
    pub(super) fn grid(self, size: Size) -> [usize; 2] {
        [size.n.div_ceil(self.columns), size.m.div_ceil(self.rows)]
    }

    /// `ROWSxCOLUMNS`, as in the names of the kernels.
    pub(super) fn name(self) -> String {
        format!("{}x{}", self.rows, self.columns)
    }
}

impl Division {
    /// The estimated time in microseconds, beyond that of any launch. The constants are fitted
    /// to the measurements of `tiles.txt`.
    fn time(self, size: Size, multiprocessors: usize) -> f64 {
        let Self { tile, splits } = self;
        let [across, down] = tile.grid(size);
        let blocks = across * down * splits;
        let steps = size.k.div_ceil(STEP).div_ceil(splits);
        let most = blocks.div_ceil(multiprocessors); // blocks of the busiest multiprocessor
        let rounds = most.div_ceil(tile.at_once) as f64;
        let step = (most as f64 * tile.step).max(rounds * tile.alone);
        let read = (blocks * (tile.rows + tile.columns) * steps * STEP * 2) as f64 / BYTES;
        let products = (rounds * tile.start + steps as f64 * step).max(tile.start + read);
        products + self.addition(size)
    }

    /// The estimated time to add the parts.
    fn addition(self, size: Size) -> f64 {
        match self.splits {
            1 => 0.0,
            splits => LAUNCH + (2 * splits * size.m * size.n * 4) as f64 / PART_BYTES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An H100.
    const GPU: usize = 132;

    fn division(m: usize, n: usize, k: usize) -> Division {
        divide(Size { m, n, k }, GPU)
    }

    #[test]
    fn the_tiles_are_those_of_the_source() {
        let source = include_str!("gemm.cu");
        for tile in TILES {
            let mut lines = source.lines().map(|line| line.trim_start_matches("//"));
            let named = |line: &&str| line.split_whitespace().next() == Some(&tile.name());
            let line = lines.find(named).expect("a row of the table");
            let numbers = line.split_whitespace().skip(1).map(str::parse);
            let numbers: Vec<usize> = numbers.collect::<Result<_, _>>().unwrap();
            let [threads, shared] = [tile.threads, tile.shared].map(|of| of as usize);
            assert_eq!(numbers, [threads, shared, tile.at_once], "{}", tile.name());
        }
    }

    /// A measured product: its size, and the microseconds of some divisions, fastest first.
    struct Measured<'a> {
        gated: bool,
        size: Size,
        times: Vec<(&'a str, f64)>,
    }

    fn measured() -> impl Iterator<Item = Measured<'static>> {
        let lines = include_str!("tiles.txt").lines();
        let lines = lines.filter(|line| !line.starts_with('#'));
        lines.map(|line| {
            let (product, times) = line.split_once(" | ").unwrap();
            let product: Vec<_> = product.split(' ').collect();
            let [layer, m, n, k] = product[..].try_into().unwrap();
            let [m, n, k] = [m, n, k].map(|size: &str| size.parse().unwrap());
            let words: Vec<_> = times.split(' ').collect();
            let times = words.chunks_exact(2);
            Measured {
                gated: layer == "gated",
                size: Size { m, n, k },
                times: times.map(|of| (of[0], of[1].parse().unwrap())).collect(),
            }
        })
    }

    #[test]
    fn the_divisions_are_nearly_the_fastest_measured() {
        let (mut sum, mut least, mut ratios) = (0.0, 0.0, Vec::new());
        for Measured { gated, size, times } in measured() {
            let Division { tile, splits } = match gated {
                true => Division {
                    tile: whole(size, GPU),
                    splits: 1,
                },
                false => divide(size, GPU),
            };
            let name = format!("{}/{splits}", tile.name());
            let chosen = times.iter().find(|(division, _)| *division == name);
            let &(_, time) = chosen.unwrap_or_else(|| panic!("{size:?}: {name}"));
            let best = times[0].1;
            assert!(time <= 1.1 * best, "{size:?}: {name} {time}, not {best}");
            sum += time;
            least += best;
            ratios.push(time / best);
        }
        assert!(sum <= 1.04 * least, "{sum}, not {least}");
        let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
        assert!(mean <= 1.02, "{mean}");
    }

    #[test]
    fn large_products_take_the_largest_tile_whole() {
        for (m, n, k) in [(8192, 5120, 640), (16384, 640, 5760), (4096, 4096, 4096)] {
            let Division { tile, splits } = division(m, n, k);
            assert!(tile.rows * tile.columns >= 128 * 128);
            assert_eq!(splits, 1);
        }
    }

    #[test]
    fn long_sums_of_few_outputs_are_split() {
        // A convolution of 8x8 pixels from 2560 channels, and a layer of one row.
        for (m, n, k) in [(64, 1280, 23040), (1, 1280, 20480), (128, 1280, 11520)] {
            let Division { tile, splits } = division(m, n, k);
            let [across, down] = tile.grid(Size { m, n, k });
            assert!(splits > 1, "{m} {n} {k}");
            assert!(across * down * splits >= GPU / 2, "{m} {n} {k}: {splits}");
        }
    }

    #[test]
    fn parts_are_never_short_nor_many() {
        for k in [8, 40, 320, 640, 5120, 1 << 20] {
            let splits = division(1, 8, k).splits;
            assert!(SPLITS.contains(&splits));
            assert!(splits == 1 || k / splits >= FEWEST_TERMS, "{k}: {splits}");
        }
    }

    #[test]
    fn small_products_occupy_more_multiprocessors_with_smaller_tiles() {
        let size = Size {
            m: 1024,
            n: 640,
            k: 640,
        };
        let tile = whole(size, GPU);
        assert!(tile.rows * tile.columns < 128 * 128);
        let [across, down] = tile.grid(size);
        assert!(across * tile.columns >= size.n && down * tile.rows >= size.m);
        assert!(tile.threads > 0 && tile.shared > 0);
        assert_eq!(TILES[3].name(), "128x64");
    }
}
