//! What a client does that knows nothing of the server: one search for each type, and page after page of it. It is as quick as
//! it can be: types at the same time, the largest first, packed answers, which are cut up and not looked into.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::http::Http;
use crate::stored::Named;

/// Resources that it asks for on a page, as Offtake does.
const COUNT: usize = 1000;

/// How it comes to the next page.
#[derive(Debug, Clone, Copy)]
pub(crate) enum By {
    /// By the links of a search.
    Next,
    /// By the links of a search with an `_offset`.
    Offset,
}

impl By {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Next => "walk by next",
            Self::Offset => "walk by _offset",
        }
    }
}

pub(crate) struct Walk {
    resources: Vec<Box<RawValue>>,
    /// To the last byte.
    pub(crate) took: Duration,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    entry: Vec<Entry>,
    #[serde(default)]
    link: Vec<Link>,
}

#[derive(Deserialize)]
struct Entry {
    resource: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Link {
    relation: String,
    url: String,
}

impl Walk {
    /// Through these types, of which there are so many, with so many connections.
    pub(crate) async fn through<'a>(
        base: &str,
        types: impl IntoIterator<Item = (&'a str, usize)>,
        connections: usize,
        by: By,
    ) -> anyhow::Result<Self> {
        let mut types: Vec<_> = types.into_iter().map(|(name, count)| (count, name.to_owned())).collect();
        types.sort_unstable();
        let (types, http, began) = (Arc::new(Mutex::new(types)), Http::new(), Instant::now());
        let workers: Vec<_> = (0..connections)
            .map(|_| {
                let (http, base, types) = (http.clone(), base.to_owned(), Arc::clone(&types));
                let next = move || types.lock().unwrap_or_else(PoisonError::into_inner).pop();
                tokio::spawn(async move {
                    let mut resources = Vec::new();
                    while let Some((_, name)) = next() {
                        chain(&http, &base, &name, by, &mut resources).await?;
                    }
                    anyhow::Ok(resources)
                })
            })
            .collect();
        let mut resources = Vec::new();
        for worker in workers {
            resources.extend(worker.await??);
        }
        Ok(Self { resources, took: began.elapsed() })
    }

    /// What came, by `Type/id`.
    pub(crate) fn names(&self) -> anyhow::Result<BTreeSet<String>> {
        self.resources.iter().map(|resource| Ok(Named::of(resource.get())?.name())).collect()
    }
}

async fn chain(http: &Http, base: &str, name: &str, by: By, resources: &mut Vec<Box<RawValue>>) -> anyhow::Result<()> {
    let offset = match by {
        By::Next => "",
        By::Offset => "&_offset=0",
    };
    let mut next = Some(format!("{base}/{name}?_count={COUNT}{offset}"));
    while let Some(url) = next {
        let page: Page = http.get_packed(&url).await?;
        resources.extend(page.entry.into_iter().filter_map(|entry| entry.resource));
        next = page.link.into_iter().find(|link| link.relation == "next").map(|link| link.url);
    }
    Ok(())
}
