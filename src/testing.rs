//! For tests, examples and benchmarks only; no promise is made about it.

pub use crate::clock::ManualClock;
