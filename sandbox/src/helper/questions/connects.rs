//! Connections of a command on the host's network: to its proxy, and nowhere else.
//!
//! The address lies in the command's memory, where another thread may change it after it was looked at, and Landlock
//! knows ports but no addresses. So the call that was asked about is never let go on: init makes the connection, to the
//! one place there is, and puts it where the command's socket was. What the command says decides no more than whether it
//! gets that connection or a refusal.

use std::io::{Read, Seek, SeekFrom};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::sys::{self, Answer, Question};

/// The most that an address of the Internet takes: `sockaddr_in6`.
const LARGEST: usize = 28;

/// Connects what asks for the proxy with it; refuses everybody else.
pub(super) fn answer(listener: BorrowedFd<'_>, question: &Question, port: u16) -> Answer {
    let Some(target) = wanted(question) else {
        return Answer::Fails(libc::EPERM);
    };
    if target.port() != port || target.ip().to_canonical() != IpAddr::V4(Ipv4Addr::LOCALHOST) {
        return Answer::Fails(libc::EPERM);
    }
    // The kernel, too, reads no more than the lower half.
    let number = question.arguments[0] as u32;
    let Some(flags) = flags_of(question.thread, number) else {
        return Answer::Fails(libc::ENOTSOCK);
    };
    let connected = connect(target, flags & libc::O_NONBLOCK != 0).and_then(|socket| {
        let close_on_exec = flags & libc::O_CLOEXEC != 0;
        sys::replace_descriptor(listener, question, number, socket.as_fd(), close_on_exec)
    });
    match connected {
        Ok(()) => Answer::Done,
        Err(error) => Answer::Fails(error.raw_os_error().unwrap_or(libc::ECONNREFUSED)),
    }
}

/// Reads where a thread wants to connect to.
fn wanted(question: &Question) -> Option<SocketAddr> {
    let length = LARGEST.min(question.arguments[2] as usize);
    let mut address = [0; LARGEST];
    let mut memory = std::fs::File::open(format!("/proc/{}/mem", question.thread)).ok()?;
    memory.seek(SeekFrom::Start(question.arguments[1])).ok()?;
    memory.read_exact(&mut address[..length]).ok()?;
    parse(&address[..length])
}

/// Takes the kernel's form of an Internet address apart.
fn parse(address: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(address.get(..2)?.try_into().ok()?);
    let port = u16::from_be_bytes(address.get(2..4)?.try_into().ok()?);
    let ip = match i32::from(family) {
        libc::AF_INET if address.len() >= 16 => IpAddr::from(<[u8; 4]>::try_from(&address[4..8]).ok()?),
        libc::AF_INET6 if address.len() >= LARGEST => IpAddr::from(<[u8; 16]>::try_from(&address[8..24]).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Returns the flags of a thread's descriptor, if it is a socket.
fn flags_of(thread: u32, number: u32) -> Option<i32> {
    let process = Path::new("/proc").join(thread.to_string());
    let target = std::fs::read_link(process.join("fd").join(number.to_string())).ok()?;
    if !target.to_str()?.starts_with("socket:") {
        return None;
    }
    let info = std::fs::read_to_string(process.join("fdinfo").join(number.to_string())).ok()?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
    i32::from_str_radix(flags.trim(), 8).ok()
}

/// Connects without waiting: whoever uses the socket before it is connected waits itself, as it would have here.
fn connect(target: SocketAddr, stays_nonblocking: bool) -> std::io::Result<OwnedFd> {
    let family = if target.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    // What was set on the command's own socket is lost with it; this is what its clients set.
    let _ = rustix::net::sockopt::set_tcp_nodelay(&socket, true);
    match rustix::net::connect(&socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    if !stays_nonblocking {
        rustix::io::ioctl_fionbio(&socket, false)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_are_read_as_the_kernel_has_them() {
        let inet = [&2u16.to_ne_bytes()[..], &[0x0c, 0x38, 127, 0, 0, 1], &[0; 8]].concat();
        assert_eq!(parse(&inet), Some("127.0.0.1:3128".parse().unwrap()));
        let mut mapped = [
            &10u16.to_ne_bytes()[..],
            &[0x0c, 0x38],
            &[0; 4],
            &[0; 10],
            &[255, 255, 127, 0, 0, 1],
        ]
        .concat();
        mapped.extend([0; 4]);
        assert_eq!(parse(&mapped), Some("[::ffff:127.0.0.1]:3128".parse().unwrap()));
        let unix = [&1u16.to_ne_bytes()[..], b"/run/a/socket\0"].concat();
        for refused in [&unix[..], &inet[..15], &mapped[..27], &[0; 28], &[], &[2]] {
            assert_eq!(parse(refused), None, "{refused:?}");
        }
    }
}
