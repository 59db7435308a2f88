//! The FHIR server we stand before.

pub(crate) mod budget;
mod buffers;
pub(crate) mod capabilities;
pub(crate) mod client;
pub(crate) mod cohorts;
pub(crate) mod connect;
pub(crate) mod credentials;
pub(crate) mod gate;
pub(crate) mod group;
pub(crate) mod limit;
pub(crate) mod link;
pub(crate) mod live;
pub(crate) mod media;
pub(crate) mod probe;
pub(crate) mod retry;
pub(crate) mod tls;
