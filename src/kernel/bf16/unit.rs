//! The processor's instructions for bf16 products: Intel's tiles (AMX) and `vdpbf16ps`.
//!
//! The only file with such instructions. Rust's intrinsics for tiles are unstable
//! (rust-lang issue 126622), so they are assembly, in which tile registers are clobbered.

#![expect(unsafe_code, reason = "instructions that the compiler does not check")]

use std::{cell::Cell, marker::PhantomData};

use super::{
    emulated,
    lines::{Operands, Start, Sums},
};

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Tiles: 16 x 16 sums of 32 terms per instruction.
    Tiles(Permitted),
    /// `vdpbf16ps`: 16 sums of 2 terms per instruction.
    Dots(Permitted),
    /// Plain code with the results of tiles.
    Emulated,
}

/// Proof that the processor and the system permit the instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permitted(());

impl Unit {
    /// The tiles, if the processor has them and the system lets this process use them.
    /// Threads that exist already are included only if this thread started them later.
    pub(super) fn tiles() -> Option<Self> {
        system::has_tiles().then_some(Self::Tiles(Permitted(())))
    }

    /// `vdpbf16ps`, if the processor has it.
    pub(super) fn dots() -> Option<Self> {
        system::has_dots().then_some(Self::Dots(Permitted(())))
    }
}

thread_local! {
    /// Sessions with configured tiles on this thread.
    static SESSIONS: Cell<usize> = const { Cell::new(0) };
}

/// A unit that is ready on this thread.
pub(in crate::kernel) struct Session {
    unit: Unit,
    here: PhantomData<*const ()>, // not Send: tiles are configured per thread
}

impl Session {
    pub(in crate::kernel) fn new(unit: Unit) -> Self {
        if let Unit::Tiles(_) = unit {
            let before = SESSIONS.replace(SESSIONS.get() + 1);
            if before == 0 {
                // SAFETY: there are tiles.
                unsafe { system::configure() };
            }
        }
        Self {
            unit,
            here: PhantomData,
        }
    }

    /// Overwrites `sums`, or adds to it, with the products of one or two tiles of rows and
    /// the 32 columns of a panel: for each step in order, the even and the odd terms are
    /// summed apart, and both sums are added. (`vdpbf16ps` adds term by term instead.)
    #[inline(always)]
    pub(in crate::kernel) fn multiply(&self, operands: Operands, start: Start, sums: &mut Sums) {
        operands.check();
        match self.unit {
            // SAFETY: the operands are checked, and the tiles are configured.
            Unit::Tiles(_) => unsafe { system::multiply_tiles(operands, start, sums) },
            // SAFETY: the processor has the instruction.
            Unit::Dots(_) => unsafe { system::multiply_dots(operands, start, sums) },
            Unit::Emulated => emulated::multiply(operands, start, sums),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Unit::Tiles(_) = self.unit {
            let left = SESSIONS.get() - 1;
            SESSIONS.set(left);
            if left == 0 {
                // SAFETY: there are tiles, and nobody on this thread uses them any more.
                unsafe { system::release() };
            }
        }
    }
}

/// Whether there are tiles: CPUID's bits for bf16 products (22) and tiles (24) in leaf 7's
/// EDX, the tiles' state enabled by the system (bits 17 and 18 of XCR0), and the
/// permission, which is asked for last.
#[cfg(any(test, all(target_arch = "x86_64", target_os = "linux")))]
pub(super) fn tiles_are_usable(edx: u32, xcr0: u64, permission: impl FnOnce() -> bool) -> bool {
    let (instructions, state) = (1 << 22 | 1 << 24, 0b11 << 17);
    edx & instructions == instructions && xcr0 & state == state && permission()
}

#[cfg(target_arch = "x86_64")]
mod system {
    use std::{
        arch::{
            asm,
            x86_64::{
                __cpuid, __cpuid_count, __m512, _mm512_loadu_ps, _mm512_setzero_ps,
                _mm512_storeu_ps,
            },
        },
        iter,
    };

    use super::super::lines::{COLUMNS, Line, Operands, PAIRS, ROWS, Start, Sums};

