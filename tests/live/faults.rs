//! What befalls a host: bytes stay exact, nothing is lost without a word, and tcptop lives on
//! or ends with its documented status.
//!
//! Other faults have their tests where their subject is: a stopped tcptop and a stopped reader
//! in `control`, full disks in `disk`, few descriptors in `refused`.

use super::Test;

mod process;
mod sockets;
mod surroundings;

pub fn tests() -> Vec<Test> {
    [sockets::tests(), process::tests(), surroundings::tests()].into_iter().flatten().collect()
}
