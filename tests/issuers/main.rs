//! Tokens of real issuers on loopback, which `tests/issuers/run` starts; without it nothing here is run, and that is what it
//! says. `OFFTAKE_ISSUERS` names the issuers. Arguments choose tests by parts of their names.

#[path = "../../examples/support/expected.rs"]
mod expected;
#[path = "../it/raw.rs"]
mod raw;
#[path = "../components/runner.rs"]
mod runner;

mod checks;
mod issuer;
mod rig;

use std::process::ExitCode;

use futures_util::FutureExt;

use issuer::Issuer;

type Test = runner::Test<Issuer>;
/// Which issuers a test is about.
type Where = runner::Where<Issuer>;

const ALL: Where = |_| true;
/// What can be verified by keys.
const BY_KEYS: Where = |issuer| !issuer.is_opaque();
/// What has introspection for its tokens: oidc-provider has it for opaque ones only.
const BY_ASKING: Where = |issuer| issuer.name != "oidc-provider";

const TESTS: [(&str, Where, Test); 9] = [
    ("an_export_by_its_keys", BY_KEYS, |issuer| checks::export_by_keys(issuer).boxed_local()),
    ("an_export_by_asking_it", BY_ASKING, |issuer| checks::export_by_asking(issuer).boxed_local()),
    ("an_assertion_for_an_hour", BY_KEYS, |issuer| checks::long_assertion(issuer).boxed_local()),
    ("scopes_that_it_does_not_know", BY_KEYS, |issuer| checks::unknown_scope(issuer).boxed_local()),
    ("a_token_for_somebody_else", ALL, |issuer| checks::foreign_audience(issuer).boxed_local()),
    ("a_client_that_is_not_listed", ALL, |issuer| checks::unlisted_client(issuer).boxed_local()),
    ("tokens_of_a_user", ALL, |issuer| checks::tokens_of_a_user(issuer).boxed_local()),
    ("a_token_that_is_revoked", BY_ASKING, |issuer| checks::revoked(issuer).boxed_local()),
    ("what_is_told_to_clients", ALL, |issuer| checks::discovery(issuer).boxed_local()),
];

fn main() -> ExitCode {
    let Some(names) = issuer::given("OFFTAKE_ISSUERS") else {
        println!("NOT RUN: the tests of issuers need `tests/issuers/run`, which starts issuers for them");
        return ExitCode::SUCCESS;
    };
    let issuers = names.split_whitespace().map(Issuer::named);
    runner::run(issuers, &TESTS, |test, issuer| format!("{test} of {}", issuer.name))
}
