//! Modules of a UNet under their original names (CompVis/stable-diffusion,
//! Stability-AI/generative-models), by which kohya's scripts name those of SDXL.

use std::collections::HashSet;

/// The original names of a UNet's modules, told by which modules it has.
pub(super) struct Originals<'a> {
    modules: HashSet<&'a str>,
    /// Blocks of a level, its halving included.
    stride: usize,
}

impl<'a> Originals<'a> {
    /// Of the UNet that has these modules.
    pub(super) fn of(modules: impl Iterator<Item = &'a str>) -> Self {
        let modules: HashSet<_> = modules.collect();
        let blocks = modules.iter().filter_map(|module| {
            let rest = module.strip_prefix("down_blocks.0.resnets.")?;
            rest.split('.').next()?.parse::<usize>().ok()
        });
        Self {
            stride: blocks.max().map_or(1, |last| last + 2),
            modules,
        }
    }

    /// The original name of a module.
    pub(super) fn name(&self, module: &str) -> Option<String> {
        const ENDS: [(&str, &str); 6] = [
            ("time_embedding.linear_1", "time_embed.0"),
            ("time_embedding.linear_2", "time_embed.2"),
            ("add_embedding.linear_1", "label_emb.0.0"),
            ("add_embedding.linear_2", "label_emb.0.2"),
            ("conv_in", "input_blocks.0.0"),
            ("conv_out", "out.2"),
        ];
        if let Some((_, original)) = ENDS.iter().find(|(name, _)| *name == module) {
            return Some((*original).into());
        }
        match module.split_once('.')? {
            ("down_blocks", rest) => self.going_in(rest),
            ("up_blocks", rest) => self.going_out(rest),
            ("mid_block", rest) => middle(rest),
            _ => None,
        }
    }

    fn going_in(&self, place: &str) -> Option<String> {
        let (level, kind, index, tail) = split(place)?;
        let block = 1 + level * self.stride + index;
        match kind {
            "resnets" => Some(format!("input_blocks.{block}.0.{}", resnet(tail)?)),
            "attentions" => Some(format!("input_blocks.{block}.1.{tail}")),
            "downsamplers" => Some(format!("input_blocks.{}.0.op", (level + 1) * self.stride)),
            _ => None,
        }
    }

    fn going_out(&self, place: &str) -> Option<String> {
        let (level, kind, index, tail) = split(place)?;
        let block = level * self.stride + index;
        match kind {
            "resnets" => Some(format!("output_blocks.{block}.0.{}", resnet(tail)?)),
            "attentions" => Some(format!("output_blocks.{block}.1.{tail}")),
            "upsamplers" => {
                // Behind the attention of the level's last block, where there is one.
                let attention = format!("up_blocks.{level}.attentions.0.proj_in");
                let place = 1 + usize::from(self.modules.contains(&attention[..]));
                let block = (level + 1) * self.stride - 1;
                Some(format!("output_blocks.{block}.{place}.conv"))
            }
            _ => None,
        }
    }
}

/// `1.resnets.0.conv1` in parts: level, kind, index and the rest.
fn split(place: &str) -> Option<(usize, &str, usize, &str)> {
    let mut parts = place.splitn(4, '.');
    let level = parts.next()?.parse().ok()?;
    let kind = parts.next()?;
    let index = parts.next()?.parse().ok()?;
    Some((level, kind, index, parts.next()?))
}

fn middle(place: &str) -> Option<String> {
    match place.split_once('.')? {
        ("attentions", rest) => Some(format!("middle_block.1.{}", rest.strip_prefix("0.")?)),
        ("resnets", rest) => {
            let (index, tail) = rest.split_once('.')?;
            let block = 2 * index.parse::<usize>().ok()?;
            Some(format!("middle_block.{block}.{}", resnet(tail)?))
        }
        _ => None,
    }
}

/// A module of a residual block.
fn resnet(module: &str) -> Option<&'static str> {
    Some(match module {
        "conv1" => "in_layers.2",
        "time_emb_proj" => "emb_layers.1",
        "conv2" => "out_layers.3",
        "conv_shortcut" => "skip_connection",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places in SDXL's UNet: two blocks a level, attention in the coarser two.
    #[test]
    fn modules_of_sdxl_have_the_names_that_its_file_gives_them() {
        let modules = [
            "down_blocks.0.resnets.0.conv1",
            "down_blocks.0.resnets.1.conv1",
            "up_blocks.0.attentions.0.proj_in",
        ];
        let originals = Originals::of(modules.into_iter());
        for (module, original) in [
            ("conv_in", "input_blocks.0.0"),
            (
                "down_blocks.0.resnets.1.conv2",
                "input_blocks.2.0.out_layers.3",
            ),
            ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
            (
                "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k",
                "input_blocks.4.1.transformer_blocks.1.attn2.to_k",
            ),
            (
                "down_blocks.2.attentions.1.proj_out",
                "input_blocks.8.1.proj_out",
            ),
            (
                "mid_block.resnets.1.time_emb_proj",
                "middle_block.2.emb_layers.1",
            ),
            ("mid_block.attentions.0.proj_in", "middle_block.1.proj_in"),
            (
                "up_blocks.0.attentions.2.proj_in",
                "output_blocks.2.1.proj_in",
            ),
            ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.2.conv"),
            (
                "up_blocks.1.resnets.0.conv_shortcut",
                "output_blocks.3.0.skip_connection",
            ),
            ("add_embedding.linear_2", "label_emb.0.2"),
        ] {
            assert_eq!(originals.name(module).as_deref(), Some(original));
        }
        for stranger in [
            "",
            "x.y",
            "up_blocks.0",
            "mid_block.x.0.y",
            "down_blocks.0.resnets.0.norm1",
        ] {
            assert_eq!(originals.name(stranger), None, "{stranger}");
        }
    }
}
