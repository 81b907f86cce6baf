//! `--doctor`: its report is also true of the running tcptop. The tests read from tcptop's
//! descriptors which programs it has loaded, and from the kernel's symbols which
//! tracepoints exist, so that they expect the right thing on every kernel.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use caps::Capability;
use serde_json::Value;

use crate::common::cgroup::Cgroup;
use crate::common::mounts;
use crate::common::sock::{Family, Pair};
use crate::common::tcptop::{Ended, Launch, Tcptop};
use crate::common::udp::{Duo, Totals, wait_totals};
use crate::common::wait::until;

use super::cleanup::programs_of;
use super::privilege::{as_nobody, check_refusal, public_binary};
use super::{Test, left_out, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("doctor::every_signal_works", every_signal_works),
        test("doctor::text_and_json_agree", text_and_json_agree),
        test("doctor::one_step_down", one_step_down),
        test("doctor::attached_but_silent", attached_but_silent),
        test("doctor::ordinary_user", ordinary_user),
    ]
}

const SENDING: &str = "tp_btf/tcp_sendmsg_locked";

/// Every signal with its providers, best first.
const RANKING: [(&str, &[&str]); 4] = [
    ("TCP lifecycle", &["tp_btf/inet_sock_set_state"]),
    ("TCP counters", &["iter/bpf_sk_storage_map"]),
    ("owner", &[SENDING, "tp_btf/sock_send_length", "fentry/tcp_sendmsg", "iter/task_file"]),
    ("UDP", &["fentry/ip_send_skb", "cgroup_skb"]),
];

/// One program of each provider. (The file iterator's program is always loaded, since it
/// also lists the sockets that are older than tcptop.)
const PROGRAMS: [(&str, &str); 7] = [
    ("tp_btf/inet_sock_set_state", "tcp_state"),
    ("iter/bpf_sk_storage_map", "sample"),
    (SENDING, "tcp_sending"),
    ("tp_btf/sock_send_length", "sock_sent"),
    ("fentry/tcp_sendmsg", "tcp_sends"),
    ("fentry/ip_send_skb", "udp_sends_ipv4"),
    ("cgroup_skb", "udp_egress"),
];

const BY_CGROUP: [&str; 2] = ["--without", "fentry/ip_send_skb"];

/// The doctor's report on one signal.
#[derive(Debug, PartialEq)]
struct Finding {
    provider: Option<String>,
    works: bool,
    verdict: String,
    seen: String,
    /// Providers and reasons.
    refused: Vec<(String, String)>,
}

/// A run of the doctor.
#[derive(Debug)]
struct Examined {
    status: i32,
    findings: Vec<Finding>,
}

