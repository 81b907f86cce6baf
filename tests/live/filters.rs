//! Every filter, alone and combined, with traffic that it lets through and traffic that it
//! does not. The tests make all of this traffic, so they know every property of each end.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process;
use std::time::Duration;

use tempfile::TempDir;

use crate::common::agent::{Agent, Socket};
use crate::common::cgroups::{self, Cgroup};
use crate::common::log::{Log, LogRow};
use crate::common::netns::{Netns, run};
use crate::common::sock::{Ends, Family, Pair, Stream, bounded, set_int};
use crate::common::tcptop::{self, Closed, Launch, Tcptop};
use crate::common::wait::until_true;

use super::csv::{logger, place};
use super::{Test, left_out, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("filters::alone_and_combined", alone_and_combined),
        test("filters::with_other_hooks", with_other_hooks),
        test("filters::pid_follows_the_owner", pid_follows_the_owner),
        test("filters::absent_pid", absent_pid),
        test("filters::absent_pid_once", absent_pid_once),
        test("filters::pids_of_the_host", pids_of_the_host),
        test("filters::by_state", by_state),
        test("filters::cgroup_that_comes", cgroup_that_comes),
        test("filters::unknown_unit", unknown_unit),
        test("filters::unknown_user", unknown_user),
        test("filters::unknown_interface", unknown_interface),
        test("filters::summary_counts_what_is_asked_for", summary),
        test("filters::leave_out_hooks", leave_out_hooks),
        test("filters::cost_less", cost_less),
    ]
}

/// One end of a connection or flow, and its properties.
#[derive(Clone, Debug)]
struct End {
    udp: bool,
    ends: Ends,
    pid: u32,
    process: &'static str,
    /// Whether it is in tcptop's own network namespace.
    interface: Option<&'static str>,
    /// The user who made the socket.
    uid: u32,
    /// The cgroup in which it was made: the test's own, or one of those below.
    cgroup: Within,
    bytes: (u64, u64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Within {
    Own,
    Top,
    Below,
}

impl End {
    fn has_port(&self, ports: &[u16]) -> bool {
        [self.ends.local, self.ends.remote].iter().any(|end| ports.contains(&end.port()))
    }

    fn local(&self) -> IpAddr {
        self.ends.local.ip()
    }

    fn remote(&self) -> IpAddr {
        self.ends.remote.ip()
    }

    fn is_v6(&self) -> bool {
        self.ends.local.is_ipv6()
    }
}

/// Connections of two processes and the flows of this one, in a network
/// namespace with two devices, `lo` and `veth0`.
struct World {
    near: Netns,
    _far: Netns,
    alpha: Agent,
    beta: Agent,
    gamma: Agent,
    /// The open connections, by the process that holds each end.
    open: Vec<(Socket, Socket, Server)>,
    udp_servers: Vec<UdpSocket>,
    udp_clients: Vec<UdpSocket>,
    known: Vec<End>,
    listeners: Vec<(i32, SocketAddr, Server)>,
    /// A port that no connection here ever uses.
    unused: u16,
    /// The cgroup of beta, and the one above it, which is that of alpha. They are removed
    /// after these processes have ended, the lower one first.
    cgroups: Option<(Cgroup, Cgroup)>,
}

/// The cgroup of a service, and below it that of a container, the lower one first.
fn make_cgroups() -> Result<(Cgroup, Cgroup), String> {
    let mount = cgroups::root().ok_or("the whole cgroup v2 is not mounted")?;
    let make = |path: &str| Cgroup::new(&mount, path).map_err(|error| error.to_string());
    let top = make(&format!("/tcptop-test-{}.service", process::id()))?;
    let below = make(&format!("{}/docker-{CONTAINER}.scope", top.path()))?;
    Ok((below, top))
}

/// The process that accepts.
#[derive(Clone, Copy, PartialEq)]
enum Server {
    Beta,
    Gamma,
}

/// The id in the name of beta's cgroup, as Docker names it.
const CONTAINER: &str = "3b1c9e2f40d5a6b7c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5";

/// The user who makes the sockets of UDP clients.
const USER: u32 = 65534;

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const HOME_V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const OUT_HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 87, 0, 1));
const OUT_THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 87, 0, 2));

