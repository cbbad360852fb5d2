//! Marks what is counted: valgrind sets its counters to zero when it enters [`begin`] and writes them down when it
//! enters [`end`]. Outside valgrind both do nothing.

use std::hint::black_box;

/// Symbols of the two marks, as valgrind matches them.
pub(crate) const BEGIN: &str = "instructions::region::begin*";
pub(crate) const END: &str = "instructions::region::end*";

/// What is counted begins.
#[inline(never)]
pub(crate) fn begin() {
    black_box(1_u8);
}

/// What is counted has ended. Another body than that of [`begin`], so that the two are not merged into one.
#[inline(never)]
pub(crate) fn end() {
    black_box(2_u16);
}
