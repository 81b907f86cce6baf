//! The loads. Each is a conversation of named processes, most of them on the host that the
//! tools watch; the processes themselves report what their calls have moved.
//!
//! A connection rests before its traffic and after it, so that a tool which looks once a
//! second has a chance, except in `short`. All processes live until the tools have ended.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::common::agent::{Agent, Socket};
use crate::common::cgroups::{self, Cgroup};
use crate::common::churn;
use crate::network::{FAR, INSIDE, NEAR, Network};
use crate::options::Run;
use crate::results::{self, Bytes};

const MEGABYTE: u64 = 1 << 20;

pub struct Case {
    pub name: &'static str,
    pub what: &'static str,
    play: fn(&Stage<'_>) -> Result<Played>,
}

pub const ALL: [Case; 8] = [
    Case {
        name: "partial",
        what: "cmp-partial sends 4 MiB without blocking, 300,000 bytes a call, of which the kernel \
               takes a part or nothing",
        play: partial,
    },
    Case {
        name: "peek",
        what: "cmp-peek receives 4 MiB and looks at everything three times before (MSG_PEEK)",
        play: peek,
    },
    Case { name: "sendfile", what: "cmp-sendfile sends a file of 16 MiB", play: sendfile },
    Case {
        name: "retransmits",
        what: "cmp-again sends 4 MiB, of which the far end loses 3 % of the segments",
        play: retransmits,
    },
    Case {
        name: "short",
        what: "cmp-short makes short connections, one after the other in each of two threads, some \
               hundred bytes each way; half of them end with a reset",
        play: short,
    },
    Case {
        name: "udp",
        what: "cmp-udp answers many peers from one unconnected socket: 200 bytes in, 300 bytes out \
               for each",
        play: udp,
    },
    Case {
        name: "handover",
        what: "cmp-accepts accepts a connection, receives 1 MiB and hands it over (SCM_RIGHTS) to \
               cmp-answers, which sends 4 MiB",
        play: handover,
    },
    Case {
        name: "container",
        what: "cmp-inside sends 4 MiB from a network namespace and a cgroup of its own; the host \
               forwards its packets",
        play: container,
    },
];

/// Where a load is played.
pub struct Stage<'a> {
    network: &'a Network,
    run: &'a Run,
    /// Links to this executable, by the names of the processes.
    names: TempDir,
}

/// What a load was.
pub struct Played {
    pub parts: Vec<Part>,
    pub note: String,
    /// These live until this is dropped.
    _agents: Vec<Agent>,
    _cgroup: Option<Cgroup>,
}

/// A process of the load on the host that the tools watch.
pub struct Part {
    pub process: String,
    pub pid: u32,
    pub truth: Bytes,
}

impl Case {
    pub fn play(&self, network: &Network, run: &Run) -> Result<Played> {
        let names = TempDir::new().context("failed to make a directory")?;
        (self.play)(&Stage { network, run, names })
    }

    pub fn facts(&self) -> results::Case {
        results::Case { name: self.name.to_owned(), what: self.what.to_owned() }
    }
}

impl Stage<'_> {
    /// A process whose program, command line and threads have this name.
    fn process(&self, name: &str) -> Result<Agent> {
        let program = self.names.path().join(name);
        let itself = fs::read_link("/proc/self/exe").context("no /proc/self/exe")?;
        symlink(itself, &program).context("failed to make a link")?;
        Ok(Agent::of(name, &program))
    }

    /// A process of the other host.
    fn far(&self) -> Result<Agent> {
        self.network.far.run(|| self.process("cmp-far"))
    }

    /// Lets the tools look.
    fn rest(&self) {
        thread::sleep(self.run.pause());
    }
}

impl Played {
    fn new(parts: &[(&str, &Agent, Bytes)]) -> Played {
        let part = |&(process, agent, truth): &(&str, &Agent, Bytes)| Part {
            process: process.to_owned(),
            pid: agent.pid,
            truth,
        };
        let parts = parts.iter().map(part).collect();
        Played { parts, note: String::new(), _agents: Vec::new(), _cgroup: None }
    }

