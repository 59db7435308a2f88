//! The section of its name; each option says what it does.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Problems, Secret, Section};

/// Fewest characters of the token: whoever has it sees what is going on.
pub(crate) const LEAST_TOKEN: usize = 32;

/// The operators' own listener: a page, health and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Address and port to listen on; null is none.
    pub listen: Option<SocketAddr>,
    /// What every request there has to show, on loopback too; better a file.
    pub token: Option<Secret>,
    /// The file that holds it.
    pub token_file: Option<PathBuf>,
}

impl Section for AdminConfig {
    fn check(&self, problems: &mut Problems) {
        if self.token.is_some() && self.token_file.is_some() {
            problems.add("token", "is given twice, here and as a file");
        }
        if self.listen.is_some() && self.token.is_none() && self.token_file.is_none() {
            problems.add("token_file", "is needed beside admin.listen: nobody is answered there without a token");
        }
        if self.token.as_ref().is_some_and(|token| token.reveal().len() < LEAST_TOKEN) {
            problems.add("token", "is shorter than 32 characters");
        }
        if self.token_file.as_ref().is_some_and(|path| !path.is_absolute()) {
            problems.add("token_file", "is not an absolute path");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn there_is_no_listener_without_a_token() {
        let long = "0123456789abcdef0123456789abcdef";
        for (admin, expected) in [
            ("listen: null".to_owned(), None),
            ("listen: 127.0.0.1:9090, token_file: /run/secrets/admin".to_owned(), None),
            (format!("listen: 0.0.0.0:9090, token: {long}"), None),
            ("listen: 127.0.0.1:9090".to_owned(), Some("admin.token_file is needed")),
            (format!("listen: 127.0.0.1:9090, token: s3cret{}", &long[7..]), Some("admin.token is shorter")),
            (format!("token: {long}, token_file: /a"), Some("admin.token is given twice")),
            ("token_file: relative".to_owned(), Some("admin.token_file is not an absolute path")),
            (format!("listen: 127.0.0.1:8080, token: {long}"), Some("admin.listen is an address of server")),
            (format!("listen: 127.0.0.1:8081, token: {long}"), Some("admin.listen is an address of server")),
        ] {
            let yaml = format!(
                "server: {{ public_base_url: http://127.0.0.1:8080/fhir, bulk_listen: 127.0.0.1:8081 }}\n\
                 upstream: {{ base_url: http://127.0.0.1:9000/fhir }}\nadmin: {{ {admin} }}\n"
            );
            let told = Config::from_yaml(&yaml).map_err(|error| error.to_string()).err();
            match (&told, expected) {
                (None, None) => {}
                (Some(told), Some(expected)) => {
                    assert!(told.contains(expected) && !told.contains("s3cret"), "{admin}: {told}");
                }
                _ => panic!("{admin}: {told:?}"),
            }
        }
    }
}
