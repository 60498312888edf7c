//! The tensors of a state dict, as PyTorch's functions would rebuild them.

use std::collections::{BTreeMap, HashSet};

use candle_core::DType;

use super::values::{Id, Value, Values};

/// A tensor of a pickle.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Described {
    pub(super) shape: Vec<usize>,
    /// The type, or the name of one that is not supported.
    pub(super) dtype: Result<DType, String>,
    pub(super) content: Content,
}

/// Where the values of a tensor are.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// A number that was pickled as such.
    Number(f64),
    /// Some values of a storage.
    Storage(Storage),
}

/// Some values of a storage.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Storage {
    /// Its name in the archive.
    pub(super) key: String,
    /// Values between neighbours along each axis.
    pub(super) strides: Vec<usize>,
    /// The place of the first value.
    pub(super) offset: usize,
}

type Tensors = BTreeMap<String, Described>;

/// The tensors of the state dict under the key `state_dict`, else of the whole pickle.
///
/// Each value of a state dict is a tensor or holds none: what cannot be rebuilt is an error,
/// so that no tensor is passed over. What a training keeps beside its state dict is not
/// looked at.
pub(super) fn tensors(values: &Values) -> Result<Tensors, String> {
    let dict = state_dict(values)?;
    let (mut tensors, mut harmless) = (Tensors::new(), HashSet::new());
    for &(key, value) in dict {
        let Some(tensor) = named(values, key, value, &mut harmless)? else {
            continue;
        };
        let name = values.text(key).unwrap_or_default().to_owned();
        if tensors.contains_key(&name) {
            return Err(format!("it holds tensor {name:?} twice"));
        }
        tensors.insert(name, tensor);
    }
    match tensors.is_empty() {
        true => Err("it holds no tensors".into()),
        false => Ok(tensors),
    }
}

fn state_dict(values: &Values) -> Result<&[(Id, Id)], String> {
    let root = values.root();
    let Value::Dict(whole) = values.get(root) else {
        return Err(not_a_dict(values, root));
    };
    let inner = whole
        .iter()
        .rfind(|(key, _)| values.text(*key) == Some("state_dict"));
    match inner.map(|&(_, id)| (id, values.get(id))) {
        None => Ok(whole),
        Some((_, Value::Dict(inner))) => Ok(inner),
        Some((id, _)) => Err(not_a_dict(values, id)),
    }
}

/// Why a value is no state dict.
fn not_a_dict(values: &Values, id: Id) -> String {
    let remedy = "save its state_dict(), a dictionary of named tensors";
    match values.call(id) {
        Some((name, _)) if name.contains("._rebuild_") => {
            format!("it is a tensor without a name: {remedy}")
        }
        Some((name, _)) => {
            format!("it is not a state dict but a whole object of the class {name}: {remedy}")
        }
        None => format!("it is not a state dict: {remedy}"),
    }
}

/// A value of a state dict, if it is a tensor. `harmless` are values without tensors.
fn named(
    values: &Values,
    key: Id,
    value: Id,
    harmless: &mut HashSet<Id>,
) -> Result<Option<Described>, String> {
    let name = values.text(key).unwrap_or("a key that is no string");
    let fault = |reason: String| format!("{name:?} {reason}");
    if let Some((function, arguments)) = values.call(value)
        && function.contains("._rebuild_")
    {
        let tensor = rebuilt(values, function, arguments, MAX_NESTED).map_err(fault)?;
        return match values.text(key) {
            Some(_) => Ok(Some(tensor)),
            None => Err("it holds a tensor whose name is no string".into()),
        };
    }
    if let Some((function, _)) = values.call(value)
        && ARRAYS
            .iter()
            .any(|end| function.starts_with("numpy") && function.ends_with(end))
    {
        return Err(fault("is a NumPy array, not a tensor: save tensors".into()));
    }
    if values.holds_storage(value, harmless) {
        let what = values.call(value).map_or("a collection", |(name, _)| name);
        return Err(fault(format!(
            "is {what} that holds tensors, not a tensor: save that state dict alone"
        )));
    }
    Ok(number(values, name, value))
}

/// A plain number under the name of a layer, such as a LoRA's alpha; other numbers are notes.
fn number(values: &Values, name: &str, value: Id) -> Option<Described> {
    let number = match *values.get(value) {
        Value::Int(number) => number as f64,
        Value::Float(number) => number,
        _ => return None,
    };
    name.contains('.').then(|| Described {
        shape: Vec::new(),
        dtype: Ok(DType::F64),
        content: Content::Number(number),
    })
}

