//! The integration tests: real HTTP on loopback, a sample upstream, and what a client gets to see.

#[path = "../../examples/support/client.rs"]
mod client;
#[path = "../../examples/support/expected.rs"]
mod expected;

mod anonymous;
mod architecture;
mod as_of;
mod attacks;
mod beside;
mod care;
mod churn;
mod crash;
mod credentials;
mod crowd;
mod deletes;
mod deletions;
mod doctor;
mod doctor_storage;
mod downloads;
mod embedding;
mod exact;
mod exports;
mod external;
mod faults;
mod foreign;
mod full;
mod heads;
mod hostile;
mod kill;
mod ledger;
mod lies;
mod limits;
mod links;
mod model;
mod outage;
mod paths;
mod poisoned;
mod policy;
mod process;
mod profile;
mod proof;
mod public;
mod random;
mod raw;
mod recover;
mod refusals;
mod rereads;
mod restart;
mod since;
mod smart;
mod status;
mod storages;
mod support;
mod versions;
mod writer;
