//! The costs that grow with the number of sockets: a tick, the start, the memory.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::idle::{Sockets, connections};
use crate::machine;
use crate::options::Options;
use crate::process::Process;
use crate::reexec;
use crate::report::Report;
use crate::role::{self, Role};
use crate::statistics::median;

/// Sockets with traffic in every interval.
const ACTIVE: usize = 1_000;

/// A smaller number, to compute the cost of an active one from the difference.
const FEW: usize = 100;

/// Kernel memory that a socket with its descriptor takes, rounded up.
const SOCKET_BYTES: u64 = 6 * 1024;

/// Below the ephemeral ports and those of the idle sockets.
const PORT: u16 = 1024;

pub fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let size = fs::metadata(&options.tcptop).context("failed to look at tcptop")?.len();
    report.add_figure("size of the binary", format!("{} KiB", size / 1024), "", &[size as f64]);
    idle_host(options, report)?;
    start_to_first_row(options, report)?;
    memory(options, report)?;
    ticks(options, report)
}

fn interval(options: &Options) -> Duration {
    if options.smoke { Duration::from_millis(100) } else { Duration::from_secs(1) }
}

fn idle_host(options: &Options, report: &mut Report) -> Result<()> {
    let tcptop = Follower::start(options, &[])?;
    // This sleep is the time over which it is measured, not a wait for something.
    let time = interval(options) * u32::try_from(options.ticks)?;
    tcptop.await_header()?;
    let (start, before) = (Instant::now(), tcptop.cpu()?);
    thread::sleep(time);
    let share = (tcptop.cpu()? - before).as_secs_f64() / start.elapsed().as_secs_f64();
    tcptop.stop()?;
    let how = format!("of a core, over {} intervals of {:?}", options.ticks, interval(options));
    report.add_figure("idle host", format!("{:.3} %", 100.0 * share), &how, &[share]);
    Ok(())
}

fn start_to_first_row(options: &Options, report: &mut Report) -> Result<()> {
    let sockets = Sockets::open(100)?;
    let times: Vec<f64> = (0..options.pairs)
        .map(|_| {
            let start = Instant::now();
            let mut tcptop = Follower::start(options, &[])?;
            tcptop.next_interval()?;
            let time = start.elapsed();
            tcptop.stop()?;
            Ok(time.as_secs_f64() * 1000.0)
        })
        .collect::<Result<_>>()?;
    sockets.close()?;
    let how = format!("100 connections, median of {}", options.pairs);
    let value = format!("{:.0} ms", median(times.iter().copied()));
    report.add_figure("start to first row", value, &how, &times);
    Ok(())
}

fn memory(options: &Options, report: &mut Report) -> Result<()> {
    let mut resident = Vec::new();
    for count in [100, 10_000] {
        let sockets = Sockets::open(count)?;
        let mut tcptop = Follower::start(options, &["--all"])?;
        for _ in 0..3 {
            tcptop.next_interval()?;
        }
        let bytes = machine::memory(tcptop.process.id(), "VmRSS")?;
        tcptop.stop()?;
        sockets.close()?;
        report.add_figure(
            &format!("resident memory with {count} connections"),
            format!("{} KiB", bytes / 1024),
            "VmRSS after three intervals",
            &[bytes as f64],
        );
        resident.push(bytes as f64);
    }
    let each = (resident[1] - resident[0]) / 9_900.0;
    report.add_figure("resident memory per connection", format!("{each:.0} bytes"), "", &[each]);
    kernel_memory(options, report)
}

/// What the kernel takes for the storage that the programs attach to each socket.
fn kernel_memory(options: &Options, report: &mut Report) -> Result<()> {
    let count = if options.smoke { 1_000 } else { 100_000 };
    let sockets = Sockets::open(count)?;
    let each: Vec<f64> = (0..options.ticks.min(3))
        .map(|_| {
            let mut tcptop = Follower::start(options, &["--all"])?;
            tcptop.next_interval()?;
            tcptop.next_interval()?;
            let with = machine::host_memory("Slab")?;
            tcptop.stop()?;
            // The kernel frees it a grace period later, and this is the time that it gets,
            // not a wait for something.
            thread::sleep(interval(options));
            Ok((with as f64 - machine::host_memory("Slab")? as f64) / count as f64)
        })
        .collect::<Result<_>>()?;
    sockets.close()?;
    report.add_figure(
        "kernel memory per tracked socket",
        format!("{:.0} bytes", median(each.iter().copied())),
        &format!("Slab of /proc/meminfo, with {count} sockets and after tcptop has ended"),
        &each,
    );
    Ok(())
}

fn ticks(options: &Options, report: &mut Report) -> Result<()> {
    let smallest = options.sizes.iter().copied().min().unwrap_or_default();
    let mut base = None;
    for &size in &options.sizes {
        if size as u64 * SOCKET_BYTES > machine::host_memory("MemAvailable")? / 10 * 8 {
            report.leave_out(&format!("{size} idle sockets"), "not enough memory");
            continue;
        }
        let idle = Sockets::open(size).with_context(|| format!("{size} idle sockets"))?;
        let active = Active::start(options, ACTIVE)?;
        let name = format!("{size} idle and {ACTIVE} active sockets");
        let lines = tick(options, report, &format!("tick, {name}"), &[])?;
        tick(options, report, &format!("tick with CSV, {name}"), &["--format", "csv"])?;
        let (small, of_small) = *base.get_or_insert((size, lines));
        if size > small {
            let each = (lines - of_small) / (size - small) as f64;
            let how = format!("more than with {small} idle, by socket");
            report.add_figure(
                &format!("tick per idle socket, {size}"),
                format!("{each:.0} ns"),
                &how,
                &[each],
            );
        }
        ss(options, report, size + ACTIVE)?;
        active.0.end()?;
        if size == smallest {
            let few = Active::start(options, FEW)?;
            let name = format!("tick, {size} idle and {FEW} active sockets");
            let with_few = tick(options, report, &name, &[])?;
            few.0.end()?;
            let each = (lines - with_few) / (ACTIVE - FEW) as f64;
            let how = format!("more than with {FEW} active, by socket");
            report.add_figure("tick per active socket", format!("{each:.0} ns"), &how, &[each]);
        }
        idle.close()?;
    }
    Ok(())
}

