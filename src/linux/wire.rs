//! The kernel side as Rust sees it: the skeleton and the records on the wire.
//!
//! Owns the generated code and the claim that its records are plain bytes. The
//! records themselves are defined once, in `bpf/event.h`.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

include!(concat!(env!("OUT_DIR"), "/tcptop.skel.rs"));

pub use types::tcptop_event as Event;
pub use types::tcptop_pass as Pass;

// SAFETY: every field is an integer or an array of integers, the struct has no
// padding (its size below is the sum of its fields), and any bytes are valid.
unsafe impl plain::Plain for Event {}
// SAFETY: as above.
unsafe impl plain::Plain for Pass {}

const _: () = assert!(size_of::<Event>() == 160);
const _: () = assert!(size_of::<Pass>() == 24);
