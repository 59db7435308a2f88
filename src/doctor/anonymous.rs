//! What whoever reaches us can read of the server without any credentials, and what that means for bulk requests (SEC-02).

use std::fmt;

use crate::proxy::anonymous::Anonymous;

/// What the server does with requests of anybody, and what is configured around it.
#[derive(Debug)]
pub(crate) struct Anonymity {
    pub(crate) seen: Anonymous,
    pub(crate) reach: Reach,
    /// Whether bulk requests have a listener of their own.
    pub(crate) listens_apart: bool,
}

/// Who reaches the server through us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Nobody: nothing passes through.
    Nobody,
    /// In open mode: whoever may export as well.
    OpenMode,
    /// Whoever reaches us, and an operator answers for it.
    Acknowledged,
    /// Whoever reaches us: bulk requests are refused if that opens anything.
    Watched,
}

impl Anonymity {
    /// Whether bulk requests would be served.
    pub(crate) fn is_fit(&self) -> bool {
        self.reach != Reach::Watched || !matches!(self.seen, Anonymous::Accepted(_)) || self.listens_apart
    }
}

impl fmt::Display for Anonymity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |value: &str, means: &str| writeln!(f, "{:<14}{value:<15} {means}", "anonymous");
        let status = match self.seen {
            Anonymous::Refused(status) => {
                let means = format!("the server answers requests without credentials with {}", status.as_u16());
                return line("refused", &means);
            }
            Anonymous::Unanswered => {
                return line(
                    "unknown",
                    match self.reach {
                        Reach::Watched => {
                            "it does not answer: bulk requests are refused until it was seen to ask for credentials"
                        }
                        Reach::Nobody | Reach::OpenMode | Reach::Acknowledged => {
                            "the server does not answer requests without credentials"
                        }
                    },
                );
            }
            Anonymous::Accepted(status) => status.as_u16(),
        };
        match self.reach {
            Reach::Nobody => line(
                "accepted",
                "the server gives to anybody; nothing passes through, so nobody reads it through Offtake",
            ),
            Reach::OpenMode => {
                line("accepted", "the server gives to anybody: whoever reaches Offtake reads it through it")
            }
            Reach::Acknowledged => line(
                "accepted",
                "whoever reaches server.listen reads the server through it, as upstream.accepts_anonymous acknowledges",
            ),
            Reach::Watched => {
                let means = format!("WHOEVER REACHES server.listen READS THE SERVER THROUGH IT (status {status})");
                line("accepted", &means)?;
                if self.listens_apart {
                    return writeln!(f, "{:<30}bulk requests are refused there, and served by server.bulk_listen", "");
                }
                for means in [
                    "bulk requests are refused: have the server ask for credentials, or give bulk requests a listener of",
                    "their own (server.bulk_listen), or set server.pass_through: off, or acknowledge it",
                    "(upstream.accepts_anonymous)",
                ] {
                    writeln!(f, "{:<30}{means}", "")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn a_server_that_trusts_its_network_is_fit_only_where_that_opens_nothing() {
        let open = Anonymous::Accepted(StatusCode::OK);
        let closed = Anonymous::Refused(StatusCode::UNAUTHORIZED);
        for (seen, reach, listens_apart, expected, says) in [
            (closed, Reach::Watched, false, true, "refused"),
            (Anonymous::Unanswered, Reach::Watched, false, true, "bulk requests are refused until"),
            (open, Reach::Watched, false, false, "server.pass_through: off"),
            (open, Reach::Watched, true, true, "served by server.bulk_listen"),
            (open, Reach::Acknowledged, false, true, "acknowledges"),
            (open, Reach::OpenMode, false, true, "whoever reaches Offtake"),
            (open, Reach::Nobody, false, true, "nothing passes through"),
        ] {
            let anonymity = Anonymity { seen, reach, listens_apart };
            assert_eq!(anonymity.is_fit(), expected, "{anonymity:?}");
            let told = anonymity.to_string();
            assert!(told.contains(says) && told.starts_with("anonymous     "), "{told}");
        }
    }
}
