//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
usage: overhead [options]
  --smoke             one short pair of everything, and fail where something is wrong
  --pairs N           pairs of runs, off then on (default 9)
  --seconds S         length of a run (default 1)
  --loads A,B         only these loads (default: all)
  --subjects A,B      only these subjects (default: all)
  --sizes N,N         idle sockets to measure a tick with, 0 for none
                      (default 1000,10000,100000,1000000)
  --ticks N           ticks to measure for each size (default 10)
  --tcptop FILE       the binary to measure (default: the one built along)
  --arguments 'A B'   its arguments (default: none)
  --output DIRECTORY  where the tables go (default: only printed)
  --list              name loads and subjects";

#[derive(Clone, Debug)]
pub struct Options {
    pub smoke: bool,
    pub pairs: usize,
    pub time: Duration,
    /// Empty for all.
    pub loads: Vec<String>,
    /// Empty for all.
    pub subjects: Vec<String>,
    pub sizes: Vec<usize>,
    pub ticks: usize,
    pub tcptop: PathBuf,
    pub arguments: Vec<String>,
    pub output: Option<PathBuf>,
}

impl Options {
    /// Parses the command line; the names of loads and subjects must be among these. `None`
    /// if the answer (help) was printed already.
    pub fn parse(
        arguments: &[String],
        loads: &[&str],
        subjects: &[&str],
    ) -> Result<Option<Options>> {
        let mut options = Options {
            smoke: false,
            pairs: 9,
            time: Duration::from_secs(1),
            loads: Vec::new(),
            subjects: Vec::new(),
            sizes: vec![1_000, 10_000, 100_000, 1_000_000],
            ticks: 10,
            tcptop: PathBuf::from(env!("CARGO_BIN_EXE_tcptop")),
            arguments: Vec::new(),
            output: None,
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value"));
            match word.as_str() {
                "--smoke" => {
                    options.smoke = true;
                    options.pairs = 1;
                    options.time = Duration::from_millis(100);
                    options.sizes = vec![1_000, 2_000];
                    options.ticks = 3;
                }
                "--pairs" => options.pairs = number(value()?)?,
                "--seconds" => {
                    let seconds: f64 = number(value()?)?;
                    if !(0.01..=60.0).contains(&seconds) {
                        bail!("--seconds: 0.01 to 60");
                    }
                    options.time = Duration::from_secs_f64(seconds);
                }
                "--loads" => options.loads = list(value()?),
                "--subjects" => options.subjects = list(value()?),
                "--sizes" => {
                    options.sizes =
                        list(value()?).iter().map(|word| number(word)).collect::<Result<_>>()?;
                    options.sizes.retain(|&size| size > 0);
                }
                "--ticks" => options.ticks = number(value()?)?,
                "--tcptop" => options.tcptop = PathBuf::from(value()?),
                "--arguments" => {
                    options.arguments =
                        value()?.split_ascii_whitespace().map(str::to_owned).collect();
                }
                "--output" => options.output = Some(PathBuf::from(value()?)),
                "--list" => {
                    println!("loads: {}", loads.join(" "));
                    println!("subjects: {}", subjects.join(" "));
                    return Ok(None);
                }
                "-h" | "--help" => {
                    println!("{USAGE}");
                    return Ok(None);
                }
                // cargo passes this to every bench target.
                "--bench" => {}
                other => bail!("unknown option {other}; --help lists them"),
            }
        }
        if options.pairs == 0 || options.ticks == 0 {
            bail!("nothing to measure: --pairs and --ticks start at 1");
        }
        known("load", &options.loads, loads)?;
        known("subject", &options.subjects, subjects)?;
        Ok(Some(options))
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| anyhow::anyhow!("no number: {text}"))
}

fn list(text: &str) -> Vec<String> {
    text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn known(what: &str, asked: &[String], names: &[&str]) -> Result<()> {
    match asked.iter().find(|name| !names.contains(&name.as_str())) {
        Some(name) => bail!("no {what} is named {name}: {}", names.join(" ")),
        None => Ok(()),
    }
}
