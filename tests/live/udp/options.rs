//! Options and privileges that leave UDP out, or TCP.

use std::path::Path;
use std::process;

use caps::Capability;

use crate::common::sock::{Family, Pair};
use crate::common::tcptop::{Launch, Tcptop};
use crate::common::udp::{Duo, Totals, wait_totals};
use crate::live::privilege::{as_nobody, public_binary};
use crate::live::{Test, test};

use super::{Provider, wait_duos};

pub fn tests() -> Vec<Test> {
    vec![test("udp::filters", filters), test("udp::without_net_admin", without_net_admin)]
}

/// Each filter works on UDP rows as on TCP rows.
fn filters() {
    let mut runs = [
        (&["--udp"][..], [false, true, true]),
        (&["--tcp"], [true, false, false]),
        (&["-4"], [true, true, false]),
        (&["-6"], [false, false, true]),
        (&["--udp", "-4"], [false, true, false]),
        (&["--udp", "-6"], [false, false, true]),
        (&[], [true, true, true]),
    ]
    .map(|(filter, shown)| {
        let timeout: &[&str] =
            if filter.contains(&"--tcp") { &[] } else { &["--udp-timeout", "300"] };
        let arguments = [filter, &["--raw", "--interval", "0.1"], timeout].concat();
        (filter, shown, Some(Tcptop::start(&arguments)))
    });
    let pair = Pair::new(Family::V4);
    pair.exchange(10, 10);
    let mut duos = [Duo::new(Family::Mapped, false), Duo::new(Family::V6, false)];
    for duo in &mut duos {
        duo.send(10, 1);
        duo.answer(11, 2);
    }
    let all = [
        (pair.ends, Totals { bytes_in: 10, bytes_out: 10, ..Totals::default() }),
        duos[0].expected()[0],
        duos[1].expected()[0],
    ];
    for (filter, shown, tcptop) in &mut runs {
        let tcptop = tcptop.take().expect("runs");
        for ((ends, totals), shown) in all.iter().zip(*shown) {
            if shown {
                tcptop.wait_row("row that the filter lets through", *ends, |row| {
                    (row.bytes_in, row.bytes_out) == (totals.bytes_in, totals.bytes_out)
                });
            }
        }
        let output = tcptop.finish();
        for ((ends, _), shown) in all.iter().zip(*shown) {
            assert_eq!(output.last_row(*ends).is_some(), shown, "{filter:?}: {ends:?}");
        }
        if filter.contains(&"--udp") {
            assert!(output.rows.iter().all(|row| row.state == "UDP"));
            assert!(output.closed.is_empty());
        }
    }
}

/// Only CAP_BPF and CAP_PERFMON: if UDP needs CAP_NET_ADMIN as well, tcptop says so in one
/// line and shows TCP.
fn without_net_admin() {
    let (_directory, binary): (_, std::path::PathBuf) = public_binary();
    let capabilities = [Capability::CAP_BPF, Capability::CAP_PERFMON];
    let arguments = ["--raw", "--interval", "0.1"];
    let run = |binary: &Path, capabilities: &[Capability]| -> Launch {
        as_nobody(binary, &arguments, capabilities)
    };
    let tcptop = run(&binary, &capabilities).start();
    // Of sockets that no process holds, other namespaces' need CAP_SYS_ADMIN.
    let about_udp = |text: &str| -> Vec<String> {
        let others = |line: &&str| !line.starts_with("tcptop: cannot see older connections");
        text.lines().filter(others).map(str::to_owned).collect()
    };
    let notices = about_udp(&tcptop.stderr());
    let without_udp = !notices.is_empty();
    if without_udp {
        assert_eq!(notices.len(), 1, "{notices:?}");
        assert!(notices[0].starts_with("tcptop: cannot show UDP: "), "{notices:?}");
        assert!(notices[0].contains("CAP_NET_ADMIN"), "{notices:?}");
    } else {
        assert_eq!(Provider::of(&tcptop), Provider::Entry);
    }
    let pair = Pair::new(Family::V4);
    let mut duo = Duo::new(Family::V4, true);
    duo.send(30, 2);
    pair.exchange(100, 200);
    tcptop.wait_row("row of the connection", pair.ends, |row| row.bytes_in == 200);
    if !without_udp {
        wait_duos(&tcptop, std::slice::from_ref(&duo));
    }
    let ends = pair.ends;
    pair.close();
    tcptop.wait_closed(&[ends]);
    let output = tcptop.finish();
    assert_eq!(output.last_row(duo.ends).is_none(), without_udp);
    if without_udp {
        // With CAP_NET_ADMIN, tcptop shows UDP.
        let all = [&capabilities[..], &[Capability::CAP_NET_ADMIN]].concat();
        let tcptop = run(&binary, &all).start();
        assert_eq!(Provider::of(&tcptop), Provider::CgroupSkb);
        duo.totals = Totals::default();
        duo.send(30, 2);
        let row = wait_totals(&tcptop, duo.ends, duo.totals);
        assert_eq!(row.pid, Some(process::id()));
        tcptop.finish();
    }
}
