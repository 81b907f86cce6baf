//! The machine: processors, accounting, limits, a network of our own.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, unshare};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::time::TimeValLike;
use nix::time::ClockId;
use nix::unistd::Pid;

/// Descriptors that a process may have.
const DESCRIPTORS: u64 = 20_000;

/// The processors that the two ends of a load are pinned to: the first two that this process
/// may use. If there is only one, the ends share it.
pub fn processors() -> Result<[usize; 2]> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("failed to read the affinity")?;
    let mut usable = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false));
    let first = usable.next().context("no processor")?;
    Ok([first, usable.next().unwrap_or(first)])
}

/// Pins the calling thread.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

pub fn limit_descriptors() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("failed to read the limits")?;
    let limit = hard.min(DESCRIPTORS);
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit).context("failed to limit the descriptors")
}

/// Moves into a network namespace that has only a loopback device, with settings that keep
/// a load the same from its first second to its last:
/// * no TIME_WAIT sockets, of which a minute of churn would leave a million; sockets wait
///   for the peer's FIN themselves, so that every connection ends in order;
/// * the kernel keeps no metrics of destinations;
/// * backlogs and local ports for a thousand connections at a time.
pub fn own_network() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("failed to make a network namespace")?;
    raise_loopback().context("failed to raise the loopback device")?;
    for (name, value) in [
        ("net/ipv4/tcp_max_tw_buckets", "0"),
        ("net/ipv4/tcp_fin_timeout", "120"),
        ("net/ipv4/tcp_no_metrics_save", "1"),
        ("net/ipv4/ip_local_port_range", "2048 65001"),
        ("net/core/somaxconn", "65535"),
    ] {
        let path = Path::new("/proc/sys").join(name);
        fs::write(&path, value).with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}

fn raise_loopback() -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq with name and flags, which are set.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// CPU time. The sum is exact; on most kernels its split into user and system time comes
/// from the timer's samples.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    pub user: Duration,
    pub system: Duration,
}

impl Cpu {
    pub fn total(&self) -> Duration {
        self.user + self.system
    }

    /// CPU time of the calling thread so far.
    pub fn of_thread() -> io::Result<Cpu> {
        let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
        let duration = |time: nix::sys::time::TimeVal| {
            Duration::from_micros(time.num_microseconds().unsigned_abs())
        };
        Ok(Cpu { user: duration(usage.user_time()), system: duration(usage.system_time()) })
    }

    /// CPU time of a running process so far: all its threads, in ticks of 10 ms.
    pub fn of_process(pid: u32) -> Result<Cpu> {
        Stat::read(pid)?.times(OWN)
    }

    pub fn since(self, before: Cpu) -> Cpu {
        Cpu {
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
        }
    }
}

impl std::ops::Add for Cpu {
    type Output = Cpu;
    fn add(self, other: Cpu) -> Cpu {
        Cpu { user: self.user + other.user, system: self.system + other.system }
    }
}

/// The fields of `/proc/PID/stat` from the state on.
struct Stat(Vec<u64>);

/// The index of the user time in these fields; the system time is the next one.
const OWN: usize = 11;
const CHILDREN: usize = 13;

impl Stat {
    fn read(pid: u32) -> Result<Stat> {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
        // The name, in parentheses, can hold anything.
        let (_, rest) = text.rsplit_once(')').with_context(|| format!("failed to parse {path}"))?;
        Ok(Stat(rest.split_ascii_whitespace().map(|word| word.parse().unwrap_or(0)).collect()))
    }

    fn times(&self, first: usize) -> Result<Cpu> {
        let ticks = |index: usize| self.0.get(index).copied().map(ticks_to_time);
        let (user, system) =
            ticks(first).zip(ticks(first + 1)).context("failed to parse /proc/PID/stat")?;
        Ok(Cpu { user, system })
    }
}

fn ticks_to_time(ticks: u64) -> Duration {
    // USER_HZ is 100 on every architecture that Rust runs on.
    Duration::from_millis(ticks * 10)
}

/// CPU time so far of all threads of a process and of the children that it has waited for,
/// in nanoseconds. (The ticks of 10 ms in `/proc/PID/stat` are too coarse for the work of
/// one interval.)
pub fn exact_cpu(pid: u32) -> Result<Duration> {
    let own = ClockId::pid_cpu_clock_id(Pid::from_raw(pid as i32))
        .and_then(ClockId::now)
        .context("failed to read a process's CPU time")?;
    Ok(Duration::from(own) + Stat::read(pid)?.times(CHILDREN)?.total())
}

/// The whole host's time in the kernel, and the time that its hypervisor took away.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostCpu {
    /// System calls, interrupts and softirqs.
    pub system: Duration,
    pub steal: Duration,
}

impl HostCpu {
    pub fn now() -> Result<HostCpu> {
        let text = fs::read_to_string("/proc/stat").context("failed to read /proc/stat")?;
        let fields: Vec<u64> = text
            .lines()
            .next()
            .unwrap_or_default()
            .split_ascii_whitespace()
            .skip(1)
            .filter_map(|word| word.parse().ok())
            .collect();
        // cpu user nice system idle iowait irq softirq steal
        let [_, _, system, _, _, irq, softirq, steal, ..] = fields[..] else {
            bail!("failed to parse /proc/stat");
        };
        Ok(HostCpu { system: ticks_to_time(system + irq + softirq), steal: ticks_to_time(steal) })
    }

    pub fn since(self, before: HostCpu) -> HostCpu {
        HostCpu {
            system: self.system.saturating_sub(before.system),
            steal: self.steal.saturating_sub(before.steal),
        }
    }
}

/// A figure of `/proc/PID/status` in bytes.
pub fn memory(pid: u32, field: &str) -> Result<u64> {
    bytes(&format!("/proc/{pid}/status"), field)
}

/// A figure of `/proc/meminfo` in bytes.
pub fn host_memory(field: &str) -> Result<u64> {
    bytes("/proc/meminfo", field)
}

fn bytes(path: &str, field: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("failed to read {path}"))?;
    let kilobytes: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|value| value.trim().strip_suffix(" kB")?.parse().ok())
        .with_context(|| format!("no {field} in {path}"))?;
    Ok(kilobytes * 1024)
}

/// Facts about the machine that a reader of the numbers needs.
pub fn facts() -> Vec<(&'static str, String)> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let count = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().next().and_then(|line| line.split_ascii_whitespace().nth(1));
    let memory = memory.and_then(|kilobytes| kilobytes.parse::<u64>().ok()).unwrap_or(0);
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    let lockdown = lockdown.split(['[', ']']).nth(1).unwrap_or("none").to_owned();
    vec![
        ("kernel", kernel_release()),
        ("processor", format!("{count} × {model}")),
        ("memory", format!("{} MiB", memory / 1024)),
        ("lockdown", lockdown),
        ("clang", first_line("clang", &["--version"])),
        ("rustc", first_line("rustc", &["--version"])),
        ("commit", commit()),
        ("date", chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)),
    ]
}

pub fn kernel_release() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    text.trim().to_owned()
}

/// Works also for root in a repository of another user.
fn commit() -> String {
    first_line("git", &["-c", "safe.directory=*", "describe", "--always", "--dirty"])
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = output.unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}
