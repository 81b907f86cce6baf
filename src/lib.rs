//! tcptop: who is talking to whom, and how much.
//!
//! tcptop is a command, and this library contains its parts. Other programs may use the
//! following parts, which are kept as stable as a 0.x version can be:
//!
//! - the vocabulary: [`connection`], [`event`], [`loss`], [`settings`];
//! - the connection table and what reads it: [`table`], [`filter`], [`report`];
//! - the formats: [`output`], with `CsvLogger` and `CsvRow`;
//! - [`linux::Host`], which collects on this host. It needs the feature `linux`, which
//!   is on by default; everything else builds without it.
//!
//! `examples/replay.rs` reports recorded events, and `examples/busiest.rs` writes a format of
//! its own of what [`linux::Host`] collects.
//!
//! Everything else may change at any time: [`cli`], [`view`], and all of `linux` except
//! `Host`. ARCHITECTURE.md shows how data flows through these modules.

pub mod cli;
pub mod connection;
pub mod event;
pub mod filter;
pub mod groups;
#[cfg(feature = "linux")]
pub mod linux;
pub mod loss;
mod manual;
pub mod names;
pub mod output;
#[cfg(any(test, fuzzing))]
#[allow(clippy::panic, clippy::expect_used, missing_docs)]
pub mod properties;
pub mod report;
pub mod settings;
pub mod table;
pub mod view;