impl World {
    fn new() -> World {
        let (near, far) = (Netns::new(), Netns::new());
        near.join(OUT_HERE, &far, OUT_THERE);
        let [mut alpha, mut beta] = ["alpha one", "beta"].map(|name| near.run(|| Agent::new(name)));
        let mut gamma = far.run(|| Agent::new("gamma"));
        alpha.rename("alpha one");
        let cgroups = make_cgroups();
        let cgroups = cgroups.map_err(|why| left_out("filters: --cgroup", why)).ok();
        if let Some((below, top)) = &cgroups {
            Cgroup::enter(&top.directory(), alpha.pid).expect("cgroup.procs");
            Cgroup::enter(&below.directory(), beta.pid).expect("cgroup.procs");
        }
        let here: [IpAddr; 3] =
            [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into()];
        let mut listeners: Vec<_> = here
            .into_iter()
            .map(|host| {
                let (fd, address) = beta.listen((host, 0).into());
                // The third listens on IPv6 and is reached by IPv4-mapped addresses.
                let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
                let host = if host.is_unspecified() { mapped.into() } else { host };
                (fd, SocketAddr::from((host, address.port())), Server::Beta)
            })
            .collect();
        let (fd, address) = gamma.listen((OUT_THERE, 0).into());
        listeners.push((fd, address, Server::Gamma));
        let here: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let udp_servers = here.map(|host| {
            let server = near.run(|| UdpSocket::bind((host, 0)).expect("bind"));
            bounded(&server);
            server
        });
        let udp_servers = Vec::from(udp_servers);
        World {
            near,
            _far: far,
            alpha,
            beta,
            gamma,
            open: Vec::new(),
            udp_servers,
            udp_clients: Vec::new(),
            known: Vec::new(),
            listeners,
            unused: 1,
            cgroups,
        }
    }

    /// Makes one connection of each kind, with traffic.
    fn make(&mut self) {
        for (turn, (listener, address, server)) in self.listeners.clone().into_iter().enumerate() {
            let client = self.alpha.connect(address);
            let (one, two) = (100 + turn as u64, 200 + turn as u64);
            let peer = self.server(server).accept(listener);
            self.alpha.send(client, one);
            self.server(server).receive(peer, one);
            self.server(server).send(peer, two);
            self.alpha.receive(client, two);
            let interface = if server == Server::Beta { "lo" } else { "veth0" };
            let (pid, process) = match server {
                Server::Beta => (self.beta.pid, "beta"),
                Server::Gamma => (self.gamma.pid, "gamma"),
            };
            self.known.push(End {
                udp: false,
                ends: client.ends,
                pid: self.alpha.pid,
                process: "alpha one",
                interface: Some(interface),
                uid: 0,
                cgroup: Within::Top,
                bytes: (two, one),
            });
            self.known.push(End {
                udp: false,
                ends: client.ends.flipped(),
                pid,
                process,
                interface: (server == Server::Beta).then_some("lo"),
                uid: 0,
                cgroup: if server == Server::Beta { Within::Below } else { Within::Own },
                bytes: (one, two),
            });
            self.open.push((client, peer, server));
        }
        for server in &self.udp_servers {
            let there = server.local_addr().expect("bound");
            let client = self.near.run(|| {
                // SAFETY: no memory; only for this thread, which ends here.
                unsafe { libc::setfsuid(USER) };
                UdpSocket::bind((there.ip(), 0)).expect("bind")
            });
            let here = client.local_addr().expect("bound");
            client.send_to(&[b'u'; 300], there).expect("send");
            assert_eq!(server.recv(&mut [0; 301]).expect("receive"), 300);
            let process = own_name();
            for (local, remote, uid, bytes) in
                [(here, there, USER, (0, 300)), (there, here, 0, (300, 0))]
            {
                self.known.push(End {
                    udp: true,
                    ends: Ends::new(local, remote),
                    pid: process::id(),
                    process,
                    interface: Some("lo"),
                    uid,
                    cgroup: Within::Own,
                    bytes,
                });
            }
            self.udp_clients.push(client);
        }
    }

    fn server(&mut self, server: Server) -> &mut Agent {
        match server {
            Server::Beta => &mut self.beta,
            Server::Gamma => &mut self.gamma,
        }
    }

    /// Closes the connections that were made last. Returns their ends.
    fn close_last(&mut self) -> Vec<Ends> {
        let last = self.open.split_off(self.open.len() - self.listeners.len());
        let mut closed = Vec::new();
        for (client, peer, server) in last {
            self.alpha.close(client);
            self.server(server).close(peer);
            closed.extend([client.ends, client.ends.flipped()]);
        }
        closed
    }
}

/// The name of this process, as the kernel keeps it.
fn own_name() -> &'static str {
    let name = fs::read_to_string("/proc/self/comm").expect("comm");
    Box::leak(name.trim_end().to_owned().into_boxed_str())
}

/// A command line and the ends that it should let through.
struct Case {
    arguments: Vec<String>,
    wants: Box<dyn Fn(&End) -> bool>,
}

fn case(arguments: &str, wants: impl Fn(&End) -> bool + 'static) -> Case {
    Case { arguments: arguments.split(' ').map(str::to_owned).collect(), wants: Box::new(wants) }
}

/// Runs one tcptop per case, all at the same time, in the near namespace.
struct Runs(Vec<(Tcptop, TempDir, PathBuf)>);

