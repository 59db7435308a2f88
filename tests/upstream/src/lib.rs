//! An in-memory FHIR R4 server that behaves like real ones, for tests, examples and benchmarks.
//!
//! [`SampleUpstream`] is the server and a test's hand in it: what it holds, what it was asked, when it breaks.
//! [`Settings`] chooses among the habits of real servers. Resources keep the bytes they came with; only
//! `meta.versionId` and `meta.lastUpdated` are written into them.
//!
//! From the core outward: [`Settings`]; `store` (resources, indexes, versions); `query`, `search` and `paging`
//! (one search from its parameters to its page); `searchset`, `everything`, `history`, `instance` and `capability` (one FHIR
//! interaction each); `route`, `wire` and `server` (HTTP).

mod answer;
mod base64;
mod body;
mod bundle;
mod capability;
mod demand;
mod everything;
mod export;
mod faults;
mod generate;
mod history;
mod instance;
mod instant;
mod lies;
mod load;
mod paging;
mod params;
mod pretty;
mod query;
mod requests;
mod rng;
mod route;
mod search;
mod searchset;
mod server;
mod settings;
mod slots;
mod splice;
mod store;
mod upstream;
mod wire;
pub mod world;

pub use demand::Demand;
pub use lies::{Accepts, Bounds, Handling, Lies, Links, Posts};
pub use requests::RequestSeen;
pub use server::Running;
pub use settings::{Everything, Faults, Order, OwnExport, Paging, Rate, Settings, Stamp, Total};
pub use upstream::{Op, Pending, SampleUpstream, Stored, Version};
