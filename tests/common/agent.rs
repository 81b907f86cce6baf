//! Helper processes: the test binary in another role ([`reexec`]). An agent reads commands
//! for sockets, one a line, and answers each with a line.
//!
//! An agent has one thread (except during [`Agent::send_named`]), so that it may fork. It
//! ends when its standard input ends.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Child, Command};
use std::ptr;
use std::str::{FromStr, SplitAsciiWhitespace};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};

use super::churn;
use super::reexec::{self, Conversation};
use super::sock::{self, Ends};
use super::udp;
use super::wait::patience;
use super::ways;

/// The only other role of the test binary.
const ROLE: [&str; 1] = ["agent"];

/// Runs the agent if that is what this process was started for.
pub fn run_if_asked() {
    if let Some(role) = reexec::asked_for() {
        assert_eq!(role, ROLE);
        serve().expect("stdin and stdout");
        process::exit(0);
    }
}

/// A running agent. Killed when dropped.
pub struct Agent {
    child: Child,
    conversation: Conversation,
    /// The process that answers: the one started, or a fork of it.
    pub pid: u32,
}

/// A socket in an agent.
#[derive(Clone, Copy)]
pub struct Socket {
    fd: RawFd,
    pub ends: Ends,
}

impl Agent {
    /// Starts an agent in the network namespace of the calling thread. Its process and its
    /// thread have this name.
    pub fn new(name: impl AsRef<[u8]>) -> Agent {
        Agent::start(name, reexec::command(Path::new(reexec::ITSELF), &ROLE))
    }

    /// The same for `program`, a copy of this executable. Calls `prepare` in the child
    /// before it executes the program.
    ///
    /// # Safety
    /// As for [`CommandExt::pre_exec`].
    pub unsafe fn prepared(
        name: impl AsRef<[u8]>,
        program: &Path,
        prepare: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
    ) -> Agent {
        let mut command = reexec::command(program, &ROLE);
        // SAFETY: the caller's promise.
        unsafe { command.pre_exec(prepare) };
        Agent::start(name, command)
    }

    fn start(name: impl AsRef<[u8]>, mut command: Command) -> Agent {
        Conversation::prepare(&mut command);
        let mut child = command.spawn().expect("an agent");
        let conversation = Conversation::with(&mut child).expect("piped");
        let pid = child.id();
        let mut agent = Agent { child, conversation, pid };
        agent.rename(name);
        agent
    }

    pub fn rename(&mut self, name: impl AsRef<[u8]>) {
        self.ask(&format!("name {}", hex(name.as_ref())));
    }

    pub fn listen(&mut self, address: SocketAddr) -> (RawFd, SocketAddr) {
        let answer = self.ask(&format!("listen {address}"));
        let mut words = answer.split_ascii_whitespace();
        (word(&mut words), word(&mut words))
    }

    /// Listens at an address at which others may listen as well (SO_REUSEPORT).
    pub fn listen_shared(&mut self, address: SocketAddr) -> (RawFd, SocketAddr) {
        let answer = self.ask(&format!("listen-shared {address}"));
        let mut words = answer.split_ascii_whitespace();
        (word(&mut words), word(&mut words))
    }

    pub fn close_listener(&mut self, listener: RawFd) {
        self.ask(&format!("close-listener {listener}"));
    }

    pub fn accept(&mut self, listener: RawFd) -> Socket {
        let answer = self.ask(&format!("accept {listener}"));
        Socket::parse(&answer)
    }

    /// Accepts the connections that wait.
    pub fn accept_waiting(&mut self, listener: RawFd) -> Vec<Socket> {
        let answer = self.ask(&format!("accept-waiting {listener}"));
        answer.split_terminator(';').map(Socket::parse).collect()
    }

    pub fn connect(&mut self, remote: SocketAddr) -> Socket {
        let answer = self.ask(&format!("connect {remote}"));
        Socket::parse(&answer)
    }