    #[cfg(target_os = "linux")]
    pub(super) fn has_tiles() -> bool {
        if __cpuid(0).eax < 7 || __cpuid(1).ecx >> 27 & 1 == 0 {
            return false; // no XGETBV
        }
        super::tiles_are_usable(__cpuid_count(7, 0).edx, xcr0(), permitted)
    }

    /// Other systems: unknown how they permit it.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn has_tiles() -> bool {
        false
    }

    /// The states that the system saves for a thread.
    #[cfg(target_os = "linux")]
    fn xcr0() -> u64 {
        let (low, high): (u32, u32);
        // SAFETY: the caller has checked that the system enables XGETBV.
        unsafe {
            asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
        };
        u64::from(high) << 32 | u64::from(low)
    }

    /// Asks Linux for the tiles, for all threads of the process: the default is a fault at
    /// the first instruction (Documentation/arch/x86/xstate.rst).
    #[cfg(target_os = "linux")]
    fn permitted() -> bool {
        const ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
        const XTILEDATA: u64 = 18;
        let mut answer = ARCH_PRCTL;
        // SAFETY: the call changes nothing but the process's permission.
        unsafe {
            asm!("syscall", inout("rax") answer, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") XTILEDATA,
                 out("rcx") _, out("r11") _, options(nostack));
        }
        answer == 0
    }

    pub(super) fn has_dots() -> bool {
        is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f")
    }

    /// The shape of the eight tiles: 16 rows of 64 bytes.
    #[repr(C, align(64))]
    struct Shape {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        bytes: [u16; 16],
        rows: [u8; 16],
    }

    static SHAPE: Shape = {
        let (mut bytes, mut rows) = ([0; 16], [0; 16]);
        let mut tile = 0;
        while tile < 8 {
            (bytes[tile], rows[tile]) = (64, 16);
            tile += 1;
        }
        Shape {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            bytes,
            rows,
        }
    };

    /// # Safety
    /// There must be tiles.
    pub(super) unsafe fn configure() {
        // SAFETY: as required.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const SHAPE, options(nostack, readonly)) };
    }

