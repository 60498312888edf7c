use candle_core::{DType, Device};

use super::*;
use crate::{
    model::vae::{Tiling, Vae, VaeConfig},
    nn::{Placement, RandomInit, Weights},
};

/// The configuration of a toy.
fn toy() -> VaeConfig {
    VaeConfig {
        block_out_channels: vec![16, 32, 64],
        layers_per_block: 1,
        latent_channels: 4,
        norm_num_groups: 8,
        scaling_factor: 0.5,
        mid_block_add_attention: false,
        use_quant_conv: false,
        use_post_quant_conv: false,
    }
}

/// Wide enough for every kernel, with all that there is.
fn small() -> VaeConfig {
    VaeConfig {
        block_out_channels: vec![64, 64, 96],
        layers_per_block: 2,
        norm_num_groups: 16,
        mid_block_add_attention: true,
        use_quant_conv: false,
        use_post_quant_conv: false,
        ..toy()
    }
}

fn vae(config: VaeConfig, dtype: DType) -> Vae {
    let device = Device::Cpu;
    let placement = Placement::new(dtype, device);
    Vae::new(&Weights::initial(&RandomInit::new(3), &placement), config).unwrap()
}

/// Values (b, h, w, c) that differ from place to place, in their spread too.
fn uneven(shape: (usize, usize, usize, usize)) -> Tensor {
    let (b, h, w, c) = shape;
    let value = |i: usize| (i as f32 * 0.7).sin() * (1.0 + (i / (w * c) % h) as f32 / 8.0);
    let values = (0..b * h * w * c).map(value).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The largest gap, as a share of the largest value.
fn gap(found: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(found.dims(), expected.dims());
    let largest = |x: Tensor| x.abs().unwrap().max_all().unwrap();
    let gap = largest((found - expected).unwrap());
    gap.to_scalar::<f32>().unwrap() / largest(expected.clone()).to_scalar::<f32>().unwrap()
}

/// Strips of different heights, with pictures of some levels whole or held.
fn plans() -> Vec<StripPlan> {
    let plan = |rows, whole, held| StripPlan { rows, whole, held };
    let heights = [1, 2, 3, 5, 8, 13, 1000];
    let cut = heights.map(|rows| [plan(rows, 0, 0), plan(rows, 0, usize::MAX)]);
    let partly = [20_000, 50_000, 200_000].map(|whole| [plan(4, whole, 0), plan(6, whole, whole)]);
    [cut.as_flattened(), partly.as_flattened()].concat()
}

fn whole() -> StripPlan {
    Tiling::Off.plan([0, 0])
}

/// Strips lead where the whole picture leads, for pictures of these sizes.
fn check(vae: &Vae, sizes: &[(usize, usize, usize)]) {
    for &(b, h, w) in sizes {
        let latent = uneven((b, h, w, 4));
        let picture = uneven((b, 4 * h + 1, 4 * w + 3, 3));
        let decoded = vae.decoder.decode(&latent, whole()).unwrap();
        let encoded = vae.encoder.encode(picture.clone(), whole()).unwrap();
        for plan in plans() {
            let found = vae.decoder.decode(&latent, plan).unwrap();
            let apart = gap(&found, &decoded);
            assert!(apart < 1e-5, "{plan:?}: decoded {apart} apart");
            let found = vae.encoder.encode(picture.clone(), plan).unwrap();
            let apart = gap(&found, &encoded);
            assert!(apart < 1e-5, "{plan:?}: encoded {apart} apart");
        }
    }
}

#[test]
fn strips_of_any_height_lead_where_the_whole_picture_leads() {
    check(&vae(toy(), DType::F32), &[(1, 8, 6), (2, 5, 7), (1, 1, 3)]);
    check(&vae(small(), DType::F32), &[(2, 6, 5)]);
}

#[test]
fn weights_in_half_precision_do_too() {
    check(&vae(toy(), DType::F16), &[(1, 7, 4)]);
    check(&vae(toy(), DType::BF16), &[(1, 3, 4)]);
}

#[test]
fn a_picture_is_the_same_however_it_is_asked_for() {
    let latent = uneven((1, 4, 30, 26));
    let found = |tiling| {
        let vae = vae(toy(), DType::F32).with_tiling(tiling);
        let picture = vae.decode(&latent).unwrap();
        let posterior = vae.encode(&picture).unwrap();
        let strips = [
            vae.encodes_in_strips(&picture).unwrap(),
            vae.decodes_in_strips(&latent).unwrap(),
        ];
        (picture, posterior.mean().unwrap(), strips)
    };
    let (picture, mean, strips) = found(Tiling::Off);
    assert_eq!(strips, [false, false]);
    for (tiling, cut) in [(Tiling::Auto, false), (Tiling::On, true)] {
        let found = found(tiling);
        assert!(gap(&found.0, &picture) < 1e-5 && gap(&found.1, &mean) < 1e-5);
        assert_eq!(found.2, [cut, cut]);
    }
}

#[test]
fn the_sizes_that_are_cut_by_themselves_are_those_that_are_told() {
    let cuts = |side: usize| {
        let finest = VaeConfig::sd15().finest();
        let bytes = finest.map(|channels| 4 * side * side * channels);
        Tiling::Auto.plan(bytes).cuts_any()
    };
    assert!(!cuts(512) && !cuts(1024) && cuts(1032) && cuts(2048));
}

#[test]
fn what_a_strip_no_longer_sees_is_dropped() {
    let plan = StripPlan {
        rows: 2,
        whole: 0,
        held: 0,
    };
    let mut picture = Strips::whole(uneven((1, 9, 2, 4)), plan).unwrap();
    picture = picture.remade(9, around(0), Ok).unwrap();
    assert_eq!(picture.bands.len(), 5);
    picture.forget(3);
    let tops: Vec<_> = picture.bands.iter().map(|band| band.top).collect();
    assert_eq!(tops, [2, 4, 6, 8]);
}
