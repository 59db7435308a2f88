//! Who may export what: SMART Backend Services, and what of it leaves.
//!
//! A client proves who it is by a signed [`assertion`] and gets an [access token](access_token) for some of its [scopes
//! ](scope); a token becomes an [`Authorization`](server::Authorization), and that of a kick-off bounds the
//! [`Grant`](admit::Grant) that every line passes.

pub(crate) mod access_token;
pub(crate) mod address;
pub(crate) mod admit;
pub(crate) mod assertion;
pub(crate) mod client;
pub(crate) mod consent;
pub(crate) mod delivery;
pub(crate) mod discovery;
pub(crate) mod external;
pub(crate) mod fetch;
pub(crate) mod form;
pub(crate) mod generate;
pub(crate) mod jwk;
pub(crate) mod jws;
pub(crate) mod key_source;
pub(crate) mod labels;
pub(crate) mod narrowing;
pub(crate) mod policy;
pub(crate) mod private_jwk;
pub(crate) mod scope;
pub(crate) mod server;
pub(crate) mod signing_key;