    /// Connects to a listener of this process. Returns the agent's socket and the accepted one.
    pub fn connect_here(&mut self, family: sock::Family) -> (Socket, TcpStream) {
        let (listener, address) = sock::listen(family);
        let socket = self.connect(address);
        let (stream, _) = listener.accept().expect("accept");
        sock::bounded(&stream);
        assert_eq!(Ends::of(&stream).flipped(), socket.ends);
        (socket, stream)
    }

    /// Makes this many connections with itself, and keeps both ends.
    pub fn hold(&mut self, connections: u32) {
        self.ask_for(&format!("hold {connections}"), 6 * patience());
    }

    pub fn send(&mut self, socket: Socket, bytes: u64) {
        self.ask(&format!("send {} {bytes}", socket.fd));
    }

    /// Sends from a thread with this name; the thread ends before the agent answers.
    pub fn send_named(&mut self, name: &str, socket: Socket, bytes: u64) {
        self.ask(&format!("send-named {} {} {bytes}", hex(name.as_bytes()), socket.fd));
    }

    pub fn receive(&mut self, socket: Socket, bytes: u64) {
        self.ask(&format!("receive {} {bytes}", socket.fd));
    }

    pub fn close(&mut self, socket: Socket) {
        self.ask(&format!("close {}", socket.fd));
    }

    /// Forks. From now on the child answers; the parent keeps its sockets open and does
    /// nothing.
    pub fn fork(&mut self) {
        let answer = self.ask("fork");
        self.pid = answer.parse().expect("a pid");
    }

    /// The same, and the child gets this PID. The kernel's error if that is not to be had.
    pub fn fork_as(&mut self, pid: u32) -> io::Result<()> {
        let answer = self.ask(&format!("fork-as {pid}"));
        match answer.strip_prefix("refused ") {
            Some(error) => Err(io::Error::from_raw_os_error(error.parse().expect("a number"))),
            None => {
                self.pid = answer.parse().expect("a pid");
                Ok(())
            }
        }
    }

    /// Begins to fork without end in a PID namespace of its own. Each process connects and
    /// sends again and again.
    pub fn bomb(&mut self, remote: SocketAddr) {
        self.ask(&format!("bomb {remote}"));
    }

    /// Kills all processes of [`Agent::bomb`].
    pub fn end_bomb(&mut self) {
        self.ask("end-bomb");
    }

    /// Executes another program file, which is an agent again. The socket stays open.
    pub fn exec(&mut self, program: &Path, socket: Socket) {
        self.ask(&format!("exec {} {}", socket.fd, program.display()));
        self.ask(&format!("adopt {}", socket.fd));
    }

    /// Makes a Unix socket at this path, to which another agent can send sockets.
    pub fn mailbox(&mut self, path: &Path) {
        self.ask(&format!("mailbox {}", path.display()));
    }

    /// Sends the socket to a mailbox and closes it here.
    pub fn give(&mut self, socket: Socket, mailbox: &Path) {
        self.share(socket, mailbox);
        self.close(socket);
    }

    /// Sends the socket to a mailbox and keeps it open here.
    pub fn share(&mut self, socket: Socket, mailbox: &Path) {
        self.ask(&format!("give {} {}", socket.fd, mailbox.display()));
    }

    /// Receives a socket from the mailbox.
    pub fn take(&mut self) -> Socket {
        let answer = self.ask("take");
        Socket::parse(&answer)
    }

    /// A UDP socket bound to this address, whose port several may share.
    pub fn udp(&mut self, local: SocketAddr) -> (RawFd, SocketAddr) {
        let answer = self.ask(&format!("udp {local}"));
        let mut words = answer.split_ascii_whitespace();
        (word(&mut words), word(&mut words))
    }

    /// Joins the multicast group on the device with this index.
    pub fn udp_join(&mut self, socket: RawFd, group: IpAddr, device: u32) {
        self.ask(&format!("udp-join {socket} {group} {device}"));
    }

    /// Sends datagrams of this size.
    pub fn udp_send(&mut self, socket: RawFd, remote: SocketAddr, bytes: usize, count: u32) {
        self.ask(&format!("udp-send {socket} {remote} {bytes} {count}"));
    }

