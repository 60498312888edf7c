//! The layout of a group norm's values, and their distribution to threads.

use std::ops::Range;

use candle_core::{Result, Tensor, bail};

use crate::kernel::parts::{map_parts, share, whole_rows};

/// Rows that are summed in f32.
const BLOCK: usize = 16;

/// Minimum width of a row, which contains several pixels if they have few channels.
const WIDE: usize = 256;

/// Pictures (pictures, pixels, channels) and groups of their channels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    pub(super) pictures: usize,
    pub(super) pixels: usize,
    pub(super) channels: usize,
    pub(super) groups: usize,
}

impl Form {
    pub(super) fn of(x: &Tensor, groups: usize) -> Result<Self> {
        let &[pictures, ref between @ .., channels] = x.dims() else {
            bail!("group norm of {:?}, not of pictures (b, .., c)", x.dims());
        };
        if groups == 0 || channels == 0 || !channels.is_multiple_of(groups) {
            bail!("group norm: {channels} channels cannot be divided into {groups} groups");
        }
        Ok(Self {
            pictures,
            pixels: between.iter().product(),
            channels,
            groups,
        })
    }

    /// The channels of each group.
    pub(super) fn channels_of_groups(self) -> impl Iterator<Item = Range<usize>> {
        let channels = self.channels / self.groups;
        (0..self.groups).map(move |group| group * channels..(group + 1) * channels)
    }

    /// Number of values of the pixels that are treated as one row.
    pub(super) fn wide(self) -> usize {
        self.channels * (WIDE / self.channels).max(1)
    }

    /// A value for each channel, computed from that of its group and repeated over a wide
    /// row.
    pub(super) fn repeat<T>(self, groups: &[T], value: impl Fn(&T, usize) -> f64) -> Vec<f32> {
        let groups = groups.iter().zip(self.channels_of_groups());
        let values = groups.flat_map(|(group, channels)| {
            let value = &value;
            channels.map(move |channel| value(group, channel) as f32)
        });
        let values: Vec<_> = values.collect();
        values.repeat(self.wide() / self.channels)
    }

    /// Distributes `out` (pictures, pixels, channels) to the threads; `work` is called with
    /// the picture and the index of the first value.
    pub(super) fn share(self, out: &mut [f32], work: &(dyn Fn(usize, usize, &mut [f32]) + Sync)) {
        let (picture, part) = (self.pixels * self.channels, whole_rows(self.wide()));
        share(out, picture, &|i, out| {
            share(out, part, &|j, out| work(i, i * picture + j * part, out));
        });
    }

    /// Sums over the pixels of each picture. `add` is called with the picture, a range of
    /// its values, and the totals of each channel of a wide row.
    pub(super) fn sum_pixels(
        self,
        add: impl Fn(usize, Range<usize>, [&mut [f64]; 2]) + Sync,
    ) -> Vec<Sums> {
        let (picture, part) = (self.pixels * self.channels, whole_rows(self.wide()));
        let parts = picture.div_ceil(part);
        let find = |i: usize| {
            let start = i % parts * part;
            let range = start..picture.min(start + part);
            let first = i / parts * picture;
            let (mut a, mut b) = (vec![0f64; self.wide()], vec![0f64; self.wide()]);
            let range = first + range.start..first + range.end;
            add(i / parts, range, [&mut a, &mut b]);
            Sums([a, b].map(|wide| fold(&wide, self.channels)))
        };
        let found = map_parts(self.pictures * parts, self.pictures * picture, &find);
        found.chunks(parts.max(1)).map(Sums::total).collect()
    }
}

/// Two sums for each channel.
pub(super) struct Sums(pub(super) [Vec<f64>; 2]);

impl Sums {
    fn total(parts: &[Self]) -> Self {
        let total = |which: usize| {
            let all: Vec<_> = parts.iter().map(|part| &part.0[which][..]).collect();
            fold(&all.concat(), parts[0].0[which].len())
        };
        Self([total(0), total(1)])
    }

    /// The sums of the channels of each group.
    pub(super) fn groups(&self, form: Form) -> impl Iterator<Item = [&[f64]; 2]> {
        let channels = form.channels / form.groups;
        let [a, b] = self.0.each_ref().map(|sums| sums.chunks(channels));
        a.zip(b).map(|(a, b)| [a, b])
    }
}

/// The sum of rows of `channels` values.
fn fold(rows: &[f64], channels: usize) -> Vec<f64> {
    let mut sums = vec![0f64; channels];
    for row in rows.chunks(channels) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    sums
}

/// Calls `work` for each block of a few wide rows with its range, the width of its rows,
/// and buffers for two sums of each column. Pixels that do not fill a wide row form a
/// block of one narrower row.
#[inline(always)]
pub(super) fn blocks(
    values: usize,
    wide: usize,
    mut work: impl FnMut(Range<usize>, usize, [&mut [f32]; 2]),
) {
    let (mut first, mut second) = (vec![0f32; wide], vec![0f32; wide]);
    let mut start = 0;
    while start < values {
        let width = wide.min(values - start);
        let rows = BLOCK.min((values - start) / width);
        let end = start + rows * width;
        let sums = [&mut first[..width], &mut second[..width]];
        work(start..end, width, sums);
        start = end;
    }
}
