//! What the tests that run the `tcptop` binary share: the process under test,
//! sockets whose traffic is known, helper processes, network namespaces.
//!
//! Every wait is bounded by [`wait::patience`]. Every resource (process, namespace, file)
//! ends when its value is dropped. The tcptop that tests [`share`] ends when no test needs
//! it any more.

pub mod agent;
pub mod cgroups;
pub mod churn;
pub mod columns;
pub mod log;
pub mod mounts;
pub mod netns;
pub mod program;
pub mod reexec;
pub mod rng;
pub mod rows;
pub mod share;
pub mod sock;
pub mod strangers;
pub mod tcptop;
pub mod times;
pub mod udp;
pub mod wait;
pub mod ways;
