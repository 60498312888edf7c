//! Huffman codes and the bits of a scan (ITU-T T.81, annexes C and F).

/// Longest code in bits.
const LONGEST: usize = 16;
/// Codes of up to so many bits are looked up.
const LOOKED_UP: usize = 9;

/// A table of Huffman codes.
pub(super) struct Table {
    /// Length and symbol of the code that the next bits begin with; length 0: a longer one.
    short: Vec<(u8, u8)>,
    /// Of each length: the first code, the one behind the last, and the place of the first
    /// among the symbols.
    lengths: [(u32, u32, usize); LONGEST],
    symbols: Vec<u8>,
}

impl Table {
    /// The table of so many codes of each length from 1 on; `None` if there are no such codes.
    pub(super) fn new(counts: &[u8; LONGEST], symbols: &[u8]) -> Option<Self> {
        let (mut next, mut place) = (0_u32, 0);
        let mut lengths = [(0, 0, 0); LONGEST];
        for (i, &count) in counts.iter().enumerate() {
            let first = next << 1;
            next = first + u32::from(count);
            lengths[i] = (first, next, place);
            place += usize::from(count);
            if next > 2 << i {
                return None;
            }
        }
        let mut table = Self {
            short: Vec::new(),
            lengths,
            symbols: symbols.get(..place)?.into(),
        };
        let bits = 0..1_u32 << LOOKED_UP;
        let short = bits.map(|bits| table.search(bits << (LONGEST - LOOKED_UP)));
        let short =
            short.map(|found| found.filter(|&(length, _)| usize::from(length) <= LOOKED_UP));
        table.short = short.map(Option::unwrap_or_default).collect();
        Some(table)
    }

    /// Length and symbol of the code that these 16 bits begin with.
    fn search(&self, bits: u32) -> Option<(u8, u8)> {
        let found = (1..=LONGEST).find_map(|length| {
            let (first, end, place) = self.lengths[length - 1];
            let code = bits >> (LONGEST - length);
            (code < end).then(|| (length as u8, place + (code - first) as usize))
        });
        let (length, place) = found?;
        Some((length, *self.symbols.get(place)?))
    }
}

/// The bits of a scan, up to a marker or the end of the file.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// Where the next byte is.
    at: usize,
    /// Bits that were read and not taken, from the highest on.
    held: u64,
    count: u32,
    /// Where the bits that are taken are copied, if they are.
    copies: Vec<BitWriter>,
    copied_to: usize,
}

/// Why bits could not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// A marker or the end of the file came first.
    Ended,
    /// They are no code of the table.
    Invalid,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self {
            bytes,
            at,
            held: 0,
            count: 0,
            copies: Vec::new(),
            copied_to: 0,
        }
    }

    /// Copies the bits that are taken to so many places.
    pub(super) fn copied(self, places: usize) -> Self {
        let copies = (0..places).map(|_| BitWriter::default()).collect();
        Self { copies, ..self }
    }

    /// The place for the copies of the next bits.
    pub(super) fn copy_to(&mut self, place: usize) {
        self.copied_to = place;
    }

    /// The copies, each a scan's bytes.
    pub(super) fn copies(self) -> impl Iterator<Item = Vec<u8>> {
        self.copies.into_iter().map(BitWriter::finished)
    }

    /// The next byte, and how many it takes in the file: 0xff is followed by 0.
    fn byte(&self) -> Option<(u8, usize)> {
        match self.bytes.get(self.at..)? {
            [0xff, 0, ..] => Some((0xff, 2)),
            [0xff, ..] | [] => None,
            [byte, ..] => Some((*byte, 1)),
        }
    }

    fn fill(&mut self) {
        while self.count <= 56
            && let Some((byte, taken)) = self.byte()
        {
            self.held |= u64::from(byte) << (56 - self.count);
            self.count += 8;
            self.at += taken;
        }
    }

    /// Takes up to 16 bits as a number.
    pub(super) fn take(&mut self, count: u8) -> Result<u32, Stopped> {
        let count = u32::from(count);
        if self.count < count {
            self.fill();
        }
        if self.count < count {
            return Err(Stopped::Ended);
        }
        let taken = self.held.checked_shr(64 - count).unwrap_or_default();
        self.held <<= count;
        self.count -= count;
        if let Some(copy) = self.copies.get_mut(self.copied_to) {
            copy.put(taken, count);
        }
        Ok(taken as u32)
    }

    /// Takes a code and returns its symbol.
    pub(super) fn symbol(&mut self, table: &Table) -> Result<u8, Stopped> {
        if self.count < LONGEST as u32 {
            self.fill();
        }
        let bits = (self.held >> (64 - LONGEST)) as u32;
        let (mut length, mut symbol) = table.short[(bits >> (LONGEST - LOOKED_UP)) as usize];
        if length == 0 {
            let missing = match self.count < LONGEST as u32 {
                true => Stopped::Ended,
                false => Stopped::Invalid,
            };
            (length, symbol) = table.search(bits).ok_or(missing)?;
        }
        self.take(length)?;
        Ok(symbol)
    }

    /// Goes on behind the next restart marker, beyond what is left of the bits before it.
    pub(super) fn restart(&mut self) -> Result<(), Stopped> {
        let marker = self.at + marker_in(&self.bytes[self.at..]).ok_or(Stopped::Ended)?;
        let &kind = self.bytes.get(marker + 1).ok_or(Stopped::Ended)?;
        if !(0xd0..=0xd7).contains(&kind) {
            return Err(Stopped::Ended);
        }
        (self.at, self.held, self.count) = (marker + 2, 0, 0);
        for copy in &mut self.copies {
            copy.align();
            copy.out.extend([0xff, kind]);
        }
        Ok(())
    }

    /// Where the byte behind the last bit taken is.
    pub(super) fn end(&self) -> usize {
        (0..self.count / 8).fold(self.at, |end, _| match self.bytes[..end] {
            [.., 0xff, 0] => end - 2,
            _ => end - 1,
        })
    }
}

/// Bits on their way into a scan.
#[derive(Default)]
struct BitWriter {
    out: Vec<u8>,
    /// Bits that make no byte yet, in the lowest places.
    held: u64,
    count: u32,
}

impl BitWriter {
    /// Appends the lowest `count` bits, 16 at most.
    fn put(&mut self, bits: u64, count: u32) {
        self.held = self.held << count | bits;
        self.count += count;
        while self.count >= 8 {
            self.count -= 8;
            let byte = (self.held >> self.count) as u8;
            self.out.push(byte);
            if byte == 0xff {
                self.out.push(0);
            }
        }
    }

    /// Fills the last byte with ones.
    fn align(&mut self) {
        let missing = self.count.next_multiple_of(8) - self.count;
        self.put((1 << missing) - 1, missing);
    }

    fn finished(mut self) -> Vec<u8> {
        self.align();
        self.out
    }
}

/// Where the first marker is: the last 0xff before a byte that is neither 0 nor 0xff.
pub(super) fn marker_in(bytes: &[u8]) -> Option<usize> {
    let is_marker = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff);
    bytes.windows(2).position(is_marker)
}
