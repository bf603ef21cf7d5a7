//! What the caller and its supervisor say to each other, over one socket.
//!
//! The caller sends one request (with the write ends of the output pipes), then at most the byte
//! [`CANCEL`]; its end of the socket closing means the same. The supervisor answers frames: a tag, a
//! length, a JSON text.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::limits::Limits;
use crate::mount::{Access, Mount};
use crate::outcome::{Enforced, Exit, Reason};

/// Asks the supervisor to kill the command.
pub(crate) const CANCEL: u8 = b'K';
/// The frame that carries the listening socket of the sandbox's network namespace.
pub(crate) const LISTENER: u8 = b'L';
/// The frame that carries the final [`Report`].
pub(crate) const REPORT: u8 = b'O';

/// The port of the proxy inside a network namespace, which is otherwise empty.
pub(crate) const PROXY_PORT: u16 = 3128;

/// What the supervisor is to run. Paths and texts are those of inside the sandbox, substituted already.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub backend: Backend,
    /// `None` sets everything up and ends with code 0: a trial.
    pub program: Option<String>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: PathBuf,
    /// For namespaces: the private root, in the order of mounting.
    pub mounts: Vec<Mount>,
    /// For Landlock: the host's paths that may be used.
    pub grants: Vec<(PathBuf, Access)>,
    pub net: Net,
    pub limits: Limits,
    pub nesting: bool,
    /// Whether control groups are used where they can be made.
    pub cgroups: bool,
    pub stdin: bool,
    /// Whether the user is the machine's root; filled in by the supervisor.
    pub root_of_machine: bool,
    /// Whether the command may have memory that no process maps; filled in by the supervisor, which cannot count it.
    pub unmapped_memory: bool,
    /// Whether the command may choose its processors; filled in by the supervisor, which cannot hold them otherwise.
    pub any_processor: bool,
    /// The most of Landlock that is used: no more than a kernel with this ABI has.
    pub landlock_at_most: u32,
    /// A folder of the host that the supervisor removes at the end.
    pub scratch: Option<PathBuf>,
}

/// The network of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Net {
    None,
    /// A listener inside the network namespace, handed to the caller's proxy.
    NamespaceProxy,
    /// The caller's proxy, on this port of the host's loopback device.
    PortProxy(u16),
    /// The host's own network.
    Host,
}

/// How a command ended, as its supervisor saw it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub exit: Exit,
    pub reason: Reason,
    pub program_missing: bool,
    pub message: Option<String>,
    pub peak_memory_bytes: u64,
    pub wall: Duration,
    pub enforced: Enforced,
}

/// Sends bytes with descriptors.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    })?;
    send_all(socket, &bytes[sent..])
}

fn send_all(socket: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let sent = rustix::io::retry_on_intr(|| rustix::net::send(socket, bytes, SendFlags::NOSIGNAL))?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

/// Receives bytes with the descriptors that came along.
pub(crate) fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok((received.bytes, fds))
}

/// Sends the request, the output pipes and the standard input.
pub(crate) fn send_request(
    socket: &std::os::unix::net::UnixStream,
    request: &Request,
    stdin: &[u8],
    outputs: [BorrowedFd<'_>; 2],
) -> io::Result<()> {
    let json = serde_json::to_vec(request)?;
    let mut header = Vec::with_capacity(16);
    header.extend_from_slice(&(json.len() as u64).to_le_bytes());
    header.extend_from_slice(&(stdin.len() as u64).to_le_bytes());
    let fd = std::os::fd::AsFd::as_fd(socket);
    send(fd, &header, &outputs)?;
    send_all(fd, &json)?;
    send_all(fd, stdin)
}

/// Receives what [`send_request`] sent.
pub(crate) fn receive_request(
    socket: &mut std::os::unix::net::UnixStream,
) -> io::Result<(Request, Vec<u8>, Vec<OwnedFd>)> {
    let mut header = [0u8; 16];
    let (count, fds) = receive(std::os::fd::AsFd::as_fd(socket), &mut header)?;
    socket.read_exact(&mut header[count..])?;
    let length = |bytes: &[u8]| {
        let mut number = [0u8; 8];
        number.copy_from_slice(bytes);
        usize::try_from(u64::from_le_bytes(number)).map_err(io::Error::other)
    };
    let mut json = vec![0; length(&header[..8])?];
    socket.read_exact(&mut json)?;
    let mut stdin = vec![0; length(&header[8..])?];
    socket.read_exact(&mut stdin)?;
    Ok((serde_json::from_slice(&json)?, stdin, fds))
}

/// Makes a frame.
pub(crate) fn frame(tag: u8, text: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(5 + text.len());
    frame.push(tag);
    frame.extend_from_slice(&(text.len() as u32).to_le_bytes());
    frame.extend_from_slice(text);
    frame
}

/// Sends the final report.
pub(crate) fn send_report(socket: &mut std::os::unix::net::UnixStream, report: &Report) -> io::Result<()> {
    let json = serde_json::to_vec(report)?;
    socket.write_all(&frame(REPORT, &json))
}

/// Takes the first whole frame out of a buffer.
pub(crate) fn take_frame(buffer: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let header = buffer.get(..5)?;
    let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
    let tag = header[0];
    let text = buffer.get(5..5 + length)?.to_vec();
    buffer.drain(..5 + length);
    Some((tag, text))
}
