//! The threads of those who would have machines of their own.

use std::process::{Command, Stdio};

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};

/// Who reads, what is read, and all others.
pub(crate) struct Machines {
    pub(crate) reader: Runtime,
    pub(crate) server: Runtime,
    /// They run where the other two leave a processor, and share it with exports.
    pub(crate) others: Runtime,
    /// They run where nobody else wants a processor at all, if `chrt` of util-linux is there; else as `others`.
    pub(crate) away: Runtime,
}

#[derive(Clone, Copy)]
enum Turn {
    Ordinary,
    /// As that of exports in the program.
    Lower,
    Last,
}

impl Machines {
    pub(crate) fn start() -> anyhow::Result<Self> {
        Ok(Self {
            reader: threads("reader", 1, Turn::Ordinary)?,
            server: threads("server", 2, Turn::Ordinary)?,
            others: threads("others", 2, Turn::Lower)?,
            away: threads("away", 2, Turn::Last)?,
        })
    }
}

fn threads(name: &str, count: usize, turn: Turn) -> anyhow::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(count).thread_name(name).enable_all();
    builder.on_thread_start(move || match turn {
        Turn::Ordinary => {}
        Turn::Last if comes_last() => {}
        Turn::Lower | Turn::Last => {
            let lowered = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 10);
            lowered.expect("a thread may lower its own priority");
        }
    });
    builder.build().with_context(|| format!("could not start the threads of {name}"))
}

/// Has this thread run only where no other one wants to.
fn comes_last() -> bool {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut command = Command::new("chrt");
    command.args(["--idle", "--pid", "0", &thread]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let done = command.status().is_ok_and(|status| status.success());
    if !done {
        println!("NOT RUN: chrt; what floods shares processors with who reads");
    }
    done
}
