//! What of a configuration expires, and which of it is to be replaced (SEC-44).

use std::fmt;

use crate::expiry::{Expiring, Outlook, Renewal};
use crate::fhir::datatypes::Millis;

/// What is known to expire, and what time it is.
#[derive(Debug)]
pub(crate) struct Expiries {
    pub(crate) known: Vec<Expiring>,
    pub(crate) now: Millis,
}

impl fmt::Display for Expiries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, expiring) in self.known.iter().enumerate() {
            let name = if number == 0 { "expires" } else { "" };
            let Expiring { what, when, renewal } = expiring;
            let means = match (expiring.outlook(self.now), renewal) {
                (Outlook::Good, Renewal::ByItself) => "is replaced by itself before that".to_owned(),
                (Outlook::Over, Renewal::ByItself) => "SHOULD HAVE BEEN REPLACED by itself, and was not".to_owned(),
                (outlook @ Outlook::Good, Renewal::ByHand) => outlook.to_string(),
                (outlook, _) => format!("{outlook}: replace it"),
            };
            let day: String = when.to_string().chars().take(10).collect();
            writeln!(f, "{name:<14}{day:<15} {what} {means}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_expires_is_told_with_what_is_to_be_done() {
        let now = Millis(1_800_000_000_000);
        let in_days = |what: &str, days: i64, renewal| {
            let when = Millis(now.0 + days * 24 * 3_600_000);
            Expiring { what: what.to_owned(), when, renewal }
        };
        let known = vec![
            in_days("link.key", 80, Renewal::ByItself),
            in_days("token.keys", -1, Renewal::ByItself),
            in_days("upstream.tls.ca_file", 300, Renewal::ByHand),
            in_days("upstream.tls.client_cert_file", 12, Renewal::ByHand),
            in_days("output.azure.sas_token_file", -12, Renewal::ByHand),
        ];
        let told = Expiries { known, now }.to_string();
        assert_eq!(
            told,
            "expires       2027-04-05      link.key is replaced by itself before that\n\
            \x20             2027-01-14      token.keys SHOULD HAVE BEEN REPLACED by itself, and was not\n\
            \x20             2027-11-11      upstream.tls.ca_file is good for now\n\
            \x20             2027-01-27      upstream.tls.client_cert_file expires in 12 days: replace it\n\
            \x20             2027-01-03      output.azure.sas_token_file HAS EXPIRED: replace it\n"
        );
        assert_eq!(Expiries { known: Vec::new(), now }.to_string(), "");
    }
}
