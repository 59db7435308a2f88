//! The FHIR server we stand before.

pub(crate) mod budget;
pub(crate) mod client;
pub(crate) mod connect;
pub(crate) mod group;
pub(crate) mod link;
pub(crate) mod media;
pub(crate) mod probe;
pub(crate) mod retry;
