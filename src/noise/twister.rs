//! The Mersenne Twister mt19937 (Matsumoto and Nishimura, 1998).

/// Words of state.
const WORDS: usize = 624;
/// Distance to the word that each word is mixed with.
const AHEAD: usize = 397;

/// The generator behind `PyTorch`'s CPU random numbers.
#[derive(Clone, Debug)]
pub(super) struct Twister {
    state: [u32; WORDS],
    /// Index of the next word; `WORDS` when all are used.
    next: usize,
}

impl Twister {
    /// The generator seeded with `seed` (`init_genrand` of the 2002 version).
    pub(super) fn new(seed: u32) -> Self {
        let mut state = [seed; WORDS];
        for i in 1..WORDS {
            let last = state[i - 1];
            state[i] = (last ^ (last >> 30))
                .wrapping_mul(1_812_433_253)
                .wrapping_add(i as u32);
        }
        Self { state, next: WORDS }
    }

    /// The next 24 bits as a number in [0, 1).
    pub(super) fn uniform_f32(&mut self) -> f32 {
        const SCALE: f32 = 1.0 / (1u32 << 24) as f32;
        (self.word() & 0x00ff_ffff) as f32 * SCALE
    }

    /// The low 53 bits of the next two words, the high word first, as a number in [0, 1).
    pub(super) fn uniform_f64(&mut self) -> f64 {
        const SCALE: f64 = 1.0 / (1u64 << 53) as f64;
        let bits = u64::from(self.word()) << 32 | u64::from(self.word());
        (bits & ((1 << 53) - 1)) as f64 * SCALE
    }

    /// The next 32 bits.
    fn word(&mut self) -> u32 {
        if self.next == WORDS {
            self.twist();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// Generates the next `WORDS` words.
    fn twist(&mut self) {
        for i in 0..WORDS {
            let top = self.state[i] & 0x8000_0000;
            let mixed = top | (self.state[(i + 1) % WORDS] & 0x7fff_ffff);
            let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + AHEAD) % WORDS] ^ (mixed >> 1) ^ odd;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ten_thousandth_word_is_the_one_of_the_cpp_standard() {
        // C++ [rand.predef]: the 10000th value of a default mt19937, whose seed is 5489.
        let mut twister = Twister::new(5489);
        let word = (0..10_000).fold(0, |_, _| twister.word());
        assert_eq!(word, 4_123_659_995);
    }
}