impl Runs {
    fn start(world: &World, cases: &[Case]) -> Runs {
        let spawn = |case: &Case| {
            let (directory, log) = place();
            let tcp = case.arguments.iter().any(|argument| argument == "--tcp");
            let timeout: &[&str] = if tcp { &[] } else { &["--udp-timeout", "600"] };
            let arguments: Vec<&str> = ["--log", log.to_str().expect("UTF-8")]
                .into_iter()
                .chain(["--interval", "0.2"])
                .chain(timeout.iter().copied())
                .chain(case.arguments.iter().map(String::as_str))
                .collect();
            let mut tcptop = world.near.run(|| Launch::new(&arguments).spawn());
            // A process that is just being started holds the sockets of this one for a
            // moment. A tcptop that looks for holders must not be there yet.
            if case.arguments.iter().any(|argument| argument == "--without") {
                tcptop.await_ready();
            }
            (tcptop, directory, log)
        };
        let mut runs = Runs(cases.iter().map(spawn).collect());
        for (tcptop, ..) in &mut runs.0 {
            tcptop.await_ready();
        }
        runs
    }

    fn check(self, world: &World, cases: &[Case], closed: &[Ends]) {
        for ((tcptop, _directory, log), case) in self.0.into_iter().zip(cases) {
            let ended = tcptop.stop(libc::SIGINT);
            assert!(ended.status.success(), "{:?}: {}", case.arguments, ended.stderr);
            assert!(!ended.stderr.contains("lost in"), "{:?}: {}", case.arguments, ended.stderr);
            let log = Log::read(&log);
            for end in &world.known {
                let context = format!("{:?}: {end:?}", case.arguments);
                let rows = log.rows_of(end.ends).count();
                let wanted = (case.wants)(end);
                assert_eq!(rows > 0, wanted, "{rows} rows: {context}");
                let is_closed = closed.contains(&end.ends);
                let finals = log.finals_of(end.ends).count();
                assert_eq!(finals, usize::from(wanted && is_closed), "{context}");
                if let Some(row) = log.rows_of(end.ends).next_back() {
                    assert_eq!((row.pid, &*row.process), (Some(end.pid), end.process), "{context}");
                    // Older connections count from tcptop's start.
                    let bytes = (row.bytes_in, row.bytes_out);
                    assert!(bytes == end.bytes || !is_closed, "{bytes:?}: {context}");
                }
            }
        }
    }
}

/// Runs the cases, a few at a time, with older connections, new ones and closing ones.
fn check_all(world: &mut World, cases: Vec<Case>) {
    world.make();
    for cases in cases.chunks(7) {
        // A flow exists for tcptop only if it has a datagram while tcptop runs.
        world.known.retain(|end| !end.udp);
        let older = world.known.len();
        let runs = Runs::start(world, cases);
        world.make();
        world.make();
        let closed = world.close_last();
        until_true("the connections to end", || {
            let left = world.near.run(|| run("ss", "-tnH").expect("ss"));
            !closed.iter().any(|ends| is_open(&left, ends))
        });
        runs.check(world, cases, &closed);
        // The next cases start after these have closed, and so never see them.
        world.known.retain(|end| !closed.contains(&end.ends));
        assert!(world.known.len() > older);
    }
}

/// Whether `ss` lists the connection. (A TIME_WAIT socket is not a connection.)
fn is_open(ss: &str, ends: &Ends) -> bool {
    let text = |end: SocketAddr| format!("{end} ");
    let mapped = |end: SocketAddr| format!("[::ffff:{}]:{} ", end.ip(), end.port());
    ss.lines().filter(|line| !line.starts_with("TIME-WAIT")).any(|line| {
        let line = format!("{line} ");
        [text(ends.local), mapped(ends.local)].iter().any(|end| line.contains(end))
            && [text(ends.remote), mapped(ends.remote)].iter().any(|end| line.contains(end))
    })
}

