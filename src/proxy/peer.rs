//! Who is at the other end of a connection.

use std::net::SocketAddr;

/// The address that a request's connection comes from, in the request's extensions. Put there by the
/// listener; no header can change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PeerAddr(pub(crate) SocketAddr);
