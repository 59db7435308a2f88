//! Whole exports to real storages on loopback, which `tests/clouds/run` starts; without it nothing here is run, and that
//! is what it says. `OFFTAKE_CLOUDS` names the storages. Arguments choose tests by parts of their names.

#[path = "../../examples/support/client.rs"]
mod client;
#[path = "../it/crash/output.rs"]
mod crash_output;
#[path = "../../examples/support/expected.rs"]
mod expected;
#[path = "../components/runner.rs"]
mod runner;

mod aborts;
mod between;
mod crash_parts;
mod disk;
mod doctor;
mod exports;
mod full;
mod links;
mod live;
mod process;
mod stall;
mod storage;
mod support;

use std::process::ExitCode;

use futures_util::FutureExt;

use storage::Storage;

type Test = runner::Test<Storage>;
/// Where a test is about something.
type Where = runner::Where<Storage>;

const ALL: Where = |storage| storage.name != "tmpfs";
/// A small disk, and no storage of others.
const ON_DISK: Where = |storage| storage.name == "tmpfs";
/// What a process does with a storage in a cloud, once.
const ON_S3: Where = Storage::is_s3;
/// Azure knows no uploads that could end, only blocks.
const HAS_BLOCKS: Where = |storage| storage.name.starts_with("azurite");
/// What takes minutes is not done a second time by TLS, where both are there.
const NOT_AGAIN: Where = |storage| {
    let is_there =
        |name| storage::given("OFFTAKE_CLOUDS").is_some_and(|names| names.split_whitespace().any(|n| n == name));
    ALL(storage) && (storage.name != "azurite-https" || !is_there("azurite"))
};
/// Google's front knows no way to make a bucket public.
const CAN_BE_PUBLIC: Where = |storage| ALL(storage) && storage.name != "gcs";

const TESTS: [(&str, Where, Test); 22] = [
    ("an_export_is_exact_at_every_level", ALL, |storage| exports::is_exact(storage).boxed_local()),
    ("a_file_of_several_parts_is_exact", ALL, |storage| exports::is_exact_in_parts(storage).boxed_local()),
    ("a_file_stored_as_gzip", ALL, |storage| links::stored_as_gzip(storage).boxed_local()),
    ("what_a_storage_says_of_a_file", ALL, |storage| links::attributes(storage).boxed_local()),
    ("a_link_opens_one_file_only", ALL, |storage| links::open_one_file(storage).boxed_local()),
    ("a_link_ends", ALL, |storage| links::end(storage).boxed_local()),
    ("links_of_ours_in_front_of_a_storage", ALL, |storage| links::ours(storage).boxed_local()),
    (
        "links_for_another_address",
        |storage| storage.public_endpoint().is_some(),
        |storage| links::for_another_address(storage).boxed_local(),
    ),
    ("links_bound_to_addresses", HAS_BLOCKS, |storage| links::bound_to_addresses(storage).boxed_local()),
    (
        "links_by_user_delegation",
        |storage| storage.name == "azurite-https",
        |storage| links::by_user_delegation(storage).boxed_local(),
    ),
    ("doctor_on_a_good_storage", ALL, |storage| doctor::reports_a_good_storage(storage).boxed_local()),
    ("a_public_bucket", CAN_BE_PUBLIC, |storage| doctor::finds_a_public_bucket(storage).boxed_local()),
    ("a_lost_store_is_rebuilt", ALL, |storage| aborts::rebuilds_a_lost_store(storage).boxed_local()),
    ("a_block_that_comes_late", HAS_BLOCKS, |storage| aborts::finds_what_comes_late(storage).boxed_local()),
    ("an_abort_at_any_effect", NOT_AGAIN, |storage| aborts::everywhere(storage).boxed_local()),
    ("what_others_have_there_stays", ALL, |storage| aborts::spares_others(storage).boxed_local()),
    ("a_storage_that_stalls", ALL, |storage| exports::outlasts_a_stall(storage).boxed_local()),
    ("a_process_whose_storage_stalls", ON_S3, |storage| stall::is_outlasted(storage).boxed_local()),
    ("a_process_refused_one_write_of_ten", ON_S3, |storage| stall::refusals_cost_time_only(storage).boxed_local()),
    ("a_disk_filled_by_an_export", ON_DISK, |storage| full::by_itself(storage).boxed_local()),
    ("a_disk_filled_while_little_is_read", ON_DISK, |storage| full::while_it_waits(storage).boxed_local()),
    ("a_disk_filled_by_others", ON_DISK, |storage| full::by_others(storage).boxed_local()),
];

fn main() -> ExitCode {
    let Some(names) = storage::given("OFFTAKE_CLOUDS") else {
        println!("NOT RUN: the tests on clouds need `tests/clouds/run`, which starts storages for them");
        return ExitCode::SUCCESS;
    };
    let storages = names.split_whitespace().map(Storage::named);
    runner::run(storages, &TESTS, |test, storage| format!("{test} on {}", storage.name))
}
