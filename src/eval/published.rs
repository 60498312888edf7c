//! What papers say of other methods on PIE-Bench.

use std::sync::LazyLock;

use serde::Deserialize;

/// The figures of a method over the 700 pictures of PIE-Bench, as the paper gives them.
#[derive(Clone, Debug, Deserialize)]
pub struct Published {
    /// The method.
    pub system: String,
    /// The model it works on, and licences.
    pub base: String,
    /// Its steps, or evaluations of the network.
    pub steps: String,
    /// How long an edit takes, on what.
    pub time: String,
    /// DINO structure distance times 1000.
    pub structure_distance: Option<f64>,
    /// PSNR in dB.
    pub psnr: Option<f64>,
    /// LPIPS times 1000.
    pub lpips: Option<f64>,
    /// Mean squared error times 10000.
    pub mse: Option<f64>,
    /// SSIM times 100.
    pub ssim: Option<f64>,
    /// CLIP score of the whole result.
    pub clip_whole: Option<f64>,
    /// CLIP score of what may change.
    pub clip_edited: Option<f64>,
    /// The paper: `own` for that of the method's authors.
    pub source: String,
    /// `a` if the mean squared error was scaled by 10: SwiftEdit's table seems to have it times
    /// 1000 (a PSNR of 26.93 is a mean squared error near 20e-4); `sic` if a figure stands so in
    /// the paper, but is hardly right.
    pub note: String,
}

/// All that is known. Rows of different papers differ by libraries, too.
pub static RESULTS: LazyLock<Vec<Published>> = LazyLock::new(|| {
    let mut reader = csv::Reader::from_reader(include_bytes!("published.csv").as_slice());
    let rows = reader.deserialize().collect::<Result<_, _>>();
    rows.expect("a table of these columns")
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_figures_and_a_source() {
        assert!(RESULTS.len() > 30);
        for row in RESULTS.iter() {
            assert!(
                row.psnr.is_some() && row.clip_whole.is_some(),
                "{}",
                row.system
            );
            assert!(!row.source.is_empty(), "{}", row.system);
            // PSNR of a mean is at most the mean of PSNRs, by a few dB.
            let limit = row.mse.map(|mse| -10.0 * (mse * 1e-4).log10());
            assert!(
                limit.is_none_or(|limit| (limit - row.psnr.unwrap()).abs() < 8.0),
                "{}: {limit:?}",
                row.system
            );
        }
    }
}
