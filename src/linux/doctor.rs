//! `--doctor`: which hook serves each need here, and the proof that it fires.
//!
//! Owns the verdicts and how they are written. An attached hook need not work. So
//! [`exchange`] makes traffic with a known number of bytes, and each need is judged by
//! what the collector reports about this traffic. Facts about the host come from
//! [`host`].

mod exchange;
mod host;

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use serde::Serialize;

use super::collector::{CHANNEL, LinuxCollector};
use super::confine::{Confinement, Part, Without};
use super::plan::{Need, Plan, Provider};
use crate::connection::Needs;
use crate::event::NetworkCollector;
use crate::settings::Settings;
use exchange::{LONGEST, Outcome, Outcomes, Seen};
use host::Fact;

/// The whole report.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: u32,
    host: Vec<Fact>,
    #[serde(rename = "signals")]
    needs: Vec<Finding>,
    /// What a run gives up, found out by giving it up.
    confinement: Vec<Part>,
    /// Why nothing could be attached.
    #[serde(skip)]
    failure: Option<Error>,
}

#[derive(Debug, Serialize)]
struct Finding {
    #[serde(rename = "signal")]
    need: &'static str,
    provider: Option<&'static str>,
    /// True where the exchange on loopback was reported exactly.
    works: bool,
    verdict: Verdict,
    /// The verdict in words.
    seen: String,
    refused: Vec<Refused>,
}

#[derive(Debug, Serialize)]
struct Refused {
    provider: &'static str,
    reason: String,
}

/// How well a need is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// The exchange was reported to the byte.
    Works,
    /// The hook is attached, but reported nothing.
    Silent,
    /// The hook is attached, but reported something else.
    Wrong,
    /// It has a provider, but was not tried: another need that TCP depends on has none.
    Untried,
    /// It has no provider.
    Missing,
}

impl Report {
    /// True where every need has a provider that fires.
    pub fn all_work(&self) -> bool {
        self.needs.iter().all(|finding| finding.works)
    }

    /// Why nothing could be attached; `None` where attaching succeeded.
    pub fn failure(self) -> Option<Error> {
        self.failure
    }

    /// Writes the report as text or as one JSON object.
    ///
    /// # Errors
    /// Errors of writing.
    pub fn write(&self, json: bool, out: &mut impl Write) -> io::Result<()> {
        if json {
            serde_json::to_writer(&mut *out, self)?;
            return writeln!(out);
        }
        for fact in &self.host {
            writeln!(out, "{:<18} {}", fact.name, fact.value)?;
        }
        writeln!(out)?;
        for finding in &self.needs {
            let provider = finding.provider.unwrap_or("none");
            writeln!(out, "{:<18} {provider:<28} {}", finding.need, finding.seen)?;
            for refused in &finding.refused {
                writeln!(out, "{:<18} not {}: {}", "", refused.provider, refused.reason)?;
            }
        }
        writeln!(out)?;
        if !self.confinement.is_empty() {
            writeln!(out, "given up once tcptop has started:")?;
        }
        for Part { name, had, detail } in &self.confinement {
            writeln!(out, "{name:<18} {:<28} {detail}", had.word())?;
        }
        Ok(())
    }
}

/// Examines this host. The providers in `without` are not tried. At its end this process is
/// confined as a run with these settings would be.
///
/// # Errors
/// Where the exchange cannot be made, or the user of `--setuid` cannot be had.
pub(super) fn examine(
    mut settings: Settings,
    without: Vec<Provider>,
    unconfined: Without,
) -> Result<Report> {
    let asked = settings.clone();
    let (stop, running) = pipe2(OFlag::O_CLOEXEC).context("failed to make a pipe")?;
    let (batches, received) = crossbeam_channel::bounded(CHANNEL);
    let (sender, plan) = crossbeam_channel::bounded(1);
    let host = host::facts();
    settings.times.interval = Duration::from_millis(50);
    settings.more.udp_flows = 1024;
    settings.rows.udp_timeout = LONGEST * 2;
    // The report names the gaps, so the notices of the collector are dropped.
    let notice = |_: &str| {};
    let mut collector = LinuxCollector {
        settings,
        needs: Needs::empty(),
        without,
        stop,
        notice,
        plan: Some(sender),
        confinement: None,
    };
    let collecting = thread::Builder::new()
        .name("collector".into())
        .spawn(move || collector.run(batches))
        .context("failed to start a thread")?;
    let plan = plan.recv().unwrap_or_default();
    let mut seen = Seen::new(received);
    let (outcomes, failure) = if seen.wait(LONGEST, |seen| seen.listed) {
        let outcomes = exchange::make(&mut seen, &plan);
        drop(running);
        seen.ignore_the_rest();
        let _ = collecting.join();
        (outcomes?, None)
    } else {
        // The collector ended before the listing: its error says why.
        drop(running);
        seen.ignore_the_rest();
        let failure = match collecting.join() {
            Ok(Err(error)) => error,
            _ => anyhow!("the collector reported nothing within {LONGEST:?}"),
        };
        (Outcomes::new(), Some(failure))
    };
    let needs = Need::ALL.map(|need| finding(need, &plan, &outcomes)).into();
    let confinement = Confinement::begin(&asked, Needs::empty(), unconfined)?;
    let confinement = confinement.finish()?;
    Ok(Report { schema: 1, host, needs, confinement, failure })
}

