//! `--verify`: tcptop's totals against the kernel's own, over another interface.
//!
//! Owns the comparison. tcptop reads the counters of a socket with BPF; `sock_diag`(7), which
//! `ss -i` uses, gives the same socket's `tcp_info` under the socket's lock. Each total of
//! tcptop is bracketed: `sock_diag` before ≤ tcptop ≤ `sock_diag` after. It is done twice: for
//! the listing at the start, and for the last interval, after tcptop has counted for a while.
//! [`diag`] asks the kernel. Prints nothing.

mod diag;
mod inet_diag;

use std::collections::HashMap;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use crossbeam_channel::Receiver;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::collector::{CHANNEL, LinuxCollector};
use super::plan::Provider;
use crate::connection::{Counters, Needs, Protocol};
use crate::event::{Batch, CollectorEvent, NetworkCollector};
use crate::loss::Loss;
use crate::settings::Settings;
use crate::table::ConnectionTable;
use diag::{Dump, Totals};

/// The result.
#[derive(Debug, Default)]
pub struct Verification {
    /// Comparisons of one connection's totals.
    pub compared: usize,
    /// One line for each comparison in which they differ.
    pub differences: Vec<String>,
    /// What could not be compared, and why.
    pub left_out: Vec<String>,
    /// What tcptop has lost meanwhile.
    pub lost: Loss,
}

/// Compares the totals of all TCP connections that are open.
///
/// # Errors
/// Those of the collector; where the kernel does not answer; where no connection was open.
pub(super) fn verify(
    mut settings: Settings,
    without: Vec<Provider>,
    notice: fn(&str),
) -> Result<Verification> {
    settings.rows.lifetime = true;
    settings.query.tcp = true;
    let (stop, running) = pipe2(OFlag::O_CLOEXEC).context("failed to make a pipe")?;
    let (batches, received) = crossbeam_channel::bounded(CHANNEL);
    // Unconfined: this thread asks every namespace until the end.
    let (plan, confinement) = (None, None);
    let needs = Needs::IDENTITY;
    let mut collector =
        LinuxCollector { settings, needs, without, stop, notice, plan, confinement };
    let mut result = Verification::default();
    let mut table = ConnectionTable::new(true);

    let before = Dump::take()?;
    let collecting = thread::Builder::new()
        .name("collector".into())
        .spawn(move || collector.run(batches))
        .context("failed to start a thread")?;
    let listed = take_interval(&received, &mut table, &mut result);
    if listed {
        result.compare(&before, &table, &Dump::take()?);
    }
    let counted = listed && take_interval(&received, &mut table, &mut result);
    let before = Dump::take()?;
    drop(running);
    // The last interval, which visits every socket again.
    while take_interval(&received, &mut table, &mut result) {}
    if counted {
        let after = Dump::take()?;
        result.compare(&before, &table, &after);
        result.left_out.extend(after.missed);
    }
    collecting.join().map_err(|_| anyhow!("the collector panicked"))??;
    if result.compared == 0 {
        bail!("no TCP connection was open all the time, so there is nothing to compare");
    }
    Ok(result)
}

/// Takes what the collector reports, up to the end of an interval. False where it has ended.
fn take_interval(
    received: &Receiver<Batch>,
    table: &mut ConnectionTable,
    result: &mut Verification,
) -> bool {
    // A tick is the last event of its batch.
    while let Ok(batch) = received.recv() {
        let mut over = false;
        for event in batch {
            if let CollectorEvent::Tick(tick) = &event {
                result.lost += &tick.lost;
                over = true;
            }
            table.update(event);
        }
        if over {
            return true;
        }
    }
    false
}

impl Verification {
    /// True where every total was within its bracket.
    pub fn agrees(&self) -> bool {
        self.differences.is_empty()
    }

    /// Compares each connection that is in both dumps with the table's.
    fn compare(&mut self, before: &Dump, table: &ConnectionTable, after: &Dump) {
        let tcp = table.all().filter(|record| record.sample.protocol == Protocol::Tcp);
        let ours: HashMap<u64, Counters> =
            tcp.map(|record| (record.sample.id.cookie, record.sample.counters)).collect();
        for (cookie, (name, first)) in &before.sockets {
            let Some((_, last)) = after.sockets.get(cookie) else { continue };
            self.compared += 1;
            let words = match ours.get(cookie) {
                None => "not shown by tcptop".to_owned(),
                Some(ours) => match errors(first, ours, last) {
                    [0, 0] => continue,
                    [received, sent] => format!(
                        "bytes_in {} is wrong by {received:+}, bytes_out {} by {sent:+} bytes",
                        ours.bytes_in, ours.bytes_out
                    ),
                },
            };
            self.differences.push(format!("TCP {name}: {words}"));
        }
    }
}