    /// Sends datagrams of this size, each from a new socket, and takes an answer to each.
    pub fn udp_shots(&mut self, local: Ipv4Addr, remote: SocketAddr, bytes: usize, count: u32) {
        self.ask_for(&format!("udp-shots {local} {remote} {bytes} {count}"), 6 * patience());
    }

    /// Receives this many datagrams. Returns their bytes.
    pub fn udp_receive(&mut self, socket: RawFd, count: u32) -> u64 {
        let answer = self.ask(&format!("udp-receive {socket} {count}"));
        word(&mut answer.split_ascii_whitespace())
    }

    /// Receives this many datagrams and answers each with one of this size.
    pub fn udp_answer(&mut self, socket: RawFd, count: u32, bytes: usize) {
        self.ask_for(&format!("udp-answer {socket} {count} {bytes}"), 6 * patience());
    }

    /// Takes all waiting datagrams from the socket. Returns their number.
    pub fn udp_drain(&mut self, socket: RawFd) -> u64 {
        let answer = self.ask(&format!("udp-drain {socket}"));
        word(&mut answer.split_ascii_whitespace())
    }

    /// Serves this many connections of [`churn`] in the background.
    pub fn serve_churn(&mut self, connections: u32) -> SocketAddr {
        self.serve_churn_at((sock::loopback(1), 0).into(), connections)
    }

    /// The same at an address that another host may reach.
    pub fn serve_churn_at(&mut self, address: SocketAddr, connections: u32) -> SocketAddr {
        let answer = self.ask(&format!("serve-churn {address} {connections}"));
        word(&mut answer.split_ascii_whitespace())
    }

    /// Makes this many connections of [`churn`] as fast as it can, and leaves
    /// an account of them in the file.
    pub fn churn(&mut self, server: SocketAddr, connections: u32, account: &Path) {
        let command = format!("churn {server} {connections} {}", account.display());
        self.ask_for(&command, 6 * patience());
    }

    /// Ends the process without closing its sockets first.
    pub fn exit(mut self) {
        self.conversation.hang_up();
        assert!(self.child.wait().expect("wait").success());
    }

    fn ask(&mut self, line: &str) -> String {
        self.ask_for(line, patience())
    }

    fn ask_for(&mut self, line: &str, patience: Duration) -> String {
        let answer = self.conversation.ask(line, patience);
        let answer = answer.unwrap_or_else(|e| panic!("agent {}: {line:?}: {e}", self.pid));
        match answer.split_once(' ') {
            Some(("ok", rest)) => rest.to_owned(),
            _ => panic!("agent {}: {line:?}: {answer}", self.pid),
        }
    }
}

/// What benches/compare asks for, and the live tests do not.
#[allow(dead_code)]
impl Agent {
    /// Starts an agent from a link to this executable, whose name everybody sees.
    pub fn of(name: &str, program: &Path) -> Agent {
        Agent::start(name, reexec::command(program, &ROLE))
    }

    /// [`ways::send_partly`].
    pub fn send_partly(&mut self, socket: Socket, bytes: u64) -> (u64, u64) {
        let answer = self.ask(&format!("send-partly {} {bytes}", socket.fd));
        let mut words = answer.split_ascii_whitespace();
        (word(&mut words), word(&mut words))
    }

    /// [`ways::receive_peeking`].
    pub fn receive_peeking(&mut self, socket: Socket) -> (u64, u64) {
        let answer = self.ask(&format!("receive-peeking {}", socket.fd));
        let mut words = answer.split_ascii_whitespace();
        (word(&mut words), word(&mut words))
    }

    /// [`ways::send_file`].
    pub fn send_file(&mut self, socket: Socket, bytes: u64) -> u64 {
        let answer = self.ask(&format!("send-file {} {bytes}", socket.fd));
        word(&mut answer.split_ascii_whitespace())
    }

    /// Receives to the end of the stream. Returns the bytes.
    pub fn receive_all(&mut self, socket: Socket) -> u64 {
        let answer = self.ask(&format!("receive-all {}", socket.fd));
        word(&mut answer.split_ascii_whitespace())
    }

