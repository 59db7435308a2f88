//! Exports from servers that others wrote, which `tests/real/run` installs; without it nothing here is run, and that is what
//! it says. `OFFTAKE_REAL` names the servers. Arguments choose tests by parts of their names. In the end one table is printed.

#[path = "../../examples/support/client.rs"]
mod client;
#[path = "../../examples/support/expected.rs"]
mod expected;
#[path = "../components/runner.rs"]
mod runner;

mod child;
mod clients;
mod data;
mod export;
mod http;
mod relay;
mod server;
mod sidecar;
mod stored;
mod table;

use std::process::ExitCode;

use futures_util::FutureExt;

use server::Setup;

type Test = runner::Test<Setup>;
/// Which servers a test is about.
type Where = runner::Where<Setup>;

const ALL: Where = |_| true;
/// Where clients of others are tried, if any is there.
const ASKED_BY_OTHERS: Where = |setup| setup.name == "hapi" && data::given("OFFTAKE_REAL_CLIENTS").is_some();

const TESTS: [(&str, Where, Test); 3] = [
    ("what_is_found_out", ALL, |setup| export::is_known(setup).boxed_local()),
    ("exports_at_every_level", ALL, |setup| export::is_exact(setup).boxed_local()),
    ("clients_in_the_open", ASKED_BY_OTHERS, |setup| clients::are_served(setup).boxed_local()),
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
