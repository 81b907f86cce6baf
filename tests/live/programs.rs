//! What tcptop has in the kernel: how large its programs are, who may write its maps, and
//! that other programs on the same hooks change nothing.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread;

use caps::{CapSet, Capability};
use libbpf_rs::libbpf_sys::{bpf_map_delete_elem, bpf_map_get_fd_by_id, bpf_map_update_elem};
use libbpf_rs::query::{MapInfoIter, ProgInfoIter, ProgInfoQueryOptions};
use nix::sys::utsname::uname;

use crate::common::rows::Rows;
use crate::common::sock::{Family, Pair};
use crate::common::strangers::{Strangers, Witness};
use crate::common::tcptop::{QUICK, Tcptop};
use crate::common::udp::{self, Duo};

use super::cleanup::{Loaded, pinned};
use super::{Test, figures, left_out, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("programs::instructions", instructions),
        test("programs::nobody_else_writes", nobody_else_writes),
        test("programs::beside_others", beside_others),
        test("programs::storage_goes_before_the_socket", storage_goes_before_the_socket),
    ]
}

/// The record of sizes: kernel, clang, run, program, instructions that the kernel runs, and
/// instructions that its verifier looked at.
const RECORD: &str = include_str!("../instructions.txt");

/// The runs: the arguments decide which programs are loaded, and what the verifier can
/// remove from them.
const RUNS: [(&str, &[&str]); 3] = [
    ("plain", &[]),
    ("details", &["--columns", "+cwnd,drops,unit,conn_id"]),
    (
        "filters",
        &["--port", "443", "--remote", "10.0.0.0/8", "--without", "tp_btf/tcp_sendmsg_locked"],
    ),
];

/// By how many percent the verifier's work may differ from the record: the kernels of one
/// series differ a little.
const TOLERANCE: u32 = 10;

/// `6.1-amd64-x86_64 14`: the kernel's series, whose build it is (the words in its release:
/// builds differ in what they can trace), its processor, and the compiler.
fn here() -> String {
    let names = uname().expect("uname");
    let release = names.release().to_string_lossy();
    let series = release.split(['.', '-']).take(2).collect::<Vec<_>>().join(".");
    let words = release.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
    let machine = names.machine().to_string_lossy();
    let parts: Vec<&str> = std::iter::once(&*series).chain(words).chain([&*machine]).collect();
    format!("{} {}", parts.join("-"), env!("TCPTOP_CLANG"))
}

/// Both numbers of each program of a run.
fn measured(arguments: &[&str]) -> BTreeMap<String, (usize, u32)> {
    let tcptop = Tcptop::start(arguments);
    let held = Loaded::by(tcptop.id()).programs;
    let options = ProgInfoQueryOptions::default().include_xlated_prog_insns(true);
    let infos = ProgInfoIter::with_query_opts(options).filter(|info| held.contains(&info.id));
    let sizes = infos.map(|info| {
        let instructions = info.xlated_prog_insns.len() / 8;
        (info.name.to_string_lossy().into_owned(), (instructions, info.verified_insns))
    });
    let sizes: BTreeMap<_, _> = sizes.collect();
    assert_eq!(sizes.len(), held.len(), "each has a name of its own: {sizes:?}");
    assert!(tcptop.stop(libc::SIGINT).status.success());
    sizes
}

/// The programs have the sizes that `tests/instructions.txt` says, where it knows this
/// kernel and this compiler. `BLESS=1` writes them.
fn instructions() {
    const WHAT: &str = "programs::instructions";
    if env::var("TCPTOP_TEST_ARGS").is_ok_and(|extra| !extra.is_empty()) {
        return left_out(WHAT, "TCPTOP_TEST_ARGS changes which programs are loaded");
    }
    let here = here();
    let mut found = String::new();
    for (run, arguments) in RUNS {
        for (program, (runs, verified)) in measured(arguments) {
            writeln!(found, "{here} {run} {program} {runs} {verified}").expect("memory");
        }
    }
    if env::var_os("BLESS").is_some() {
        let others = RECORD.lines().filter(|line| !line.starts_with(&format!("{here} ")));
        let others: String = others.map(|line| format!("{line}\n")).collect();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/instructions.txt");
        return fs::write(path, others + &found).expect("written");
    }
    figures(&found);
    let known: Vec<&str> =
        RECORD.lines().filter(|line| line.starts_with(&format!("{here} "))).collect();
    if known.is_empty() {
        return left_out(WHAT, format!("no record of {here}; this is one:\n{found}"));
    }
    if let Some(difference) = difference(&known, &found.lines().collect::<Vec<_>>()) {
        panic!("{difference}\n`make instructions` records this kernel's:\n{found}");
    }
}

