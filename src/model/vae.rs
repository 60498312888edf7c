//! The autoencoder between pictures and latents (`AutoencoderKL`). Nobody
//! outside ever sees an unscaled latent.

mod config;
mod posterior;
mod strips;
mod tiling;

use candle_core::{DType, Device, Tensor};

pub use config::VaeConfig;
pub use posterior::Posterior;
pub use tiling::Tiling;

use strips::Strips;
use tiling::Plan;

use super::{
    attention::{Attention, Kind, Place, Site, Untouched},
    stage::{Norm, Resnet},
};
use crate::{
    error::Result,
    nn::{Conv2d, GroupNorm, Stride, Weights, channels_first, channels_last},
};

/// Encodes pictures to latents and decodes them.
#[derive(Debug)]
pub struct Vae {
    encoder: Encoder,
    decoder: Decoder,
    quantise: Option<Conv2d>,
    restore: Option<Conv2d>,
    config: VaeConfig,
    tiling: Tiling,
    compute: DType,
    device: Device,
}

impl Vae {
    /// Reads an autoencoder of these measures, which computes pictures whole.
    pub fn new(w: &Weights, config: VaeConfig) -> Result<Self> {
        let z = config.latent_channels;
        let pointwise = |name, c| -> Result<Option<Conv2d>> {
            let w = w.at(name);
            w.shape("weight")
                .map(|_| w.conv(c, c, 1, Stride::One))
                .transpose()
        };
        Ok(Self {
            encoder: Encoder::new(&w.at("encoder"), &config)?,
            decoder: Decoder::new(&w.at("decoder"), &config)?,
            quantise: pointwise("quant_conv", 2 * z)?,
            restore: pointwise("post_quant_conv", z)?,
            compute: w.storage().compute(),
            device: w.storage().device.clone(),
            tiling: Tiling::Off,
            config,
        })
    }

    /// The same, computing large pictures or all of them in strips of rows.
    pub fn with_tiling(self, tiling: Tiling) -> Self {
        Self { tiling, ..self }
    }

    /// Its measures.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// Where it runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether it encodes pictures (b, 3, h, w) in strips.
    pub fn encodes_in_strips(&self, picture: &Tensor) -> Result<bool> {
        Ok(self.encoding(picture)?.cuts_any())
    }

    /// Whether it decodes latents (b, 4, h, w) in strips.
    pub fn decodes_in_strips(&self, latent: &Tensor) -> Result<bool> {
        Ok(self.decoding(latent)?.cuts_any())
    }

    fn encoding(&self, picture: &Tensor) -> Result<Plan> {
        let [made, _] = self.finest(picture, 1)?;
        Ok(self.tiling.plan([made, made]))
    }

    fn decoding(&self, latent: &Tensor) -> Result<Plan> {
        let finest = self.finest(latent, self.config.factor())?;
        Ok(self.tiling.plan(finest))
    }

    /// Bytes of the activations at the size of pictures that are so many times
    /// as large as x (b, c, h, w): of the blocks' results, and of the largest.
    fn finest(&self, x: &Tensor, times: usize) -> Result<[usize; 2]> {
        let (b, _, h, w) = x.dims4()?;
        let bytes = b * h * w * times * times * self.compute.size_in_bytes();
        Ok(self.config.finest().map(|channels| channels * bytes))
    }

    /// The latents of pictures (b, 3, h, w) in [-1, 1], whose sides are
    /// multiples of the factor.
    pub fn encode(&self, picture: &Tensor) -> Result<Posterior> {
        let plan = self.encoding(picture)?;
        let picture = channels_last(&picture.to_dtype(self.compute)?)?;
        let x = self.encoder.forward(picture, plan)?;
        let x = pass(self.quantise.as_ref(), x)?;
        let x = channels_first(&x)?.to_dtype(DType::F32)?;
        let halves = x.chunk(2, 1)?; // mean and logarithm of the variance, (b, 4, h, w) each
        let deviation = (halves[1].clamp(-30f64, 20f64)? * 0.5)?.exp()?;
        Ok(Posterior::encoded(
            halves[0].clone(),
            deviation,
            self.config.scale,
        ))
    }

    /// The pictures (b, 3, h, w), about in [-1, 1], of scaled latents.
    pub fn decode(&self, latent: &Tensor) -> Result<Tensor> {
        let plan = self.decoding(latent)?;
        let z = channels_last(&(latent / self.config.scale)?.to_dtype(self.compute)?)?;
        let z = pass(self.restore.as_ref(), z)?;
        Ok(channels_first(&self.decoder.forward(&z, plan)?)?.to_dtype(DType::F32)?)
    }
}

fn pass(layer: Option<&Conv2d>, x: Tensor) -> Result<Tensor> {
    layer.map_or(Ok(x.clone()), |layer| Ok(layer.forward(&x)?))
}

/// Residual blocks at one size, then a change of size.
#[derive(Debug)]
struct Scale {
    resnets: Vec<Resnet>,
    resample: Option<Conv2d>,
}

impl Scale {
    fn new(w: &Weights, channels: &[usize], norm: Norm) -> Result<Self> {
        let resnets = channels
            .windows(2)
            .enumerate()
            .map(|(i, c)| Resnet::new(&w.at("resnets").at(i), c[0], c[1], norm, None));
        Ok(Self {
            resnets: resnets.collect::<Result<_>>()?,
            resample: None,
        })
    }

    fn forward<'a>(&self, mut x: Strips<'a>) -> Result<Strips<'a>> {
        for resnet in &self.resnets {
            x = x.through(resnet)?;
        }
        Ok(x)
    }
}