fn finding(need: Need, plan: &Plan, outcomes: &Outcomes) -> Finding {
    let choice = plan.choices.iter().find(|choice| choice.need == need);
    let provider = choice.and_then(|choice| choice.provider);
    let outcomes = outcomes.get(&need).map_or(&[][..], Vec::as_slice);
    let (verdict, seen) = match provider {
        None => (Verdict::Missing, format!("cannot show {}", need.fills())),
        Some(_) if outcomes.is_empty() => {
            (Verdict::Untried, format!("not proved, since {} cannot be shown", need.fills()))
        }
        Some(_) => judge(outcomes),
    };
    Finding {
        need: need.name(),
        provider: provider.map(Provider::name),
        works: verdict == Verdict::Works,
        verdict,
        seen,
        refused: choice
            .into_iter()
            .flat_map(|choice| &choice.refused)
            .map(|(provider, reason)| Refused { provider: provider.name(), reason: reason.clone() })
            .collect(),
    }
}

/// A hook that reports nothing for an address family is silent; one that reports
/// something else than what was sent is wrong, which is the worse verdict.
fn judge(outcomes: &[(&'static str, Outcome)]) -> (Verdict, String) {
    let mut silent = Vec::new();
    let mut wrong = Vec::new();
    for (version, outcome) in outcomes {
        match outcome {
            Outcome::Exact => {}
            Outcome::Nothing => silent.push(*version),
            Outcome::Other(difference) => wrong.push(format!("{version}: {difference}")),
        }
    }
    if !wrong.is_empty() {
        (Verdict::Wrong, format!("FAILED: attached, but reports {}", wrong.join(", ")))
    } else if !silent.is_empty() {
        (Verdict::Silent, format!("FAILED: attached, but does not fire ({})", silent.join(", ")))
    } else {
        (Verdict::Works, "ok".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::choose;
    use super::exchange::{compare, loopbacks};
    use super::*;
    use crate::connection::Counters;
    use crate::event::CollectorEvent;

    fn everything() -> Plan {
        let choices = Need::ALL.map(|need| choose(need, &[], |_| Ok(())));
        Plan { choices: choices.into() }
    }

    fn findings(plan: &Plan, outcomes: &Outcomes) -> Vec<(Verdict, String)> {
        let of = |need| finding(need, plan, outcomes);
        Need::ALL.map(of).into_iter().map(|finding| (finding.verdict, finding.seen)).collect()
    }

    /// Everything is attached, and the collector reports only other connections.
    #[test]
    fn attached_is_not_working() {
        let (sender, received) = crossbeam_channel::unbounded();
        let other = crate::output::fixtures::tcp();
        sender.send(vec![CollectorEvent::Sample(other)]).unwrap();
        drop(sender);
        let plan = everything();
        let outcomes = exchange::make(&mut Seen::new(received), &plan).unwrap();
        let versions = loopbacks().iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let expected = format!("FAILED: attached, but does not fire ({versions})");
        for (verdict, seen) in findings(&plan, &outcomes) {
            assert_eq!((verdict, &seen), (Verdict::Silent, &expected));
        }
    }

    /// A hook that reports everything twice is not silent.
    #[test]
    fn a_wrong_count_is_reported_with_the_numbers() {
        let done = Counters { bytes_in: 10, bytes_out: 20, ..Counters::default() };
        let twice = Counters { bytes_in: 20, bytes_out: 40, ..Counters::default() };
        let judged = |outcome| judge(&[("IPv4", Outcome::Exact), ("IPv6", outcome)]);
        assert_eq!(judged(compare([(Some(done), done); 2])), (Verdict::Works, "ok".to_owned()));
        let (verdict, seen) = judged(compare([(Some(done), done), (Some(twice), done)]));
        assert_eq!(verdict, Verdict::Wrong);
        assert_eq!(
            seen,
            "FAILED: attached, but reports IPv6: in=20 out=40 instead of in=10 out=20"
        );
        let (verdict, seen) = judged(compare([(None, done), (Some(done), done)]));
        assert_eq!(verdict, Verdict::Wrong);
        assert!(seen.ends_with("IPv6: nothing instead of in=10 out=20"), "{seen}");
        let datagrams = Counters { packets_out: 7, ..done };
        let (verdict, seen) = judged(compare([(Some(done), datagrams), (Some(done), done)]));
        assert_eq!(verdict, Verdict::Wrong);
        assert!(seen.ends_with("of in=10 out=20 pkts_in=0 pkts_out=7"), "{seen}");
        let (verdict, seen) = judged(compare([(None, done), (None, done)]));
        assert_eq!(verdict, Verdict::Silent);
        assert_eq!(seen, "FAILED: attached, but does not fire (IPv6)");
    }

    #[test]
    fn without_a_provider_nothing_is_tried() {
        let plan = Plan {
            choices: Need::ALL
                .map(|need| choose(need, &[Provider::StorageIterator], |_| Ok(())))
                .into(),
        };
        let outcomes = Outcomes::from([(Need::Udp, vec![("IPv4", Outcome::Exact)])]);
        let verdicts: Vec<Verdict> =
            findings(&plan, &outcomes).into_iter().map(|(verdict, _)| verdict).collect();
        assert_eq!(
            verdicts,
            [Verdict::Untried, Verdict::Missing, Verdict::Untried, Verdict::Works]
        );
    }
}
