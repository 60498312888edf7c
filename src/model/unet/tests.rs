//! The network as other devices compute it: composed of candle's operations, in
//! half precision (f16: candle multiplies no bf16 on a CPU).

use candle_core::Device;

use super::*;
use crate::{
    model::attention::{Kind, Site, Wish},
    nn::{Fresh, Storage},
};

/// Takes every way through attention, and leaves the maps as they are.
struct EveryWay;

impl AttentionControl for EveryWay {
    fn wish(&self, site: &Site) -> Wish {
        match site.kind {
            Kind::Text if site.level == 0 => Wish::Maps,
            Kind::Itself if site.level == 1 => Wish::FirstRowsMaps,
            Kind::Text | Kind::Itself => Wish::Untouched,
        }
    }

    fn rewrite(&mut self, _: &Site, maps: Tensor) -> Result<Tensor> {
        Ok(maps)
    }
}

fn config() -> UnetConfig {
    let level = |channels| Level {
        channels,
        heads: 2,
        depth: 1,
        depth_up: 1,
        blocks: 1,
    };
    UnetConfig {
        levels: vec![level(16), level(32)],
        text_width: 24,
        groups: 8,
        pooled: Some(PooledText {
            width: 12,
            size_width: 8,
        }),
        side: 8,
        ..UnetConfig::sd15()
    }
}

fn wave(shape: &[usize]) -> Tensor {
    let values = (0..shape.iter().product()).map(|i: usize| (i as f32 * 0.7).sin());
    Tensor::from_vec(values.collect(), shape, &Device::Cpu).unwrap()
}

fn noise_by(unet: &Unet) -> Tensor {
    let text = Conditioning {
        tokens: wave(&[2, 7, 24]),
        pooled: Some(wave(&[2, 12])),
    };
    let input = Input {
        latent: &wave(&[2, 4, 9, 8]), // an odd side, which is not simply doubled on the way up
        times: &[Timestep(998), Timestep(19)],
        guidance: &[0.0, 19.0],
        text: &unet.read(&text).unwrap(),
    };
    let eps = unet.forward(input, &mut EveryWay).unwrap();
    assert_eq!(eps.dtype(), DType::F32);
    eps
}

fn size(x: &Tensor) -> f32 {
    let sum = x.sqr().unwrap().sum_all().unwrap();
    sum.to_scalar::<f32>().unwrap().sqrt()
}

#[test]
fn half_precision_predicts_almost_the_same_noise() {
    let guide = ("time_embedding.cond_proj.weight", &[16_usize, 32][..]);
    let storage = Storage::plain();
    let exact = Fresh::new(0).with(guide.0, guide.1);
    let exact = Unet::new(&Weights::fresh(&exact, &storage), config()).unwrap();
    let exact = noise_by(&exact);
    // Weights that can be trained are not packed for our kernels.
    let plain = Fresh::new(0).with(guide.0, guide.1).trainable();
    let mut unet = Unet::new(&Weights::fresh(&plain, &storage), config()).unwrap();
    unet.compute = DType::F16;
    unet.embedding.compute = DType::F16;
    let gap = (noise_by(&unet).detach() - &exact).unwrap();
    let gap = size(&gap) / size(&exact);
    assert!(gap > 0.0 && gap < 3e-3, "{gap}");
}
