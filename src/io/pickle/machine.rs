//! Python's pickle machine (the module `pickletools` documents its instructions), without
//! running anything: a call is kept as a value that names what would be called.

use std::{collections::HashMap, fmt::Display};

use super::values::{Id, Value};

/// Classes that are dictionaries.
const DICTS: [&str; 3] = [
    "collections.OrderedDict",
    "collections.defaultdict",
    "builtins.dict",
];

/// The machine, and what is left of the pickle.
pub(super) struct Machine<'a> {
    rest: &'a [u8],
    all: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'a> Machine<'a> {
    /// A machine before its first instruction.
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self {
            rest,
            all: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        }
    }

    /// Runs a whole pickle; returns all values, and the index of the result.
    pub(super) fn run(mut self) -> Result<(Vec<Value>, Id), String> {
        while self.step()? {}
        let root = self.pop()?;
        Ok((self.all, root))
    }

    /// Runs an instruction; returns whether more follow.
    fn step(&mut self) -> Result<bool, String> {
        let [code] = self.bytes()?;
        match code {
            b'.' => return Ok(false),
            0x80 => self.skip(1)?, // the protocol
            0x95 => self.skip(8)?, // the length of a frame
            b'N' => self.push(Value::Other),
            0x88 | 0x89 => self.push(Value::Bool(code == 0x88)),
            b'J' | b'K' | b'M' | b'G' | 0x8a | 0x8b => self.number(code)?,
            b'X' | 0x8c | 0x8d | b'T' | b'U' => self.string(code)?,
            b'B' | b'C' | 0x8e | 0x96 => self.binary(code)?,
            b'(' => self.marks.push(self.stack.len()),
            b')' | 0x85..=0x87 | b't' => self.tuple(code)?,
            b']' | 0x8f => self.push(Value::List(Vec::new())),
            b'l' | 0x91 => {
                let items = self.above_mark()?;
                self.push(Value::List(items));
            }
            b'a' | b'e' | 0x90 => self.append(code)?,
            b'}' => self.push(Value::Dict(Vec::new())),
            b'd' | b's' | b'u' => self.set_items(code)?,
            b'0' | b'1' | b'2' => self.rearrange(code)?,
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.memorise(code)?,
            b'c' | 0x93 => self.global(code)?,
            b'R' | 0x81 | 0x92 => self.call(code)?,
            b'b' => self.build()?,
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id));
            }
            other => return Err(format!("PyTorch writes no pickle instruction {other:#04x}")),
        }
        Ok(true)
    }

    fn number(&mut self, code: u8) -> Result<(), String> {
        let value = match code {
            b'J' => Value::Int(i32::from_le_bytes(self.bytes()?).into()),
            b'K' => Value::Int(u8::from_le_bytes(self.bytes()?).into()),
            b'M' => Value::Int(u16::from_le_bytes(self.bytes()?).into()),
            b'G' => Value::Float(f64::from_be_bytes(self.bytes()?)),
            0x8a => long(self.counted::<1>()?),
            _ => long(self.counted::<4>()?),
        };
        self.push(value);
        Ok(())
    }

    fn string(&mut self, code: u8) -> Result<(), String> {
        let bytes = match code {
            b'U' | 0x8c => self.counted::<1>()?,
            0x8d => self.counted::<8>()?,
            _ => self.counted::<4>()?,
        };
        let text = str::from_utf8(bytes).map_err(|_| "one of its strings is not UTF-8")?;
        self.push(Value::Text(text.into()));
        Ok(())
    }

    fn binary(&mut self, code: u8) -> Result<(), String> {
        match code {
            b'C' => self.counted::<1>()?,
            b'B' => self.counted::<4>()?,
            _ => self.counted::<8>()?,
        };
        self.push(Value::Other);
        Ok(())
    }

    fn tuple(&mut self, code: u8) -> Result<(), String> {
        let items = match code {
            b')' => Vec::new(),
            b't' => self.above_mark()?,
            _ => self.top(usize::from(code - 0x84))?,
        };
        self.push(Value::Tuple(items));
        Ok(())
    }

    fn append(&mut self, code: u8) -> Result<(), String> {
        let more = match code {
            b'a' => self.top(1)?,
            _ => self.above_mark()?,
        };
        let list = self.last()?;
        match &mut self.all[list] {
            Value::List(items) | Value::Call(items) => items.extend(more),
            _ => return Err("it appends to what is no list".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, code: u8) -> Result<(), String> {
        let flat = match code {
            b's' => self.top(2)?,
            _ => self.above_mark()?,
        };
        let (pairs, []) = flat.as_chunks::<2>() else {
            return Err("it sets a key without a value".into());
        };
        if code == b'd' {
            self.push(Value::Dict(Vec::new()));
        }
        let dict = self.last()?;
        match &mut self.all[dict] {
            Value::Dict(items) => items.extend(pairs.iter().map(|&[key, value]| (key, value))),
            Value::Call(parts) => parts.extend(flat),
            _ => return Err("it sets items of what is no dictionary".into()),
        }
        Ok(())
    }

    fn rearrange(&mut self, code: u8) -> Result<(), String> {
        match code {
            b'0' => self.pop().map(drop),
            b'1' => self.above_mark().map(drop),
            _ => {
                let last = self.last()?;
                self.stack.push(last);
                Ok(())
            }
        }
    }

    fn memorise(&mut self, code: u8) -> Result<(), String> {
        let place = match code {
            0x94 => self.memo.len() as u64,
            b'q' | b'h' => u8::from_le_bytes(self.bytes()?).into(),
            _ => u32::from_le_bytes(self.bytes()?).into(),
        };
        if matches!(code, b'h' | b'j') {
            let found = self.memo.get(&place);
            self.stack
                .push(*found.ok_or("it refers to a value that it does not hold")?);
        } else {
            self.memo.insert(place, self.last()?);
        }
        Ok(())
    }

    fn global(&mut self, code: u8) -> Result<(), String> {
        let name = if code == b'c' {
            format!("{}.{}", self.line()?, self.line()?)
        } else {
            let names = self.top(2)?;
            let text = |id: Id| match &self.all[id] {
                Value::Text(text) => Ok(text.as_str()),
                _ => Err("it names a class by what is no string"),
            };
            format!("{}.{}", text(names[0])?, text(names[1])?)
        };
        self.push(Value::Global(name));
        Ok(())
    }

    /// Keeps a call, unless it makes an empty dictionary: its items are set afterwards.
    fn call(&mut self, code: u8) -> Result<(), String> {
        let parts = self.top(if code == 0x92 { 3 } else { 2 })?;
        let value = match self.makes_dict(&parts) {
            true => Value::Dict(Vec::new()),
            false => Value::Call(parts),
        };
        self.push(value);
        Ok(())
    }

    fn makes_dict(&self, parts: &[Id]) -> bool {
        let (Value::Global(name), Value::Tuple(arguments)) =
            (&self.all[parts[0]], &self.all[parts[1]])
        else {
            return false;
        };
        // The factory of a defaultdict is a class.
        let factory = |&id: &Id| matches!(self.all[id], Value::Global(_));
        DICTS.contains(&&name[..]) && arguments.iter().all(factory)
    }

    /// Sets the state of an object. That of a dictionary is no item of it.
    fn build(&mut self) -> Result<(), String> {
        let state = self.pop()?;
        let object = self.last()?;
        if let Value::Call(parts) = &mut self.all[object] {
            parts.push(state);
        }
        Ok(())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.all.len());
        self.all.push(value);
    }

    fn last(&self) -> Result<Id, String> {
        let last = self.stack.last().copied();
        last.ok_or_else(|| "it takes a value where there is none".into())
    }

    fn pop(&mut self) -> Result<Id, String> {
        let last = self.last()?;
        self.stack.pop();
        Ok(last)
    }

    /// Takes the last values, in order.
    fn top(&mut self, count: usize) -> Result<Vec<Id>, String> {
        match self.stack.len().checked_sub(count) {
            Some(rest) => Ok(self.stack.split_off(rest)),
            None => Err("it takes a value where there is none".into()),
        }
    }

    /// Takes the values above the last mark, in order.
    fn above_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("it lacks a mark")?;
        match mark <= self.stack.len() {
            true => Ok(self.stack.split_off(mark)),
            false => Err("it takes values below a mark".into()),
        }
    }

    fn take(&mut self, count: impl TryInto<usize> + Display + Copy) -> Result<&'a [u8], String> {
        let known = count.try_into().ok();
        let split = known.and_then(|count| self.rest.split_at_checked(count));
        let (taken, rest) = split.ok_or("its pickle is cut off")?;
        self.rest = rest;
        Ok(taken)
    }

    fn skip(&mut self, count: usize) -> Result<(), String> {
        self.take(count).map(drop)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    /// Bytes behind their count, which has N bytes.
    fn counted<const N: usize>(&mut self) -> Result<&'a [u8], String> {
        let mut count = [0; 8];
        count[..N].copy_from_slice(&self.bytes::<N>()?);
        self.take(u64::from_le_bytes(count))
    }

    fn line(&mut self) -> Result<String, String> {
        let end = self.rest.iter().position(|&byte| byte == b'\n');
        let line = self.take(end.ok_or("its pickle is cut off")?)?;
        self.skip(1)?;
        Ok(String::from_utf8_lossy(line).trim_end().to_owned())
    }
}

