//! The autoencoder between pictures and latents (`AutoencoderKL`). All latents in its
//! interface are scaled.

mod config;
mod posterior;
mod strips;
mod tiling;

use candle_core::{DType, Device, Tensor};

pub use config::VaeConfig;
pub use posterior::Posterior;
pub use tiling::Tiling;

use strips::Strips;
use tiling::StripPlan;

use super::{
    attention::{BlockPlace, NoControl, SelfAttention, Site},
    resnet::{Norm, Resnet},
};
use crate::{
    error::Result,
    nn::{Conv2d, GroupNorm, Stride, Weights, channels_first, channels_last},
};

/// Encodes pictures to latents and decodes them.
#[derive(Debug)]
pub struct Vae {
    encoder: Coder,
    decoder: Coder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    config: VaeConfig,
    tiling: Tiling,
    compute: DType,
    device: Device,
}

impl Vae {
    /// Loads an autoencoder with this configuration, without tiling.
    pub fn new(w: &Weights, config: VaeConfig) -> Result<Self> {
        let z = config.latent_channels;
        let ends = w.placement().of_ends();
        let pointwise = |name, c| w.with_placement(&ends).at(name).conv(c, c, 1, Stride::One);
        let encoded = config.use_quant_conv;
        let decoded = config.use_post_quant_conv;
        Ok(Self {
            encoder: Coder::encoder(&w.at("encoder"), &config)?,
            decoder: Coder::decoder(&w.at("decoder"), &config)?,
            quant_conv: encoded
                .then(|| pointwise("quant_conv", 2 * z))
                .transpose()?,
            post_quant_conv: decoded
                .then(|| pointwise("post_quant_conv", z))
                .transpose()?,
            compute: w.placement().compute_dtype(),
            device: w.placement().device.clone(),
            tiling: Tiling::Off,
            config,
        })
    }

    /// Sets whether pictures are computed in strips of rows.
    pub fn with_tiling(self, tiling: Tiling) -> Self {
        Self { tiling, ..self }
    }

    /// Whether pictures are computed in strips of rows.
    pub fn tiling(&self) -> Tiling {
        self.tiling
    }

    /// The device it runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether it would encode pictures (b, 3, h, w) in strips.
    pub fn encodes_in_strips(&self, picture: &Tensor) -> Result<bool> {
        Ok(self.encoding(picture, self.tiling)?.cuts_any())
    }

    /// Whether it would decode latents (b, 4, h, w) in strips.
    pub fn decodes_in_strips(&self, latent: &Tensor) -> Result<bool> {
        Ok(self.decoding(latent, self.tiling)?.cuts_any())
    }

    fn encoding(&self, picture: &Tensor, tiling: Tiling) -> Result<StripPlan> {
        let [made, _] = self.finest(picture, 1)?;
        Ok(tiling.plan([made, made]))
    }

    fn decoding(&self, latent: &Tensor, tiling: Tiling) -> Result<StripPlan> {
        let finest = self.finest(latent, self.config.factor())?;
        Ok(tiling.plan(finest))
    }

    /// Bytes of activations at full resolution, `times` the size of x (b, c, h, w):
    /// of a block's output, and of the largest activation.
    fn finest(&self, x: &Tensor, times: usize) -> Result<[usize; 2]> {
        let (b, _, h, w) = x.dims4()?;
        let bytes = b * h * w * times * times * self.compute.size_in_bytes();
        Ok(self.config.finest().map(|channels| channels * bytes))
    }

    /// Encodes pictures (b, 3, h, w) in [-1, 1], whose sides are multiples of the
    /// downsampling factor, to latents.
    pub fn encode(&self, picture: &Tensor) -> Result<Posterior> {
        self.encode_tiled(picture, self.tiling)
    }

    /// [`encode`](Self::encode) with another tiling.
    pub fn encode_tiled(&self, picture: &Tensor, tiling: Tiling) -> Result<Posterior> {
        let plan = self.encoding(picture, tiling)?;
        let picture = channels_last(&picture.to_dtype(self.compute)?)?;
        let x = self.encoder.encode(picture, plan)?;
        let x = pass(self.quant_conv.as_ref(), x)?;
        let x = channels_first(&x)?.to_dtype(DType::F32)?;
        let halves = x.chunk(2, 1)?; // mean and logarithm of the variance, (b, 4, h, w) each
        let deviation = (halves[1].clamp(-30f64, 20f64)? * 0.5)?.exp()?;
        Ok(Posterior::encoded(
            halves[0].clone(),
            deviation,
            self.config.scaling_factor,
        ))
    }

    /// Decodes scaled latents to pictures (b, 3, h, w), approximately in [-1, 1].
    pub fn decode(&self, latent: &Tensor) -> Result<Tensor> {
        self.decode_tiled(latent, self.tiling)
    }

    /// [`decode`](Self::decode) with another tiling.
    pub fn decode_tiled(&self, latent: &Tensor, tiling: Tiling) -> Result<Tensor> {
        let plan = self.decoding(latent, tiling)?;
        let z = channels_last(&(latent / self.config.scaling_factor)?.to_dtype(self.compute)?)?;
        let z = pass(self.post_quant_conv.as_ref(), z)?;
        Ok(channels_first(&self.decoder.decode(&z, plan)?)?.to_dtype(DType::F32)?)
    }
}

fn pass(layer: Option<&Conv2d>, x: Tensor) -> Result<Tensor> {
    layer.map_or(Ok(x.clone()), |layer| Ok(layer.forward(&x)?))
}

