//! The extent of what a pickle describes, measured before candle builds it.
//!
//! candle copies a value whenever it goes into the memo or comes out of it, so a few bytes
//! can describe a value of any size, and it recurses into nested values. Here each value
//! is only its extent.

use std::{
    collections::HashMap,
    io::{self, BufRead, Read},
};

use candle_core::pickle::OpCode;

/// Most values that candle may hold: Stable Diffusion's pickles describe 100,000.
const MAX_VALUES: u64 = 1 << 22;
/// Most levels of nested values: those of a state dict have 6.
const MAX_DEPTH: u32 = 200;
/// Bytes of a text that count as one value.
const BYTES_PER_VALUE: u64 = 64;

const DAMAGED: &str = "it is damaged";

/// A value with all values in it.
#[derive(Clone, Copy, Debug)]
struct Extent {
    values: u64,
    depth: u32,
}

impl Extent {
    /// A value without others in it, of this many bytes.
    fn leaf(bytes: u64) -> Self {
        let values = 1 + bytes / BYTES_PER_VALUE;
        Self { values, depth: 1 }
    }

    /// This value with another one put in it.
    fn holding(self, other: Self) -> Self {
        Self {
            values: self.values + other.values,
            depth: self.depth.max(other.depth + 1),
        }
    }
}

/// Checks that candle can read a pickle in little memory and stack.
pub(super) fn check(pickle: impl BufRead) -> Result<(), String> {
    let mut machine = Machine {
        pickle,
        stack: Vec::new(),
        memo: HashMap::new(),
        created: 0,
    };
    while machine.step()? {}
    Ok(())
}

/// The machine that a pickle is a program for.
struct Machine<R> {
    pickle: R,
    /// Values, and `None` for marks.
    stack: Vec<Option<Extent>>,
    memo: HashMap<u32, Extent>,
    /// Number of values that were created or copied so far.
    created: u64,
}

impl<R: BufRead> Machine<R> {
    /// Runs an opcode; false for the last one.
    fn step(&mut self) -> Result<bool, String> {
        let [code] = self.bytes()?;
        let code = OpCode::try_from(code)
            .map_err(|code| format!("its opcode {code:#04x} is not supported"))?;
        match code {
            OpCode::Stop => return Ok(false),
            OpCode::Proto => drop(self.bytes::<1>()?),
            OpCode::Mark => self.stack.push(None),
            OpCode::None | OpCode::NewTrue | OpCode::NewFalse => self.create(0)?,
            OpCode::EmptyTuple | OpCode::EmptyList | OpCode::EmptyDict => self.create(0)?,
            OpCode::BinInt1 => self.create_of(1)?,
            OpCode::BinInt2 => self.create_of(2)?,
            OpCode::BinInt => self.create_of(4)?,
            OpCode::BinFloat => self.create_of(8)?,
            OpCode::Long1 => {
                let [length] = self.bytes()?;
                self.create_of(length.into())?;
            }
            OpCode::BinUnicode => {
                let length = self.long()?;
                self.create_of(length.into())?;
            }
            OpCode::Global => {
                let bytes = self.line()? + self.line()?;
                self.create(bytes)?;
            }
            OpCode::BinPersId | OpCode::Tuple1 => self.wrap(1)?,
            OpCode::Reduce | OpCode::Build | OpCode::NewObj | OpCode::Tuple2 => self.wrap(2)?,
            OpCode::Tuple3 => self.wrap(3)?,
            OpCode::Tuple | OpCode::Dict => {
                let values = self.pop_to_mark()?;
                self.create(0)?;
                self.put(values)?;
            }
            OpCode::Append => {
                let values = self.pop(1)?;
                self.put(values)?;
            }
            OpCode::SetItem => {
                let values = self.pop(2)?;
                self.put(values)?;
            }
            OpCode::Appends | OpCode::SetItems => {
                let values = self.pop_to_mark()?;
                self.put(values)?;
            }
            OpCode::BinPut => {
                let [key] = self.bytes()?;
                self.memorize(key.into())?;
            }
            OpCode::LongBinPut => {
                let key = self.long()?;
                self.memorize(key)?;
            }
            OpCode::BinGet => {
                let [key] = self.bytes()?;
                self.recall(key.into())?;
            }
            OpCode::LongBinGet => {
                let key = self.long()?;
                self.recall(key)?;
            }
        }
        Ok(true)
    }

    /// Pushes a value of this many bytes.
    fn create(&mut self, bytes: u64) -> Result<(), String> {
        self.push(Extent::leaf(bytes))
    }

