//! A layer of an adapter file, and its tensors.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Device};

use super::{
    factor::{Factor, Part},
    scale::Scaled,
};
use crate::{
    error::{Error, Result},
    io::Checkpoint,
    layout::Network,
};

/// A layer of a network.
pub(crate) type Place = (Network, String);

/// One layer that an adapter file modifies.
#[derive(Debug)]
pub(crate) struct Layer {
    /// The network it belongs to.
    pub(crate) network: Network,
    /// Its module path in the network.
    pub(crate) module: String,
    /// The same as the file spells it.
    pub(super) spelled: String,
    /// The names of its tensors in the file.
    pub(super) tensors: BTreeMap<Factor, String>,
    /// How its weight delta is computed.
    pub(super) form: Form,
    /// The rank that its tensors show.
    pub(crate) rank: Option<usize>,
}

/// How the delta of a layer is computed from its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    Lora,
    LoHa,
    LoKr,
}

impl Form {
    /// The name that people know.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Lora => "LoRA",
            Self::LoHa => "LoHa",
            Self::LoKr => "LoKr",
        }
    }
}

/// The names of a layer's tensors, as they are found.
#[derive(Default)]
pub(super) struct Found {
    spelled: String,
    tensors: BTreeMap<Factor, String>,
}

impl Found {
    /// Adds a tensor; the error is the name of another one for the same factor.
    pub(super) fn add(&mut self, factor: Factor, name: String, module: &str) -> Result<(), String> {
        self.spelled = module.into();
        match self.tensors.insert(factor, name) {
            Some(other) => Err(other),
            None => Ok(()),
        }
    }

    /// The layer, if its tensors are complete.
    pub(super) fn layer(self, (network, module): Place, file: &Checkpoint) -> Result<Layer> {
        let fault =
            |reason: String| Error::adapter(file.file(), format!("module {module:?}: {reason}"));
        let forms: BTreeSet<_> = self
            .tensors
            .keys()
            .filter_map(|factor| form(*factor))
            .collect();
        let form = match forms.iter().collect::<Vec<_>>()[..] {
            [form] => *form,
            [] => Form::Lora,
            _ => {
                return Err(fault(
                    "its tensors are those of several kinds of adapters".into(),
                ));
            }
        };
        let has = |factor| self.tensors.contains_key(&factor);
        if let Some((_, missing)) = required(form, has).find(|(factor, _)| !has(*factor)) {
            return Err(fault(format!("its {missing} tensor is missing")));
        }
        let rank = RANKS
            .iter()
            .find_map(|factor| file.shape(self.tensors.get(factor)?)?.first().copied());
        Ok(Layer {
            network,
            module,
            spelled: self.spelled,
            tensors: self.tensors,
            form,
            rank,
        })
    }
}

/// The form that a factor belongs to; DoRA's magnitudes and alpha belong to any.
pub(super) fn form(factor: Factor) -> Option<Form> {
    match factor {
        Factor::Down | Factor::Up | Factor::Mid => Some(Form::Lora),
        Factor::Hada(_) => Some(Form::LoHa),
        Factor::Lokr(_) => Some(Form::LoKr),
        Factor::Alpha | Factor::Magnitude | Factor::DoraScale => None,
    }
}

/// The factors whose first dimension is the rank, of all forms.
pub(super) const RANKS: [Factor; 4] = [
    Factor::Down,
    Factor::Hada(Part::W1B),
    Factor::Lokr(Part::W2B),
    Factor::Lokr(Part::W1B),
];

/// The factors that a form needs, with their names.
fn required(
    form: Form,
    has: impl Fn(Factor) -> bool,
) -> impl Iterator<Item = (Factor, &'static str)> {
    let (lokr, hada) = (Factor::Lokr, Factor::Hada);
    let half = |whole, [a, b]: [(Part, &'static str); 2]| match has(lokr(whole)) {
        true => vec![],
        false => vec![(lokr(a.0), a.1), (lokr(b.0), b.1)],
    };
    let all = match form {
        Form::Lora => vec![(Factor::Down, "lora_A (down)"), (Factor::Up, "lora_B (up)")],
        Form::LoHa => vec![
            (hada(Part::W1A), "hada_w1_a"),
            (hada(Part::W1B), "hada_w1_b"),
            (hada(Part::W2A), "hada_w2_a"),
            (hada(Part::W2B), "hada_w2_b"),
        ],
        Form::LoKr => [
            half(
                Part::W1,
                [(Part::W1A, "lokr_w1_a"), (Part::W1B, "lokr_w1_b")],
            ),
            half(
                Part::W2,
                [(Part::W2A, "lokr_w2_a"), (Part::W2B, "lokr_w2_b")],
            ),
        ]
        .concat(),
    };
    all.into_iter()
}

impl Layer {
    /// The name of a tensor.
    pub(crate) fn tensor(&self, factor: Factor) -> Option<&str> {
        self.tensors.get(&factor).map(String::as_str)
    }

    /// Whether its delta is the plain product of two factors.
    pub(super) fn is_plain(&self) -> bool {
        let plain = [Factor::Down, Factor::Up, Factor::Alpha];
        self.tensors.keys().all(|factor| plain.contains(factor))
    }

    /// Whether it has magnitudes (DoRA).
    pub(super) fn has_magnitudes(&self) -> bool {
        self.tensor(Factor::Magnitude)
            .or(self.tensor(Factor::DoraScale))
            .is_some()
    }

    /// What its scale depends on.
    pub(super) fn scaled(&self, file: &Checkpoint) -> Result<Scaled<'_>> {
        let alpha = self.tensor(Factor::Alpha);
        Ok(Scaled {
            network: self.network,
            module: &self.spelled,
            rank: self.rank,
            alpha: alpha.map(|name| self.scalar(name, file)).transpose()?,
        })
    }

    /// A tensor that is one finite number.
    fn scalar(&self, name: &str, file: &Checkpoint) -> Result<f64> {
        let fault = |reason: String| self.fault(file, &format!("its alpha {reason}"));
        if file
            .shape(name)
            .is_some_and(|shape| shape.iter().product::<usize>() != 1)
        {
            return Err(fault("is not one number".into()));
        }
        let value = file.load(name, &Device::Cpu)?;
        let value = value
            .flatten_all()?
            .to_dtype(DType::F64)?
            .get(0)?
            .to_scalar::<f64>()?;
        match value.is_finite() {
            true => Ok(value),
            false => Err(fault(format!("is {value}"))),
        }
    }

    pub(super) fn fault(&self, file: &Checkpoint, reason: &str) -> Error {
        Error::adapter(file.file(), format!("layer {:?}: {reason}", self.spelled))
    }
}