/// Ports, PIDs and names of a world for its cases.
fn cases(world: &mut World) -> Vec<Case> {
    world.make();
    let port = |index: usize| world.listeners[index].1.port();
    let (p0, p1, p3) = (port(0), port(1), port(3));
    let (client_port, udp_port) = (
        world.open[0].0.ends.local.port(),
        world.udp_servers[0].local_addr().expect("bound").port(),
    );
    let many = (2..18).map(|port| format!("--port {port}")).collect::<Vec<_>>().join(" ");
    let many_not = many.replace("--port ", "--port !");
    let prefixes = (0..8).map(|n| format!("--remote 192.0.2.{n}")).collect::<Vec<_>>().join(" ");
    let prefixes_not = prefixes.replace("--remote ", "--remote !");
    let (alpha, beta, own) = (world.alpha.pid, world.beta.pid, process::id());
    let unused = world.unused;
    let lo = |end: &End| end.interface == Some("lo");
    let veth = |end: &End| end.interface == Some("veth0");
    let mut of_cgroups = Vec::new();
    if let Some((below, top)) = &world.cgroups {
        let (below, top) = (below.path(), top.path());
        let others = (0..4).map(|n| format!("--cgroup /{n}")).collect::<Vec<_>>().join(" ");
        let mut add = |arguments: &str, wants: fn(&End) -> bool| {
            of_cgroups.push(case(arguments, wants));
        };
        add(&format!("--cgroup {top}"), |end| end.cgroup != Within::Own);
        add(&format!("--cgroup {below}/"), |end| end.cgroup == Within::Below);
        add(&format!("--cgroup {top} --cgroup !{below}"), |end| end.cgroup == Within::Top);
        add(&format!("--cgroup !{top} --tcp"), |end| !end.udp && end.cgroup == Within::Own);
        add(&format!("--cgroup !{below} --udp"), |end| end.udp);
        add(&format!("--cgroup {top} --udp"), |_| false);
        add("--cgroup /", |_| true);
        // The beginning of a name, and a name at another level.
        add(&format!("--cgroup {}", &top[..top.len() - 1]), |_| false);
        add(&format!("--cgroup /docker-{CONTAINER}.scope"), |_| false);
        add(&format!("--container {CONTAINER}"), |end| end.cgroup == Within::Below);
        add(&format!("--container {}", &CONTAINER[..12]), |end| end.cgroup == Within::Below);
        add(&format!("--container !{CONTAINER} --tcp"), |end| {
            !end.udp && end.cgroup != Within::Below
        });
        add(&format!("--container {}", &CONTAINER[..11]), |_| false);
        let unit = top[1..].trim_end_matches(".service");
        add(&format!("--unit {unit}"), |end| end.cgroup != Within::Own);
        add(&format!("--unit !{unit}.service --tcp"), |end| !end.udp && end.cgroup == Within::Own);
        add(&format!("--unit {unit}.scope"), |_| false);
        // More cgroups than the BPF programs can filter by.
        add(&format!("{others} --cgroup {below}"), |end| end.cgroup == Within::Below);
        of_cgroups.push(case(&format!("--cgroup {below} -4 --port {p0}"), move |end| {
            end.cgroup == Within::Below && end.has_port(&[p0])
        }));
    }
    let mut cases = vec![
        case("--strict", |_| true),
        case(&format!("--port {p0}"), move |end| end.has_port(&[p0])),
        case(&format!("--port {client_port}"), move |end| end.has_port(&[client_port])),
        case(&format!("--port {p0} --port {p3}"), move |end| end.has_port(&[p0, p3])),
        case(&format!("--port {udp_port}"), move |end| end.has_port(&[udp_port])),
        case(&format!("--port {unused}"), |_| false),
        // More ports than the BPF programs can filter by.
        case(&format!("{many} --port {p1}"), move |end| end.has_port(&[p1])),
        case(&format!("--pid {alpha}"), move |end| end.pid == alpha),
        case(&format!("--pid {alpha} --pid {beta}"), move |end| [alpha, beta].contains(&end.pid)),
        case(&format!("--pid {own}"), move |end| end.pid == own),
        case("--process lpha", |end| end.process.contains("lpha")),
        case("--process beta --process gam", |end| ["beta", "gamma"].contains(&end.process)),
        case("--process Alpha", |_| false),
        case("-i lo", lo),
        case("--interface veth0", veth),
        case("-i lo --interface veth0", |end| end.interface.is_some()),
        // Negation: none of these values.
        case(&format!("--port !{p0}"), move |end| !end.has_port(&[p0])),
        case(&format!("--port {p0} --port {p1} --port !{client_port}"), move |end| {
            end.has_port(&[p0, p1]) && !end.has_port(&[client_port])
        }),
        case(&format!("{many_not} --port !{p1}"), move |end| !end.has_port(&[p1])),
        case(&format!("--pid !{alpha} --pid !{own}"), move |end| ![alpha, own].contains(&end.pid)),
        case("--process a --process !lpha", |end| {
            end.process.contains('a') && !end.process.contains("lpha")
        }),
        case("-i !lo", move |end| !lo(end)),
        // Addresses.
        case("--remote 10.87.0.2", |end| end.remote() == OUT_THERE),
        case("--remote 10.87.3.4/16", |end| end.remote().to_string().starts_with("10.87.")),
        case("--local 127.0.0.0/8", |end| end.local() == HOME),
        case("--local ::ffff:127.0.0.1", |end| end.local() == HOME),
        case("--remote ::1 --remote 10.87.0.1", |end| {
            end.remote() == HOME_V6 || end.remote() == OUT_HERE
        }),
        case("--remote !127.0.0.1", |end| end.remote() != HOME),
        case("--remote !::1 --udp", |end| end.udp && end.remote() != HOME_V6),
        case("--local ::/0", End::is_v6),
        case("--local !::/0", |end| !end.is_v6()),
        case("--local 0.0.0.0/0 --local !10.0.0.0/8", |end| end.local() == HOME),
        case(&format!("--local 127.0.0.1 --remote 127.0.0.0/31 --port {p0}"), move |end| {
            end.local() == HOME && end.has_port(&[p0])
        }),
        // More prefixes than the BPF programs can filter by.
        case(&format!("{prefixes} --remote ::1"), |end| end.remote() == HOME_V6),
        case(&format!("{prefixes_not} --remote !::1"), |end| end.remote() != HOME_V6),
        // Users, and states that all connections of a protocol have here.
        case("--user nobody", |end| end.uid == USER),
        case("--user 65534 --user !0", |end| end.uid == USER),
        case("--user !nobody --udp", |end| end.udp && end.uid != USER),
        case("--state UDP", |end| end.udp),
        case("--tcp", |end| !end.udp),
        case("--udp", |end| end.udp),
        case("-4", |end| !end.is_v6()),
        case("-6", End::is_v6),
        case("--udp -4", |end| end.udp && !end.is_v6()),
        case("--udp -6", |end| end.udp && end.is_v6()),
        case("--tcp -6 -i lo", move |end| !end.udp && end.is_v6() && lo(end)),
        case(&format!("--tcp -4 --port {p0}"), move |end| !end.udp && end.has_port(&[p0])),
        case(&format!("-6 --port {p0}"), |_| false),
        case(&format!("--udp --port {p0}"), |_| false),
        case(&format!("--port {p0} --port {p3} --pid {alpha} -i veth0"), move |end| {
            end.has_port(&[p3]) && end.pid == alpha
        }),
        case(&format!("--process a --pid {beta} --port {p1} --tcp -6 -i lo"), move |end| {
            end.pid == beta && end.has_port(&[p1])
        }),
    ];
    cases.extend(of_cgroups);
    cases
}

