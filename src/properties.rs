//! What must hold for any input. Each property takes any bytes and panics where it does
//! not hold.
//!
//! Tests try each with the inputs in `fuzz/corpus/` and with changes of them; the fuzzer
//! (`make fuzz`) looks for inputs that break one. Built for these two only.
//! `linux/properties.rs` has those of the Linux part.

mod script;

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::sync::{Arc, Mutex, PoisonError};

use arbitrary::Unstructured;
use crossbeam_channel::never;

use crate::cli::{self, Task};
use crate::connection::{ConnectionKey, Counters};
use crate::event::CollectorEvent;
use crate::filter::{Filter, Known};
use crate::loss::Loss;
use crate::output::destination::open_anything;
use crate::output::fit::Screen;
use crate::output::{self, Destination, Writer};
use crate::report::Reporter;
use crate::settings::{FormatName, Settings};
use crate::table::ConnectionTable;
use script::{Fate, Script, Strings};

/// The table keeps every connection exactly once, with all that it moved: it is open, has
/// ended once, or its end was lost and counted.
pub fn table(data: &[u8]) {
    let mut data = Unstructured::new(data);
    let lifetime = data.ratio(1, 4).unwrap_or_default();
    let Ok(script) = Script::make(&mut data) else { return };
    let mut table = ConnectionTable::new(lifetime);
    let mut ended: HashMap<ConnectionKey, Option<Counters>> = HashMap::new();
    for event in script.events {
        let is_tick = matches!(event, CollectorEvent::Tick(_));
        table.update(event);
        if !is_tick {
            continue;
        }
        let closed = table.closed().iter().map(|record| &record.closed.sample);
        let closed = closed.map(|sample| (sample.key, Some(sample.counters)));
        for (key, counters) in closed.chain(table.vanished().iter().map(|key| (*key, None))) {
            assert_eq!(ended.insert(key, counters), None, "{key:?} ends twice");
        }
        let mut open = 0;
        for record in table.all() {
            open += 1;
            assert!(record.rate().is_finite() && record.rate() >= 0.0, "{record:?}");
            assert!(!ended.contains_key(&record.sample.key), "{record:?} lives after its end");
        }
        assert!(table.changed().count() <= open);
    }
    let open: HashMap<ConnectionKey, Counters> =
        table.all().map(|record| (record.sample.key, record.sample.counters)).collect();
    assert!(open.len() + ended.len() <= script.known.len(), "connections that nobody told of");
    for (key, known) in script.known {
        match (known.fate, open.get(&key), ended.get(&key)) {
            (Fate::Open, Some(counters), None) | (Fate::Closed, None, Some(Some(counters))) => {
                assert_eq!(*counters, known.counters, "{key:?}");
            }
            (Fate::Unnoticed, Some(counters), None)
            | (Fate::Unnoticed, None, Some(Some(counters))) => {
                assert_eq!(*counters, known.counters, "{key:?}");
            }
            (Fate::Unnoticed, None, Some(None)) => {}
            (fate, open, ended) => panic!("{key:?} {fate:?}: open {open:?}, ended {ended:?}"),
        }
    }
}

/// Command lines whose output is checked to the byte or number, and how.
const RUNS: [(&[&str], Check); 14] = [
    (&["--format", "csv", "--wide"], Check::Csv),
    (&["--format", "csv", "--wide", "--changed", "--lifetime"], Check::Csv),
    (&["--format", "json"], Check::Json),
    (&["--format", "json", "--changed", "--columns", "+exe,user,unit,pod,cwnd"], Check::Json),
    (&["--format", "csv", "--by", "process"], Check::Groups(1)),
    (&["--format", "csv", "--by", "remote,protocol,unit", "--groups", "2"], Check::Groups(3)),
    (&["--format", "csv", "--by", "pid", "--top", "1", "--lifetime"], Check::Groups(1)),
    (&["--format", "csv", "--wide", "--room", "ended=1"], Check::Csv),
    (&["--format", "json", "--room", "ended=2"], Check::Json),
    (&["--format", "csv", "--by", "process", "--room", "ended=1"], Check::Groups(1)),
    (&["--raw"], Check::Lines),
    (&["--all", "--bits"], Check::Lines),
    (&["--top", "2", "--sort", "rtt"], Check::Lines),
    (&["--columns", "exe,user,container_name,process_name", "--color", "always"], Check::Text),
];

