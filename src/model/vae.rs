//! The autoencoder between pictures and latents (`AutoencoderKL`). Nobody
//! outside ever sees an unscaled latent.

mod posterior;

use candle_core::{DType, Device, Tensor};

pub use posterior::Posterior;

use super::{
    attention::{Attention, Kind, Place, Site, Untouched},
    stage::{Norm, Resnet},
};
use crate::{
    error::Result,
    nn::{Conv2d, Extras, GroupNorm, Stride, Weights, channels_first, channels_last},
};

/// The measures of an autoencoder.
#[derive(Clone, Debug, PartialEq)]
pub struct VaeConfig {
    /// Channels of each level, finest first; the picture is halved between them.
    pub channels: Vec<usize>,
    /// Residual blocks per level on the way in; one more on the way out.
    pub blocks: usize,
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Groups of the norms.
    pub groups: usize,
    /// What latents are multiplied with.
    pub scale: f64,
    /// Whether the middle attends.
    pub middle_attention: bool,
}

impl VaeConfig {
    /// Stable Diffusion 1.5.
    pub fn sd15() -> Self {
        Self {
            channels: vec![128, 256, 512, 512],
            blocks: 2,
            latent_channels: 4,
            groups: 32,
            scale: 0.18215,
            middle_attention: true,
        }
    }

    /// Stable Diffusion XL.
    pub fn sdxl() -> Self {
        Self {
            scale: 0.13025,
            ..Self::sd15()
        }
    }

    /// Pixels along one side of a latent's value.
    pub fn factor(&self) -> usize {
        1 << (self.channels.len() - 1)
    }

    fn norm(&self) -> Norm {
        Norm {
            groups: self.groups,
            eps: 1e-6,
        }
    }
}

/// Encodes pictures to latents and decodes them.
#[derive(Debug)]
pub struct Vae {
    encoder: Encoder,
    decoder: Decoder,
    quantise: Option<Conv2d>,
    restore: Option<Conv2d>,
    config: VaeConfig,
    compute: DType,
    device: Device,
}

impl Vae {
    /// Reads an autoencoder of these measures.
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
            config,
        })
    }

    /// Its measures.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// Where it runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The latents of pictures (b, 3, h, w) in [-1, 1], whose sides are
    /// multiples of the factor.
    pub fn encode(&self, picture: &Tensor) -> Result<Posterior> {
        let picture = channels_last(&picture.to_dtype(self.compute)?)?;
        let x = pass(self.quantise.as_ref(), self.encoder.forward(&picture)?)?;
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
        let z = channels_last(&(latent / self.config.scale)?.to_dtype(self.compute)?)?;
        let z = pass(self.restore.as_ref(), z)?;
        Ok(channels_first(&self.decoder.forward(&z)?)?.to_dtype(DType::F32)?)
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

    fn forward(&self, mut x: Tensor) -> Result<Tensor> {
        for resnet in &self.resnets {
            x = resnet.forward(&x, None)?;
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

    fn forward(&self, picture: &Tensor) -> Result<Tensor> {
        let mut x = self.enter.forward(picture)?;
        for scale in &self.scales {
            x = scale.forward(x)?;
            if let Some(halve) = &scale.resample {
                x = halve.forward(&x)?;
            }
        }
        x = self.middle.forward(&x)?;
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

    fn forward(&self, latent: &Tensor) -> Result<Tensor> {
        let mut x = self.middle.forward(&self.enter.forward(latent)?)?;
        for scale in &self.scales {
            x = scale.forward(x)?;
            if let Some(conv) = &scale.resample {
                let (_, h, w, _) = x.dims4()?;
                let enlarging = Extras {
                    enlarged: Some((2 * h, 2 * w)),
                    ..Extras::default()
                };
                x = conv.forward_with(&x, enlarging)?;
            }
        }
        Ok(self.leave.forward(&self.norm.forward_silu(&x)?)?)
    }
}

/// Channels of the finest and the coarsest level.
fn ends(config: &VaeConfig) -> (usize, usize) {
    let first = config.channels.first().copied().unwrap_or_default();
    (first, config.channels.last().copied().unwrap_or_default())
}
