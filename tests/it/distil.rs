//! The losses of the distillations and their gradients against PyTorch in
//! double precision (tests/oracle/distil.py).

use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Tensor, Var, backprop::GradStore};
use icd::{
    distill::objective::{Consistency, Net, Sample, guidance_loss},
    io::Checkpoint,
    lora::{Adapter, AdapterOptions},
    model::{
        Conditioning,
        config::unet_config,
        unet::{PreparedText, Unet},
    },
    nn::{LoraDelta, LoraDeltas, Placement, RandomInit, SharedLayers, Weights},
    noise::Noise,
    schedule::{NoiseSchedule, Timestep, Timesteps},
};
use serde_json::Value;

use crate::support::{data, plain};

/// Losses and whole gradients agree this well, relative to their size.
const CLOSE: f64 = 1e-4;
/// The gradients of single tensors agree this well: PyTorch's own in f32 are up
/// to 1.1e-4 off, because the distance is steep where two latents nearly agree.
const ONE: f64 = 1e-3;
const ROWS: usize = 4;

/// The oracle's inputs and its results.
struct Oracle {
    json: Value,
    latent: Tensor,
    noise: Tensor,
    text: Conditioning,
    blank: Conditioning,
}

fn drawn(seed: u64, shape: (usize, usize, usize, usize)) -> Tensor {
    Noise::new(seed).normal(shape, &Device::Cpu).unwrap()
}

impl Oracle {
    fn open() -> Self {
        let json = std::fs::read(data("sd/distil.json")).unwrap();
        let text = |seed| Conditioning {
            hidden_states: drawn(seed, (1, ROWS, 6, 12)).squeeze(0).unwrap(),
            pooled: None,
        };
        Self {
            json: serde_json::from_slice(&json).unwrap(),
            latent: drawn(1, (ROWS, 4, 8, 8)),
            noise: drawn(2, (ROWS, 4, 8, 8)),
            text: text(3),
            blank: text(4),
        }
    }

    fn sample<'a>(&'a self, times: &'a [Timestep]) -> Sample<'a> {
        Sample {
            latent: &self.latent,
            noise: &self.noise,
            times,
        }
    }

    fn times(&self, loss: &str) -> Vec<Timestep> {
        let times = self.json["times"][loss].as_array().unwrap().iter();
        times
            .map(|t| Timestep(t.as_u64().unwrap() as u16))
            .collect()
    }

    fn guidance(&self) -> Vec<f64> {
        let strengths = self.json["strengths"].as_array().unwrap().iter();
        strengths.map(|w| w.as_f64().unwrap()).collect()
    }

    /// Compares a loss and the gradients of the variables with the oracle's.
    fn check(&self, name: &str, loss: &Tensor, vars: &BTreeMap<String, Var>) {
        let expected = &self.json["losses"][name];
        let found = f64::from(loss.to_scalar::<f32>().unwrap());
        let value = expected["value"].as_f64().unwrap();
        assert!(
            (found - value).abs() < CLOSE * value,
            "{name}: {found} {value}"
        );
        let gradients = loss.backward().unwrap();
        let known = expected["gradients"].as_object().unwrap();
        assert_eq!(
            known.len(),
            vars.len(),
            "{name}: every variable has a gradient"
        );
        let (mut off, mut all) = (0.0, 0.0);
        for (variable, expected) in known {
            let found = summary(&gradients, &vars[variable]);
            let expected = [0, 1].map(|i| expected[i].as_f64().unwrap());
            let gap = (found[0] - expected[0]).hypot(found[1] - expected[1]);
            assert!(
                gap < ONE * expected[0] + 1e-7,
                "{name}, {variable}: {found:?} {expected:?}"
            );
            off += gap * gap;
            all += expected[0] * expected[0];
        }
        let off = (off / all).sqrt();
        assert!(off < CLOSE, "{name}: the gradient is {off} of its norm off");
    }
}

/// The norm of a gradient, and its product with a wave.
fn summary(gradients: &GradStore, variable: &Var) -> [f64; 2] {
    let gradient = gradients.get(variable).expect("a gradient");
    let values = gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let squares: f64 = values.iter().map(|g| f64::from(*g).powi(2)).sum();
    let wave = values.iter().enumerate();
    let wave = wave.map(|(i, g)| f64::from(*g) * (0.7 * i as f64).sin());
    [squares.sqrt(), wave.sum()]
}

fn checkpoint() -> Checkpoint {
    Checkpoint::open(data("sd/unet/diffusion_pytorch_model.safetensors")).unwrap()
}

fn unet(weights: &Weights) -> Unet {
    let config = unet_config(&data("sd/unet/config.json").into()).unwrap();
    Unet::new(weights, config).unwrap()
}

/// The changes of an adapter file, as variables with PEFT's names.
fn adapter(name: &str, base: &Checkpoint) -> (LoraDeltas, BTreeMap<String, Var>) {
    let reading = AdapterOptions {
        alpha: Some(8.0),
        weight: 1.0,
        rounding: candle_core::DType::F32,
    };
    let file = data(&format!("sd/{name}.safetensors"));
    let adapter = Adapter::read(file, base, reading).unwrap();
    let (mut changes, mut vars) = (LoraDeltas::new(), BTreeMap::new());
    for (module, change) in adapter.deltas() {
        let mut variable = |factor: &str, value: &Tensor| {
            let var = Var::from_tensor(value).unwrap();
            let name = format!("unet.base_model.model.{module}.{factor}.weight");
            vars.insert(name, var.clone());
            var.as_tensor().clone()
        };
        let change = LoraDelta {
            down: variable("lora_A", &change.down),
            up: variable("lora_B", &change.up),
            scale: change.scale,
        };
        changes.insert(module.clone(), change);
    }
    (changes, vars)
}

