//! Other processors, which have neither.

#![expect(
    unsafe_code,
    reason = "the functions stand in for those of other processors"
)]

pub(super) mod tiles {
    use super::super::super::lines::{Operands, Start, Sums};

    pub(in super::super) fn available() -> bool {
        false
    }

    pub(in super::super) unsafe fn configure() {}

    pub(in super::super) unsafe fn release() {}

    pub(in super::super) unsafe fn multiply(_: Operands, _: Start, _: &mut Sums) {
        unreachable!("there are no tiles")
    }
}

pub(super) mod dots {
    use super::super::super::lines::{Operands, Start, Sums};

    pub(in super::super) fn available() -> bool {
        false
    }

    pub(in super::super) unsafe fn multiply(_: Operands, _: Start, _: &mut Sums) {
        unreachable!("there is no vdpbf16ps")
    }
}
