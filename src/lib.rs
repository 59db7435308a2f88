//! Offtake gives any FHIR server the Bulk Data `$export` operation, without a change to the server.
//!
//! It stands in front of the server as a reverse proxy, answers the bulk interactions itself, and passes everything
//! else through untouched. To export it asks the server ordinary searches, writes the resources as NDJSON to the
//! operator's own storage and hands out signed links, with a proof of completeness in every manifest.
//!
//! # The path of one export
//!
//! ```text
//! kick-off ─ authorize ─ Kickoff ─ plan ─ steps ─ slices ─ pages ─ lines ─ files ─ manifest
//!  (HTTP)     (Grant)    (typed)  (pure)  (searches) (units of work)  (bytes) (durable)  (signed at each read)
//! ```
//!
//! [`Offtake::builder`] makes it from a [`Config`]; [`Offtake::run`] serves it as a reverse proxy, and
//! [`Offtake::layer`] puts it before a service of your own (`examples/embed.rs`).
//!
//! # The map
//!
//! From the core outward; a module uses only what stands above it, and `tests/it/architecture.rs` says so when one does
//! not:
//!
//! ```text
//! fhir       the little FHIR that is spoken: types, instants, searches, pages         pure
//! clock      the only place that asks the system for time or chance
//! body       the one body type of requests and answers
//! expiry     when certificates, keys and credentials end                              pure
//! profile    what the server was found to do                                          pure
//! bulk       the operation as the guide writes it: routes, kick-offs, manifests       pure
//! plan       what an export reads, and how it is cut into slices                      pure
//! smart      who may have what, and what leaves: tokens, and `Grant::admit`           mostly pure
//! job        the record of one export, its checkpoints, and what a store has to do    pure
//! config     what an operator decides
//! telemetry  what is logged, and what never is
//! store      where jobs are kept
//! ledger     who was given what: a chain of records that nobody can change unseen
//! upstream   the FHIR server: connections, retries, probes, searches
//! output     where files are kept, on disk or on a cloud: keys, links, uploads
//! engine     runs jobs: readers, workers, the reaper
//! recover    a lost job store, rebuilt from what lies beside the output
//! proxy      passes everything else through
//! http       the edge: our routes and the order of the layers
//! admin      what operators see: a page, health and metrics, on a listener of their own
//! app        where all meet
//! ```
//!
//! Read in this order: `fhir` and `bulk` (what is said on the wire), `plan` (what is read, and how it is cut),
//! `engine::accept` (when a slice is accepted), `engine::worker` (one job), `engine::files` (one line per resource,
//! one commit per file), `http::stack` (who answers which request), `app` (where all meet).
//!
//! # What always holds
//!
//! * What no complete file holds is left to do: that is the whole of resuming.
//! * A file is complete when its object, its sidecar, its checkpoint object and its record are durable, in this order; only
//!   then is it listed, and from then on it never changes.
//! * A line is made by `Grant::admit` and by nothing else.
//! * Nothing is handed out that the ledger has no durable record of.
//! * A resource's bytes are not ours: a line equals what the server sent but for white space and what was to be left
//!   out.
//! * Ordinary traffic has connections and threads of its own and waits for no export.

mod admin;
mod app;
mod body;
mod bulk;
#[doc(hidden)]
pub mod cli;
mod clock;
pub mod config;
mod disk;
mod doctor;
mod engine;
mod expiry;
mod fhir;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod job;
mod ledger;
mod output;
mod plan;
mod profile;
mod proxy;
mod recover;
mod smart;
mod store;
mod telemetry;
#[doc(hidden)]
pub mod testing;
mod upstream;

pub use app::{Builder, JobStore, Offtake};
pub use clock::{Clock, SystemClock};
pub use config::Config;
pub use http::stack::{Diverted, OfftakeLayer};
