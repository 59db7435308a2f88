//! The Bulk Data operation as the guide writes it.

pub(crate) mod cohort;
pub(crate) mod job_id;
pub(crate) mod kickoff;
pub(crate) mod manifest;
pub(crate) mod route;
pub(crate) mod sealed;
pub(crate) mod shape;
pub(crate) mod statement;