impl Examined {
    /// The report of root's doctor on this kernel: it runs once for several tests.
    fn of_this_kernel() -> &'static Examined {
        static EXAMINED: OnceLock<Examined> = OnceLock::new();
        EXAMINED.get_or_init(|| Examined::with(&[]))
    }

    fn with(without: &[&str]) -> Examined {
        let arguments = [&["--doctor", "--format", "json"], &without_options(without)[..]].concat();
        Examined::of(&Launch::new(&arguments).spawn().ended())
    }

    fn of(ended: &Ended) -> Examined {
        assert_eq!(ended.stderr, "");
        let [line] = &ended.output.lines[..] else { panic!("{:?}", ended.output.lines) };
        let report: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(report["schema"], 1);
        let signals = report["signals"].as_array().expect("a list");
        let names: Vec<&str> = signals.iter().map(|signal| text(&signal["signal"])).collect();
        assert_eq!(names, RANKING.map(|(name, _)| name));
        let finding = |signal: &Value| Finding {
            provider: signal["provider"].as_str().map(str::to_owned),
            works: signal["works"].as_bool().expect("a boolean"),
            verdict: text(&signal["verdict"]).to_owned(),
            seen: text(&signal["seen"]).to_owned(),
            refused: signal["refused"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|refused| (text(&refused["provider"]).into(), text(&refused["reason"]).into()))
                .collect(),
        };
        let findings: Vec<Finding> = signals.iter().map(finding).collect();
        let status = ended.status.code().expect("an exit");
        assert_eq!(status == 0, findings.iter().all(|finding| finding.works), "{findings:#?}");
        assert!([0, 1].contains(&status));
        for finding in &findings {
            let words = match &*finding.verdict {
                "works" => finding.seen == "ok",
                "missing" => finding.seen.starts_with("cannot show "),
                "untried" => finding.seen.starts_with("not proved, since "),
                "silent" | "wrong" => finding.seen.starts_with("FAILED: attached, but "),
                _ => false,
            };
            assert!(words, "{finding:?}");
            assert_eq!(finding.works, finding.verdict == "works");
            assert_eq!(finding.provider.is_none(), finding.verdict == "missing");
        }
        for (finding, (_, ranking)) in findings.iter().zip(RANKING) {
            finding.check_ranking(ranking);
        }
        Examined { status, findings }
    }

    fn provider(&self, signal: usize) -> Option<&str> {
        self.findings[signal].provider.as_deref()
    }

    /// Whether TCP, and whether UDP, is served.
    fn shows(&self) -> (bool, bool) {
        let served = |signal: usize| self.provider(signal).is_some();
        (served(0) && served(1), served(3))
    }

    /// Checks that tcptop has loaded the programs of these providers and of no others.
    fn check_loaded(&self, tcptop: &Tcptop) {
        let (tcp, _) = self.shows();
        let loaded = programs_of(tcptop.id());
        for (provider, program) in PROGRAMS {
            let chosen = (0..4).any(|signal| self.provider(signal) == Some(provider));
            // Without TCP, providers that serve only TCP are not loaded.
            let expected = chosen && (tcp || RANKING[3].1.contains(&provider));
            assert_eq!(loaded.contains(program), expected, "{provider}: {loaded:?} {self:#?}");
        }
    }
}

impl Finding {
    /// Checks that the providers better than the chosen one were refused, in their order,
    /// each with a reason of one line: the kernel's error, or the option `--without`.
    fn check_ranking(&self, ranking: &[&str]) {
        let place = self.provider.as_ref().map_or(ranking.len(), |chosen| {
            ranking.iter().position(|provider| provider == chosen).expect("one of them")
        });
        let refused: Vec<&str> = self.refused.iter().map(|(provider, _)| &**provider).collect();
        assert_eq!(refused, ranking[..place], "{self:?}");
        for (_, reason) in &self.refused {
            let kernels = ["load: ", "attach: "].iter().any(|word| reason.starts_with(word))
                && reason.contains("(os error ");
            assert!(kernels || reason == "left out by --without", "{self:?}");
            assert_eq!(reason.lines().count(), 1, "{self:?}");
        }
    }

    fn reason(&self, provider: &str) -> Option<&str> {
        self.refused.iter().find(|(refused, _)| refused == provider).map(|(_, reason)| &**reason)
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

fn without_options<'a>(without: &[&'a str]) -> Vec<&'a str> {
    without.iter().flat_map(|provider| ["--without", provider]).collect()
}

/// Root on a kernel that tcptop supports: every signal is served by the best provider that
/// the kernel has, and is proved to work.
fn every_signal_works() {
    let examined = Examined::of_this_kernel();
    assert_eq!(examined.status, 0, "{examined:#?}");
    let symbols = fs::read_to_string("/proc/kallsyms").expect("root may read it");
    let owner = &examined.findings[2];
    for provider in [SENDING, "tp_btf/sock_send_length"] {
        match owner.reason(provider) {
            Some("left out by --without") => continue,
            reason => {
                let tracepoint = provider.replace("tp_btf/", " __traceiter_");
                assert_eq!(reason.is_none(), symbols.contains(&tracepoint), "{owner:?}");
            }
        }
        if owner.provider.as_deref() == Some(provider) {
            break;
        }
    }
    let tcptop = Tcptop::start(&["--interval", "0.1"]);
    examined.check_loaded(&tcptop);
    assert_eq!(tcptop.stderr(), "", "nothing is missing");
    tcptop.finish();
}