/// What rebuilds an array of NumPy.
const ARRAYS: [&str; 2] = ["._reconstruct", "._frombuffer"];

/// How often functions that rebuild a tensor may be nested: a parameter of a subclass.
const MAX_NESTED: usize = 4;

/// The tensor that one of PyTorch's functions would return (`torch/_utils.py`).
fn rebuilt(
    values: &Values,
    function: &str,
    arguments: &[Id],
    depth: usize,
) -> Result<Described, String> {
    let inner = |id: Option<&Id>| {
        let call = id.and_then(|&id| values.call(id));
        let (function, arguments) = call.ok_or_else(damaged)?;
        rebuilt(
            values,
            function,
            arguments,
            depth.checked_sub(1).ok_or_else(damaged)?,
        )
    };
    match function {
        "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2" => {
            strided(values, arguments, None)
        }
        "torch._utils._rebuild_tensor_v3" => {
            let dtype = arguments.get(6).and_then(|&id| values.global(id));
            let dtype = dtype.filter(|dtype| dtype.len() <= MAX_NAME);
            strided(values, arguments, Some(dtype.ok_or_else(damaged)?))
        }
        "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" => {
            inner(arguments.first())
        }
        "torch._tensor._rebuild_from_type_v2" => {
            let [function, _, arguments, ..] = arguments else {
                return Err(damaged());
            };
            let function = values.global(*function).ok_or_else(damaged)?;
            let arguments = values.items(*arguments).ok_or_else(damaged)?;
            let depth = depth.checked_sub(1).ok_or_else(damaged)?;
            rebuilt(values, function, arguments, depth)
        }
        other => Err(format!(
            "is rebuilt by {other}, which is not supported: save plain, dense tensors"
        )),
    }
}

fn damaged() -> String {
    "is described in a way that PyTorch does not write".into()
}

/// A tensor from its storage, offset, shape and strides.
fn strided(values: &Values, arguments: &[Id], dtype: Option<&str>) -> Result<Described, String> {
    let [storage, offset, shape, strides, ..] = *arguments else {
        return Err(damaged());
    };
    let sizes = |id| -> Option<Vec<usize>> {
        let items = values.items(id).filter(|items| items.len() <= MAX_RANK)?;
        items.iter().map(|&id| values.size(id)).collect()
    };
    let (stored, key) = storage_of(values, storage).ok_or_else(damaged)?;
    let (shape, strides) = (sizes(shape), sizes(strides));
    let (Some(shape), Some(strides), Some(offset)) = (shape, strides, values.size(offset)) else {
        return Err(damaged());
    };
    if shape.len() != strides.len() {
        return Err(damaged());
    }
    Ok(Described {
        shape,
        dtype: dtype_named(dtype.unwrap_or(stored)),
        content: Content::Storage(Storage {
            key: key.into(),
            strides,
            offset,
        }),
    })
}

/// Most axes of a tensor, and most bytes of the names that describe it: many tensors may
/// share one description.
const MAX_RANK: usize = 16;
const MAX_NAME: usize = 100;

/// The class and the key of a storage: ('storage', class, key, device, length).
fn storage_of(values: &Values, id: Id) -> Option<(&str, &str)> {
    let Value::Persistent(id) = *values.get(id) else {
        return None;
    };
    let [_, class, key, ..] = *values.items(id)? else {
        return None;
    };
    let (class, key) = (values.global(class)?, values.text(key)?);
    (class.len().max(key.len()) <= MAX_NAME).then_some((class, key))
}

/// The type of a storage class or of a `torch.dtype`.
fn dtype_named(name: &str) -> Result<DType, String> {
    Ok(match name {
        "torch.FloatStorage" => DType::F32,
        "torch.DoubleStorage" => DType::F64,
        "torch.HalfStorage" => DType::F16,
        "torch.BFloat16Storage" => DType::BF16,
        "torch.ByteStorage" => DType::U8,
        "torch.ShortStorage" => DType::I16,
        "torch.IntStorage" => DType::I32,
        "torch.LongStorage" => DType::I64,
        "torch.uint32" => DType::U32,
        "torch.float8_e4m3fn" => DType::F8E4M3,
        other => return Err(other.into()),
    })
}