/// By how many bytes `ours` is outside of what the kernel said before and after it was
/// sampled: received and sent, 0 where it is within.
fn errors(before: &Totals, ours: &Counters, after: &Totals) -> [i64; 2] {
    // bytes_received counts a FIN as a byte. Whether one came is known from the state, and
    // between the two it may have come first.
    let received = |totals: &Totals, fin: bool| totals.received.saturating_sub(fin.into());
    let lowest_in = received(before, before.fin);
    let highest_in = received(after, before.fin).max(lowest_in);
    // The kernel adds a retransmission to bytes_retrans before it adds it to bytes_sent, and
    // tcptop does not lock the socket. So what was sent again meanwhile is not certain.
    let again = after.retransmitted.saturating_sub(before.retransmitted);
    let once = |totals: &Totals| totals.sent.saturating_sub(totals.retransmitted);
    // The kernel counts a segment that this host itself drops as sent, each time it tries.
    // What is acknowledged has been sent in truth. It counts a SYN and a FIN as bytes.
    let lowest_out = once(before).min(before.acked.saturating_sub(2)).saturating_sub(again);
    let highest_out = once(after).saturating_add(again);
    [
        outside(lowest_in, ours.bytes_in, highest_in),
        outside(lowest_out, ours.bytes_out, highest_out),
    ]
}

fn outside(lowest: u64, value: u64, highest: u64) -> i64 {
    if value < lowest {
        -i64::try_from(lowest - value).unwrap_or(i64::MAX)
    } else {
        i64::try_from(value.saturating_sub(highest)).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Sample;
    use crate::output::fixtures::tcp;

    const QUIET: Totals =
        Totals { received: 1000, fin: false, sent: 700, retransmitted: 200, acked: 502 };

    fn counters(bytes_in: u64, bytes_out: u64) -> Counters {
        Counters { bytes_in, bytes_out, ..Counters::default() }
    }

    #[test]
    fn each_wrong_byte_is_found() {
        assert_eq!(errors(&QUIET, &counters(1000, 500), &QUIET), [0, 0]);
        assert_eq!(errors(&QUIET, &counters(999, 500), &QUIET), [-1, 0]);
        assert_eq!(errors(&QUIET, &counters(1001, 500), &QUIET), [1, 0]);
        assert_eq!(errors(&QUIET, &counters(1000, 499), &QUIET), [0, -1]);
        assert_eq!(errors(&QUIET, &counters(1000, 700), &QUIET), [0, 200]);
        let busy = Totals { received: 1500, sent: 900, ..QUIET };
        assert_eq!(errors(&QUIET, &counters(1500, 700), &busy), [0, 0]);
        assert_eq!(errors(&QUIET, &counters(1501, 701), &busy), [1, 1]);
        assert_eq!(errors(&QUIET, &counters(0, 0), &busy), [-1000, -500]);
        assert_eq!(errors(&QUIET, &counters(u64::MAX, 700), &busy), [i64::MAX, 0]);
    }

    #[test]
    fn a_fin_is_no_byte_and_what_was_sent_again_is_not_certain() {
        let closed = Totals { received: 1001, fin: true, ..QUIET };
        assert_eq!(errors(&closed, &counters(1000, 500), &closed), [0, 0]);
        assert_eq!(errors(&closed, &counters(1001, 500), &closed), [1, 0]);
        assert_eq!(errors(&QUIET, &counters(1001, 500), &closed), [0, 0], "the FIN came between");
        let refused = Totals { sent: 7700, acked: 602, ..QUIET };
        assert_eq!(errors(&refused, &counters(1000, 600), &refused), [0, 0], "by this host");
        assert_eq!(errors(&refused, &counters(1000, 599), &refused), [0, -1]);
        let again = Totals { sent: 800, retransmitted: 300, ..QUIET };
        assert_eq!(errors(&QUIET, &counters(1000, 400), &again), [0, 0]);
        assert_eq!(errors(&QUIET, &counters(1000, 399), &again), [0, -1]);
        assert_eq!(errors(&QUIET, &counters(1000, 601), &again), [0, 1]);
    }

    #[test]
    fn a_wrong_total_and_a_missing_connection_are_reported() {
        let mut table = ConnectionTable::new(true);
        let sample = |cookie, bytes_in| {
            let mut sample: Sample = tcp();
            sample.key.object = cookie;
            sample.id.cookie = cookie;
            sample.counters = counters(bytes_in, 500);
            sample
        };
        table.seed([sample(1, 1000), sample(2, 1007)]);
        let sockets = (1..=3).map(|cookie| (cookie, (format!("s{cookie}"), QUIET))).collect();
        let dump = Dump { sockets, missed: None };
        let mut result = Verification::default();
        result.compare(&dump, &table, &dump);
        result.differences.sort();
        assert_eq!(result.compared, 3);
        assert!(!result.agrees());
        assert_eq!(
            result.differences,
            [
                "TCP s2: bytes_in 1007 is wrong by +7, bytes_out 500 by +0 bytes",
                "TCP s3: not shown by tcptop"
            ]
        );
    }
}
