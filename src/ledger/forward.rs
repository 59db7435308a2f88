//! Hands records on as `AuditEvent`s to a file or a syslog, once they are durable: best effort, and nobody waits for it.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use super::audit_event::audit_event;
use super::record::Record;

/// Records that wait while the other side is slow; those beyond are lost to it, and counted.
const WAITING: usize = 1_000;
/// RFC 5424: facility 13, log audit, at severity 5, notice.
const PRIORITY: u8 = 13 * 8 + 5;

/// Where records are handed on to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// NDJSON, for somebody else to fetch.
    File(PathBuf),
    /// A datagram socket such as `/dev/log`.
    Unix(PathBuf),
    /// `HOST:PORT`
    Udp(String),
}

/// A thread that hands on.
#[derive(Debug)]
pub(super) struct Forward {
    sender: SyncSender<Record>,
    lost: u64,
}

impl Forward {
    /// # Errors
    /// If the system has no more threads to give.
    pub(super) fn start(target: Target, server: String) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(WAITING);
        let thread = std::thread::Builder::new().name("offtake-audit".to_owned());
        thread.spawn(move || hand_on(&target, &server, &receiver))?;
        Ok(Self { sender, lost: 0 })
    }

    pub(super) fn hand_on(&mut self, record: Record) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.sender.try_send(record) {
            self.lost += 1;
            if self.lost.is_power_of_two() {
                tracing::warn!(lost = self.lost, "records of the ledger were not handed on: too many were waiting");
            }
        }
    }
}

fn hand_on(target: &Target, server: &str, receiver: &Receiver<Record>) {
    let mut socket = None;
    let mut failed = 0_u64;
    for record in receiver {
        let Some(event) = audit_event(&record, server) else { continue };
        let sent = send(target, &mut socket, &record, &event.to_string());
        if let Err(error) = sent {
            socket = None;
            failed += 1;
            if failed.is_power_of_two() {
                tracing::warn!(error = %error.kind(), failed, "a record of the ledger was not handed on");
            }
        }
    }
}

/// A socket that is connected.
enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

fn send(target: &Target, socket: &mut Option<Socket>, record: &Record, event: &str) -> io::Result<()> {
    if let Target::File(path) = target {
        // Opened anew each time: whoever fetches it may move it away.
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        return file.write_all(format!("{event}\n").as_bytes());
    }
    let connected = match socket {
        Some(socket) => socket,
        None => socket.insert(connect(target)?),
    };
    let process = std::process::id();
    let message = format!("<{PRIORITY}>1 {} - offtake {process} ledger - \u{feff}{event}", record.at);
    match connected {
        Socket::Unix(socket) => socket.send(message.as_bytes()),
        Socket::Udp(socket) => socket.send(message.as_bytes()),
    }
    .map(drop)
}

fn connect(target: &Target) -> io::Result<Socket> {
    match target {
        Target::File(_) => Err(ErrorKind::Unsupported.into()),
        Target::Unix(path) => {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            Ok(Socket::Unix(socket))
        }
        Target::Udp(address) => {
            let connected = |own: UdpSocket| own.connect(address).map(|()| own);
            let by_v4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(connected);
            by_v4.or_else(|_| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).and_then(connected)).map(Socket::Udp)
        }
    }
}
