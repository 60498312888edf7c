//! `vdpbf16ps` (AVX512-BF16).

#![expect(unsafe_code, reason = "instructions that the compiler does not check")]

use std::{
    arch::{
        asm,
        x86_64::{__m512, _mm512_loadu_ps, _mm512_setzero_ps, _mm512_storeu_ps},
    },
    iter,
};

use super::super::lines::{COLUMNS, Line, Operands, PAIRS, ROWS, Start, Sums};

pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f")
}

/// Rows whose sums stay in registers.
const HIGH: usize = 8;

/// How far ahead of their use columns are fetched, in bytes: the processor does that by itself,
/// but not beyond a page of memory, at whose beginning it would wait.
const AHEAD: usize = 4 * size_of::<[Line; 2 * ROWS]>();

/// 16 sums of each of two halves of a row.
type Totals = [[__m512; 2]; HIGH];

/// # Safety
/// The operands are checked, and the processor has `vdpbf16ps`.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn multiply(operands: Operands, start: Start, sums: &mut Sums) {
    let Operands { a, steps, b, .. } = operands;
    let short = steps.last_pairs();
    let whole = steps.bytes().len() - usize::from(short.is_some());
    let (whole, last) = steps.bytes().split_at(whole);
    let tiles = iter::once(operands.rows.0).chain(operands.rows.1);
    let groups = tiles.flat_map(|tile| [tile, tile + HIGH]);
    let groups = groups.take(operands.count.div_ceil(HIGH));
    for (first, sums) in groups.zip(sums.0.as_chunks_mut().0) {
        let rows = a[first..].as_ptr();
        let mut totals = match start {
            Start::Zero => [[_mm512_setzero_ps(); 2]; HIGH],
            Start::Sums => load(sums),
        };
        // SAFETY: the lines of all steps are within `a` and `b`.
        unsafe {
            add(rows, whole, PAIRS, b.as_ptr(), &mut totals);
            if let Some(pairs) = short {
                let b = b[whole.len() * 2 * ROWS..].as_ptr();
                add(rows, last, pairs, b, &mut totals);
            }
        }
        store(&totals, sums);
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(sums: &[[f32; COLUMNS]; HIGH]) -> Totals {
    // SAFETY: a row has 32 values.
    sums.each_ref()
        .map(|row| unsafe { [0, 16].map(|at| _mm512_loadu_ps(row.as_ptr().add(at))) })
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store(totals: &Totals, sums: &mut [[f32; COLUMNS]; HIGH]) {
    for (totals, row) in totals.iter().zip(sums) {
        for (total, at) in totals.iter().zip([0, 16]) {
            // SAFETY: a row has 32 values.
            unsafe { _mm512_storeu_ps(row.as_mut_ptr().add(at), *total) };
        }
    }
}

/// Adds the products of the first `pairs` pairs of each step. It is assembly because the
/// compiler moves some of the sums to memory and back in each step.
///
/// # Safety
/// The lines of `HIGH` rows at `a` and of 32 columns at `b` exist for each step, and the
/// processor has `vdpbf16ps`.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
unsafe fn add(a: *const Line, steps: &[usize], pairs: usize, b: *const Line, totals: &mut Totals) {
    if steps.is_empty() {
        return;
    }
    let [r0, r1, r2, r3, r4, r5, r6, r7] = totals;
    // zmm0..15: sums, zmm16 and 17: a pair of 32 columns, zmm18 and 19: of a row.
    // SAFETY: every address is within the lines or the steps.
    unsafe {
        asm!(
            "2:",
            "mov {at}, [{steps}]",
            "add {steps}, 8",
            "add {at}, {a}",
            "mov {left}, {pairs}",
            "3:",
            "vmovaps zmm16, [{b}]", "vmovaps zmm17, [{b} + 1024]",
            "prefetcht0 [{b} + {ahead}]", "prefetcht0 [{b} + {ahead} + 1024]",
            "vpbroadcastd zmm18, [{at}]",
            "vdpbf16ps zmm0, zmm18, zmm16", "vdpbf16ps zmm1, zmm18, zmm17",
            "vpbroadcastd zmm19, [{at} + 64]",
            "vdpbf16ps zmm2, zmm19, zmm16", "vdpbf16ps zmm3, zmm19, zmm17",
            "vpbroadcastd zmm18, [{at} + 128]",
            "vdpbf16ps zmm4, zmm18, zmm16", "vdpbf16ps zmm5, zmm18, zmm17",
            "vpbroadcastd zmm19, [{at} + 192]",
            "vdpbf16ps zmm6, zmm19, zmm16", "vdpbf16ps zmm7, zmm19, zmm17",
            "vpbroadcastd zmm18, [{at} + 256]",
            "vdpbf16ps zmm8, zmm18, zmm16", "vdpbf16ps zmm9, zmm18, zmm17",
            "vpbroadcastd zmm19, [{at} + 320]",
            "vdpbf16ps zmm10, zmm19, zmm16", "vdpbf16ps zmm11, zmm19, zmm17",
            "vpbroadcastd zmm18, [{at} + 384]",
            "vdpbf16ps zmm12, zmm18, zmm16", "vdpbf16ps zmm13, zmm18, zmm17",
            "vpbroadcastd zmm19, [{at} + 448]",
            "vdpbf16ps zmm14, zmm19, zmm16", "vdpbf16ps zmm15, zmm19, zmm17",
            "add {b}, 64",
            "add {at}, 4",
            "dec {left}",
            "jnz 3b",
            "add {b}, {rest}",
            "dec {count}",
            "jnz 2b",
            a = in(reg) a, steps = inout(reg) steps.as_ptr() => _, b = inout(reg) b => _,
            pairs = in(reg) pairs, rest = in(reg) size_of::<[Line; 2 * ROWS]>() - size_of::<Line>() * pairs,
            count = inout(reg) steps.len() => _, at = out(reg) _, left = out(reg) _,
            ahead = const AHEAD,
            inout("zmm0") r0[0], inout("zmm1") r0[1], inout("zmm2") r1[0], inout("zmm3") r1[1],
            inout("zmm4") r2[0], inout("zmm5") r2[1], inout("zmm6") r3[0], inout("zmm7") r3[1],
            inout("zmm8") r4[0], inout("zmm9") r4[1], inout("zmm10") r5[0], inout("zmm11") r5[1],
            inout("zmm12") r6[0], inout("zmm13") r6[1], inout("zmm14") r7[0], inout("zmm15") r7[1],
            out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
            options(nostack, readonly),
        );
    }
}