fn alone_and_combined() {
    let mut world = World::new();
    let cases = cases(&mut world);
    check_all(&mut world, cases);
}

/// The filters in the BPF programs work with every choice of hooks.
fn with_other_hooks() {
    const WITHOUT: [&str; 4] = [
        "--without fentry/ip_send_skb",
        "--without tp_btf/tcp_sendmsg_locked",
        "--without tp_btf/tcp_sendmsg_locked --without tp_btf/sock_send_length",
        "--without fentry/ip_send_skb --without tp_btf/tcp_sendmsg_locked \
         --without tp_btf/sock_send_length",
    ];
    let mut world = World::new();
    world.make();
    let port = world.listeners[2].1.port();
    let udp_port = world.udp_servers[1].local_addr().expect("bound").port();
    // Some kernels lack the hooks of lower rank.
    let works = |without: &&str| {
        let arguments: Vec<&str> = without.split(' ').collect();
        let mut command = tcptop::command(&tcptop::binary(), &arguments);
        let output = command.args(["--once", "--interval", "0.01"]).output().expect("tcptop");
        let messages = String::from_utf8_lossy(&output.stderr).into_owned();
        let works = output.status.success() && !messages.contains("cannot show");
        if !works {
            left_out(&format!("filters::with_other_hooks {without}"), messages.trim());
        }
        works
    };
    let mut cases = Vec::new();
    for without in WITHOUT.into_iter().filter(works) {
        cases.push(case(&format!("{without} --port {port} -4"), move |end| {
            !end.is_v6() && end.has_port(&[port])
        }));
        cases.push(case(&format!("{without} --udp --port {udp_port} -6"), move |end| {
            end.udp && end.is_v6() && end.has_port(&[udp_port])
        }));
        cases.push(case(&format!("{without} --local 127.0.0.0/8 --port !{port}"), move |end| {
            end.local() == HOME && !end.has_port(&[port])
        }));
    }
    assert!(!cases.is_empty());
    check_all(&mut world, cases);
}