/// What must be true of the output.
#[derive(Clone, Copy)]
enum Check {
    /// The last row of each connection has what it moved.
    Csv,
    /// The same.
    Json,
    /// The rows of the last interval, after this many keys, add up to what all moved.
    Groups(usize),
    /// 13 fields, or 14.
    Lines,
    /// No control characters.
    Text,
}

/// Whatever the connections and names are, each format can be read again, and its rows add
/// up to what the connections moved.
pub fn formats(data: &[u8]) {
    let mut data = Unstructured::new(data);
    let Ok(&(arguments, check)) = data.choose(&RUNS) else { return };
    let (narrow, strings) = (data.ratio(1, 4).unwrap_or_default(), Strings::make(&mut data));
    let Ok(script) = Script::make(&mut data) else { return };
    let Ok(Task::Stream(settings)) = cli::parse([&["tcptop"], arguments].concat()) else {
        panic!("{arguments:?}");
    };
    let known = script.known.clone();
    let narrow = narrow && settings.output.format() == FormatName::Lines;
    let text = report(*settings, narrow, strings, script);
    let text = String::from_utf8(text).unwrap_or_else(|error| panic!("{error}"));
    match check {
        Check::Csv => check_totals(&known, csv(&text)),
        Check::Json => check_totals(&known, json(&text)),
        Check::Groups(keys) => check_groups(&known, csv(&text), keys),
        Check::Lines if !narrow => text.lines().for_each(check_line),
        Check::Lines | Check::Text => {}
    }
    let mut visible = text.replace("\x1b[", "");
    visible.retain(|character| character != '\n');
    if matches!(check, Check::Lines | Check::Text) {
        assert!(!visible.contains(|c: char| c.is_ascii_control()), "{visible:?}");
    }
}