/// The first difference that matters between two lists.
fn difference(known: &[&str], found: &[&str]) -> Option<String> {
    let split = |line: &str| -> (String, u32) {
        let (rest, verified) = line.rsplit_once(' ').expect("fields");
        (rest.to_owned(), verified.parse().expect("a number"))
    };
    if known.len() != found.len() {
        return Some(format!("{} programs, and the record has {}", found.len(), known.len()));
    }
    known.iter().zip(found).find_map(|(known, found)| {
        let ((program, expected), (same, verified)) = (split(known), split(found));
        let alike = expected.abs_diff(verified) * 100 <= expected * TOLERANCE;
        (program != same || !alike).then(|| format!("recorded {known}, found {found}"))
    })
}

/// No map or program of tcptop can be reached through a file or another process, none is
/// inherited, and not even root may change what only the programs write.
fn nobody_else_writes() {
    // The check of sizes can fail.
    assert!(difference(&["a b r p 10 100"], &["a b r p 11 100"]).is_some());
    assert!(difference(&["a b r p 10 100"], &["a b r p 10 111"]).is_some());
    assert!(difference(&["a b r p 10 100"], &["a b r p 10 110"]).is_none());

    let pins = pinned();
    let tcptop = Tcptop::start(&["--columns", "+cwnd,drops,unit,conn_id", "--interval", "0.1"]);
    let held = Loaded::by(tcptop.id());
    assert_eq!(pinned(), pins, "pinned");
    for entry in fs::read_dir("/proc").expect("/proc is mounted").flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.filter(|&pid| pid != tcptop.id()) else { continue };
        assert!(!Loaded::by(pid).shares(&held), "process {pid} holds a part of it");
    }
    let descriptors = fs::read_dir(format!("/proc/{}/fdinfo", tcptop.id())).expect("it runs");
    let mut own = 0;
    for entry in descriptors.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let file = |of: &str| fs::read_link(format!("/proc/{of}/fd/{name}")).ok();
        // Inherited, as the three of every program are.
        if ["0", "1", "2"].contains(&&*name) || file("self") == file(&tcptop.id().to_string()) {
            continue;
        }
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags");
        let flags = i32::from_str_radix(flags.trim(), 8).expect("octal");
        assert!(flags & libc::O_CLOEXEC != 0, "descriptor {name} would be inherited:\n{text}");
        own += 1;
    }
    assert!(own > held.maps.len() + held.programs.len(), "{own} descriptors");

    let mut writable = Vec::new();
    let mut maps = 0;
    for map in MapInfoIter::default().filter(|map| held.maps.contains(&map.id)) {
        maps += 1;
        let name = map.name.to_string_lossy().into_owned();
        let (key, value) = (map.key_size as usize, map.value_size as usize);
        let errors = write(&open(map.id).expect("root may"), key, value);
        if errors != [libc::EPERM; 2] {
            writable.push(name.clone());
        }
        // Another user's process, even with the privilege to load programs.
        let id = map.id;
        let without = thread::spawn(move || {
            for capability in [Capability::CAP_SYS_ADMIN, Capability::CAP_DAC_OVERRIDE] {
                caps::drop(None, CapSet::Effective, capability).expect("dropped");
            }
            open(id).map(|_| ()).map_err(|error| error.raw_os_error())
        });
        assert_eq!(without.join().expect("no panic"), Err(Some(libc::EPERM)), "{name}");
    }
    assert_eq!(maps, held.maps.len());
    writable.sort();
    // The ring's reader moves on in the ring; these variables are for user space to set.
    assert_eq!(writable, ["events", "tcptop_b.data"]);
    assert!(tcptop.stop(libc::SIGINT).status.success());
}

fn open(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = unsafe { bpf_map_get_fd_by_id(id) };
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd));
    }
    // SAFETY: the descriptor is new, and nothing else uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The errors of changing and of deleting the first element; 0 for none.
