//! tcptop: who is talking to whom, and how much.
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