    /// Pushes the value of the next bytes.
    fn create_of(&mut self, length: u64) -> Result<(), String> {
        let read = io::copy(&mut self.pickle.by_ref().take(length), &mut io::sink());
        match read {
            Ok(read) if read == length => self.create(length),
            _ => Err(DAMAGED.into()),
        }
    }

    /// Replaces values by one that holds them.
    fn wrap(&mut self, count: usize) -> Result<(), String> {
        let values = self.pop(count)?;
        self.create(0)?;
        self.put(values)
    }

    /// Puts values in the last one.
    fn put(&mut self, values: Vec<Extent>) -> Result<(), String> {
        let into = self.last()?;
        let whole = values.into_iter().fold(*into, Extent::holding);
        *into = whole;
        match whole.depth <= MAX_DEPTH {
            true => Ok(()),
            false => Err(format!("its values are nested more than {MAX_DEPTH} deep")),
        }
    }

    fn memorize(&mut self, key: u32) -> Result<(), String> {
        let value = *self.last()?;
        self.memo.insert(key, value);
        self.count(value)
    }

    fn recall(&mut self, key: u32) -> Result<(), String> {
        let value = self.memo.get(&key).copied();
        self.push(value.ok_or(DAMAGED)?)
    }

    fn push(&mut self, value: Extent) -> Result<(), String> {
        self.stack.push(Some(value));
        self.count(value)
    }

    /// Counts a value that was created or copied.
    fn count(&mut self, value: Extent) -> Result<(), String> {
        self.created += value.values;
        match self.created <= MAX_VALUES {
            true => Ok(()),
            false => Err(format!("it describes more than {MAX_VALUES} values")),
        }
    }

    fn last(&mut self) -> Result<&mut Extent, String> {
        let last = self.stack.last_mut().and_then(Option::as_mut);
        last.ok_or_else(|| DAMAGED.into())
    }

    fn pop(&mut self, count: usize) -> Result<Vec<Extent>, String> {
        let rest = self.stack.len().checked_sub(count).ok_or(DAMAGED)?;
        let values: Option<_> = self.stack.drain(rest..).collect();
        values.ok_or_else(|| DAMAGED.into())
    }

    /// The values after the last mark, which are taken with it.
    fn pop_to_mark(&mut self) -> Result<Vec<Extent>, String> {
        let mark = self.stack.iter().rposition(Option::is_none);
        let mark = mark.ok_or(DAMAGED)?;
        let values = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(values.into_iter().flatten().collect())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        let read = self.pickle.read_exact(&mut bytes);
        read.map(|()| bytes).map_err(|_| DAMAGED.into())
    }

    fn long(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    /// Skips a line; its number of bytes.
    fn line(&mut self) -> Result<u64, String> {
        let mut line = Vec::new();
        let read = self.pickle.read_until(b'\n', &mut line);
        read.map(|bytes| bytes as u64).map_err(|_| DAMAGED.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tuple of nothing, then `times` a tuple of the last one twice.
    fn doubled(times: usize) -> Vec<u8> {
        [&b"\x80\x02)"[..], &b"q\x00h\x00\x86".repeat(times), b"."].concat()
    }

    #[test]
    fn a_value_that_doubles_is_counted_as_often_as_it_is_copied() {
        check(&doubled(12)[..]).unwrap();
        for times in [22, 40, 100_000] {
            let reason = check(&doubled(times)[..]).unwrap_err();
            assert!(reason.contains("values"), "{reason}");
        }
        // One long list, copied again and again.
        let list = [
            &b"]("[..],
            &b"N".repeat(10_000),
            b"eq\x00",
            &b"h\x00".repeat(1000),
            b".",
        ];
        let reason = check(&list.concat()[..]).unwrap_err();
        assert!(reason.contains("values"), "{reason}");
    }

    #[test]
    fn nested_values_are_refused_and_long_ones_are_not() {
        check(&[&b"](".repeat(100)[..], &b"e".repeat(100), b"."].concat()[..]).unwrap();
        let deep = [&b"](".repeat(100_000)[..], &b"e".repeat(100_000), b"."].concat();
        assert!(check(&deep[..]).unwrap_err().contains("nested"));
        let long = [
            &b"](X\x10\0\0\0"[..],
            &[b'a'; 16],
            &b"N".repeat(100_000),
            b"e.",
        ]
        .concat();
        check(&long[..]).unwrap();
    }

    #[test]
    fn damaged_pickles_are_refused() {
        for damaged in [
            "",
            "h\0.",
            "a.",
            "e.",
            "(\u{85}.",
            "X\u{7f}\u{7f}\u{7f}\u{7f}a",
            "(0",
            "K",
        ] {
            let bytes: Vec<u8> = damaged.chars().map(|char| char as u8).collect();
            assert!(check(&bytes[..]).is_err(), "{damaged:?}");
        }
    }
}
