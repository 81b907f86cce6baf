//! The `tcptop` command.
fn main() {}