    fn keep(mut self, agents: impl IntoIterator<Item = Agent>) -> Played {
        self._agents.extend(agents);
        self
    }

    fn noting(self, note: String) -> Played {
        Played { note, ..self }
    }
}

fn sent(bytes: u64) -> Bytes {
    Bytes { sent: bytes, received: 0 }
}

fn received(bytes: u64) -> Bytes {
    Bytes { received: bytes, sent: 0 }
}

/// A connection from one process to the other: the socket of each.
fn connect(from: &mut Agent, to: &mut Agent) -> (Socket, Socket) {
    let (listener, address) = to.listen((FAR, 0).into());
    let socket = from.connect(address);
    (socket, to.accept(listener))
}

/// A process that sends to the other host in its own way, which answers how much that was.
/// Both ends must agree.
fn sends(
    stage: &Stage<'_>,
    name: &str,
    way: impl FnOnce(&mut Agent, Socket) -> u64 + Send,
) -> Result<Played> {
    let near = stage.process(name)?;
    sends_as(stage, name, near, 0, way)
}

/// The same with a process that is there already. The other host loses this share of the
/// segments.
fn sends_as(
    stage: &Stage<'_>,
    name: &str,
    mut near: Agent,
    lost_percent: u32,
    way: impl FnOnce(&mut Agent, Socket) -> u64 + Send,
) -> Result<Played> {
    let mut far = stage.far()?;
    let (socket, end) = connect(&mut near, &mut far);
    if lost_percent > 0 {
        far.lose(end, lost_percent);
    }
    stage.rest();
    let (bytes, arrived) = thread::scope(|scope| {
        let arrives = scope.spawn(|| far.receive_all(end));
        let bytes = way(&mut near, socket);
        stage.rest();
        near.close(socket);
        (bytes, arrives.join().expect("the other end"))
    });
    anyhow::ensure!(bytes == arrived, "{name} sent {bytes} bytes, and {arrived} arrived");
    Ok(Played::new(&[(name, &near, sent(bytes))]).keep([near, far]))
}

fn partial(stage: &Stage<'_>) -> Result<Played> {
    let mut asked_for = 0;
    let played = sends(stage, "cmp-partial", |near, socket| {
        let (accepted, asked) = near.send_partly(socket, 4 * MEGABYTE);
        asked_for = asked;
        accepted
    })?;
    Ok(played.noting(format!("its calls asked for {asked_for} bytes")))
}

fn sendfile(stage: &Stage<'_>) -> Result<Played> {
    sends(stage, "cmp-sendfile", |near, socket| near.send_file(socket, 16 * MEGABYTE))
}

fn retransmits(stage: &Stage<'_>) -> Result<Played> {
    let netem = stage.network.spoil();
    let near = stage.process("cmp-again")?;
    let played = sends_as(stage, "cmp-again", near, 3, |near, socket| {
        near.send(socket, 4 * MEGABYTE);
        4 * MEGABYTE
    })?;
    Ok(played.noting(match netem {
        true => "netem loses 1 % of what comes back, and delays it by 2 ms".to_owned(),
        false => "without netem, which this kernel has not".to_owned(),
    }))
}

fn peek(stage: &Stage<'_>) -> Result<Played> {
    let (mut near, mut far) = (stage.process("cmp-peek")?, stage.far()?);
    let (socket, end) = connect(&mut near, &mut far);
    stage.rest();
    let (bytes, peeked) = thread::scope(|scope| {
        let sends = scope.spawn(|| {
            far.send(end, 4 * MEGABYTE);
            far.end_sending(end);
        });
        let got = near.receive_peeking(socket);
        sends.join().expect("the other end");
        got
    });
    anyhow::ensure!(bytes == 4 * MEGABYTE, "{bytes} bytes arrived");
    stage.rest();
    near.close(socket);
    let played = Played::new(&[("cmp-peek", &near, received(bytes))]).keep([near, far]);
    Ok(played.noting(format!("it looked at {peeked} bytes")))
}

