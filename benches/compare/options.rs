//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(name = "compare", about = "tcptop beside other tools, on the same load")]
pub struct Options {
    #[command(subcommand)]
    pub task: Task,
}

#[derive(Subcommand)]
pub enum Task {
    /// Run the tools, and leave a result
    RunTools(Run),
    /// Make a document from results
    WriteDocument {
        /// The document
        #[arg(long)]
        output: PathBuf,
        /// Results of `run-tools`, or the output of a guest that contains one. What was measured
        /// again on a kernel replaces what was measured before.
        #[arg(required = true)]
        results: Vec<PathBuf>,
    },
}

impl Task {
    /// Whether the word is one. Other words are for the tests.
    pub fn is_one(word: &str) -> bool {
        ["run-tools", "write-document"].contains(&word)
    }
}

#[derive(Args, Clone)]
pub struct Run {
    /// Only these tools
    #[arg(long, value_delimiter = ',')]
    pub tools: Vec<String>,
    /// Only these loads
    #[arg(long, value_delimiter = ',')]
    pub cases: Vec<String>,
    /// Short connections
    #[arg(long, default_value_t = 20_000)]
    pub connections: u32,
    /// Peers of the UDP server
    #[arg(long, default_value_t = 1_000)]
    pub peers: u32,
    /// Pairs of runs, off then on, to measure costs with; 0 for none
    #[arg(long, default_value_t = 5)]
    pub pairs: usize,
    /// Length of each of these runs, in seconds
    #[arg(long, default_value_t = 0.5)]
    pub seconds: f64,
    /// How long a connection rests before and after its traffic, in seconds: a tool that
    /// looks once a second must get a chance
    #[arg(long, default_value_t = 2.2)]
    pub rest: f64,
    /// A directory in which to keep what the tools have printed
    #[arg(long)]
    pub keep: Option<PathBuf>,
    /// Where the result goes; - for stdout
    #[arg(long, default_value = "-")]
    pub result: PathBuf,
}

impl Run {
    pub fn pause(&self) -> Duration {
        Duration::from_secs_f64(self.rest)
    }

    pub fn wants(chosen: &[String], name: &str) -> bool {
        chosen.is_empty() || chosen.iter().any(|one| one == name)
    }
}
