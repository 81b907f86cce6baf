//! The reporter: batches of events in, written intervals out.
//!
//! Owns the connection table and the writer. Runs in its own thread. It may block on its
//! output for any time: the kernel goes on counting.

use std::io;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use crossbeam_channel::{Receiver, never, select};

use crate::connection::{Protocol, Sample};
use crate::event::{Batch, CollectorEvent, Tick};
use crate::filter::Filter;
use crate::groups::{Group, Groups, KeyValue};
use crate::loss::Loss;
use crate::names::{Names, place};
use crate::output::columns::{Common, Row, column};
use crate::output::destination::Open;
use crate::output::grouped::{self, GroupRow, Keys};
use crate::output::textfile::Textfile;
use crate::output::{Interval, Writer};
use crate::settings::{Place, Room, Settings, Sort};
use crate::table::{ClosedRecord, ConnectionRecord, ConnectionTable};
use crate::view;

/// How many ended connections are kept until the end of an interval: up to 17 MiB.
const ENDED: u32 = 65_536;

/// What is reported, and how much of it.
pub struct Reporter {
    /// What the user asked for: which rows, their order, the meaning of totals, and more.
    pub settings: Settings,
    /// The format and the destination.
    pub writer: Writer,
    /// The file for Prometheus.
    pub textfile: Option<Textfile>,
    /// The connections that are reported.
    pub filter: Filter,
    /// Looks up the names that columns, filter and order need.
    pub names: Box<dyn Names + Send>,
    /// The name of the host.
    pub host: String,
    /// Printed on stderr once the listing is written and the first interval begins.
    pub greeting: Option<String>,
    /// Opens the files that are written besides the output.
    pub open: Open,
    /// Prints a line for the user. What cannot be printed is left out.
    pub say: fn(&str),
    /// Each message (of SIGHUP) asks to open the destination again.
    pub reopen: Receiver<()>,
}

/// Totals from start to end, of the connections that the filter lets pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Connections that were open at the end.
    pub open: usize,
    /// Connections that ended.
    pub closed: u64,
    /// What was lost, of all connections.
    pub lost: Loss,
    /// True where the reader of the output went away.
    pub reader_gone: bool,
}