/// Two residual blocks with attention over the whole picture between them.
#[derive(Debug)]
struct Middle {
    resnets: Scale,
    attention: Option<(GroupNorm, Attention)>,
}

impl Middle {
    fn new(w: &Weights, c: usize, config: &VaeConfig) -> Result<Self> {
        let at = w.at("attentions.0");
        let attention = || -> Result<_> {
            let norm = at.at("group_norm").group_norm(c, config.groups, 1e-6)?;
            Ok((norm, Attention::new(&at, c, c, 1)?))
        };
        Ok(Self {
            resnets: Scale::new(w, &[c, c, c], config.norm())?,
            attention: config.middle_attention.then(attention).transpose()?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [first, second] = &self.resnets.resnets[..] else {
            unreachable!("the middle has two residual blocks")
        };
        let mut x = first.forward(x, None)?;
        if let Some((norm, attention)) = &self.attention {
            x = attend_onto(&x, attention, &norm.forward(&x)?)?;
        }
        Ok(second.forward(&x, None)?)
    }
}

/// `residual` plus self-attention over the pixels of x, both (b, h, w, c).
fn attend_onto(residual: &Tensor, attention: &Attention, x: &Tensor) -> Result<Tensor> {
    let (_, height, width, _) = x.dims4()?;
    let site = Site {
        place: Place::Middle,
        kind: Kind::Itself,
        level: 0,
        height,
        width,
    };
    let (residual, flat) = (residual.flatten(1, 2)?, x.flatten(1, 2)?); // (b, h * w, c)
    let seen = attention.read(&flat)?;
    let y = attention.forward_onto(&residual, &flat, &seen, &site, &mut Untouched)?;
    Ok(y.reshape(x.shape())?)
}

#[derive(Debug)]
struct Encoder {
    enter: Conv2d,
    scales: Vec<Scale>,
    middle: Middle,
    norm: GroupNorm,
    leave: Conv2d,
}

impl Encoder {
    fn new(w: &Weights, config: &VaeConfig) -> Result<Self> {
        let (finest, coarsest) = ends(config);
        let scale = |i: usize| -> Result<Scale> {
            let w = w.at("down_blocks").at(i);
            let c = config.channels[i];
            let before = config.channels[i.saturating_sub(1)];
            let mut scale = Scale::new(
                &w,
                &[vec![before], vec![c; config.blocks]].concat(),
                config.norm(),
            )?;
            if i + 1 < config.channels.len() {
                scale.resample =
                    Some(
                        w.at("downsamplers.0.conv")
                            .conv(c, c, 3, Stride::TwoLopsided)?,
                    );
            }
            Ok(scale)
        };
        Ok(Self {
            enter: w.at("conv_in").conv(3, finest, 3, Stride::One)?,
            scales: (0..config.channels.len())
                .map(scale)
                .collect::<Result<_>>()?,
            middle: Middle::new(&w.at("mid_block"), coarsest, config)?,
            norm: w
                .at("conv_norm_out")
                .group_norm(coarsest, config.groups, 1e-6)?,
            leave: w
                .at("conv_out")
                .conv(coarsest, 2 * config.latent_channels, 3, Stride::One)?,
        })
    }

    fn forward(&self, picture: Tensor, plan: Plan) -> Result<Tensor> {
        let mut x = Strips::whole(picture, plan)?.convolved(&self.enter)?;
        for scale in &self.scales {
            x = scale.forward(x)?;
            if let Some(halve) = &scale.resample {
                x = x.halved(halve)?;
            }
        }
        let x = self.middle.forward(&x.joined()?)?;
        Ok(self.leave.forward(&self.norm.forward_silu(&x)?)?)
    }
}

#[derive(Debug)]
struct Decoder {
    enter: Conv2d,
    middle: Middle,
    scales: Vec<Scale>,
    norm: GroupNorm,
    leave: Conv2d,
}

impl Decoder {
    fn new(w: &Weights, config: &VaeConfig) -> Result<Self> {
        let (finest, coarsest) = ends(config);
        let channels: Vec<_> = config.channels.iter().rev().copied().collect();
        let scale = |i: usize| -> Result<Scale> {
            let w = w.at("up_blocks").at(i);
            let c = channels[i];
            let before = channels[i.saturating_sub(1)];
            let mut scale = Scale::new(
                &w,
                &[vec![before], vec![c; config.blocks + 1]].concat(),
                config.norm(),
            )?;
            if i + 1 < channels.len() {
                scale.resample = Some(w.at("upsamplers.0.conv").conv(c, c, 3, Stride::One)?);
            }
            Ok(scale)
        };
        Ok(Self {
            enter: w
                .at("conv_in")
                .conv(config.latent_channels, coarsest, 3, Stride::One)?,
            middle: Middle::new(&w.at("mid_block"), coarsest, config)?,
            scales: (0..channels.len()).map(scale).collect::<Result<_>>()?,
            norm: w
                .at("conv_norm_out")
                .group_norm(finest, config.groups, 1e-6)?,
            leave: w.at("conv_out").conv(finest, 3, 3, Stride::One)?,
        })
    }

    fn forward(&self, latent: &Tensor, plan: Plan) -> Result<Tensor> {
        let x = self.middle.forward(&self.enter.forward(latent)?)?;
        let mut x = Strips::whole(x, plan)?;
        for scale in &self.scales {
            x = scale.forward(x)?;
            if let Some(conv) = &scale.resample {
                x = x.enlarged(conv)?;
            }
        }
        x.left(&self.norm, &self.leave)
    }
}

/// Channels of the finest and the coarsest level.
fn ends(config: &VaeConfig) -> (usize, usize) {
    let first = config.channels.first().copied().unwrap_or_default();
    (first, config.channels.last().copied().unwrap_or_default())
}