fn text_and_json_agree() {
    let Examined { findings, .. } = Examined::of_this_kernel();
    let ended = Launch::new(&["--doctor"]).spawn().ended();
    assert_eq!((ended.status.code(), &*ended.stderr), (Some(0), ""));
    let (facts, lines) = {
        let mut parts = ended.output.lines.split(|line| line.is_empty());
        let mut next = || parts.next().expect("a part");
        (next(), next())
    };
    let mut expected = Vec::new();
    for (Finding { provider, seen, refused, .. }, (signal, _)) in findings.iter().zip(RANKING) {
        let provider = provider.as_deref().unwrap_or("none");
        expected.push(format!("{signal} {provider} {seen}"));
        expected.extend(refused.iter().map(|(provider, why)| format!("not {provider}: {why}")));
    }
    let squeeze = |line: &String| line.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(lines.iter().map(squeeze).collect::<Vec<_>>(), expected);
    let fact = |name: &str| {
        let line = facts.iter().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name}: {facts:?}")).trim()
    };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc is mounted");
    assert_eq!(fact("kernel").split(' ').next(), Some(release.trim()));
    assert_eq!(fact("type information"), "/sys/kernel/btf/vmlinux");
    assert!(fact("capabilities").contains("CAP_BPF CAP_PERFMON"));
    let cgroup = fact("cgroup v2");
    let mounted = mounts::points("cgroup2").iter().any(|point| Path::new(cgroup) == point);
    assert!(mounted || cgroup == "not mounted", "{cgroup}");
    for name in ["lockdown", "unprivileged BPF"] {
        assert!(!fact(name).is_empty());
    }
}

/// Each provider is refused in turn: the next one serves, in the doctor's report and in the
/// running tcptop. If none is left, the other signals are still served.
fn one_step_down() {
    let best = Examined::of_this_kernel();
    for (signal, (name, ranking)) in RANKING.into_iter().enumerate() {
        let mut without: Vec<&str> = Vec::new();
        let mut chosen = best.provider(signal).map(str::to_owned);
        while let Some(refused) = chosen {
            without.extend(ranking.iter().find(|provider| **provider == refused));
            let examined = Examined::with(&without);
            for provider in &without {
                let reason = examined.findings[signal].reason(provider);
                assert_eq!(reason, Some("left out by --without"), "{examined:#?}");
            }
            goes_on(&examined, &without);
            chosen = examined.provider(signal).map(str::to_owned);
            let status = if chosen.is_some() { 0 } else { 1 };
            assert_eq!(examined.status, status, "{name}: {examined:#?}");
        }
        assert!(!without.is_empty(), "{name}: {best:#?}");
    }
}

/// The running tcptop does what the doctor reports: it counts the served protocols exactly,
/// and names each one that is not served in one line.
fn goes_on(examined: &Examined, without: &[&str]) {
    let arguments = [&["--raw", "--interval", "0.1"], &without_options(without)[..]].concat();
    let tcptop = Tcptop::start(&arguments);
    examined.check_loaded(&tcptop);
    let (tcp, udp) = examined.shows();
    let owner = examined.provider(2).is_some();
    let mut missing = BTreeSet::new();
    for (served, words) in [(tcp, "TCP"), (udp, "UDP"), (owner || !tcp, "PID and PROCESS of TCP")] {
        if !served {
            missing.insert(format!(
                "tcptop: cannot show {words}: left out by --without; `tcptop --doctor` tells more"
            ));
        }
    }
    let notices = until("the notices", || {
        let text = tcptop.stderr();
        (text.lines().count() >= missing.len()).then_some(text)
    });
    assert_eq!(notices.lines().map(str::to_owned).collect::<BTreeSet<_>>(), missing);
    assert_eq!(notices.lines().count(), missing.len(), "each once: {notices}");

    let pair = Pair::new(Family::V6);
    pair.exchange(1234, 4321);
    let mut duo = Duo::new(Family::V4, true);
    duo.send(777, 3);
    let ends = pair.ends;
    pair.close();
    let pid = std::process::id();
    if tcp {
        tcptop.wait_closed(&[ends, ends.flipped()]);
    }
    if udp {
        let row = wait_totals(&tcptop, duo.ends, Totals::sent(777 * 3, 3));
        assert_eq!(row.pid, Some(pid));
        wait_totals(&tcptop, duo.ends.flipped(), Totals::received(777 * 3, 3));
    }
    let ended = tcptop.stop(libc::SIGINT);
    ended.check();
    let output = ended.output;
    if tcp {
        let closed = output.the_closed(ends);
        assert_eq!((closed.bytes_in, closed.bytes_out), (4321, 1234), "{without:?}");
        assert_eq!(closed.pid, owner.then_some(pid), "{without:?}");
        let named = output.rows.iter().filter(|row| row.state != "UDP" && row.pid.is_some());
        assert!(owner || named.count() == 0, "{without:?}");
    }
    let of = |udp: bool| output.rows.iter().filter(move |row| (row.state == "UDP") == udp).count();
    assert!(tcp || (of(false) == 0 && output.closed.is_empty()), "{without:?}");
    assert!(udp || of(true) == 0, "{without:?}");
}

