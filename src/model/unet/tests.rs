//! The network as other devices compute it: composed of candle's operations, in
//! half precision (f16: candle multiplies no bf16 on a CPU).

use candle_core::Device;

use super::*;
use crate::{
    model::attention::{AttentionKind, Intervention, Site},
    nn::{Backend, Placement, RandomInit},
};

/// Takes every way through attention, and leaves the maps as they are.
struct EveryWay;

impl AttentionControl for EveryWay {
    fn intervention(&self, site: &Site) -> Intervention {
        match site.kind {
            AttentionKind::CrossAttention if site.level == 0 => Intervention::Maps,
            AttentionKind::SelfAttention if site.level == 1 => Intervention::FirstRowsMaps,
            AttentionKind::CrossAttention | AttentionKind::SelfAttention => Intervention::None,
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
        transformer_layers: 1,
        transformer_layers_up: 1,
        blocks: 1,
    };
    UnetConfig {
        levels: vec![level(16), level(32)],
        cross_attention_dim: 24,
        norm_num_groups: 8,
        pooled: Some(PooledText {
            width: 12,
            size_width: 8,
        }),
        sample_size: 8,
        ..UnetConfig::sd15()
    }
}

fn wave(shape: &[usize]) -> Tensor {
    let values = (0..shape.iter().product()).map(|i: usize| (i as f32 * 0.7).sin());
    Tensor::from_vec(values.collect(), shape, &Device::Cpu).unwrap()
}

fn noise_by(unet: &Unet) -> Tensor {
    let text = Conditioning {
        hidden_states: wave(&[2, 7, 24]),
        pooled: Some(wave(&[2, 12])),
    };
    let input = UnetInput {
        latent: &wave(&[2, 4, 9, 8]), // an odd side, which is not simply doubled on the way up
        times: &[Timestep(998), Timestep(19)],
        guidance: &[0.0, 19.0],
        text: &unet.prepare(&text).unwrap(),
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
    let weights = RandomInit::new(0).with("time_embedding.cond_proj.weight", &[16, 32]);
    let noise_on = |placement: &Placement| {
        let unet = Unet::new(&Weights::initial(&weights, placement), config()).unwrap();
        noise_by(&unet)
    };
    let exact = noise_on(&Placement::cpu_f32());
    let half = noise_on(&Placement {
        backend: Backend::Composed,
        ..Placement::new(DType::F16, Device::Cpu)
    });
    let gap = size(&(half - &exact).unwrap()) / size(&exact);
    assert!(gap > 0.0 && gap < 3e-3, "{gap}");
}