#[test]
fn guidance_is_distilled_as_pytorch_would() {
    let oracle = Oracle::open();
    let fresh = RandomInit::new(0).starting_from(checkpoint()).trainable();
    let student = unet(&Weights::initial(&fresh, &plain()));
    let teacher = unet(&Weights::new(&checkpoint(), &plain()));
    let texts = [
        student.prepare(&oracle.text).unwrap(),
        teacher.prepare(&oracle.text).unwrap(),
        teacher.prepare(&oracle.blank).unwrap(),
    ];
    let nets = [(&student, 0), (&teacher, 1), (&teacher, 2)].map(|(unet, i)| Net {
        unet,
        text: &texts[i],
    });
    let loss = guidance_loss(
        nets,
        &NoiseSchedule::default(),
        oracle.sample(&oracle.times("guidance")),
        &oracle.guidance(),
    );
    oracle.check("guidance", &loss.unwrap(), &fresh.vars());
}

#[test]
fn consistency_is_distilled_as_pytorch_would() {
    let oracle = Oracle::open();
    let (base, storage, shelf) = (checkpoint(), plain(), SharedLayers::default());
    let weights = Weights::new(&base, &storage).with_shared_layers(&shelf);
    let (forward, forward_vars) = adapter("forward-19-259-519-779", &base);
    let (reverse, reverse_vars) = adapter("reverse-259-519-779-999", &base);
    let unets = [
        unet(&weights),
        unet(&weights.clone().with_lora(&forward)),
        unet(&weights.clone().with_lora(&reverse)),
    ];
    let texts: Vec<PreparedText> = unets
        .iter()
        .map(|unet| unet.prepare(&oracle.text).unwrap())
        .collect();
    let net = |i: usize| Net {
        unet: &unets[i],
        text: &texts[i],
    };
    let losses = Consistency {
        schedule: &NoiseSchedule::default(),
        forward_timesteps: &Timesteps::forward(&[19, 259, 519, 779, 999]).unwrap(),
        reverse_timesteps: &Timesteps::reverse(&[999, 779, 519, 259, 0]).unwrap(),
        stride: 20,
        teacher: net(0),
        forward: net(1),
        reverse: net(2),
    };
    let name = "reverse_consistency";
    let times = oracle.times(name);
    let loss = losses.reverse_consistency(oracle.sample(&times), &oracle.guidance());
    oracle.check(name, &loss.unwrap(), &reverse_vars);
    let name = "forward_consistency";
    let times = oracle.times(name);
    let loss = losses.forward_consistency(oracle.sample(&times));
    oracle.check(name, &loss.unwrap(), &forward_vars);
    let name = "forward_preservation";
    let times = oracle.times(name);
    let loss = losses.forward_preservation(oracle.sample(&times));
    oracle.check(name, &loss.unwrap(), &forward_vars);
    let name = "reverse_preservation";
    let times = oracle.times(name);
    let loss = losses.reverse_preservation(oracle.sample(&times));
    oracle.check(name, &loss.unwrap(), &reverse_vars);
}

#[test]
fn merged_and_live_adapters_agree() {
    let oracle = Oracle::open();
    let (base, storage) = (checkpoint(), plain());
    let (changes, _) = adapter("reverse-259-519-779-999", &base);
    let frozen: LoraDeltas = changes
        .iter()
        .map(|(module, change)| {
            let change = LoraDelta {
                down: change.down.detach(),
                up: change.up.detach(),
                scale: change.scale,
            };
            (module.clone(), change)
        })
        .collect::<HashMap<_, _>>();
    let weights = || Weights::new(&base, &storage);
    let eps = |weights: Weights| {
        let unet = unet(&weights);
        let text = unet.prepare(&oracle.text).unwrap();
        let net = Net {
            unet: &unet,
            text: &text,
        };
        let times = oracle.times("guidance");
        net.eps(&oracle.latent, &times, &oracle.guidance()).unwrap()
    };
    let merged = eps(weights().with_merged_lora(&frozen));
    for live in [&changes, &frozen] {
        let gap = (eps(weights().with_lora(live)) - &merged).unwrap();
        let gap = gap.abs().unwrap().max_all().unwrap();
        assert!(gap.to_scalar::<f32>().unwrap() < 1e-5);
    }
    let gap = (eps(weights()) - &merged).unwrap().abs().unwrap();
    assert!(gap.max_all().unwrap().to_scalar::<f32>().unwrap() > 1e-2);
}

#[test]
fn networks_on_a_shelf_share_their_weights() {
    let (base, shelf) = (checkpoint(), SharedLayers::default());
    let storage: Placement = plain();
    let weights = Weights::new(&base, &storage).with_shared_layers(&shelf);
    let oracle = Oracle::open();
    let unets = [unet(&weights), unet(&weights)];
    let eps = unets.each_ref().map(|unet| {
        let text = unet.prepare(&oracle.text).unwrap();
        let net = Net { unet, text: &text };
        net.eps(
            &oracle.latent,
            &oracle.times("guidance"),
            &oracle.guidance(),
        )
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1::<f32>()
        .unwrap()
    });
    assert_eq!(eps[0], eps[1]);
}
