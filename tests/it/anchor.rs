//! Anchored edits: the source row is the inversion's own.

use icd::{
    control::{Anchor, ControlMode, ControlPlan},
    diffusion::{Event, Inverted, Silent},
    guidance::{Guidance, Tau},
    model::{Model, ModelChoice},
    nn::Placement,
    picture::{Picture, Size},
    pipeline::{Edit, Edited, Outputs, Pipeline, Residency},
    schedule::Timestep,
};

use crate::support::data;

const SOURCE: &str = "a photo of a bird";

/// A model, and a picture that it inverted.
struct Bench {
    pipeline: Pipeline,
    inverted: Inverted,
}

impl Bench {
    fn new() -> Self {
        let choice = ModelChoice::named(data("sd").to_string_lossy());
        let model = Model::open(&choice, Placement::cpu_f32()).unwrap();
        let pipeline = Pipeline::new(model, Residency::All);
        let photo = Picture::read(&data("photo.png")).unwrap();
        let photo = photo.resized(Size::new(64, 64));
        let photo = photo.to_tensor(pipeline.model().device()).unwrap();
        let inverted = pipeline.invert(&photo, SOURCE, 0, &mut Silent).unwrap();
        Self { pipeline, inverted }
    }

    fn edited(&self, inverted: &Inverted, edit: &Edit) -> Edited {
        self.pipeline.edit(inverted, edit, &mut Silent).unwrap()
    }
}

fn edit(anchor: Anchor, mode: ControlMode) -> Edit {
    let guidance = Guidance::new(19.0, Tau::step(0.8).unwrap()).unwrap();
    Edit {
        control: ControlPlan {
            anchor,
            mode,
            ..ControlPlan::default()
        },
        outputs: Outputs {
            source: true,
            ..Outputs::default()
        },
        ..Edit::new(SOURCE, "a photo of a dog", guidance)
    }
}

fn values(x: &candle_core::Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn the_source_ends_as_the_clean_latent() {
    let bench = Bench::new();
    let trajectory = &bench.inverted.trajectory;
    let passed: Vec<_> = trajectory.0.iter().map(|(at, _)| at.0).collect();
    assert_eq!(passed, [0, 19, 259, 519, 779]);
    let source = |anchor| {
        let edit = edit(anchor, ControlMode::Auto);
        values(&bench.edited(&bench.inverted, &edit).source.unwrap())
    };
    let clean = values(trajectory.at(Timestep(0)).unwrap());
    assert_eq!(source(Anchor::On), clean);
    assert_ne!(source(Anchor::Off), clean);
}

/// Each step of the source row, as its dump has it.
#[test]
fn the_source_follows_the_inversion_step_by_step() {
    let bench = Bench::new();
    let mut rows = Vec::new();
    let mut observer = |event: Event| {
        if let Event::Value(name, x) = event
            && name.ends_with(".blended")
        {
            rows.push(values(&x.narrow(0, 0, 1).unwrap()));
        }
    };
    let edit = edit(Anchor::On, ControlMode::Auto);
    let edited = bench.pipeline.edit(&bench.inverted, &edit, &mut observer);
    edited.unwrap();
    let at = |t| values(bench.inverted.trajectory.at(Timestep(t)).unwrap());
    assert_eq!(rows, [at(779), at(519), at(259), at(0)]);
}

#[test]
fn only_what_follows_the_source_is_changed() {
    let bench = Bench::new();
    let targets = |anchor, mode| {
        let edit = edit(anchor, mode);
        values(&bench.edited(&bench.inverted, &edit).targets)
    };
    let (on, off) = (Anchor::On, Anchor::Off);
    let (auto, none) = (ControlMode::Auto, ControlMode::None);
    assert_ne!(targets(on, auto), targets(off, auto));
    assert_eq!(targets(on, none), targets(off, none));
}

#[test]
fn latents_alone_are_edited_unanchored() {
    let bench = Bench::new();
    let alone = Inverted::from(bench.inverted.latent.clone());
    let of = |inverted, anchor| {
        let edit = edit(anchor, ControlMode::Auto);
        let edited = bench.edited(inverted, &edit);
        (values(&edited.targets), values(&edited.source.unwrap()))
    };
    let unanchored = of(&bench.inverted, Anchor::Off);
    assert_eq!(of(&alone, Anchor::On), unanchored);
}
