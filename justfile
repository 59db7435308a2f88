# Shortcuts for people; what has to hold stands in .ci/run.

# Lists what there is.
default:
    @just --list

# Formatting and lints.
check:
    .ci/run formatting clippy docs

# Formats everything.
fmt:
    cargo fmt --all

# All tests, or those that a name is given for: `just test proof::`.
test *args:
    cargo test --locked {{ args }}

# Whole exports from a sample server: `just demo --paging offset --patients 1000`.
demo *args:
    cargo run --locked --release --example demo -- {{ args }}

# The export before a service of somebody else.
embed:
    cargo run --locked --release --example embed

# Serves the configuration in FILE.
run file:
    cargo run --locked --release -- serve --config {{ file }}

# Tells all that is wrong with the configuration in FILE.
config file:
    cargo run --locked -- config check --config {{ file }}

# The crate's documentation, which is also its map.
doc:
    cargo doc --locked --no-deps -p offtake --document-private-items --open

# All benchmarks: some three quarters of an hour on a machine that does nothing else.
bench:
    cargo bench --locked --bench export -- --json target/export.json --table README.md --table deploy/README.md --table tests/bench/README.md
    cargo bench --locked --bench care
    cargo bench --locked --bench output
    cargo bench --locked --bench pieces
    cargo bench --locked --bench pieces -- --instructions
    cargo bench --locked --bench start
    cargo bench --locked --bench tokens

# How quick an export is, in two minutes.
bench-quick:
    cargo bench --locked --bench export -- --scenario many --scenario one-slow --mebibytes 50

# Everything that has to hold before a change lands.
ci:
    .ci/run