fn short(stage: &Stage<'_>) -> Result<Played> {
    let (mut near, mut far) = (stage.process("cmp-short")?, stage.far()?);
    let server = far.serve_churn_at((FAR, 0).into(), stage.run.connections);
    let account: PathBuf = stage.names.path().join("account");
    stage.rest();
    near.churn(server, stage.run.connections, &account);
    let text = fs::read_to_string(&account).context("failed to read the account")?;
    let entries = churn::read_account(&text);
    let truth: Bytes =
        entries.iter().map(|entry| Bytes { sent: entry.up, received: entry.down }).sum();
    let note = format!("{} connections", entries.len());
    Ok(Played::new(&[("cmp-short", &near, truth)]).keep([near, far]).noting(note))
}

fn udp(stage: &Stage<'_>) -> Result<Played> {
    const REQUEST: usize = 200;
    const ANSWER: usize = 300;
    let peers = stage.run.peers;
    let (mut near, mut far) = (stage.process("cmp-udp")?, stage.far()?);
    let (socket, address) = near.udp((NEAR, 0).into());
    stage.rest();
    thread::scope(|scope| {
        scope.spawn(|| near.udp_answer(socket, peers, ANSWER));
        far.udp_shots(FAR, address, REQUEST, peers);
    });
    stage.rest();
    let bytes = |size: usize| size as u64 * u64::from(peers);
    let truth = Bytes { received: bytes(REQUEST), sent: bytes(ANSWER) };
    let note = format!("{peers} peers");
    Ok(Played::new(&[("cmp-udp", &near, truth)]).keep([near, far]).noting(note))
}

fn handover(stage: &Stage<'_>) -> Result<Played> {
    let [mut accepts, mut answers] = [stage.process("cmp-accepts")?, stage.process("cmp-answers")?];
    let mut far = stage.far()?;
    let mailbox = stage.names.path().join("mailbox");
    answers.mailbox(&mailbox);
    let (listener, address) = accepts.listen((NEAR, 0).into());
    let end = far.connect(address);
    let socket = accepts.accept(listener);
    stage.rest();
    thread::scope(|scope| {
        scope.spawn(|| far.send(end, MEGABYTE));
        accepts.receive(socket, MEGABYTE);
    });
    stage.rest();
    accepts.give(socket, &mailbox);
    let socket = answers.take();
    thread::scope(|scope| {
        scope.spawn(|| far.receive(end, 4 * MEGABYTE));
        answers.send(socket, 4 * MEGABYTE);
    });
    stage.rest();
    answers.close(socket);
    let parts = [
        ("cmp-accepts", &accepts, received(MEGABYTE)),
        ("cmp-answers", &answers, sent(4 * MEGABYTE)),
    ];
    Ok(Played::new(&parts).keep([accepts, answers, far]))
}

fn container(stage: &Stage<'_>) -> Result<Played> {
    let near = stage.network.inside.run(|| stage.process("cmp-inside"))?;
    let cgroup = match cgroups::root() {
        None => None,
        Some(root) => {
            let cgroup = Cgroup::new(&root, &format!("/compare-{}/box", near.pid))?;
            Cgroup::enter(&cgroup.directory(), near.pid)?;
            Some(cgroup)
        }
    };
    let note = match cgroup {
        Some(_) => format!("it is {INSIDE}"),
        None => format!("it is {INSIDE}; without a cgroup, since v2 is not mounted"),
    };
    let mut played = sends_as(stage, "cmp-inside", near, 0, |near, socket| {
        near.send(socket, 4 * MEGABYTE);
        4 * MEGABYTE
    })?;
    played._cgroup = cgroup;
    Ok(played.noting(note))
}
