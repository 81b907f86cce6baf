//! tcptop's counts agree with what other programs report that they sent and received.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::common::sock::{self, Ends, Family};
use crate::common::tcptop::{Output, Row, Tcptop};
use crate::common::udp::{self, QUICK, Totals, wait_totals};
use crate::common::wait::until_true;
use crate::live::{Test, left_out, sharing, test};

use super::Provider;

pub fn tests() -> Vec<Test> {
    vec![sharing("udp::dns", dns), test("udp::iperf", iperf)]
}

/// Killed when dropped.
struct Program(Child);

impl Program {
    /// `None` where it is not installed.
    fn start(command: &mut Command) -> Option<Program> {
        match command.stdin(Stdio::null()).spawn() {
            Ok(child) => Some(Program(child)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => panic!("{command:?}: {error}"),
        }
    }

    /// Waits until the program ends by itself. Returns its output.
    fn output(&mut self) -> String {
        let mut text = String::new();
        self.0.stdout.take().expect("piped").read_to_string(&mut text).expect("UTF-8");
        assert!(self.0.wait().expect("wait").success(), "{text}");
        text
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The sums over the newest row of each flow that satisfies the condition.
fn sum_flows(output: &Output, condition: impl Fn(&Row) -> bool) -> Totals {
    let last: HashMap<Ends, &Row> = output.rows.iter().map(|row| (row.ends, row)).collect();
    let mut sum = Totals::default();
    last.values().filter(|row| condition(row)).for_each(|row| sum += Totals::of(row));
    sum
}

/// dig asks dnsmasq: the flows have the sizes that dig reports.
fn dns() {
    let port = udp::bind((sock::loopback(1), 0).into()).local_addr().expect("bound").port();
    let address = SocketAddr::from((sock::loopback(1), port));
    let mut command = Command::new("dnsmasq");
    command
        .args(["--keep-in-foreground", "--no-daemon", "--conf-file=/dev/null", "--no-resolv"])
        .args(["--no-hosts", "--bind-interfaces", "--pid-file=", "--user=root"])
        .args(["--address=/test/192.0.2.1", "--quiet-dhcp"])
        .arg(format!("--port={port}"))
        .arg(format!("--listen-address={}", address.ip()))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let tcptop = Tcptop::share(&QUICK);
    let Some(server) = Program::start(&mut command) else {
        tcptop.finish();
        return left_out("dns", "dnsmasq is not installed");
    };
    until_true("dnsmasq to listen", || {
        let text = fs::read_to_string("/proc/net/udp").expect("/proc is mounted");
        text.contains(&format!(":{port:04X} "))
    });
    let questions = tempfile::NamedTempFile::new().expect("a file");
    let names = (1..=20).map(|i| format!("{}.test {}\n", "n".repeat(i), ["A", "TXT"][i % 2]));
    fs::write(questions.path(), names.collect::<String>()).expect("write");
    let mut command = Command::new("dig");
    command
        .arg(format!("@{}", address.ip()))
        .args(["-p", &port.to_string(), "+qr", "+notcp", "+tries=1", "+time=9", "-f"])
        .arg(questions.path())
        .env("HOME", "/nonexistent")
        .stdout(Stdio::piped());
    let Some(mut client) = Program::start(&mut command) else {
        tcptop.finish();
        return left_out("dns", "dig is not installed");
    };
    let text = client.output();
    let sizes = |label: &str| -> Vec<u64> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(label));
        lines.map(|size| size.trim().parse().expect("a number")).collect()
    };
    let (queries, answers) = (sizes(";; QUERY SIZE:"), sizes(";; MSG SIZE  rcvd:"));
    assert_eq!((queries.len(), answers.len()), (20, 20), "{text}");
    let of_dig = Totals {
        bytes_in: answers.iter().sum(),
        bytes_out: queries.iter().sum(),
        packets_in: 20,
        packets_out: 20,
    };
    let (dig, dnsmasq) = (client.0.id(), server.0.id());
    tcptop.wait("flows of the whole exchange", |output| {
        let of_client = sum_flows(output, |row| row.ends.remote == address);
        let of_server = sum_flows(output, |row| row.ends.local == address);
        (of_client == of_dig && of_server == of_dig.flipped()).then_some(())
    });
    let output = tcptop.finish();
    for row in &output.rows {
        if row.ends.remote == address {
            assert_eq!((row.pid, &*row.process), (Some(dig), "dig"), "{row:?}");
        } else if row.ends.local == address && (row.packets_out > 0 || row.pid.is_some()) {
            // The newest interval may not have the last received datagrams yet.
            assert_eq!((row.pid, &*row.process), (Some(dnsmasq), "dnsmasq"), "{row:?}");
        }
    }
}

/// iperf3 reports how many datagrams it sent and received, and their size.
fn iperf() {
    let port = sock::listen(Family::V4).1.port();
    let address = SocketAddr::from((sock::loopback(1), port));
    let command = |role: &[&str]| {
        let mut command = Command::new("iperf3");
        command.args(role).args(["-p", &port.to_string(), "-J"]).stdout(Stdio::piped());
        command
    };
    let tcptop = Tcptop::start(&["--raw", "--interval", "0.1", "--udp-timeout", "300"]);
    let host = address.ip().to_string();
    let Some(mut server) = Program::start(&mut command(&["-s", "-1", "-B", &host])) else {
        return left_out("iperf", "iperf3 is not installed");
    };
    until_true("iperf3 to listen", || {
        let text = fs::read_to_string("/proc/net/tcp").expect("/proc is mounted");
        text.lines().any(|line| line.contains(&format!(":{port:04X} 00000000:0000 0A")))
    });
    let arguments = ["-c", &host, "-u", "-b", "100M", "-l", "1400", "-t", "1"];
    let mut client = Program::start(&mut command(&arguments)).expect("installed");
    let (text_client, text_server) = (client.output(), server.output());
    let read = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    let (of_client, of_server) = (read(&text_client), read(&text_server));
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value}: {text_client}"));
    let sent = number(&of_client["end"]["sum_sent"]["packets"]);
    let bytes = number(&of_client["end"]["sum_sent"]["bytes"]);
    assert_eq!(bytes, 1400 * sent);
    // The datagrams that the server knows of, without those that it missed.
    let of_server = &of_server["end"]["sum"];
    let got = number(&of_server["packets"]) - number(&of_server["lost_packets"]);
    let local = number(&of_client["start"]["connected"][0]["local_port"]) as u16;
    // Before the test each side sends one datagram of 4 bytes.
    let expected =
        Totals { bytes_in: 4, bytes_out: bytes + 4, packets_in: 1, packets_out: sent + 1 };
    let out = tcptop.wait("flow of the client", |output| {
        output
            .rows
            .iter()
            .find(|row| {
                row.state == "UDP"
                    && row.ends.remote == address
                    && row.ends.local.port() == local
                    && Totals::of(row) == expected
            })
            .cloned()
    });
    assert_eq!((out.pid, &*out.process), (Some(client.0.id()), "iperf3"));
    let arrived = match Provider::of(&tcptop) {
        Provider::CgroupSkb => expected.flipped(),
        Provider::Entry => {
            Totals { bytes_in: 1400 * got + 4, packets_in: got + 1, ..expected.flipped() }
        }
    };
    let row = wait_totals(&tcptop, out.ends.flipped(), arrived);
    assert_eq!((row.pid, &*row.process), (Some(server.0.id()), "iperf3"));
    tcptop.finish();
}
