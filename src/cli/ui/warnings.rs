//! Warnings about what is accepted, but hardly meant.

use anyhow::Result;
use icd::{
    control::{Amplify, ControlMode, ControlPlan},
    guidance::Guidance,
    model::Model,
    picture::Size,
};

use crate::cli::{Console, settings::Settings};

/// How many times as many pixels as in training, or as few, are far from it: at twice as many
/// objects repeat, at half as many parts are missing.
const FAR: usize = 2;
/// The attention of a word times this drowns all others.
const MOST: f64 = 50.0;

/// Warns about guidance beyond any that networks are trained with.
pub(crate) fn warn_of_guidance(guidance: Guidance, console: &Console) {
    if guidance.is_extreme() {
        let strength = guidance.strength();
        console.warn(&format!(
            "--guidance {strength}: models are trained with 0 to 20"
        ));
    }
}

/// Warns if the picture whose settings are repeated was made with other weights.
pub(crate) fn warn_of_other_model(
    model: &Model,
    settings: &Settings,
    console: &Console,
) -> Result<()> {
    if let Some(other) = settings.other_model(model)? {
        console.warn(&format!(
            "--from: the picture was made with other weights ({other})"
        ));
    }
    Ok(())
}

/// Warns about factors of `--amplify` that leave no attention to other words.
pub(crate) fn warn_of_factors(plan: &ControlPlan, console: &Console) {
    for amplify in &plan.amplify {
        if let Amplify::Word(word, factor) = amplify
            && factor.abs() > MOST
        {
            console.warn(&format!(
                "--amplify {word}={factor}: factors are rarely above 10"
            ));
        }
    }
}

/// Warns about settings of MasaCtrl where that is not used.
pub(crate) fn warn_of_masactrl(plan: &ControlPlan, console: &Console) {
    if plan.mode == ControlMode::Masactrl {
        return;
    }
    if !plan.masactrl_mask.is_empty() {
        console.warn("--masactrl-mask has no effect without --control masactrl");
    }
    if let Some(start) = plan.masactrl_start {
        console.warn(&format!(
            "--masactrl-start {start} has no effect without --control masactrl"
        ));
    }
}

/// Warns about a threshold of a blend where there is none.
pub(crate) fn warn_of_blend(plan: &ControlPlan, console: &Console) {
    if let Some(threshold) = plan.blend_threshold
        && plan.blend.is_empty()
    {
        console.warn(&format!(
            "--blend-threshold {threshold} has no effect: there is no --blend"
        ));
    }
}

/// Warns if the size of the work is not one that the model was trained on.
pub(crate) fn warn_of_size(model: &Model, size: Size, console: &Console) -> Result<()> {
    let own = model.size()?;
    let (pixels, usual) = (size.pixels(), own.pixels());
    if model.trained_on().square && size != own {
        console.warn(&format!(
            "--size: the model knows {own} pictures only, not {size} (see --fit)"
        ));
    } else if pixels > FAR * usual || FAR * pixels < usual {
        console.warn(&format!("--size: {size} is far from the model's own {own}"));
    }
    Ok(())
}
