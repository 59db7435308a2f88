//! The little FHIR we speak; knows nothing of exports.

pub(crate) mod attachment;
pub(crate) mod bundle;
pub(crate) mod capability;
pub(crate) mod compartment;
pub(crate) mod datatypes;
pub(crate) mod elements;
pub(crate) mod filter;
pub(crate) mod history;
pub(crate) mod inside;
pub(crate) mod outcome;
pub(crate) mod provenance;
pub(crate) mod rebase;
pub(crate) mod resource_type;
pub(crate) mod search;
