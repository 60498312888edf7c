//! Intel's tiles (AMX). Rust's intrinsics for them are unstable (rust-lang issue 126622), so
//! they are assembly, in which tile registers are clobbered.

#![expect(unsafe_code, reason = "instructions that the compiler does not check")]

use std::arch::{
    asm,
    x86_64::{__cpuid, __cpuid_count},
};

use super::super::lines::{Operands, Start, Sums};

/// Whether there are tiles: CPUID's bits for bf16 products (22) and tiles (24) in leaf 7's
/// EDX, the tiles' state enabled by the system (bits 17 and 18 of XCR0), and the
/// permission, which is asked for last.
#[cfg(any(test, target_os = "linux"))]
fn are_usable(edx: u32, xcr0: u64, permission: impl FnOnce() -> bool) -> bool {
    let (instructions, state) = (1 << 22 | 1 << 24, 0b11 << 17);
    edx & instructions == instructions && xcr0 & state == state && permission()
}

#[cfg(target_os = "linux")]
pub(super) fn available() -> bool {
    if __cpuid(0).eax < 7 || __cpuid(1).ecx >> 27 & 1 == 0 {
        return false; // no XGETBV
    }
    are_usable(__cpuid_count(7, 0).edx, xcr0(), permitted)
}

/// Other systems: unknown how they permit it.
#[cfg(not(target_os = "linux"))]
pub(super) fn available() -> bool {
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
pub(super) unsafe fn multiply(operands: Operands, start: Start, sums: &mut Sums) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_need_the_instructions_their_state_and_the_permission() {
        let (instructions, state) = (1 << 22 | 1 << 24, 0b11 << 17);
        assert!(are_usable(instructions, state, || true));
        assert!(
            !are_usable(instructions, state, || false),
            "a system that refuses"
        );
        // Nobody is asked in vain: an old kernel may not know the question.
        let asked = || panic!("asked");
        for edx in [0, 1 << 22, 1 << 24] {
            assert!(!are_usable(edx, state, asked));
        }
        for state in [0, 1 << 17, 1 << 18, 0b111] {
            assert!(!are_usable(instructions, state, asked));
        }
    }
}