fn write(map: &OwnedFd, key: usize, value: usize) -> [i32; 2] {
    // A value of a map for each processor is as long as all of them together.
    let (key, value) = (vec![0_u8; key.max(8)], vec![0_u8; value.max(8) * 1024]);
    // SAFETY: both buffers are at least as long as the kernel reads.
    let results = unsafe {
        [
            bpf_map_update_elem(map.as_raw_fd(), key.as_ptr().cast(), value.as_ptr().cast(), 0),
            bpf_map_delete_elem(map.as_raw_fd(), key.as_ptr().cast()),
        ]
    };
    results.map(|result| -result)
}

/// Two tcptops, and another tool's programs that were attached before them and between
/// them: both count every byte, also after one of them has ended.
fn beside_others() {
    let before = Strangers::attach();
    let first = Tcptop::start(&QUICK);
    let arguments = ["--raw", "--interval", "0.1", "--udp-timeout", "300"];
    let second = Tcptop::start(&arguments);
    let between = Strangers::attach();
    let third = Tcptop::start(&arguments);

    let (pair, late) = (Pair::new(Family::V4), Pair::new(Family::V6));
    let (ends, late_ends) = (pair.ends, late.ends);
    let mut duos = [Duo::new(Family::V4, true), Duo::new(Family::V6, false)];
    let flows = |duos: &mut [Duo; 2], tcptops: &[&Tcptop]| {
        for duo in duos.iter_mut() {
            duo.send(1200, 5);
            duo.answer(30, 2);
        }
        for (ends, totals) in duos.iter().flat_map(Duo::expected) {
            tcptops.iter().for_each(|tcptop| {
                udp::wait_totals(tcptop, ends, totals);
            });
        }
    };
    pair.exchange(123_456, 321);
    flows(&mut duos, &[&second, &third]);
    pair.close();
    for tcptop in [&first, &second, &third] {
        tcptop.wait_closed(&[ends, ends.flipped()]);
    }
    first.finish();
    late.exchange(77, 654_321);
    drop(before);
    flows(&mut duos, &[&second, &third]);
    late.close();
    let expected = [(ends, 321, 123_456), (late_ends, 654_321, 77)];
    for tcptop in [second, third] {
        tcptop.wait_closed(&[late_ends, late_ends.flipped()]);
        let output = tcptop.finish();
        for (ends, down, up) in expected {
            for (ends, bytes_in, bytes_out) in [(ends, down, up), (ends.flipped(), up, down)] {
                let closed = output.the_closed(ends);
                assert_eq!((closed.bytes_in, closed.bytes_out), (bytes_in, bytes_out));
                assert_eq!(closed.pid, Some(std::process::id()));
            }
        }
    }
    let runs = between.runs();
    for hook in ["inet_sock_set_state", "egress"] {
        let ran = runs.iter().any(|(name, count)| *name == hook && *count > 0);
        assert!(ran, "{hook} has not run: {runs:?}");
    }
}

/// Where the kernel takes a socket's storage apart under an iterator, which crashes the kernel,
/// it never has to: it is gone when the socket is in CLOSE. Elsewhere the kernel frees it.
fn storage_goes_before_the_socket() {
    const CONNECTIONS: u64 = 20;
    let types = fs::read("/sys/kernel/btf/vmlinux").expect("the kernel's types");
    let crashes = memchr::memmem::find(&types, b"\0bpf_selem_unlink_nofail\0").is_some();
    // With an identity, an accepted socket has storage and no place in the pool.
    let rows = Rows::start("conn_id", &["--tcp"]);
    let held = Loaded::by(rows.id()).maps;
    let sockets =
        MapInfoIter::default().find(|map| held.contains(&map.id) && map.name == "sockets");
    let witness = Witness::attach(sockets.expect("the map").id);
    for _ in 0..CONNECTIONS {
        let pair = Pair::new(Family::V4);
        pair.exchange(100, 100);
        let ends = pair.ends;
        pair.close();
        rows.wait_final(ends.flipped());
    }
    // Other connections of this host may end beside these.
    let expected = if crashes { 0..=0 } else { CONNECTIONS..=u64::MAX };
    assert!(expected.contains(&witness.count()), "{} have storage in CLOSE", witness.count());
    rows.finish();
}