/// A little-endian number in two's complement.
fn long(bytes: &[u8]) -> Value {
    let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    match bytes.len() <= 8 {
        true => wide[..bytes.len()].copy_from_slice(bytes),
        false => return Value::Other,
    }
    Value::Int(i64::from_le_bytes(wide))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::io::pickle::values::Values;

    /// `pickle.dumps({'a': [1, -2, 3.5, True, None], 'b': (10**5, 2**40)}, protocol)`
    const PROTOCOLS: [&[u8]; 2] = [
        b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffG@\x0c\x00\x00\x00\x00\x00\x00\x88NeX\x01\x00\x00\x00bq\x03J\xa0\x86\x01\x00\x8a\x06\x00\x00\x00\x00\x00\x01\x86q\x04u.",
        b"\x80\x04\x952\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01J\xfe\xff\xff\xffG@\x0c\x00\x00\x00\x00\x00\x00\x88Ne\x8c\x01b\x94J\xa0\x86\x01\x00\x8a\x06\x00\x00\x00\x00\x00\x01\x86\x94u.",
    ];

    #[test]
    fn protocols_two_and_four_hold_the_same_values() {
        use Value::{Bool, Float, Int, Other};
        for pickle in PROTOCOLS {
            let values = Values::read(pickle).unwrap();
            let Value::Dict(pairs) = values.get(values.root()) else {
                panic!("a dictionary");
            };
            let names: Vec<_> = pairs.iter().map(|(key, _)| values.text(*key)).collect();
            assert_eq!(names, [Some("a"), Some("b")]);
            let read = |id| -> Vec<Value> {
                let items = values.items(id).unwrap().iter();
                items.map(|&id| values.get(id).clone()).collect()
            };
            let a = [Int(1), Int(-2), Float(3.5), Bool(true), Other];
            assert_eq!(read(pairs[0].1), a);
            assert_eq!(read(pairs[1].1), [Int(100_000), Int(1 << 40)]);
        }
    }

    #[test]
    fn damaged_pickles_are_errors() {
        for pickle in [
            &b"\x80\x02"[..],
            b".",
            b"a.",
            b"t.",
            b"((0t.",
            b"(K\x01d.",
            b"h\x07.",
            b"X\xff\xff\xff\xffabc.",
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc.",
            b"ctorch\nX",
            b"K\x01K\x02a.",
            b"\x80\x00I1\n.",
        ] {
            assert!(Values::read(pickle).is_err(), "{pickle:?}");
        }
    }

    #[test]
    fn values_that_hold_themselves_are_searched_once() {
        // l = []; l.append(l)
        let values = Values::read(b"\x80\x02]q\x00h\x00a.").unwrap();
        assert!(!values.holds_storage(values.root(), &mut HashSet::new()));
    }
}
