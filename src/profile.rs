//! Profile: what the server really does, and the strategy that it allows.

use serde::{Deserialize, Serialize};

/// What was found out about the upstream, by asking it and not by its name. Everything unproven is `false`
/// or absent, so that a server that could not be asked is read in the most careful way.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Profile {
    /// `_lastUpdated` filters: a window in the far future was empty and one in the far past was not.
    pub(crate) last_updated: bool,
    /// How to have resources counted apart from a page.
    pub(crate) counts: Option<CountMethod>,
    /// A page's own `total` is exact whatever the page holds, at least where it is asked for in this way.
    pub(crate) page_total: Option<PageTotal>,
    pub(crate) links: NextLinks,
}

/// What `next` links point into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NextLinks {
    /// None was seen yet: taken for the worst.
    #[default]
    Unknown,
    /// Offsets into a list that is made anew for each page: a row that leaves shifts all later ones.
    Offsets,
    /// A list that the server keeps, or the place after the last row.
    Stable,
}

/// A way to have a server count that was seen to give the right number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CountMethod {
    /// `_summary=count`
    Summary,
    /// `_total=accurate` on a page of one
    Accurate,
}

/// How a page comes to carry an exact total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PageTotal {
    /// Unasked.
    Always,
    /// With `_total=accurate`.
    OnRequest,
}

impl Profile {
    /// Whether one page's total proves it: exact totals, and links that are no offsets (a server that pages by
    /// offsets has been seen to end a list early with a total that agrees).
    pub(crate) fn page_proves_itself(&self) -> bool {
        self.page_total.is_some() && self.links_are_stable()
    }

    /// Whether several pages of one search show each resource that stays in it.
    pub(crate) fn links_are_stable(&self) -> bool {
        match self.links {
            NextLinks::Stable => true,
            NextLinks::Unknown | NextLinks::Offsets => false,
        }
    }
}
