//! Damage: what happens to files on their way, and what malice thinks of.

use rand::{Rng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

/// The longest input.
const LONGEST: usize = 1 << 20;

/// One of the seeds after some damage.
pub(crate) fn mutated(seeds: &[Vec<u8>], dice: &mut ChaCha8Rng) -> Vec<u8> {
    let mut input = seeds.choose(dice).cloned().unwrap_or_default();
    // A long input in few places, so that some of it is still understood.
    for _ in 0..dice.random_range(1..=6) {
        damage(&mut input, seeds, dice);
    }
    input.truncate(LONGEST);
    input
}

fn damage(input: &mut Vec<u8>, seeds: &[Vec<u8>], dice: &mut ChaCha8Rng) {
    if input.is_empty() {
        input.push(dice.random());
        return;
    }
    // Half of all damage is near the beginning, where formats say what follows.
    let reach = match dice.random_bool(0.5) {
        true => input.len(),
        false => input.len().min(512),
    };
    let at = dice.random_range(0..reach);
    let length = dice.random_range(1..=16.min(input.len() - at));
    let part = at..at + length;
    match dice.random_range(0..8) {
        0 => input[at] ^= 1 << dice.random_range(0..8),
        1 => input[at] = dice.random(),
        2 => input[part].fill([0, 0xff, b'0', b'"'][dice.random_range(0..4)]),
        3 => input.truncate(at),
        4 => drop(input.drain(part)),
        5 => {
            let copy = input[part].to_vec();
            input.splice(at..at, copy);
        }
        6 => {
            let number = [0_u32, 1, 0x7fff_ffff, u32::MAX, 1 << 30][dice.random_range(0..5)];
            let bytes = number.to_le_bytes();
            let room = bytes.len().min(input.len() - at);
            input[at..at + room].copy_from_slice(&bytes[..room]);
        }
        _ => {
            let other = seeds.choose(dice).cloned().unwrap_or_default();
            let from = dice.random_range(0..=other.len());
            input.truncate(at);
            input.extend(&other[from..]);
        }
    }
}
