//! Exports from servers that others wrote, which `tests/real/run` installs; without it nothing here is run, and that is what
//! it says. `OFFTAKE_REAL` names the servers. Arguments choose tests by parts of their names. In the end one table is printed.

#[path = "../../examples/support/client.rs"]
mod client;
#[path = "../../examples/support/expected.rs"]
mod expected;
#[path = "../components/runner.rs"]
mod runner;
// Which versions an export may hold: the rules are those of the sample server.
#[path = "../it/exact/judge.rs"]
mod judge;
#[path = "../it/exact/listed.rs"]
mod listed;

mod beside;
mod child;
mod clients;
mod data;
mod export;
mod http;
mod loaded;
mod relay;
mod server;
mod sidecar;
mod stored;
mod table;
mod walk;
mod writer;
mod written;

use std::process::ExitCode;

use futures_util::FutureExt;

use server::Setup;

type Test = runner::Test<Setup>;
/// Which servers a test is about.
type Where = runner::Where<Setup>;

/// Where clients of others are tried, if any is there.
const ASKED_BY_OTHERS: Where = |setup| setup.name == "hapi" && data::given("OFFTAKE_REAL_CLIENTS").is_some();

/// Where nobody else writes.
const LEFT_ALONE: Where = |setup| setup.name != "hapi-written";
/// Where naive clients are tried as well.
const WALKED: Where = |setup| setup.name == "hapi-large" || of_pages(setup) || setup.name == "hapi-prefetch-2003";
/// Where the server's own export is tried, which leaves resources behind.
const EXPORTS_ITSELF: Where = |setup| matches!(setup.name.as_str(), "hapi-large" | "helios");
/// Where others write: the last of all tests, since what is stored is something else then.
const WRITTEN: Where = |setup| setup.name == "hapi-written" || of_pages(setup);

fn of_pages(setup: &Setup) -> bool {
    setup.name.starts_with("hapi-pages-")
}

const TESTS: [(&str, Where, Test); 7] = [
    ("what_is_found_out", LEFT_ALONE, |setup| export::is_known(setup).boxed_local()),
    ("exports_at_every_level", LEFT_ALONE, |setup| export::is_exact(setup).boxed_local()),
    ("clients_in_the_open", ASKED_BY_OTHERS, |setup| clients::are_served(setup).boxed_local()),
    ("clients_with_tokens", ASKED_BY_OTHERS, |setup| clients::are_served_by_token(setup).boxed_local()),
    ("beside_walks", WALKED, |setup| beside::walks(setup).boxed_local()),
    ("beside_its_own_export", EXPORTS_ITSELF, |setup| beside::its_own(setup).boxed_local()),
    ("exports_while_written", WRITTEN, |setup| written::are_whole(setup).boxed_local()),
];

fn main() -> ExitCode {
    let Some(names) = data::given("OFFTAKE_REAL") else {
        println!("NOT RUN: the tests of real servers need `tests/real/run`, which installs servers for them");
        return ExitCode::SUCCESS;
    };
    let setups = names.split_whitespace().map(Setup::named);
    let code = runner::run(setups, &TESTS, |test, setup| format!("{test} of {}", setup.name));
    table::print();
    code
}