/// Nanoseconds of CPU time, user and kernel, from one interval to the next.
fn tick(options: &Options, report: &mut Report, name: &str, arguments: &[&str]) -> Result<f64> {
    let mut tcptop = Follower::start(options, arguments)?;
    // Skip the listing, and the interval that begins while the listing is still written.
    tcptop.next_interval()?;
    tcptop.next_interval()?;
    let mut before = tcptop.cpu()?;
    let mut ticks = Vec::new();
    for _ in 0..options.ticks {
        tcptop.next_interval()?;
        let now = tcptop.cpu()?;
        ticks.push((now - before).as_nanos() as f64);
        before = now;
    }
    tcptop.stop()?;
    let nanoseconds = median(ticks.iter().copied());
    let how = format!("CPU time, median of {} intervals", ticks.len());
    report.add_figure(name, format!("{:.3} ms", nanoseconds / 1e6), &how, &ticks);
    Ok(nanoseconds)
}

fn ss(options: &Options, report: &mut Report, sockets: usize) -> Result<()> {
    let runs = options.ticks.min(3);
    let each: Vec<f64> = (0..runs)
        .map(|_| {
            let mut command = Command::new("ss");
            command.arg("-tin").stdout(Stdio::null());
            let (status, cpu) = Process::spawn(command, None)?.finish()?;
            if !status.success() {
                bail!("ss failed: {status}");
            }
            Ok(cpu.total().as_nanos() as f64 / sockets as f64)
        })
        .collect::<Result<_>>()?;
    let value = format!("{:.0} ns", median(each.iter().copied()));
    let how = format!("CPU time, median of {runs} runs");
    report.add_figure(&format!("ss -tin per socket, {sockets} sockets"), value, &how, &each);
    Ok(())
}

/// Sockets with traffic four times per interval.
struct Active(Role);

impl Active {
    fn start(options: &Options, count: usize) -> Result<Active> {
        let period = interval(options).as_millis() / 4;
        let role =
            Role::start(&["active", &PORT.to_string(), &count.to_string(), &period.to_string()])?;
        Ok(Active(role))
    }
}

/// The role that sends 64 bytes over each of its connections every so often.
pub fn play_active(port: u16, sockets: usize, period: Duration) -> Result<()> {
    let mut open = connections(port, sockets)?;
    reexec::say("ready")?;
    let mut message = [0; 64];
    while !role::end_requested(period)? {
        for (client, server) in &mut open {
            client.write_all(&message)?;
            server.read_exact(&mut message)?;
        }
    }
    Ok(())
}

/// A tcptop whose output is read as it comes.
struct Follower {
    process: Process,
    stdout: ChildStdout,
    buffer: Vec<u8>,
    /// Bytes that were read but not yet processed.
    unread: std::ops::Range<usize>,
    /// The beginning of the line that is being read.
    start: Vec<u8>,
    /// The time of the interval that is being read.
    time: Vec<u8>,
}

/// The number of characters at the beginning of a line that identify its interval.
const TIME: usize = "2026-01-01T00:00:00.000".len();

impl Follower {
    fn start(options: &Options, arguments: &[&str]) -> Result<Follower> {
        let mut command = Command::new(&options.tcptop);
        command.args(&options.arguments).args(arguments);
        command.arg("--interval").arg(interval(options).as_secs_f64().to_string());
        if !arguments.contains(&"csv") {
            command.arg("--timestamp");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(Stdio::null());
        let mut process = Process::spawn(command, None)?;
        let stdout = process.child().stdout.take().context("stdout is piped")?;
        Ok(Follower {
            process,
            stdout,
            buffer: vec![0; 1 << 16],
            unread: 0..0,
            start: Vec::new(),
            time: Vec::new(),
        })
    }

    fn cpu(&self) -> Result<Duration> {
        machine::exact_cpu(self.process.id())
    }

    /// Waits for any output.
    fn await_header(&self) -> Result<()> {
        self.process.await_input(self.stdout.as_fd(), "output")
    }

    /// Reads up to the first row of the next interval.
    fn next_interval(&mut self) -> Result<()> {
        loop {
            for index in self.unread.clone() {
                let byte = self.buffer[index];
                if byte == b'\n' {
                    self.start.clear();
                } else if self.start.len() < TIME {
                    self.start.push(byte);
                    let whole = self.start.len() == TIME && self.start[0].is_ascii_digit();
                    if whole && self.start != self.time {
                        self.time.clone_from(&self.start);
                        self.unread.start = index + 1;
                        return Ok(());
                    }
                }
            }
            self.process.await_input(self.stdout.as_fd(), "row")?;
            let length = self.stdout.read(&mut self.buffer).context("failed to read tcptop")?;
            if length == 0 {
                bail!("tcptop ended early");
            }
            self.unread = 0..length;
        }
    }

    fn stop(mut self) -> Result<()> {
        self.process.interrupt()?;
        io::copy(&mut self.stdout, &mut io::sink()).context("failed to read tcptop")?;
        let (status, _) = self.process.finish()?;
        if !status.success() {
            bail!("tcptop failed: {status}");
        }
        Ok(())
    }
}