/// A connection that gets a new owner leaves the output of one `--pid` and appears in that
/// of the other.
fn pid_follows_the_owner() {
    let (directory, log_of_one) = place();
    let (_directory, log_of_other) = place();
    let (mut one, mut other) = (Agent::new("first"), Agent::new("second"));
    let mailbox = directory.path().join("mailbox");
    other.mailbox(&mailbox);
    let [pid_one, pid_other] = [one.pid, other.pid].map(|pid| pid.to_string());
    let log =
        |path: &PathBuf, pid: &str| logger(path, &["--tcp", "--interval", "0.1", "--pid", pid]);
    let (with_one, with_other) = (log(&log_of_one, &pid_one), log(&log_of_other, &pid_other));
    let (socket, peer) = one.connect_here(Family::V4);
    one.send(socket, 10);
    crate::common::sock::receive(&peer, 10);
    Log::wait(&log_of_one, "a row", |log| log.rows_of(socket.ends).next().map(|_| ()));
    one.give(socket, &mailbox);
    let socket = other.take();
    other.send(socket, 20);
    crate::common::sock::receive(&peer, 20);
    Log::wait(&log_of_other, "a row", |log| {
        log.rows_of(socket.ends).find(|row| row.bytes_out == 30).map(|_| ())
    });
    other.close(socket);
    Log::wait_finals(&log_of_other, &[socket.ends]);
    with_one.stop(libc::SIGINT).check_log(&log_of_one, "0.1");
    with_other.stop(libc::SIGINT).check_log(&log_of_other, "0.1");
    let (log_of_one, log_of_other) = (Log::read(&log_of_one), Log::read(&log_of_other));
    // 0: there may be an interval between the connect and the send.
    let of_one = |row: &LogRow| matches!(row.bytes_out, 0 | 10) && !row.is_final();
    assert!(log_of_one.rows_of(socket.ends).all(of_one));
    assert!(log_of_other.rows_of(socket.ends).all(|row| row.bytes_out == 30));
    for (log, name) in [(log_of_one, "first"), (log_of_other, "second")] {
        assert!(log.rows.iter().all(|row| row.process == name), "no one else's rows");
    }
}

/// A PID without a process may be used later: tcptop warns and goes on. The id of a thread
/// that is not a process never owns anything.
fn absent_pid() {
    // The PID of a process that has ended; the kernel does not use it again soon.
    let mut gone = process::Command::new("true").spawn().expect("true");
    let pid = gone.id().to_string();
    gone.wait().expect("wait");
    let (sender, thread) = std::sync::mpsc::channel();
    let (_end, until_the_end) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        // SAFETY: no memory is involved.
        sender.send(unsafe { libc::gettid() }).expect("a reader");
        let _ = until_the_end.recv();
    });
    let thread = thread.recv().expect("a thread").to_string();
    let mut agent = Agent::new("present");
    let own = agent.pid.to_string();
    let pids = ["--pid", &pid, "--pid", &own, "--pid", &thread];
    let tcptop = Tcptop::start(&[&["--raw", "--interval", "0.1"], &pids[..]].concat());
    let (socket, peer) = agent.connect_here(Family::V4);
    tcptop.wait_row("row of the process that is there", socket.ends, |_| true);
    drop(peer);
    let ended = tcptop.stop(libc::SIGINT);
    assert!(ended.status.success());
    let process = process::id();
    let warnings = [
        format!("tcptop: no process has PID {pid} yet; waiting for it"),
        format!(
            "tcptop: {thread} is a thread of process {process}; connections belong to \
             processes: --pid {process}"
        ),
    ];
    assert!(ended.stderr.lines().take(2).eq(warnings), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 3, "{}", ended.stderr);
}

/// tcptop does not say that it waits when it ends after the first interval.
fn absent_pid_once() {
    let mut gone = process::Command::new("true").spawn().expect("true");
    let pid = gone.id().to_string();
    gone.wait().expect("wait");
    for once in [&["--once"][..], &["--count", "1"]] {
        let arguments = [&["--tcp", "--interval", "0.01", "--pid", &pid], once].concat();
        let ended = Launch::new(&arguments).spawn().ended();
        let first = ended.stderr.lines().next().unwrap_or_default();
        assert_eq!(first, format!("tcptop: no process has PID {pid}"));
    }
}

/// In a PID namespace of its own tcptop says once which processes it sees, and does not look
/// for the host's PIDs there.
fn pids_of_the_host() {
    let pair = Pair::new(Family::V4);
    let stream = Stream::start(&pair, 10, Duration::from_millis(5));
    let own = process::id().to_string();
    let mut command = process::Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc"]).arg(tcptop::binary());
    command.args(["--tcp", "--raw", "--once", "--interval", "0.3", "--pid", &own]);
    let output = command.output().expect("unshare");
    stream.stop();
    let messages = String::from_utf8(output.stderr).expect("UTF-8");
    let lines: Vec<&str> = messages.lines().collect();
    let notice = "tcptop: processes outside of this PID namespace are seen only once they use a \
                  connection, with their PIDs on the host; run tcptop in the host's PID namespace \
                  to see all";
    assert_eq!((lines.len(), lines[0]), (2, notice), "{messages}");
    let output = String::from_utf8(output.stdout).expect("UTF-8");
    let local = pair.ends.local.to_string();
    let row = output.lines().find(|line| line.split_ascii_whitespace().nth(1) == Some(&local));
    assert_eq!(row.and_then(|row| row.split_ascii_whitespace().nth(3)), Some(&*own), "{output}");
}

