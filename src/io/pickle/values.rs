//! The values of a pickle. They refer to each other by index, as pickles may share and nest
//! them without end.

use std::collections::HashSet;

use super::machine::Machine;

/// A value's index.
pub(super) type Id = usize;

/// A value of a pickle.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// None, bytes or a number too large for any size.
    Other,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// A class or function, as `module.name`.
    Global(String),
    Tuple(Vec<Id>),
    /// A list or a set.
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// What a class or function would return, then whatever was set on it.
    Call(Vec<Id>),
    /// A storage, by the tuple that describes it.
    Persistent(Id),
}

/// All values of a pickle.
#[derive(Debug, Default)]
pub(super) struct Values {
    all: Vec<Value>,
    root: Id,
}

impl Values {
    /// Reads a pickle of protocol 2 to 5.
    pub(super) fn read(pickle: &[u8]) -> Result<Self, String> {
        let (all, root) = Machine::new(pickle).run()?;
        Ok(Self { all, root })
    }

    /// The value of the whole pickle.
    pub(super) fn root(&self) -> Id {
        self.root
    }

    /// A value.
    pub(super) fn get(&self, id: Id) -> &Value {
        &self.all[id]
    }

    /// The name of a class or function.
    pub(super) fn global(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Global(name) => Some(name),
            _ => None,
        }
    }

    /// A string.
    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A number that is a size.
    pub(super) fn size(&self, id: Id) -> Option<usize> {
        match self.get(id) {
            Value::Int(size) => usize::try_from(*size).ok(),
            _ => None,
        }
    }

    /// The values of a tuple or list.
    pub(super) fn items(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Tuple(items) | Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// What a call names, and its arguments.
    pub(super) fn call(&self, id: Id) -> Option<(&str, &[Id])> {
        let Value::Call(parts) = self.get(id) else {
            return None;
        };
        let (callable, arguments) = (*parts.first()?, *parts.get(1)?);
        Some((self.global(callable)?, self.items(arguments)?))
    }

    /// Whether a storage is reachable from a value, but not through those in `seen`, to
    /// which the values on the way are added.
    pub(super) fn holds_storage(&self, from: Id, seen: &mut HashSet<Id>) -> bool {
        let mut open = vec![from];
        while let Some(id) = open.pop() {
            if !seen.insert(id) {
                continue;
            }
            match self.get(id) {
                Value::Persistent(_) => return true,
                Value::Tuple(ids) | Value::List(ids) | Value::Call(ids) => open.extend(ids),
                Value::Dict(pairs) => open.extend(pairs.iter().flat_map(|(k, v)| [k, v])),
                _ => {}
            }
        }
        false
    }
}