/// What the reporter writes about the script.
fn report(settings: Settings, narrow: bool, strings: Strings, mut script: Script) -> Vec<u8> {
    for event in &mut script.events {
        if let CollectorEvent::Tick(tick) = event {
            // The reporter would print it on stderr.
            tick.lost = Loss::default();
        }
    }
    let screen = || Some(Screen { columns: 60, rows: 24 });
    let screen: fn() -> Option<Screen> = screen;
    let color = settings.output.color == crate::settings::ColorChoice::Always;
    let format = output::format(&settings, color, narrow.then_some(screen));
    let written = Written::default();
    let destination = Destination::stream_of(written.clone(), format.document());
    let (batches, receiver) = crossbeam_channel::unbounded();
    let query = settings.query.clone();
    let reporter = Reporter {
        filter: Filter::new(query, Known { interfaces: Vec::new(), netns: 1, users: Vec::new() }),
        settings,
        writer: Writer::new(format, destination),
        textfile: None,
        names: Box::new(strings),
        host: "host".to_owned(),
        greeting: None,
        open: open_anything,
        say: |_| {},
        reopen: never(),
    };
    batches.send(script.events).unwrap_or_else(|error| panic!("{error}"));
    drop(batches);
    reporter.run(&receiver).unwrap_or_else(|error| panic!("{error:#}"));
    std::mem::take(&mut *written.0.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Bytes that a reporter has written.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The rows, each with its fields by name.
fn csv(text: &str) -> Vec<HashMap<String, String>> {
    let mut reader = ::csv::Reader::from_reader(text.as_bytes());
    let rows: Result<_, _> = reader.deserialize().collect();
    rows.unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

/// The same of objects; texts and numbers only.
fn json(text: &str) -> Vec<HashMap<String, String>> {
    let fields = |line: &str| {
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        let text = |value: serde_json::Value| match value {
            serde_json::Value::String(text) => text,
            value => value.to_string(),
        };
        object.into_iter().map(|(name, value)| (name, text(value))).collect()
    };
    text.lines().map(fields).collect()
}

fn number(row: &HashMap<String, String>, name: &str) -> u64 {
    row[name].parse().unwrap_or_else(|_| panic!("{name} of {row:?}"))
}

fn counters(row: &HashMap<String, String>) -> Counters {
    Counters {
        bytes_in: number(row, "bytes_in"),
        bytes_out: number(row, "bytes_out"),
        packets_in: number(row, "packets_in"),
        packets_out: number(row, "packets_out"),
    }
}

fn check_totals(known: &script::All, rows: Vec<HashMap<String, String>>) {
    let mut last: HashMap<String, Counters> = HashMap::new();
    for row in &rows {
        last.insert(row["conn_id"].clone(), counters(row));
    }
    let expected = known.values().filter(|known| known.fate != Fate::Unnoticed);
    let mut expected: Vec<Counters> = expected.map(|known| known.counters).collect();
    let unnoticed = known.len() - expected.len();
    for counters in last.values() {
        if let Some(position) = expected.iter().position(|known| known == counters) {
            expected.swap_remove(position);
        }
    }
    assert!(expected.is_empty(), "no last row with {expected:?} in {rows:#?}");
    assert!(last.len() <= known.len(), "{} of {} ({unnoticed})", last.len(), known.len());
}

fn check_groups(known: &script::All, rows: Vec<HashMap<String, String>>, keys: usize) {
    assert!(rows.iter().all(|row| row.len() >= keys + 4));
    let Some(time) = rows.last().map(|row| row["timestamp"].clone()) else { return };
    // The script ends with an interval in which the clock goes on.
    let last = rows.iter().filter(|row| row["timestamp"] == time);
    let sum = last.fold((0, 0), |(bytes_in, bytes_out), row| {
        (bytes_in + number(row, "bytes_in"), bytes_out + number(row, "bytes_out"))
    });
    let expected = known.values().fold((0, 0), |(bytes_in, bytes_out), known| {
        (bytes_in + known.counters.bytes_in, bytes_out + known.counters.bytes_out)
    });
    assert_eq!(sum, expected, "{rows:#?}");
}

fn check_line(line: &str) {
    if !line.starts_with("[CLOSED] ") {
        let fields = line.split_ascii_whitespace().count();
        let partial = line.ends_with(" [PARTIAL]");
        assert_eq!(fields, 13 + usize::from(partial), "{line:?}");
    }
}

/// Arguments, with a NUL between them: refused with a reason, or settings with which a
/// reporter runs.
pub fn arguments(data: &[u8]) {
    let words = data.split(|&byte| byte == 0).map(|word| OsString::from_vec(word.to_vec()));
    match cli::parse([OsString::from("tcptop")].into_iter().chain(words)) {
        Err(error) => {
            assert!(!error.render().to_string().trim().is_empty());
            assert!(matches!(error.exit_code(), 0 | 2));
        }
        Ok(Task::Stream(mut settings)) => {
            let times = &settings.times;
            assert!(!times.interval.is_zero() && times.intervals() != Some(0));
            output::needs(&settings);
            // No file is written.
            settings.more.ready_file = None;
            let mut data = Unstructured::new(script::SAMPLE);
            let strings = Strings::make(&mut data);
            let script = Script::make(&mut data).unwrap_or_else(|error| panic!("{error}"));
            let narrow = settings.output.raw && settings.output.format() == FormatName::Lines;
            report(*settings, narrow, strings, script);
        }
        Ok(_) => {}
    }
}

/// Tries a property with the inputs of its corpus, and with changed ones.
#[cfg(test)]
pub(crate) fn try_it(name: &str, property: fn(&[u8])) {
    use proptest::prelude::*;
    use proptest::sample::Index;
    use proptest::test_runner::{Config, TestRunner};

    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = std::fs::read_dir(&folder).expect("a corpus");
    let corpus: Vec<Vec<u8>> =
        entries.map(|entry| std::fs::read(entry.expect("a file").path()).expect("bytes")).collect();
    assert!(!corpus.is_empty());
    corpus.iter().for_each(|input| property(input));

    let change = (any::<Index>(), any::<u8>(), 0..4usize);
    let changes = proptest::collection::vec(change, 0..12);
    let changed =
        (any::<Index>(), any::<Index>(), changes).prop_map(move |(one, other, changes)| {
            let mut input = one.get(&corpus).clone();
            for (place, byte, kind) in changes {
                let place = if input.is_empty() { 0 } else { place.index(input.len()) };
                match kind {
                    0 if !input.is_empty() => input[place] = byte,
                    1 if !input.is_empty() => drop(input.remove(place)),
                    2 => input.insert(place, byte),
                    _ => {
                        let other = other.get(&corpus);
                        input.truncate(place);
                        input.extend(&other[place.min(other.len())..]);
                    }
                }
            }
            input
        });
    let config = Config { cases: 300, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&changed, |input| {
        property(&input);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_keeps_everything_once() {
        try_it("table", table);
    }

    #[test]
    fn formats_add_up() {
        try_it("formats", formats);
    }

    #[test]
    fn arguments_are_refused_or_work() {
        try_it("arguments", arguments);
    }
}