impl Reporter {
    /// Reports until the collector closes the channel or the reader of the output goes away.
    ///
    /// # Errors
    /// Where the output cannot be written.
    pub fn run(mut self, batches: &Receiver<Batch>) -> Result<Summary> {
        let mut table = ConnectionTable::new(self.settings.rows.lifetime);
        let mut summary = Summary::default();
        let mut rows = Vec::new();
        let mut grouping = Grouping::new(&self.settings);
        let room = Room::of(&self.settings.more.room, Place::Ended).unwrap_or(ENDED) as usize;
        while let Some(batch) = self.next(batches)? {
            for event in batch {
                if let CollectorEvent::CgroupMade { id, path } = &event {
                    self.names.cgroup_made(*id, path);
                }
                if let CollectorEvent::Untracked { sample, .. } = &event {
                    (self.say)(&not_shown(sample));
                }
                let tick = if let CollectorEvent::Tick(tick) = &event { Some(*tick) } else { None };
                table.update(event);
                let written = if let Some(tick) = tick {
                    summary.lost += &tick.lost;
                    if !tick.lost.is_zero() {
                        (self.say)(&format!("tcptop: lost in this interval: {}", tick.lost));
                    }
                    self.write(&table, &tick, &mut rows, grouping.as_mut())
                } else if let Some((now_ns, time)) = table.end_part(room) {
                    self.write_part(&table, now_ns, time, grouping.as_mut())
                } else {
                    continue;
                };
                match written {
                    Ok(closed) => summary.closed += closed as u64,
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                        summary.reader_gone = true;
                        return Ok(summary);
                    }
                    Err(error) => return Err(error.into()),
                }
                if tick.is_some_and(|tick| tick.listing) {
                    self.tell_unmatched(&table);
                    if let Some(greeting) = &self.greeting {
                        (self.say)(greeting);
                    }
                    if let Some(path) = &self.settings.more.ready_file {
                        (self.open)(path, false)
                            .with_context(|| format!("failed to write {}", path.display()))?;
                    }
                }
            }
        }
        self.writer.end()?;
        let Reporter { filter, names, .. } = &mut self;
        summary.open =
            table.all().filter(|record| passes(filter, names.as_mut(), &record.sample)).count();
        Ok(summary)
    }

    /// Says so where units or containers are asked for and no open connection is in them: then
    /// the name may be wrong.
    fn tell_unmatched(&mut self, table: &ConnectionTable) {
        let Reporter { settings, filter, names, say, .. } = self;
        let asked = settings.query.units_and_containers();
        let matches = |record: &ConnectionRecord| passes(filter, names.as_mut(), &record.sample);
        if !asked.is_empty() && !settings.output.quiet && !table.all().any(matches) {
            say(&format!("tcptop: no connection matches {} so far", asked.join(" ")));
        }
    }

    /// The next batch; `None` when the collector has closed the channel. Opens the
    /// destination again as soon as that is asked for.
    fn next(&mut self, batches: &Receiver<Batch>) -> io::Result<Option<Batch>> {
        loop {
            select! {
                recv(batches) -> batch => return Ok(batch.ok()),
                recv(self.reopen) -> asked => match asked {
                    Ok(()) => self.writer.reopen()?,
                    Err(_) => self.reopen = never(),
                },
            }
        }
    }

    /// Writes one interval. Returns how many connections ended in it, of those that the
    /// filter lets pass.
    fn write(
        &mut self,
        table: &ConnectionTable,
        tick: &Tick,
        memory: &mut Rows,
        grouping: Option<&mut Grouping>,
    ) -> io::Result<usize> {
        let Reporter { settings, writer, textfile, filter, names, host, .. } = self;
        let names = names.as_mut();
        names.refresh();
        let lifetime = settings.rows.lifetime;
        let common = Common { time: "", now_ns: tick.now_ns, host, lifetime };
        let mut rows = view::reuse(std::mem::take(memory));
        let asked = &settings.rows;
        let all = settings.shows_all() || tick.listing;
        let grouped = grouping.is_some();
        let mut closed: Vec<&ClosedRecord> = Vec::new();
        let mut shown = Shown::default();
        if let Some(grouping) = grouping {
            closed = grouping.count(table, filter, names, common);
            grouping.groups.end_interval(tick.now_ns);
            if let Some(textfile) = textfile {
                textfile.write(grouping.groups.all(), &tick.lost)?;
            }
            if !settings.prints_nothing() {
                shown = grouping.shown(settings, all);
            }
        } else if all {
            rows.extend(table.all().filter(|record| passes(filter, names, &record.sample)));
        } else {
            rows.extend(table.changed().filter(|record| passes(filter, names, &record.sample)));
        }
        if !grouped {
            let of_closed = |record: &&ClosedRecord| passes(filter, names, &record.closed.sample);
            closed.extend(table.closed().iter().filter(of_closed));
        }
        view::arrange(&mut rows, &asked.sort, asked.top, |record| {
            let Sort::Column(name) = &asked.sort else { return None };
            let column = column(name)?;
            Row::open(record, common, place(names, &record.sample, column.needs))
                .value(column)
                .key()
        });
        let groups: Vec<GroupRow<'_>> = shown.rows(&settings.groups.by).collect();
        let result = writer.interval(Interval {
            time: tick.time,
            now_ns: tick.now_ns,
            rows: &rows,
            // The rows of groups have what closed in them.
            closed: if grouped { &[] } else { &closed },
            groups: &groups,
            lost: &tick.lost,
            listing: tick.listing,
            lifetime,
            host,
            names,
        });
        *memory = view::reuse(rows);
        result.map(|()| count_tcp(&closed))
    }

    /// Writes what ended in a part of an interval, or adds it to its groups. Returns the same.
    fn write_part(
        &mut self,
        table: &ConnectionTable,
        now_ns: u64,
        time: DateTime<Utc>,
        grouping: Option<&mut Grouping>,
    ) -> io::Result<usize> {
        let Reporter { settings, writer, filter, names, host, .. } = self;
        let names = names.as_mut();
        names.refresh();
        let lifetime = settings.rows.lifetime;
        if let Some(grouping) = grouping {
            let common = Common { time: "", now_ns, host, lifetime };
            return Ok(count_tcp(&grouping.count_closed(table, filter, names, common)));
        }
        let of_closed = |record: &&ClosedRecord| passes(filter, names, &record.closed.sample);
        let closed: Vec<&ClosedRecord> = table.closed().iter().filter(of_closed).collect();
        writer.interval(Interval {
            time,
            now_ns,
            rows: &[],
            closed: &closed,
            groups: &[],
            lost: &Loss::default(),
            listing: false,
            lifetime,
            host,
            names,
        })?;
        Ok(count_tcp(&closed))
    }
}

