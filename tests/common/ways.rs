//! Ways to move bytes over TCP that a counter can get wrong.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::sock::{set_int, would_block};

/// What a non-blocking sender asks for at once: more than its buffer holds.
const REQUEST: usize = 300_000;

/// What a receiver looks at before it takes it.
const GLANCE: usize = 16_384;

/// A file with this many bytes, at its beginning.
pub fn file_of(bytes: u64) -> File {
    let mut file = tempfile::tempfile().expect("a file");
    io::copy(&mut io::repeat(b'f').take(bytes), &mut file).expect("fill the file");
    file.rewind().expect("rewind");
    file
}

/// Sends with a small buffer and without blocking: each call is accepted in part or not at
/// all. Returns the bytes that were accepted, and those that were asked for.
pub fn send_partly(mut stream: &TcpStream, bytes: u64) -> io::Result<(u64, u64)> {
    set_int(stream, libc::SOL_SOCKET, libc::SO_SNDBUF, 8192);
    stream.set_nonblocking(true)?;
    let request = vec![b'p'; REQUEST];
    let (mut accepted, mut asked) = (0, 0);
    while accepted < bytes {
        asked += REQUEST as u64;
        match stream.write(&request) {
            Ok(part) => accepted += part as u64,
            Err(error) if would_block(&error) => {
                let mut writable = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
                poll(&mut writable, PollTimeout::from(1000_u16))?;
            }
            Err(error) => return Err(error),
        }
    }
    stream.set_nonblocking(false)?;
    Ok((accepted, asked))
}

/// Receives to the end of the stream, and peeks at everything three times before (MSG_PEEK).
/// Returns the bytes received, and those seen by peeking.
pub fn receive_peeking(mut stream: &TcpStream) -> io::Result<(u64, u64)> {
    let mut buffer = [0; GLANCE];
    let (mut received, mut peeked) = (0, 0);
    loop {
        for _ in 0..3 {
            peeked += stream.peek(&mut buffer)? as u64;
        }
        match stream.read(&mut buffer)? {
            0 => return Ok((received, peeked)),
            part => received += part as u64,
        }
    }
}

/// Sends a file of this size with sendfile(2). Returns the bytes that the calls reported.
pub fn send_file(stream: &TcpStream, bytes: u64) -> io::Result<u64> {
    let file = file_of(bytes);
    let mut sent = 0;
    while sent < bytes {
        match nix::sys::sendfile::sendfile64(stream, &file, None, (bytes - sent) as usize)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            part => sent += part as u64,
        }
    }
    Ok(sent)
}

/// Ends the stream in this direction.
pub fn end(stream: &TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)
}
