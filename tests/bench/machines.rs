//! The threads of those who would have machines of their own.

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};

/// Who reads, what is read, and all others.
pub(crate) struct Machines {
    pub(crate) reader: Runtime,
    pub(crate) server: Runtime,
    /// They run where the other two leave a processor.
    pub(crate) others: Runtime,
}

/// As that of exports in the program.
const LOWER: i32 = 10;

impl Machines {
    pub(crate) fn start() -> anyhow::Result<Self> {
        Ok(Self {
            reader: threads("reader", 1, 0)?,
            server: threads("server", 2, 0)?,
            others: threads("others", 2, LOWER)?,
        })
    }
}

fn threads(name: &str, count: usize, priority: i32) -> anyhow::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(count).thread_name(name).enable_all();
    builder.on_thread_start(move || {
        if priority > 0 {
            let lowered = rustix::process::setpriority_process(Some(rustix::thread::gettid()), priority);
            lowered.expect("a thread may lower its own priority");
        }
    });
    builder.build().with_context(|| format!("could not start the threads of {name}"))
}
