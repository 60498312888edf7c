//! A sheet of one edit under other settings: what each of them does.

use std::path::Path;

use anyhow::Result;
use icd::{
    control::{Amplify, Blend, ControlMode, ControlPlan, CrossReplaceSteps, StepRange, WordPair},
    guidance::{Guidance, Tau},
    picture::{Picture, label::gallery},
};

use super::{bench::Bench, world::SIDE};

/// The picture that is edited: that of the README's first command.
const PICTURE: &str = "examples/still-life.png";
const SOURCE: &str = "at the back left a large blue mug and at the front right a small red ball \
                      on a wooden table before a cream wall in warm light";
const TARGET: &str = "at the back left a large green cone and at the front right a small red ball \
                      on a wooden table before a cream wall in warm light";
/// Values of each setting.
const ACROSS: usize = 5;

/// One edit of the sheet.
struct Setting {
    label: String,
    plan: ControlPlan,
    guidance: Guidance,
}

/// Draws the sheet: a setting in each row, its values from left to right.
pub(super) fn draw(bench: &Bench, file: &Path) -> Result<()> {
    let photo = Picture::read(Path::new(PICTURE))?;
    assert_eq!(photo.size().width, SIDE, "a scene of this world");
    let noise = bench.invert(&bench.few, &photo, SOURCE, 0)?;
    let mut panels = vec![(photo.clone(), "the source".to_owned())];
    for Setting {
        label,
        plan,
        guidance,
    } in settings(bench)?
    {
        let how = (&plan, guidance);
        let edited = bench.edit(&bench.few, (&photo, &noise), [SOURCE, TARGET], how)?;
        panels.push((edited, label));
    }
    Ok(gallery(&panels, ACROSS)?.write(file)?)
}

fn settings(bench: &Bench) -> Result<Vec<Setting>> {
    let usual = Guidance::new(bench.strength(), bench.model.edit_tau()?)?;
    let with = |label: String, plan, guidance| Setting {
        label,
        plan,
        guidance,
    };
    let mut all = Vec::new();
    for strength in [0.0, 1.0, 4.0, 6.0] {
        let guidance = Guidance::new(strength, bench.model.edit_tau()?)?;
        all.push(with(
            format!("--guidance {strength}"),
            bench.usual_control(),
            guidance,
        ));
    }
    for tau in [0.1, 0.4, 0.6, 0.8, 1.0] {
        let guidance = Guidance::new(bench.strength(), Tau::step(tau)?)?;
        all.push(with(
            format!("--tau {tau}"),
            bench.usual_control(),
            guidance,
        ));
    }
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let self_replace = StepRange::until(share)?;
        let plan = ControlPlan {
            self_replace,
            ..bench.usual_control()
        };
        all.push(with(format!("--self-replace {share}"), plan, usual));
    }
    for share in [0.0, 0.2, 0.4, 0.6, 1.0] {
        let cross = CrossReplaceSteps {
            default: StepRange::until(share)?,
            words: Vec::new(),
        };
        let plan = ControlPlan {
            cross,
            ..bench.usual_control()
        };
        all.push(with(format!("--cross-replace {share}"), plan, usual));
    }
    for factor in [0.0, 1.0, 4.0, 10.0, 20.0] {
        let amplify = vec![Amplify::Word("green".into(), factor)];
        let plan = ControlPlan {
            amplify,
            ..bench.usual_control()
        };
        all.push(with(format!("--amplify green={factor}"), plan, usual));
    }
    let mug = Blend::Pair(WordPair::new("mug", "cone"));
    for (name, blend) in [
        ("none", vec![]),
        ("auto", vec![Blend::Auto]),
        ("mug:cone", vec![mug]),
        ("difference", vec![Blend::Difference]),
    ] {
        let plan = ControlPlan {
            blend,
            ..bench.usual_control()
        };
        all.push(with(format!("--blend {name}"), plan, usual));
    }
    let plan = ControlPlan {
        mode: ControlMode::None,
        ..bench.usual_control()
    };
    all.push(with("--control none".into(), plan, usual));
    Ok(all)
}
