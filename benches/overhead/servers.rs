//! Real servers and their benchmark clients, if they are installed.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::load::{Load, Run};
use crate::machine::{self, Cpu};
use crate::process::{Process, which};

/// Connections of the benchmark clients.
const CONNECTIONS: &str = "50";

/// The ports lie below the ephemeral ones.
const REDIS: u16 = 1998;
const NGINX: u16 = 1997;

/// `redis-benchmark`, GET, against `redis-server`.
pub struct Redis {
    server: Server,
    /// Requests per second, from which the number of requests of a run is computed.
    speed: f64,
}

impl Redis {
    /// `Err` with the reason where it is not installed.
    pub fn start() -> Result<Result<Redis, String>> {
        if let Some(missing) = missing("redis-benchmark") {
            return Ok(Err(missing));
        }
        let server = match redis()? {
            Ok(server) => server,
            Err(missing) => return Ok(Err(missing)),
        };
        let mut redis = Redis { server, speed: 20_000.0 };
        // A first run measures the speed of this machine.
        redis.run(Duration::from_millis(100))?;
        Ok(Ok(redis))
    }
}

impl Load for Redis {
    fn run(&mut self, time: Duration) -> Result<Run> {
        let requests = (self.speed * time.as_secs_f64()).max(1000.0) as u64;
        let mut command = Command::new("redis-benchmark");
        command.args(["-p", &REDIS.to_string(), "-c", CONNECTIONS, "-t", "get", "--csv"]);
        command.args(["-n", &requests.to_string()]);
        let (output, mut run) = self.server.with_client(command)?;
        // "test","rps",... then "GET","123456.78",...
        let speed = output
            .lines()
            .find_map(|line| line.strip_prefix("\"GET\",\"")?.split('"').next()?.parse().ok());
        self.speed = speed.with_context(|| format!("failed to parse redis-benchmark: {output}"))?;
        run.operations = requests;
        run.attempts = requests;
        // By the client's own clock, which leaves out the start and end of its process.
        run.wall = Duration::from_secs_f64(requests as f64 / self.speed);
        Ok(run)
    }
}

/// `wrk` against nginx with an answer of two bytes.
pub struct Nginx {
    server: Server,
}

const NGINX_CONFIGURATION: &str = "
daemon off; master_process off; error_log stderr crit; pid PATH/pid;
events { worker_connections 1024; }
http {
    access_log off; keepalive_requests 100000000;
    client_body_temp_path PATH/a; proxy_temp_path PATH/b; fastcgi_temp_path PATH/c;
    uwsgi_temp_path PATH/d; scgi_temp_path PATH/e;
    server { listen 127.0.0.1:PORT; location / { return 200 ok; } }
}
";

impl Nginx {
    /// `Err` with the reason where it is not installed.
    pub fn start() -> Result<Result<Nginx, String>> {
        if let Some(missing) = missing("wrk") {
            return Ok(Err(missing));
        }
        Ok(nginx()?.map(|server| Nginx { server }))
    }
}

impl Load for Nginx {
    fn run(&mut self, time: Duration) -> Result<Run> {
        // wrk knows whole seconds only.
        let seconds = time.as_secs_f64().ceil().max(1.0);
        let mut command = Command::new("wrk");
        command.args(["-t", "1", "-c", CONNECTIONS, "-d", &format!("{seconds}s")]);
        command.arg(format!("http://127.0.0.1:{NGINX}/"));
        let (output, mut run) = self.server.with_client(command)?;
        // "  123456 requests in 1.00s, 12.34MB read"
        let words: Vec<&str> = output
            .lines()
            .find(|line| line.contains(" requests in "))
            .map_or(Vec::new(), |line| line.split_ascii_whitespace().collect());
        let parsed = words
            .first()
            .and_then(|word| word.parse().ok())
            .zip(words.get(3).and_then(|word| word.strip_suffix("s,")?.parse::<f64>().ok()));
        let (requests, seconds) =
            parsed.with_context(|| format!("failed to parse wrk: {output}"))?;
        if output.contains("Non-2xx") || output.contains("Socket errors") {
            bail!("nginx did not answer in order: {output}");
        }
        run.operations = requests;
        run.attempts = requests;
        run.wall = Duration::from_secs_f64(seconds);
        Ok(run)
    }
}

/// `redis-server`; `Err` with the reason where it is not installed.
pub fn redis() -> Result<Result<Server, String>> {
    if let Some(missing) = missing("redis-server") {
        return Ok(Err(missing));
    }
    let directory = TempDir::new().context("failed to make a directory")?;
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.args(["--port", &REDIS.to_string()]).arg("--dir").arg(directory.path());
    Server::start(command, REDIS, directory).map(Ok)
}

/// nginx with an answer of two bytes; `Err` with the reason where it is not installed.
pub fn nginx() -> Result<Result<Server, String>> {
    let Some(nginx) = which("nginx") else {
        return Ok(Err("nginx is not installed".to_owned()));
    };
    let directory = TempDir::new().context("failed to make a directory")?;
    let path = directory.path().to_str().context("an odd name of a directory")?;
    let file = directory.path().join("nginx.conf");
    let text = NGINX_CONFIGURATION.replace("PATH", path).replace("PORT", &NGINX.to_string());
    fs::write(&file, text).context("failed to write nginx's configuration")?;
    let mut command = Command::new(nginx);
    command.arg("-p").arg(path).arg("-c").arg(&file).args(["-e", "stderr"]);
    Server::start(command, NGINX, directory).map(Ok)
}

/// A server on the second processor; its clients get the first.
pub struct Server {
    pub port: u16,
    process: Process,
    cpus: [usize; 2],
    _directory: TempDir,
}

impl Server {
    fn start(mut command: Command, port: u16, directory: TempDir) -> Result<Server> {
        let cpus = machine::processors()?;
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let process = Process::spawn(command, Some(cpus[1]))?;
        process.await_that("open port", || {
            Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())
        })?;
        Ok(Server { port, process, cpus, _directory: directory })
    }

    /// Its CPU time so far, to be passed to [`Server::cpu_since`].
    pub fn cpu(&self) -> Result<(Cpu, Duration)> {
        let server = self.process.id();
        Ok((Cpu::of_process(server)?, machine::exact_cpu(server)?))
    }

    /// The sum is exact, the split into user and system time is not.
    pub fn cpu_since(&self, (before, exact_before): (Cpu, Duration)) -> Result<Cpu> {
        let (now, exact) = self.cpu()?;
        let mut cpu = now.since(before);
        cpu.user = (exact - exact_before).saturating_sub(cpu.system);
        Ok(cpu)
    }

    /// Runs a client to its end. Returns its output, and the CPU time of client and server.
    fn with_client(&self, mut command: Command) -> Result<(String, Run)> {
        let output = tempfile::NamedTempFile::new().context("failed to make a file")?;
        command.stdin(Stdio::null()).stdout(output.reopen()?);
        let (start, before) = (Instant::now(), self.cpu()?);
        let mut client = Process::spawn(command, Some(self.cpus[0]))?;
        let (status, client) = client.finish()?;
        let text = fs::read_to_string(output.path()).context("failed to read a file")?;
        if !status.success() {
            bail!("a benchmark client failed ({status}): {text}");
        }
        let cpu = self.cpu_since(before)? + client;
        Ok((text, Run { wall: start.elapsed(), cpu, ..Run::default() }))
    }
}

fn missing(program: &str) -> Option<String> {
    which(program).is_none().then(|| format!("{program} is not installed"))
}
