//! tcptop: who is talking to whom, and how much.
pub mod cli;
pub mod clock;
pub mod collector;
pub mod connection;
pub mod doctor;
pub mod filter;
pub mod loss;
pub mod manual;
pub mod names;
pub mod output;
pub mod plan;
pub mod privileges;
pub mod report;
pub mod signals;
pub mod table;
pub mod view;
