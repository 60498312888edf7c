//! What work takes: arithmetic, counted from the shapes of the weights, and memory, estimated
//! from sizes and configurations.

use candle_core::DType;

use super::{Pipeline, Residency};
use crate::{error::Result, io::Checkpoint, layout::Network, model::Model, picture::Size};

/// The work of a run.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The size of the latents.
    pub latent: Size,
    /// The rows of each evaluation of the UNet.
    pub evaluations: Vec<usize>,
    /// Pictures that are encoded.
    pub encoded: usize,
    /// Latents that are decoded.
    pub decoded: usize,
}

/// What a run takes, roughly.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Floating-point operations of all products.
    pub flops: f64,
    /// The most memory at any time in bytes, beside the mapped files of weights.
    pub peak_bytes: u64,
}

/// Activations of the UNet that are in memory at once, in feature maps of its finest level.
const UNET_MAPS: usize = 50;
/// The weights of the UNet while adapters are merged into a layer, of its weights.
const MERGING: f64 = 1.3;
/// The program itself.
const PROGRAM: u64 = 20 << 20;

impl Pipeline {
    /// What the work takes; reads the shapes of weights only.
    pub fn cost(&self, work: &Workload) -> Result<Cost> {
        Ok(Cost {
            flops: flops(self.model(), work)?,
            peak_bytes: self.peak_bytes(work)?,
        })
    }

    fn peak_bytes(&self, work: &Workload) -> Result<u64> {
        let model = self.model();
        let (mut unet, mut vae, mut text) = (0.0, 0.0, 0.0);
        for (network, bytes) in model.weight_bytes()? {
            let bytes = bytes as f64;
            match network {
                Network::Unet => unet += bytes,
                Network::Vae => vae += bytes,
                Network::TextEncoder(_) => text += bytes,
            }
        }
        let walked = unet_bytes(model, work);
        let coded = vae_bytes(model, work)?;
        let peak = match self.residency() {
            Residency::OneAtATime => f64::max(text, unet * MERGING + walked).max(vae + coded),
            Residency::Shared => text + unet + vae + f64::max(walked, coded),
            Residency::All => {
                let directions = if work.encoded > 0 { 2.0 } else { 1.0 };
                text + directions * unet + vae + f64::max(walked, coded)
            }
        };
        Ok(PROGRAM + peak as u64)
    }
}

/// The activations of an evaluation of most rows.
fn unet_bytes(model: &Model, work: &Workload) -> f64 {
    let rows = work.evaluations.iter().max().copied().unwrap_or_default();
    let channels = (model.unet_config().levels.first()).map_or(0, |level| level.channels);
    let dtype = model.placement().compute_dtype();
    (rows * work.latent.pixels() * channels * UNET_MAPS * dtype.size_in_bytes()) as f64
}

/// The activations of a decoding, the larger half of the autoencoder.
fn vae_bytes(model: &Model, work: &Workload) -> Result<f64> {
    let factor = model.latent_factor()?;
    let dtype = match model.device().is_cpu() {
        true => DType::F32,
        false => model.vae_dtype(),
    };
    let bytes = work.latent.pixels() * factor * factor * dtype.size_in_bytes();
    Ok(model.decoder_bytes(bytes)? as f64)
}

fn flops(model: &Model, work: &Workload) -> Result<f64> {
    let rows: usize = work.evaluations.iter().sum();
    let unet = model.unet_checkpoint()?;
    let levels = model.unet_config().levels.len();
    let context = model.tokenizers()?.context();
    let shape = Shape {
        finest: work.latent,
        levels,
        context,
    };
    let evaluation = shape.flops(&unet, "");
    let vae = model.vae_checkpoint()?;
    let factor = model.latent_factor()?;
    let pixels = Size::new(work.latent.width * factor, work.latent.height * factor);
    let shape = Shape {
        finest: pixels,
        levels: factor.ilog2() as usize + 1,
        context: 0,
    };
    let coded = work.encoded as f64 * shape.flops(&vae, "encoder.")
        + work.decoded as f64 * shape.flops(&vae, "decoder.");
    Ok(rows as f64 * evaluation + coded)
}

/// The feature maps of a network.
struct Shape {
    /// The size at the finest level.
    finest: Size,
    /// Each halves the size of the one before.
    levels: usize,
    /// Tokens that cross-attention reads.
    context: usize,
}

