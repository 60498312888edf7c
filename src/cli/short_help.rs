//! The short help, `-h`: the flags that people need first, a line each, and one example.
//! `--help` explains all flags.

use clap::{Arg, Command};

/// The flags in the short help of a command, and what it says of them.
type Flags = &'static [(&'static str, &'static str)];

const EDIT: Flags = &[
    ("image", "The picture to edit (- for stdin)"),
    ("src_prompt", "What the picture shows"),
    ("tgt_prompt", "What it should show; may be repeated"),
    ("from", "Repeat an edit with other flags"),
    ("output", "The edited picture [default: IN.edited.png]"),
    ("seed", "Seed of the noise"),
    ("dry_run", "Only print what would be done"),
    ("sweep", "A sheet of several values, as in tau=0.7,0.8"),
    ("guidance", "How closely the target is followed"),
    ("tau", "Lower preserves more, from 0 to 1"),
    ("amplify", "Strengthen a word, as in dog=4"),
    ("blend", "Change only at a word (cat:dog), or by difference"),
    ("mask", "Change only where this picture is white"),
    ("force", "Overwrite existing files"),
    ("model", "sd15, sdxl, tabletop, a folder or hub:owner/name"),
    ("yes", "Download without asking"),
    ("quiet", "Print errors only"),
];

const INVERT: Flags = &[
    ("image", "The picture (- for stdin)"),
    ("prompt", "What the picture shows"),
    ("output", "The latent [default: IN.latents.safetensors]"),
    ("seed", "Seed of the noise"),
    ("reconstruct", "Also reconstruct the picture into this file"),
    ("force", "Overwrite existing files"),
    ("model", "sd15, sdxl, tabletop, a folder or hub:owner/name"),
    ("yes", "Download without asking"),
    ("quiet", "Print errors only"),
];

const GENERATE: Flags = &[
    ("prompt", "What the picture should show"),
    ("from", "Repeat a generation with other flags"),
    ("output", "The picture [default: generated.png]"),
    ("count", "How many, with seeds N, N+1, .."),
    ("seed", "Seed of the noise"),
    ("guidance", "How strongly the prompt is followed"),
    ("size", "N for a square, or WxH"),
    ("dry_run", "Only print what would be done"),
    ("force", "Overwrite existing files"),
    ("model", "sd15, sdxl, tabletop, a folder or hub:owner/name"),
    ("yes", "Download without asking"),
    ("quiet", "Print errors only"),
];

const BATCH: Flags = &[
    (
        "jobs",
        "JSON lines, CSV, a folder of pictures, or - for jobs on stdin",
    ),
    ("output_dir", "The folder of results"),
    ("shard", "Run a part of the jobs: 1/4, auto, or auto/4"),
    (
        "tgt_prompt",
        "What each picture should show; may be repeated",
    ),
    ("replace", "Words of captions and those in their place"),
    ("dry_run", "Only print what would be done"),
    ("status", "Print what is done, failed and missing"),
    ("force", "Replace other files of the same names"),
    ("model", "sd15, sdxl, tabletop, a folder or hub:owner/name"),
    ("yes", "Download without asking"),
    ("quiet", "Print errors only"),
];

/// The flags in the short help of a command, if it does not show all.
fn flags(command: &str) -> Option<Flags> {
    match command {
        "edit" => Some(EDIT),
        "batch" => Some(BATCH),
        "invert" => Some(INVERT),
        "generate" => Some(GENERATE),
        _ => None,
    }
}

/// The command with a short help for itself and its subcommands.
pub(crate) fn with(command: Command) -> Command {
    let command = match flags(command.get_name()) {
        Some(flags) => command.mut_args(|arg| shortened(arg, flags)),
        None => command.mut_args(|arg| match arg.get_id() == "config_file" {
            true => arg.hide_short_help(true),
            false => arg,
        }),
    };
    with_first_example(command).mut_subcommands(with)
}

/// A flag with its line in the short help, else without one.
fn shortened(arg: Arg, flags: Flags) -> Arg {
    let line = flags.iter().find(|(id, _)| arg.get_id() == id);
    let Some((_, line)) = line else {
        return arg.hide_short_help(true);
    };
    let help = arg.get_long_help().or(arg.get_help()).cloned();
    arg.help(*line).long_help(help.unwrap_or_default())
}

/// The command with its first example after the short help, and all text after the long one.
fn with_first_example(command: Command) -> Command {
    let Some(after) = command.get_after_help().cloned() else {
        return command;
    };
    let text = after.to_string();
    let examples = text
        .split_once("Examples:\n")
        .map_or("", |(_, examples)| examples);
    let mut first = Vec::new();
    for line in examples.lines() {
        first.push(line.trim_end_matches('\\').trim());
        if !line.ends_with('\\') {
            break;
        }
    }
    let first = format!("Example:\n  {}", first.join(" \\\n      "));
    command.after_help(first).after_long_help(after)
}
