//! What a dump holds: every value of a run once, under a name of its own.

use std::collections::{BTreeSet, HashMap};

use candle_core::Tensor;
use icd::{
    diffusion::{Event, Observer},
    picture::Picture,
    pipeline::{Pipeline, Residency},
};

use crate::support::{agree, data, distance, icd, model};

/// The names of all values, in the order in which they were reported.
#[derive(Default)]
struct Names(Vec<String>);

impl Observer for Names {
    fn observe(&mut self, event: Event) {
        if let Event::Value(name, _) = event {
            self.0.push(name.to_owned());
        }
    }
}

#[test]
fn an_inversion_and_its_reconstruction_share_no_name() {
    for family in ["sd", "sdxl"] {
        let pipeline = Pipeline::new(model(&data(family)), Residency::OneAtATime);
        let picture = Picture::read(&data("square.png")).unwrap();
        let picture = picture.to_tensor(pipeline.model().device()).unwrap();
        let mut names = Names::default();
        let inverted = pipeline.invert(&picture, "bird", 0, &mut names).unwrap();
        pipeline
            .reconstruct(&inverted.latent, "bird", &mut names)
            .unwrap();
        let unique: BTreeSet<_> = names.0.iter().collect();
        assert_eq!(unique.len(), names.0.len(), "{family}: {:?}", names.0);
        assert!(unique.len() > 10, "{family}: {:?}", names.0);
    }
}

#[test]
fn a_reconstruction_is_dumped_beside_the_inversion() {
    let dump = |flags: &str| {
        let run = icd("invert")
            .path("--model", &data("sd"))
            .path("--image", &data("square.png"))
            .args("--prompt bird --size 64 --dump dump.safetensors -o x.safetensors");
        run.args(flags).succeeds().tensors("dump.safetensors")
    };
    let alone = dump("");
    let mut both = dump("--reconstruct back.png");
    assert!(alone.contains_key("start_noise"));
    for (name, expected) in &alone {
        agree(name, &both.remove(name).expect(name), expected, 1e-12);
    }
    assert!(both.contains_key("reconstruct.latent"));
    let mut names = both.keys();
    assert!(
        names.all(|name| name.starts_with("reconstruct.")),
        "{both:?}"
    );
}

/// The dump of an edit of the tiny model with these extra arguments.
fn edited(flags: &str) -> HashMap<String, Tensor> {
    let run = icd("edit")
        .path("--model", &data("sd"))
        .path("--image", &data("square.png"))
        .with("--src-prompt", "a photo of a bird")
        .with("--tgt-prompt", "a photo of a dog")
        .args("--size 64 --dump dump.safetensors -o out.png");
    run.args(flags).succeeds().tensors("dump.safetensors")
}

#[test]
fn the_states_of_every_prompt_are_dumped_by_its_name() {
    for (family, states) in [("sd", &["text"][..]), ("sdxl", &["text", "pooled"])] {
        let run = icd("edit")
            .path("--model", &data(family))
            .path("--image", &data("square.png"))
            .with("--src-prompt", "bird")
            .args("--tgt-prompt dog --tgt-prompt cat --tgt-prompt owl --early-prompt eagle")
            .args("--size 64 --dump dump.safetensors -o out.png");
        let dump = run.succeeds().tensors("dump.safetensors");
        for states in states {
            let names = ["src", "tgt", "tgt2", "tgt3", "early"];
            let of = |name: &str| dump.get(&format!("{states}_{name}")).expect(name);
            for (i, name) in names.into_iter().enumerate() {
                assert_eq!(of(name).dim(0).unwrap(), 1, "{family}: {name}");
                let others = names[..i].iter().map(|other| distance(of(other), of(name)));
                assert!(others.into_iter().all(|distance| distance > 1e-3), "{name}");
            }
        }
    }
}

#[test]
fn blended_latents_are_dumped_where_something_was_blended() {
    let blended = |dump: &HashMap<String, Tensor>| {
        let names = dump.keys().filter(|name| name.ends_with(".blended"));
        names.cloned().collect::<BTreeSet<_>>()
    };
    assert_eq!(blended(&edited("")), BTreeSet::new());
    let steps = (0..4).map(|step| format!("step{step}.blended")).collect();
    assert_eq!(blended(&edited("--blend bird:dog")), steps);
}
