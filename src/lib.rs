//! tcptop: who is talking to whom, and how much.
//!
//! A command first; the library is what it is made of. Meant to be used by other
//! programs, and kept stable as far as a 0.x version can:
//!
//! - the vocabulary: [`connection`], [`event`], [`loss`], [`settings`];
//! - the table and what is made of it: [`table`], [`filter`], [`report`];
//! - the formats: [`output`], with `CsvLogger` and `CsvRow`;
//! - [`linux::Host`], which collects on this host. It needs the feature `linux`, which
//!   is on by default; everything else builds without it.
//!
//! Everything below `linux` but `Host`, and [`cli`] and [`view`], may change at any time.
//! ARCHITECTURE.md shows the way of a datum through these modules.

pub mod cli;
pub mod connection;
pub mod event;
pub mod filter;
#[cfg(feature = "linux")]
pub mod linux;
pub mod loss;
mod manual;
pub mod output;
pub mod report;
pub mod settings;
pub mod table;
pub mod view;