    /// Sends no more.
    pub fn end_sending(&mut self, socket: Socket) {
        self.ask(&format!("end-sending {}", socket.fd));
    }

    /// Loses this share of the segments that arrive.
    pub fn lose(&mut self, socket: Socket, percent: u32) {
        self.ask(&format!("lose {} {percent}", socket.fd));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // A fork of the agent ends with its input, and the agent with its fork.
        self.conversation.hang_up();
        if self.pid == self.child.id() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

impl Socket {
    fn parse(answer: &str) -> Socket {
        let mut words = answer.split_ascii_whitespace();
        Socket { fd: word(&mut words), ends: Ends::new(word(&mut words), word(&mut words)) }
    }
}

fn word<T: FromStr>(words: &mut SplitAsciiWhitespace<'_>) -> T {
    let word = words.next().expect("another word");
    word.parse().unwrap_or_else(|_| panic!("unexpected word {word:?}"))
}

fn hex(bytes: &[u8]) -> String {
    // The leading zero makes a word of the empty name, too.
    bytes.iter().fold(String::from("0"), |text, byte| text + &format!("{byte:02x}"))
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = &text.as_bytes()[1..];
    let digit = |byte: u8| (byte as char).to_digit(16).expect("hex") as u8;
    let byte = |pair: &[u8]| digit(pair[0]) << 4 | digit(pair[1]);
    digits.chunks(2).map(byte).collect()
}

/// Names the calling thread (and so the process, if it is the first thread). Any bytes
/// except NUL; the kernel keeps 15 of them.
fn set_name(name: Vec<u8>) {
    let name = CString::new(name).expect("no NUL");
    // SAFETY: the kernel reads a NUL-terminated string.
    let result = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    assert_eq!(result, 0, "PR_SET_NAME");
}

/// The sockets that an agent holds.
#[derive(Default)]
struct Held {
    listeners: BTreeMap<RawFd, TcpListener>,
    streams: BTreeMap<RawFd, TcpStream>,
    udp: BTreeMap<RawFd, UdpSocket>,
    mailbox: Option<UnixDatagram>,
    /// The first process of a fork bomb.
    bomb: libc::pid_t,
}

impl Held {
    fn keep(&mut self, stream: TcpStream) -> String {
        sock::bounded(&stream);
        let (fd, ends) = (stream.as_raw_fd(), Ends::of(&stream));
        self.streams.insert(fd, stream);
        format!("{fd} {} {}", ends.local, ends.remote)
    }

    fn obey(&mut self, line: &str) -> io::Result<String> {
        let mut words = line.split_ascii_whitespace();
        let words = &mut words;
        let verb: String = word(words);
        match &*verb {
            "name" => set_name(unhex(&word::<String>(words))),
            "listen" | "listen-shared" => {
                let listen = if verb == "listen" { sock::listen_at } else { sock::listen_shared };
                let listener = listen(word(words));
                let (fd, address) = (listener.as_raw_fd(), listener.local_addr()?);
                self.listeners.insert(fd, listener);
                return Ok(format!("{fd} {address}"));
            }
            "accept" => {
                let (stream, _) = self.listeners[&word(words)].accept()?;
                return Ok(self.keep(stream));
            }
            "accept-waiting" => {
                let listener = self.listeners[&word(words)].try_clone()?;
                listener.set_nonblocking(true)?;
                let mut accepted = String::new();
                loop {
                    match listener.accept() {
                        Ok((stream, _)) => accepted += &format!("{};", self.keep(stream)),
                        Err(error) if sock::would_block(&error) => break,
                        Err(error) => return Err(error),
                    }
                }
                listener.set_nonblocking(false)?;
                return Ok(accepted);
            }
            "close-listener" => drop(self.listeners.remove(&word(words))),
            "connect" => {
                let stream = TcpStream::connect(word::<SocketAddr>(words))?;
                return Ok(self.keep(stream));
            }
            "hold" => {
                let (listener, address) = sock::listen(sock::Family::V4);
                for _ in 0..word::<u32>(words) {
                    self.keep(TcpStream::connect(address)?);
                    self.keep(listener.accept()?.0);
                }
            }
            "send" => sock::send(&self.streams[&word(words)], word(words)),
            "send-named" => {
                let name = unhex(&word::<String>(words));
                let (stream, bytes) = (&self.streams[&word(words)], word(words));
                thread::scope(|scope| {
                    scope.spawn(|| {
                        set_name(name);
                        sock::send(stream, bytes);
                    });
                });
            }
            "receive" => sock::receive(&self.streams[&word(words)], word(words)),
            "send-partly" => {
                let (accepted, asked) =
                    ways::send_partly(&self.streams[&word(words)], word(words))?;
                return Ok(format!("{accepted} {asked}"));
            }
            "receive-peeking" => {
                let (received, peeked) = ways::receive_peeking(&self.streams[&word(words)])?;
                return Ok(format!("{received} {peeked}"));
            }
            "send-file" => {
                let sent = ways::send_file(&self.streams[&word(words)], word(words))?;
                return Ok(sent.to_string());
            }
            "receive-all" => {
                return Ok(sock::receive_all(&self.streams[&word(words)]).to_string());
            }
            "end-sending" => ways::end(&self.streams[&word(words)])?,
            "lose" => {
                let (stream, share) = (&self.streams[&word(words)], word::<u32>(words));
                sock::filter_incoming(stream, sock::Let::Percent(100 - share));
            }
            "close" => drop(self.streams.remove(&word(words))),
            "fork" => return fork(None),
            "fork-as" => return fork(Some(word(words))),
            "bomb" => self.bomb = bomb(word(words))?,
            "end-bomb" => end(self.bomb)?,
            "exec" => return Err(exec(word(words), &word::<String>(words))),
            "adopt" => {
                // SAFETY: the image before this one left the socket open for it.
                let fd = unsafe { OwnedFd::from_raw_fd(word(words)) };
                self.keep(TcpStream::from(fd));
            }
            "mailbox" => self.mailbox = Some(UnixDatagram::bind(word::<String>(words))?),
            "give" => give(word(words), &word::<String>(words))?,
            "take" => {
                let stream = take(self.mailbox.as_ref().expect("a mailbox"))?;
                return Ok(self.keep(stream));
            }
            "udp" => {
                let socket = udp::bind_shared(word(words));
                let (fd, address) = (socket.as_raw_fd(), socket.local_addr()?);
                self.udp.insert(fd, socket);
                return Ok(format!("{fd} {address}"));
            }
            "udp-join" => udp::join(&self.udp[&word(words)], word(words), word(words)),
            "udp-send" => {
                let (socket, remote) = (&self.udp[&word(words)], word::<SocketAddr>(words));
                udp::send_to(socket, remote, word(words), word(words));
            }
            "udp-shots" => {
                let (local, remote, bytes) = (word::<Ipv4Addr>(words), word(words), word(words));
                for _ in 0..word::<u32>(words) {
                    let socket = udp::bind(SocketAddr::from((local, 0)));
                    udp::send_to(&socket, remote, bytes, 1);
                    udp::receive(&socket, 1);
                }
            }
            "udp-receive" => {
                return Ok(udp::receive(&self.udp[&word(words)], word(words)).to_string());
            }
            "udp-answer" => {
                udp::answer(&self.udp[&word(words)], word(words), word(words));
            }
            "udp-drain" => return Ok(udp::drain(&self.udp[&word(words)]).0.to_string()),
            "serve-churn" => return Ok(churn::serve(word(words), word(words))?.to_string()),
            "churn" => churn::run(word(words), word(words), &word::<String>(words))?,
            _ => return Err(io::Error::other("unknown command")),
        }
        Ok(String::new())
    }
}

/// The loop of an agent.
fn serve() -> io::Result<()> {
    let mut held = Held::default();
    reexec::serve(|line| {
        Ok(match held.obey(line) {
            Ok(text) => format!("ok {text}"),
            Err(error) => format!("error {error}"),
        })
    })
}

/// Forks. Returns in the child only, with its PID (this one, if given); the parent waits for
/// the child and ends. If the kernel refuses the PID, returns its error in the parent.
fn fork(pid: Option<libc::pid_t>) -> io::Result<String> {
    match clone(0, pid) {
        Err(error) if pid.is_some() => {
            Ok(format!("refused {}", error.raw_os_error().unwrap_or(libc::EINVAL)))
        }
        Err(error) => Err(error),
        Ok(0) => Ok(process::id().to_string()),
        Ok(child) => {
            // SAFETY: the status is not asked for.
            unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
            process::exit(0);
        }
    }
}

/// fork(2) with flags of clone3(2) and, if given, this PID. The process has one thread.
fn clone(flags: libc::c_int, pid: Option<libc::pid_t>) -> io::Result<libc::pid_t> {
    let set_tid = pid.as_ref().map_or(0, |pid| ptr::from_ref(pid) as u64);
    // SAFETY: integers; zero stands for what is not used.
    let mut arguments: libc::clone_args = unsafe { mem::zeroed() };
    arguments.flags = flags as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.set_tid = set_tid;
    arguments.set_tid_size = u64::from(pid.is_some());
    // SAFETY: the kernel reads the arguments and the PID. The child has a copy of all memory,
    // as after fork(2), and no other thread held a lock.
    let result = unsafe {
        libc::syscall(libc::SYS_clone3, &raw const arguments, mem::size_of_val(&arguments))
    };
    match result {
        -1 => Err(io::Error::last_os_error()),
        child => Ok(child as libc::pid_t),
    }
}

/// Starts the first process of a fork bomb, the init of its PID namespace. Returns its PID.
fn bomb(remote: SocketAddr) -> io::Result<libc::pid_t> {
    /// They end by themselves if nobody ends them.
    const LONGEST: Duration = Duration::from_secs(20);
    let child = clone(libc::CLONE_NEWPID, None)?;
    if child > 0 {
        return Ok(child);
    }
    // SAFETY: no handler is set. Nobody waits for the children.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let began = Instant::now();
    while began.elapsed() < LONGEST {
        // It fails when there are enough.
        let _ = clone(0, None);
        if let Ok(stream) = TcpStream::connect(remote) {
            // Any part of it may arrive: the process may be killed.
            let _ = (&stream).write_all(b"bomb");
        }
        thread::sleep(Duration::from_millis(50));
    }
    process::exit(0);
}

/// Kills the init of a PID namespace, and with it all that is in it.
fn end(init: libc::pid_t) -> io::Result<()> {
    // SAFETY: the child has not been waited for, so the id is its own.
    let result = unsafe {
        libc::kill(init, libc::SIGKILL);
        libc::waitpid(init, std::ptr::null_mut(), 0)
    };
    if result == init { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends the answer, then executes the program. Returns only if that fails.
fn exec(kept: RawFd, program: &str) -> io::Error {
    // SAFETY: integers only; the descriptor is one of this process.
    unsafe { libc::fcntl(kept, libc::F_SETFD, 0) };
    match reexec::say("ok ") {
        Ok(()) => reexec::command(Path::new(program), &ROLE).exec(),
        Err(error) => error,
    }
}

fn give(socket: RawFd, mailbox: &str) -> io::Result<()> {
    let courier = UnixDatagram::unbound()?;
    let address = UnixAddr::new(mailbox)?;
    let fds = [socket];
    let message = [ControlMessage::ScmRights(&fds)];
    sendmsg(
        courier.as_raw_fd(),
        &[IoSlice::new(b"x")],
        &message,
        MsgFlags::empty(),
        Some(&address),
    )?;
    Ok(())
}

fn take(mailbox: &UnixDatagram) -> io::Result<TcpStream> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(RawFd);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(mailbox.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel has just made this descriptor for us.
            return Ok(TcpStream::from(unsafe { OwnedFd::from_raw_fd(fds[0]) }));
        }
    }
    Err(io::Error::other("no descriptor in the message"))
}
