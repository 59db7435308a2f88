//! What kind of a world it is.

/// A minute, after which a transaction is seen on a server that keeps to the usual lag, in ticks.
pub const LAG: i64 = 12;

/// How a world goes on. Times are in [`TICK`](super::TICK)s.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each habit is there or not, whatever the others are")]
pub struct Habits {
    /// How many types there are of what changes: Observation, then Condition.
    pub types: usize,
    /// How likely a transaction begins in a tick.
    pub churn: f64,
    /// How often transactions update, create, delete, and give resources to other patients.
    pub mix: [usize; 4],
    /// The longest time from a transaction's stamp to its being seen.
    pub delay: i64,
    /// Transactions of several resources, and many loaded at one moment.
    pub ties: bool,
    /// Stamps are rounded down to a multiple of this.
    pub grain: i64,
    /// How likely a loaded resource has no stamp, and never gets one.
    pub unstamped: f64,
    /// Some stamps lie in a far future.
    pub future: bool,
    /// How far `Date` is ahead of the stamps.
    pub date_ahead: i64,
    /// How far a replica, which is what is asked, is behind.
    pub replica: i64,
    /// How far the index of stamps is behind the resources.
    pub index_lag: i64,
    /// A resource may be written by two transactions at once: the later version may have the earlier stamp.
    pub regress: bool,
    /// How likely time passes between the finding of resources and their load as well.
    pub race: f64,
    /// How likely time passes at all at any other step.
    pub pace: f64,
    /// All that is loaded is younger than a minute.
    pub fresh: bool,
    /// Transactions that begin at most, for a shorter story.
    pub most_transactions: usize,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            types: 1,
            churn: 0.25,
            mix: [6, 2, 2, 0],
            delay: LAG,
            ties: false,
            grain: 1,
            unstamped: 0.0,
            future: false,
            date_ahead: 0,
            replica: 0,
            index_lag: 0,
            regress: false,
            race: 0.0,
            pace: 1.0,
            fresh: false,
            most_transactions: usize::MAX,
        }
    }
}