/// A connection that leaves a state leaves the output; its end is judged by its last state.
fn by_state() {
    let arguments = |state: &'static str| ["--raw", "--all", "--interval", "0.1", "--state", state];
    let [waits, others, tries] =
        ["close-wait", "!close_wait", "SYN_SENT"].map(|state| Tcptop::start(&arguments(state)));
    let Pair { client, server, ends } = Pair::new(Family::V4);
    let open = |tcptop: &Tcptop, state: &str| {
        tcptop.wait_row(state, ends, |row| row.state == state);
    };
    open(&others, "ESTABLISHED");
    client.shutdown(std::net::Shutdown::Write).expect("shutdown");
    waits.wait_row("the end that waits", ends.flipped(), |row| row.state == "CLOSE_WAIT");
    open(&others, "FIN_WAIT2");
    drop((server, client));
    others.wait_closed(&[ends, ends.flipped()]);

    let nowhere = crate::common::sock::listen(Family::V6).1;
    let socket = crate::common::sock::unconnected(nowhere, None);
    let error = crate::common::sock::connect_socket(&socket, nowhere).expect_err("no listener");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    let to_nowhere = |closed: &&Closed| closed.ends.remote == nowhere;
    let refused = tries.wait("the connection that failed", |output| {
        output.closed.iter().find(to_nowhere).cloned()
    });
    assert_eq!(refused.end, "refused");
    let [waits, others, tries] = [waits, others, tries].map(Tcptop::finish);
    assert!(waits.rows.iter().all(|row| row.state == "CLOSE_WAIT"));
    assert!(waits.rows_of(ends).next().is_none() && waits.closed_of(ends).next().is_none());
    assert!(others.rows.iter().all(|row| row.state != "CLOSE_WAIT"));
    assert!(others.closed.iter().any(|closed| to_nowhere(&closed)));
    assert!(tries.rows.iter().all(|row| row.state == "SYN_SENT"));
    assert!(tries.closed_of(ends).next().is_none());
}

/// A cgroup that is made only after tcptop has started, and one that is made again, as when
/// a service starts again: TCP and UDP of each appear.
fn cgroup_that_comes() {
    let Some(mount) = cgroups::root() else {
        return left_out("filters::cgroup_that_comes", "the whole cgroup v2 is not mounted");
    };
    let path = format!("/tcptop-come-{}", process::id());
    let tcptop = Tcptop::start(&["--raw", "--interval", "0.1", "--cgroup", &path]);
    let notice = format!("tcptop: there is no cgroup {path} yet; waiting for it\n");
    assert_eq!(tcptop.stderr(), notice);
    let outside = Pair::new(Family::V4);
    // The second one has the same path and another id.
    for _ in 1..=2 {
        let late = Cgroup::new(&mount, &path).expect("a cgroup");
        let mut agent = Agent::new("late");
        Cgroup::enter(&late.directory(), agent.pid).expect("cgroup.procs");
        let (socket, peer) = agent.connect_here(Family::V6);
        agent.send(socket, 10);
        crate::common::sock::receive(&peer, 10);
        let (udp, address) = agent.udp((Ipv4Addr::LOCALHOST, 0).into());
        let receiver = crate::common::udp::bind((Ipv4Addr::LOCALHOST, 0).into());
        let there = receiver.local_addr().expect("bound");
        agent.udp_send(udp, there, 100, 2);
        tcptop.wait_row("TCP", socket.ends, |row| row.bytes_out == 10);
        tcptop.wait_row("UDP", Ends::new(address, there), |row| row.bytes_out == 200);
        let ends = socket.ends;
        agent.close(socket);
        drop(peer);
        tcptop.wait_closed(&[ends]);
        agent.exit();
        late.remove();
    }
    let output = tcptop.finish();
    assert!(output.rows.iter().all(|row| row.process == "late"), "{:#?}", output.rows);
    for ends in [outside.ends, outside.ends.flipped()] {
        assert!(output.rows_of(ends).next().is_none());
    }
}

/// A unit or a container in which nothing is may not exist: tcptop says so, once.
fn unknown_unit() {
    if cgroups::root().is_none() {
        return left_out("filters::unknown_unit", "the whole cgroup v2 is not mounted");
    }
    let said = |arguments: &[&str]| {
        let usual = ["--interval", "0.1", "--count", "3"];
        let ended = Launch::new(&[&usual, arguments].concat()).spawn().ended();
        assert!(ended.status.success());
        let mut lines = ended.stderr.lines().map(str::to_owned).collect::<Vec<_>>();
        assert!(lines.pop().is_some_and(|line| line.contains(" connections closed, ")));
        lines
    };
    let _pair = Pair::new(Family::V4);
    assert_eq!(
        said(&["--unit", "nosuch-7", "--container", "nosuch-8"]),
        ["tcptop: no connection matches --unit nosuch-7.service --container nosuch-8 so far"]
    );
    assert_eq!(said(&["--unit", "!nosuch-7"]), [""; 0]);
}