/// The residual blocks of one resolution, then optional resampling.
#[derive(Debug)]
struct Scale {
    resnets: Vec<Resnet>,
    resample: Option<Conv2d>,
}

impl Scale {
    /// All scales of a coder, each with `blocks` residual blocks and all but the
    /// last with a resampling convolution.
    fn all(
        w: &Weights,
        channels: &[usize],
        blocks: usize,
        (resample, stride): (&str, Stride),
        norm: Norm,
    ) -> Result<Vec<Self>> {
        let scale = |(i, &c): (usize, &usize)| {
            let w = w.at(i);
            let before = channels[i.saturating_sub(1)];
            let resample = (i + 1 < channels.len()).then(|| w.at(resample).conv(c, c, 3, stride));
            Ok(Self {
                resample: resample.transpose()?,
                ..Self::new(&w, &[vec![before], vec![c; blocks]].concat(), norm)?
            })
        };
        channels.iter().enumerate().map(scale).collect()
    }

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

/// The middle block: two residual blocks with self-attention between them.
#[derive(Debug)]
struct Middle {
    resnets: Scale,
    attention: Option<(GroupNorm, SelfAttention)>,
}

impl Middle {
    fn new(w: &Weights, c: usize, config: &VaeConfig) -> Result<Self> {
        let at = w.at("attentions.0");
        let attention = || -> Result<_> {
            let norm = at
                .at("group_norm")
                .group_norm(c, config.norm_num_groups, 1e-6)?;
            Ok((norm, SelfAttention::new(&at, c, 1)?))
        };
        Ok(Self {
            resnets: Scale::new(w, &[c, c, c], config.norm())?,
            attention: config.mid_block_add_attention.then(attention).transpose()?,
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
fn attend_onto(residual: &Tensor, attention: &SelfAttention, x: &Tensor) -> Result<Tensor> {
    let (_, height, width, _) = x.dims4()?;
    let site = Site {
        height,
        width,
        ..Site::at(BlockPlace::Mid, 0)
    };
    let (residual, flat) = (residual.flatten(1, 2)?, x.flatten(1, 2)?); // (b, h * w, c)
    let y = attention.forward_onto(&residual, &flat, &site, &mut NoControl)?;
    Ok(y.reshape(x.shape())?)
}

/// The encoder or the decoder.
#[derive(Debug)]
struct Coder {
    conv_in: Conv2d,
    scales: Vec<Scale>,
    middle: Middle,
    norm: GroupNorm,
    conv_out: Conv2d,
}

impl Coder {
    fn encoder(w: &Weights, config: &VaeConfig) -> Result<Self> {
        let resample = ("downsamplers.0.conv", Stride::TwoPadRightBottom);
        let scales = Scale::all(
            &w.at("down_blocks"),
            &config.block_out_channels,
            config.layers_per_block,
            resample,
            config.norm(),
        )?;
        let (finest, coarsest) = config.ends();
        Self::new(
            w,
            config,
            scales,
            [3, finest, coarsest, 2 * config.latent_channels],
        )
    }

    fn decoder(w: &Weights, config: &VaeConfig) -> Result<Self> {
        let channels: Vec<_> = config.block_out_channels.iter().rev().copied().collect();
        let scales = Scale::all(
            &w.at("up_blocks"),
            &channels,
            config.layers_per_block + 1,
            ("upsamplers.0.conv", Stride::One),
            config.norm(),
        )?;
        let (finest, coarsest) = config.ends();
        Self::new(
            w,
            config,
            scales,
            [config.latent_channels, coarsest, finest, 3],
        )
    }

    /// `channels` are the inputs and outputs of the first and the last convolution.
    fn new(
        w: &Weights,
        config: &VaeConfig,
        scales: Vec<Scale>,
        channels: [usize; 4],
    ) -> Result<Self> {
        let [inputs, first, last, outputs] = channels;
        let norm = w.at("conv_norm_out");
        let ends = w.placement().of_ends();
        let end = w.with_placement(&ends);
        Ok(Self {
            conv_in: end.at("conv_in").conv(inputs, first, 3, Stride::One)?,
            scales,
            middle: Middle::new(&w.at("mid_block"), config.ends().1, config)?,
            norm: norm.group_norm(last, config.norm_num_groups, 1e-6)?,
            conv_out: end.at("conv_out").conv(last, outputs, 3, Stride::One)?,
        })
    }

    fn encode(&self, picture: Tensor, plan: StripPlan) -> Result<Tensor> {
        let mut x = Strips::whole(picture, plan)?.convolved(&self.conv_in)?;
        for scale in &self.scales {
            x = scale.forward(x)?;
            if let Some(halve) = &scale.resample {
                x = x.halved(halve)?;
            }
        }
        let x = self.middle.forward(&x.joined()?)?;
        Ok(self.conv_out.forward(&self.norm.forward_silu(&x)?)?)
    }

    fn decode(&self, latent: &Tensor, plan: StripPlan) -> Result<Tensor> {
        let x = self.middle.forward(&self.conv_in.forward(latent)?)?;
        let mut x = Strips::whole(x, plan)?;
        for scale in &self.scales {
            x = scale.forward(x)?;
            if let Some(conv) = &scale.resample {
                x = x.enlarged(conv)?;
            }
        }
        x.left(&self.norm, &self.conv_out)
    }
}