impl Shape {
    /// The operations of the layers whose names begin with `prefix`, of a row.
    fn flops(&self, weights: &Checkpoint, prefix: &str) -> f64 {
        let names = weights.names();
        let own = names.iter().filter_map(|name| {
            let layer = name.strip_prefix(prefix)?.strip_suffix(".weight")?;
            Some((layer, weights.shape(name)?))
        });
        own.map(|(layer, shape)| self.of_layer(layer, &shape)).sum()
    }

    fn of_layer(&self, layer: &str, shape: &[usize]) -> f64 {
        let ([outputs, _, ..], positions) = (shape, self.positions(layer)) else {
            return 0.0; // a norm
        };
        let product = 2.0 * shape.iter().product::<usize>() as f64 * positions;
        // The queries' products with keys and values.
        let keys = match layer {
            _ if layer.ends_with("attn1.to_q") => positions,
            _ if layer.ends_with("attn2.to_q") => self.context as f64,
            _ => 0.0,
        };
        product + 4.0 * positions * keys * *outputs as f64
    }

    /// How often a layer's weights are applied.
    fn positions(&self, layer: &str) -> f64 {
        if layer.ends_with("attn2.to_k") || layer.ends_with("attn2.to_v") {
            return self.context as f64;
        }
        match self.level(layer) {
            Some(level) => self.finest.pixels() as f64 / 4f64.powi(level as i32),
            None => 1.0, // of the timestep
        }
    }

    /// The level of a layer, 0 for the finest.
    fn level(&self, layer: &str) -> Option<usize> {
        let coarsest = self.levels - 1;
        let block = |prefix: &str| -> Option<usize> {
            let rest = layer.strip_prefix(prefix)?;
            rest.split('.').next()?.parse().ok()
        };
        if let Some(block) = block("down_blocks.") {
            return Some(block + usize::from(layer.contains("downsamplers")));
        }
        if let Some(block) = block("up_blocks.") {
            let level = coarsest.saturating_sub(block);
            return Some(level.saturating_sub(usize::from(layer.contains("upsamplers"))));
        }
        match layer.split('.').next()? {
            "mid_block" => Some(coarsest),
            "conv_in" | "conv_out" => Some(0),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::ModelChoice, nn::Placement};

    fn shape() -> Shape {
        Shape {
            finest: Size::new(8, 4),
            levels: 3,
            context: 7,
        }
    }

    #[test]
    fn layers_are_applied_at_the_pixels_of_their_level() {
        let positions = |layer| shape().positions(layer);
        assert_eq!(positions("conv_in"), 32.0);
        assert_eq!(positions("down_blocks.1.resnets.0.conv1"), 8.0);
        assert_eq!(positions("down_blocks.1.downsamplers.0.conv"), 2.0);
        assert_eq!(positions("mid_block.resnets.0.conv1"), 2.0);
        assert_eq!(positions("up_blocks.0.resnets.0.conv1"), 2.0);
        assert_eq!(positions("up_blocks.0.upsamplers.0.conv"), 8.0);
        assert_eq!(positions("up_blocks.2.attentions.0.attn2.to_k"), 7.0);
        assert_eq!(positions("time_embedding.linear_1"), 1.0);
    }

    #[test]
    fn attention_is_counted_with_its_products() {
        let of = |layer| shape().of_layer(layer, &[10, 6]);
        // 2 n c_in c_out, and 4 n m c of the scores and of the values.
        assert_eq!(of("conv_out"), 2.0 * 32.0 * 60.0);
        let queries = 2.0 * 8.0 * 60.0;
        assert_eq!(
            of("down_blocks.1.attn1.to_q"),
            queries + 4.0 * 8.0 * 8.0 * 10.0
        );
        assert_eq!(
            of("down_blocks.1.attn2.to_q"),
            queries + 4.0 * 8.0 * 7.0 * 10.0
        );
        assert_eq!(shape().of_layer("conv_norm_out", &[10]), 0.0);
    }

    #[test]
    fn more_rows_and_more_pixels_take_more() {
        let model = Model::open(&ModelChoice::named("tests/data/sd"), Placement::cpu_f32());
        let pipeline = Pipeline::new(model.unwrap(), Residency::OneAtATime);
        let cost = |side, rows| {
            let work = Workload {
                latent: Size::new(side, side),
                evaluations: vec![1, rows],
                encoded: 1,
                decoded: rows,
            };
            pipeline.cost(&work).unwrap()
        };
        let [small, large, many] = [cost(8, 2), cost(64, 2), cost(64, 50)];
        assert!(large.flops > 64.0 * small.flops, "attention is quadratic");
        assert!(many.flops > 10.0 * large.flops && many.peak_bytes > large.peak_bytes);
        assert!(large.peak_bytes > small.peak_bytes);
    }
}