/// How many of them are TCP connections.
fn count_tcp(closed: &[&ClosedRecord]) -> usize {
    closed.iter().filter(|record| record.closed.sample.protocol == Protocol::Tcp).count()
}

/// The groups of `--by`, and the keys that make them.
struct Grouping {
    keys: Keys,
    groups: Groups,
    /// The key of one connection; here to be used again.
    key: Vec<KeyValue>,
}

impl Grouping {
    /// `None` where no groups are asked for.
    fn new(settings: &Settings) -> Option<Grouping> {
        let asked = &settings.groups;
        let groups = Groups::new(asked.groups as usize, settings.rows.lifetime);
        let keys = Keys::new(&asked.by);
        (!asked.by.is_empty()).then(|| Grouping { keys, groups, key: Vec::new() })
    }

    /// Counts what changed in the interval. Returns what ended in it, of those that the
    /// filter lets pass.
    fn count<'t>(
        &mut self,
        table: &'t ConnectionTable,
        filter: &Filter,
        names: &mut dyn Names,
        common: Common<'_>,
    ) -> Vec<&'t ClosedRecord> {
        let Grouping { keys, groups, key } = self;
        let needs = keys.needs() | filter.needs();
        for gone in table.vanished() {
            groups.forget(gone);
        }
        for record in table.changed() {
            let place = place(names, &record.sample, needs);
            if filter.matches(&record.sample, &place) {
                keys.of(&Row::open(record, common, place), key);
                groups.open(&record.sample, key);
            } else {
                groups.hide(&record.sample);
            }
        }
        self.count_closed(table, filter, names, common)
    }

    /// The same for what ended alone.
    fn count_closed<'t>(
        &mut self,
        table: &'t ConnectionTable,
        filter: &Filter,
        names: &mut dyn Names,
        common: Common<'_>,
    ) -> Vec<&'t ClosedRecord> {
        let Grouping { keys, groups, key } = self;
        let needs = keys.needs() | filter.needs();
        let mut passed = Vec::new();
        for record in table.closed() {
            let sample = &record.closed.sample;
            let place = place(names, sample, needs);
            if filter.matches(sample, &place) {
                keys.of(&Row::last(record, common, place), key);
                groups.close(record, key);
                passed.push(record);
            } else {
                groups.forget(&sample.key);
            }
        }
        passed
    }

    /// The groups that the interval shows.
    fn shown(&self, settings: &Settings, all: bool) -> Shown<'_> {
        let top = settings.rows.top.is_some();
        if top && !all && !self.groups.all().any(|group| group.changed) {
            return Shown::default();
        }
        // With --top the rest is summed up, which has a meaning only for all of them.
        let groups = self.groups.all().filter(|group| all || top || group.changed);
        let mut groups: Vec<&Group> = groups.collect();
        let rest = grouped::arrange(&mut groups, settings);
        if rest.is_empty() {
            return Shown { groups, other: None };
        }
        let (own, other): (Vec<&Group>, Vec<&Group>) =
            groups.into_iter().partition(|group| group.key.is_some());
        Shown { groups: own, other: Some(Group::sum(rest.into_iter().chain(other))) }
    }
}

/// The groups that an interval shows.
#[derive(Default)]
struct Shown<'g> {
    groups: Vec<&'g Group>,
    /// The sum of those that `--top` leaves out.
    other: Option<Group>,
}

impl Shown<'_> {
    fn rows<'r>(&'r self, names: &'r [String]) -> impl Iterator<Item = GroupRow<'r>> {
        self.groups.iter().copied().chain(&self.other).map(|group| GroupRow::new(group, names))
    }
}

/// Whether the filter lets the connection pass.
fn passes(filter: &Filter, names: &mut dyn Names, sample: &Sample) -> bool {
    filter.matches(sample, &place(names, sample, filter.needs()))
}

/// An empty list of rows that is kept between two intervals for its memory.
type Rows = Vec<&'static ConnectionRecord>;

/// Which connection cannot be shown.
fn not_shown(sample: &Sample) -> String {
    let Sample { protocol, local, remote, .. } = sample;
    let name = protocol.name();
    format!("tcptop: not shown: {name} {local} -> {remote} (no memory for socket storage)")
}