/// Only a part of cgroup v2 is visible, as in a container: programs attach there. They see
/// all traffic of a process inside that part, and none of a process outside.
fn attached_but_silent() {
    let Some(mount) = mounts::points("cgroup2").into_iter().next() else {
        return left_out("doctor::attached_but_silent", "cgroup v2 is not mounted");
    };
    let part = match Cgroup::new("tcptop-test") {
        Ok(part) => part,
        Err(why) => return left_out("doctor::attached_but_silent", why),
    };
    let launch = |inside: bool, arguments: &[&str]| {
        let (part, mount) = (part.directory(), mount.clone());
        let arguments = [arguments, &BY_CGROUP].concat();
        let prepare = move || {
            if inside {
                // 0 stands for the process that writes it.
                fs::write(part.join("cgroup.procs"), "0")?;
            }
            mounts::private()?;
            mounts::bind(&part, &mount)
        };
        // SAFETY: the tests run one at a time, so no other thread of this process
        // holds the allocator's lock for long; glibc makes it usable after fork.
        unsafe { Launch::new(&arguments).prepare(prepare) }.spawn().ended()
    };
    for inside in [true, false] {
        let examined = Examined::of(&launch(inside, &["--doctor", "--format", "json"]));
        let udp = &examined.findings[3];
        assert_eq!(udp.provider.as_deref(), Some("cgroup_skb"), "{udp:?}");
        let verdict = if inside { "works" } else { "silent" };
        assert_eq!(udp.verdict, verdict, "{udp:?}");
        if !inside {
            let words = "FAILED: attached, but does not fire (IPv4";
            assert!(udp.seen.starts_with(words), "{udp:?}");
        }
        assert!(examined.findings[..3].iter().all(|finding| finding.works), "{examined:#?}");
    }
    let ended = launch(false, &["--once", "--interval", "0.1"]);
    let notice = format!(
        "tcptop: cannot show UDP of other cgroups: {} is not the root of cgroup v2; run tcptop in \
         the host's cgroup namespace",
        mount.display()
    );
    assert_eq!(ended.stderr.lines().next(), Some(&*notice));
    ended.check();
}

/// The doctor's report for an ordinary user depends on the capabilities.
fn ordinary_user() {
    let (_directory, binary) = public_binary();
    let run = |capabilities: &[Capability]| {
        as_nobody(&binary, &["--doctor", "--format", "json"], capabilities).spawn().ended()
    };
    check_refusal(&run(&[]));
    let two = [Capability::CAP_BPF, Capability::CAP_PERFMON];
    let examined = Examined::of(&run(&two));
    let of_root = Examined::of_this_kernel();
    for (signal, (name, _)) in RANKING.into_iter().enumerate().take(3) {
        assert_eq!(examined.findings[signal], of_root.findings[signal], "{name}");
    }
    let udp = &examined.findings[3];
    if of_root.provider(3) == Some("cgroup_skb") {
        assert_eq!((examined.status, &*udp.seen), (1, "cannot show UDP"), "{udp:?}");
        let reason = udp.reason("cgroup_skb").expect("refused");
        assert!(reason.ends_with("Operation not permitted (os error 1)"), "{udp:?}");
    } else {
        assert_eq!((examined.status, udp), (0, &of_root.findings[3]));
    }
    let three = [&two[..], &[Capability::CAP_NET_ADMIN]].concat();
    let examined = Examined::of(&run(&three));
    assert_eq!((examined.status, &examined.findings), (0, &of_root.findings));
}
