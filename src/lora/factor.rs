//! The roles of an adapter's tensors, and the endings that name them.

/// The role of an adapter tensor in its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Factor {
    /// LoRA's first factor (rank, inputs, ..).
    Down,
    /// Its second factor (outputs, rank, ..).
    Up,
    /// The core of a convolution in CP form (rank, rank, k, k), between the two.
    Mid,
    /// The delta is scaled by alpha / rank.
    Alpha,
    /// DoRA's magnitudes as PEFT names them: one for each output.
    Magnitude,
    /// DoRA's magnitudes as LyCORIS names them: for each output, or each input.
    DoraScale,
    /// A factor of a LoHa (arXiv 2108.06098).
    Hada(Part),
    /// A factor of a LoKr (arXiv 2309.14859).
    Lokr(Part),
}

/// The parts of LoHa's and LoKr's two matrices: each is whole, or a product of two
/// factors and, for a convolution in CP form, a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    W1,
    W1A,
    W1B,
    T1,
    W2,
    W2A,
    W2B,
    T2,
}

impl Factor {
    /// Splits a tensor's name into the module part and the factor. PEFT may put the
    /// adapter's name behind the factor's: `lora_A.default.weight`.
    pub(crate) fn of(name: &str) -> Option<(&str, Self)> {
        let bare = name.strip_suffix(".weight").unwrap_or(name);
        let named = || {
            let (factor, adapter) = bare.rsplit_once('.')?;
            // `lora_B.bias` is a tensor of its own.
            (adapter != "bias").then(|| ending(factor))?
        };
        ending(bare).or_else(named)
    }

    /// The ending that names it, of several the first, without its dot.
    pub(super) fn name(self) -> &'static str {
        let found = ENDINGS.iter().find(|(_, factor)| *factor == self);
        found.map_or("", |(ending, _)| ending.trim_start_matches('.'))
    }
}

fn ending(name: &str) -> Option<(&str, Factor)> {
    let split = |&(ending, factor)| Some((name.strip_suffix(ending)?, factor));
    ENDINGS.iter().find_map(split)
}

/// The endings of all naming conventions, without `.weight`; older variants included.
const ENDINGS: [(&str, Factor); 28] = [
    (".lora_A", Factor::Down),
    (".lora_B", Factor::Up),
    (".lora.down", Factor::Down),
    (".lora.up", Factor::Up),
    (".lora_down", Factor::Down),
    (".lora_up", Factor::Up),
    (".lora_mid", Factor::Mid),
    (".lora_linear_layer.down", Factor::Down),
    (".lora_linear_layer.up", Factor::Up),
    ("_lora.down", Factor::Down),
    ("_lora.up", Factor::Up),
    (".alpha", Factor::Alpha),
    (".lora_magnitude_vector", Factor::Magnitude),
    (".dora_scale", Factor::DoraScale),
    (".hada_w1_a", Factor::Hada(Part::W1A)),
    (".hada_w1_b", Factor::Hada(Part::W1B)),
    (".hada_t1", Factor::Hada(Part::T1)),
    (".hada_w2_a", Factor::Hada(Part::W2A)),
    (".hada_w2_b", Factor::Hada(Part::W2B)),
    (".hada_t2", Factor::Hada(Part::T2)),
    (".lokr_w1", Factor::Lokr(Part::W1)),
    (".lokr_w1_a", Factor::Lokr(Part::W1A)),
    (".lokr_w1_b", Factor::Lokr(Part::W1B)),
    (".lokr_t1", Factor::Lokr(Part::T1)),
    (".lokr_w2", Factor::Lokr(Part::W2)),
    (".lokr_w2_a", Factor::Lokr(Part::W2A)),
    (".lokr_w2_b", Factor::Lokr(Part::W2B)),
    (".lokr_t2", Factor::Lokr(Part::T2)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_tell_the_factor() {
        for (ending, factor) in [
            (".lora_A.weight", Factor::Down),
            (".lora_B.default.weight", Factor::Up),
            (".lora_A.default_0.weight", Factor::Down),
            (".lora_A.my-style", Factor::Down),
            (".lora.up.weight", Factor::Up),
            (".lora_mid.weight", Factor::Mid),
            (".lora_magnitude_vector", Factor::Magnitude),
            (".lora_magnitude_vector.default.weight", Factor::Magnitude),
            (".hada_t1", Factor::Hada(Part::T1)),
            (".lokr_w2.default", Factor::Lokr(Part::W2)),
        ] {
            let name = format!("mid_block.conv1{ending}");
            assert_eq!(Factor::of(&name), Some(("mid_block.conv1", factor)));
        }
        for other in [
            "x.weight",
            "x.bias",
            "x.lora_B.bias",
            "x.diff",
            "lora_A",
            "",
        ] {
            assert_eq!(Factor::of(other), None, "{other}");
        }
    }
}
