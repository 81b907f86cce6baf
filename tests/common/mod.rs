//! What the tests that run the `tcptop` binary share: the process under test,
//! sockets whose traffic is known, helper processes, network namespaces.
//!
//! Every wait is bounded by [`wait::patience`], and every resource (process,
//! namespace, file) goes when its value is dropped; the tcptop that tests
//! [`share`], when none needs it any more.

pub mod agent;
pub mod churn;
pub mod columns;
pub mod log;
pub mod mounts;
pub mod netns;
pub mod program;
pub mod reexec;
pub mod rng;
pub mod share;
pub mod sock;
pub mod tcptop;
pub mod times;
pub mod udp;
pub mod wait;