fn unknown_user() {
    let ended = Launch::new(&["--user", "!nobody-7"]).spawn().ended();
    ended.check_error("no user is named 'nobody-7' here; `getent passwd` lists them");
}

fn unknown_interface() {
    let ended = Launch::new(&["-i", "lo", "-i", "nowhere7"]).spawn().ended();
    ended.check_error("no network device is named 'nowhere7' here; `ip -br link` lists them");
    assert_eq!(ended.stderr.lines().count(), 1);
}

/// The summary counts the same connections as the rows.
fn summary() {
    let (listener, address) = crate::common::sock::listen(Family::V4);
    let port = address.port().to_string();
    let tcptop = Tcptop::start(&["--raw", "--tcp", "--port", &port, "--interval", "0.1"]);
    let connect = || Pair::accept(&listener, crate::common::sock::connect(address));
    let (_open, brief, other) = (connect(), connect(), Pair::new(Family::V4));
    let ends = brief.ends;
    brief.close();
    other.close();
    tcptop.wait_closed(&[ends, ends.flipped()]);
    let ended = tcptop.stop(libc::SIGINT);
    assert_eq!(ended.stderr, "tcptop: 2 connections closed, 2 open, lost: nothing\n");
}

/// tcptop attaches no hook that it does not need: no TCP hook with `--udp`, no UDP hook
/// with `--tcp`.
fn leave_out_hooks() {
    let programs = |arguments: &[&str]| {
        let tcptop = Tcptop::start(&[arguments, &["--interval", "3600"]].concat());
        let mut names = Vec::new();
        for entry in fs::read_dir(format!("/proc/{}/fdinfo", tcptop.id())).expect("it runs") {
            let text = fs::read_to_string(entry.expect("an entry").path()).unwrap_or_default();
            if text.contains("prog_id:") && text.contains("prog_type:") {
                names.push(text);
            }
        }
        names.len()
    };
    let (both, tcp, udp) = (programs(&[]), programs(&["--tcp"]), programs(&["--udp"]));
    assert!(tcp < both && udp < both, "{both} programs, {tcp} with --tcp, {udp} with --udp");
}

/// Under the same load and in the same time, a tcptop with a narrow filter uses less
/// processor time than one without a filter.
fn cost_less() {
    if !std::path::Path::new("/proc/self/schedstat").exists() {
        return left_out("filters::cost_less", "this kernel does not tell processor time exactly");
    }
    let pairs: Vec<Pair> = (0..300).map(|_| Pair::new(Family::V4)).collect();
    for pair in &pairs {
        for stream in [&pair.client, &pair.server] {
            set_int(stream, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
        }
    }
    let (_d0, all) = place();
    let (_d1, one_port) = place();
    let (_d2, six) = place();
    let (_d3, one_pid) = place();
    let (_d4, addresses) = place();
    let (_d5, cgroup) = place();
    let port = pairs[0].ends.remote.port().to_string();
    let interval = ["--tcp", "--interval", "0.05"];
    let start = |log: &PathBuf, filter: &[&str]| logger(log, &[&interval[..], filter].concat());
    let runs = [
        start(&all, &[]),
        start(&one_port, &["--port", &port]),
        start(&six, &["-6"]),
        start(&one_pid, &["--pid", "1"]),
        start(&addresses, &["--remote", "!127.0.0.0/8"]),
        start(&cgroup, &["--cgroup", "/nowhere"]),
    ];
    let before: Vec<Duration> = runs.iter().map(Tcptop::cpu_time).collect();
    let steady = Stream::start(&pairs[0], 1000, Duration::from_millis(1));
    let rows = |count: usize| {
        Log::wait(&all, "rows", |log| {
            (log.open_rows_of(pairs[0].ends).len() >= count).then_some(())
        });
    };
    for _ in 0..20 {
        for pair in &pairs[1..] {
            crate::common::sock::send(&pair.client, 10);
            crate::common::sock::receive(&pair.server, 10);
        }
    }
    rows(10);
    steady.stop();
    let [all, one_port, six, one_pid, addresses, cgroup] =
        [0, 1, 2, 3, 4, 5].map(|i| runs[i].cpu_time() - before[i]);
    println!(
        "filters::cost_less: all {all:?}, a port {one_port:?}, -6 {six:?}, a PID {one_pid:?}, \
         addresses {addresses:?}, a cgroup {cgroup:?}"
    );
    assert!(one_port * 2 < all, "{one_port:?} of {all:?}");
    assert!(six * 2 < all, "{six:?} of {all:?}");
    assert!(addresses * 2 < all, "{addresses:?} of {all:?}");
    assert!(cgroup * 2 < all, "{cgroup:?} of {all:?}");
    assert!(one_pid < all, "{one_pid:?} of {all:?}");
}