    /// # Safety
    /// There must be tiles, and their contents are lost.
    pub(super) unsafe fn release() {
        // SAFETY: as required.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }

    /// # Safety
    /// The operands are checked, and the tiles configured on this thread.
    #[inline(always)]
    pub(super) unsafe fn multiply_tiles(operands: Operands, start: Start, sums: &mut Sums) {
        let Operands {
            a, rows, steps, b, ..
        } = operands;
        let fresh = usize::from(start == Start::Zero);
        let out = sums.0.as_mut_ptr();
        let (first, offsets) = (a[rows.0..].as_ptr(), steps.bytes().as_ptr());
        if steps.bytes().is_empty() {
            return if fresh == 1 {
                sums.0 = [[0.0; 32]; 32];
            };
        }
        if let Some(second) = rows.1 {
            // tmm0..3: sums, tmm4 and 5: rows, tmm6 and 7: columns.
            // SAFETY: every address is within `a`, `b`, `sums` or the offsets.
            unsafe {
                asm!(
                    "test {fresh}, {fresh}", "jz 3f",
                    "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                    "jmp 2f",
                    "3:",
                    "tileloadd tmm0, [{out} + {wide}]", "tileloadd tmm1, [{out} + {wide} + 64]",
                    "tileloadd tmm2, [{out} + {wide} + 2048]", "tileloadd tmm3, [{out} + {wide} + 2112]",
                    "2:",
                    "mov {at}, [{offsets}]",
                    "add {offsets}, 8",
                    "lea {other}, [{a1} + {at}]",
                    "add {at}, {a0}",
                    "tileloadd tmm4, [{at} + {line}]",
                    "tileloadd tmm6, [{b} + {line}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{b} + {line} + 1024]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{other} + {line}]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {b}, 2048",
                    "dec {count}",
                    "jnz 2b",
                    "tilestored [{out} + {wide}], tmm0", "tilestored [{out} + {wide} + 64], tmm1",
                    "tilestored [{out} + {wide} + 2048], tmm2", "tilestored [{out} + {wide} + 2112], tmm3",
                    a0 = in(reg) first, a1 = in(reg) a[second..].as_ptr(),
                    offsets = inout(reg) offsets => _, b = inout(reg) b.as_ptr() => _,
                    count = inout(reg) steps.bytes().len() => _, out = in(reg) out,
                    line = in(reg) 64usize, wide = in(reg) 128usize, fresh = in(reg) fresh,
                    at = out(reg) _, other = out(reg) _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
            return;
        }
        // SAFETY: as above.
        unsafe {
            asm!(
                "test {fresh}, {fresh}", "jz 3f",
                "tilezero tmm0", "tilezero tmm1",
                "jmp 2f",
                "3:",
                "tileloadd tmm0, [{out} + {wide}]", "tileloadd tmm1, [{out} + {wide} + 64]",
                "2:",
                "mov {at}, [{offsets}]",
                "add {offsets}, 8",
                "add {at}, {a0}",
                "tileloadd tmm4, [{at} + {line}]",
                "tileloadd tmm6, [{b} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {line} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "add {b}, 2048",
                "dec {count}",
                "jnz 2b",
                "tilestored [{out} + {wide}], tmm0", "tilestored [{out} + {wide} + 64], tmm1",
                a0 = in(reg) first,
                offsets = inout(reg) offsets => _, b = inout(reg) b.as_ptr() => _,
                count = inout(reg) steps.bytes().len() => _, out = in(reg) out,
                line = in(reg) 64usize, wide = in(reg) 128usize, fresh = in(reg) fresh,
                at = out(reg) _,
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    /// Rows whose sums stay in registers.
    const HIGH: usize = 8;

    /// Bytes from columns that are read to those that are fetched meanwhile: the processor
    /// fetches ahead by itself, but not beyond a page of memory.
    const AHEAD: usize = 4 * size_of::<[Line; 2 * ROWS]>();

    /// 16 sums of each of two halves of a row.
    type Totals = [[__m512; 2]; HIGH];

    /// # Safety
    /// The operands are checked, and the processor has `vdpbf16ps`.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn multiply_dots(operands: Operands, start: Start, sums: &mut Sums) {
        let Operands { a, steps, b, .. } = operands;
        let short = steps.last_pairs();
        let whole = steps.bytes().len() - usize::from(short.is_some());
        let (whole, last) = steps.bytes().split_at(whole);
        let tiles = iter::once(operands.rows.0).chain(operands.rows.1);
        let highs = tiles.flat_map(|tile| [tile, tile + HIGH]);
        let highs = highs.take(operands.count.div_ceil(HIGH));
        for (first, sums) in highs.zip(sums.0.as_chunks_mut().0) {
            let rows = a[first..].as_ptr();
            let mut totals = match start {
                Start::Zero => [[_mm512_setzero_ps(); 2]; HIGH],
                Start::Sums => load(sums),
            };
            // SAFETY: the lines of all steps are within `a` and `b`.
            unsafe {
                add_dots(rows, whole, PAIRS, b.as_ptr(), &mut totals);
                if let Some(pairs) = short {
                    let b = b[whole.len() * 2 * ROWS..].as_ptr();
                    add_dots(rows, last, pairs, b, &mut totals);
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
    unsafe fn add_dots(
        a: *const Line,
        steps: &[usize],
        pairs: usize,
        b: *const Line,
        totals: &mut Totals,
    ) {
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
}

/// Other processors.
#[cfg(not(target_arch = "x86_64"))]
mod system {
    use super::super::lines::{Operands, Start, Sums};

    pub(super) fn has_tiles() -> bool {
        false
    }

    pub(super) fn has_dots() -> bool {
        false
    }

    pub(super) unsafe fn configure() {}

    pub(super) unsafe fn release() {}

    pub(super) unsafe fn multiply_tiles(_: Operands, _: Start, _: &mut Sums) {
        unreachable!("there are no tiles")
    }

    pub(super) unsafe fn multiply_dots(_: Operands, _: Start, _: &mut Sums) {
        unreachable!("there is no vdpbf16ps")
    }
}
