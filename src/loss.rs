//! Loss: what could not be kept, counted by cause.
//!
//! Owns the list of causes and their arithmetic. Every place that drops
//! something adds to one of these; the reporter prints them. Pure.

use std::fmt;
use std::ops::{AddAssign, Index, IndexMut};

/// Why something was lost. Each cause is counted in its own unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LossCause {
    /// A close record did not fit into the ring buffer: one connection's final totals.
    RingFull,
    /// The kernel had no memory for a socket's storage: one connection is not seen.
    StorageFull,
    /// The reporter was blocked and the backlog of close records was full:
    /// one connection's final totals.
    ChannelFull,
    /// A record could not be decoded (unknown kind, family or size).
    Malformed,
    /// UDP datagrams of flows for which the flow table had no room.
    FlowTableDatagrams,
    /// Payload bytes of those datagrams.
    FlowTableBytes,
    /// The table of receivers had no room for the process that received on a UDP
    /// socket. Flows that only receive there may show no owner, or the previous one.
    ReceiverTableFull,
    /// The kernel did not run a program for a UDP datagram or a batch of them, because
    /// the same program was preempted on that processor and had not finished.
    Skipped,
    /// The same for every program that sees the state changes of TCP sockets: at most this
    /// many connections began or ended unseen.
    StateSkipped,
    /// UDP datagrams in whose packet the programs did not find the UDP header.
    Unreadable,
    /// The record of a new cgroup had no room in the ring buffer or in the backlog: rows
    /// of connections in it may lack their cgroup and what follows from it.
    CgroupsFull,
}

impl LossCause {
    /// Every cause, in the order in which they are reported.
    pub const ALL: [LossCause; 11] = [
        LossCause::RingFull,
        LossCause::StorageFull,
        LossCause::ChannelFull,
        LossCause::Malformed,
        LossCause::FlowTableDatagrams,
        LossCause::FlowTableBytes,
        LossCause::ReceiverTableFull,
        LossCause::Skipped,
        LossCause::StateSkipped,
        LossCause::Unreadable,
        LossCause::CgroupsFull,
    ];

    /// Machine-readable name (JSON key).
    pub fn name(self) -> &'static str {
        match self {
            LossCause::RingFull => "ring_full",
            LossCause::StorageFull => "storage_full",
            LossCause::ChannelFull => "channel_full",
            LossCause::Malformed => "malformed",
            LossCause::FlowTableDatagrams => "flow_table_datagrams",
            LossCause::FlowTableBytes => "flow_table_bytes",
            LossCause::ReceiverTableFull => "receiver_table_full",
            LossCause::Skipped => "skipped",
            LossCause::StateSkipped => "state_skipped",
            LossCause::Unreadable => "unreadable",
            LossCause::CgroupsFull => "cgroups",
        }
    }

    fn description(self) -> &'static str {
        match self {
            LossCause::RingFull => "closed connections (ring buffer full)",
            LossCause::StorageFull => "connections (no memory for socket storage)",
            LossCause::ChannelFull => "closed connections (output blocked)",
            LossCause::Malformed => "malformed records",
            LossCause::FlowTableDatagrams => "UDP datagrams (flow table full)",
            LossCause::FlowTableBytes => "UDP bytes (flow table full)",
            LossCause::ReceiverTableFull => "receivers of UDP sockets (receiver table full)",
            LossCause::Skipped => "UDP sends and receives (skipped by the kernel)",
            LossCause::StateSkipped => "beginnings or ends of connections (skipped by the kernel)",
            LossCause::Unreadable => "UDP datagrams (header not found)",
            LossCause::CgroupsFull => "names of new cgroups (ring buffer full or output blocked)",
        }
    }
}

/// A count per cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Loss([u64; LossCause::ALL.len()]);

impl Loss {
    /// True where nothing was lost.
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|&count| count == 0)
    }

    /// True where the end of a connection may be among it, and was counted.
    pub fn hides_ends(&self) -> bool {
        [LossCause::RingFull, LossCause::ChannelFull].into_iter().any(|cause| self[cause] > 0)
    }

    /// True where the kernel may have skipped the end of a connection. Mostly it has not: its
    /// count is more than was missed.
    pub fn may_miss_ends(&self) -> bool {
        self[LossCause::StateSkipped] > 0
    }

    /// The causes whose count is not zero, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (LossCause, u64)> + '_ {
        LossCause::ALL
            .into_iter()
            .map(|cause| (cause, self[cause]))
            .filter(|&(_, count)| count != 0)
    }
}

impl Index<LossCause> for Loss {
    type Output = u64;
    fn index(&self, cause: LossCause) -> &u64 {
        &self.0[cause as usize]
    }
}

impl IndexMut<LossCause> for Loss {
    fn index_mut(&mut self, cause: LossCause) -> &mut u64 {
        &mut self.0[cause as usize]
    }
}

impl AddAssign<&Loss> for Loss {
    fn add_assign(&mut self, other: &Loss) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = mine.saturating_add(*theirs);
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("nothing");
        }
        for (position, (cause, count)) in self.iter().enumerate() {
            let comma = if position == 0 { "" } else { ", " };
            write!(f, "{comma}{count} {}", cause.description())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_each_cause_that_counted() {
        let mut loss = Loss::default();
        assert!(loss.is_zero());
        assert_eq!(loss.to_string(), "nothing");
        loss[LossCause::FlowTableDatagrams] = 7;
        loss[LossCause::RingFull] = 2;
        assert_eq!(
            loss.to_string(),
            "2 closed connections (ring buffer full), 7 UDP datagrams (flow table full)"
        );
        let mut total = loss;
        total += &loss;
        assert_eq!(total[LossCause::RingFull], 4);
    }

    #[test]
    fn every_cause_has_its_own_slot() {
        for (position, cause) in LossCause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, position);
        }
    }
}
