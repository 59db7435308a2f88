//! What an operator has decided that is dangerous: told at each start, and on the operators' page for as long as it holds
//! (SEC-02, SEC-10).

use crate::config::{AcceptsAnonymous, Config, PassThroughMode, PlainHttp, PublicBucket, SmartMode};

/// Says it in the log.
pub(super) fn tell(config: &Config) {
    for warning in of(config) {
        tracing::warn!("{warning}");
    }
}

/// All of it.
pub(super) fn of(config: &Config) -> Vec<&'static str> {
    let Config { upstream, smart, .. } = config;
    let is_open = smart.mode == SmartMode::Open;
    let passes_through = config.server.pass_through == PassThroughMode::Forward;
    let is_plain = upstream.searched().scheme() != "https";
    let all = [
        (
            is_open && !smart.open_to_everyone,
            "smart.mode is open: everybody on this machine may export everything, without showing who they are",
        ),
        (
            is_open && smart.open_to_everyone,
            "smart.open_to_everyone is set: EVERYBODY who reaches this server may export everything, without showing who they \
             are",
        ),
        (
            !is_open && passes_through && upstream.accepts_anonymous == AcceptsAnonymous::Acknowledged,
            "upstream.accepts_anonymous is acknowledged: tokens are asked for by bulk requests only, every other request \
             reaches the FHIR server by server.listen as it is, and if that answers without credentials, whoever reaches \
             us reads everything there",
        ),
        (
            upstream.credentials.are_given() && is_plain && upstream.credentials.plain_http == PlainHttp::Acknowledged,
            "upstream.credentials are sent over plain http, which credentials.plain_http acknowledges: whoever is on the way \
             reads them",
        ),
        (
            config.output.public_bucket == PublicBucket::Acknowledged,
            "output.public_bucket is acknowledged: if the storage gives to anybody, whoever reaches it may read what is exported",
        ),
        (!config.ledger.enabled, "ledger.enabled is false: nothing is recorded of what leaves this server"),
        (
            config.admin.listen.is_some_and(|listen| !listen.ip().is_loopback()),
            "admin.listen is no loopback address, and that listener speaks no TLS: its token can be read on the way",
        ),
    ];
    all.into_iter().filter_map(|(holds, warning)| holds.then_some(warning)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dangerous_is_told_and_nothing_else() {
        let with = |server: &str, upstream: &str, more: &str| {
            let yaml = format!(
                "server: {{ public_base_url: 'http://127.0.0.1:8080/fhir', {server} }}\n\
                 upstream: {{ base_url: 'http://h/fhir', {upstream} }}\n{more}\n"
            );
            of(&Config::from_yaml(&yaml).expect("good values"))
        };
        let clients = "clients: [{ client_id: a, scope: system/*.rs, jwks_uri: 'https://c.example/jwks' }]";
        let closed = format!("smart: {{ mode: authorization_server, {clients} }}");
        let admin = "admin: { token_file: /a, listen: ";
        for (server, upstream, more, expected) in [
            ("", "", closed.clone(), ""),
            ("", "", String::new(), "smart.mode is open"),
            ("", "", "smart: { open_to_everyone: true }".to_owned(), "smart.open_to_everyone is set"),
            ("", "accepts_anonymous: acknowledged", closed.clone(), "upstream.accepts_anonymous"),
            ("pass_through: off", "accepts_anonymous: acknowledged", closed.clone(), ""),
            (
                "",
                "credentials: { plain_http: acknowledged, headers: { a: { env: B } } }",
                closed.clone(),
                "upstream.credentials",
            ),
            ("", "", format!("{closed}\noutput: {{ public_bucket: acknowledged }}"), "output.public_bucket"),
            ("", "", format!("{closed}\nledger: {{ enabled: false }}"), "ledger.enabled"),
            ("", "", format!("{closed}\n{admin} 127.0.0.1:9 }}"), ""),
            ("", "", format!("{closed}\n{admin} 0.0.0.0:9 }}"), "admin.listen"),
        ] {
            let told = with(server, upstream, &more);
            assert_eq!(told.len(), usize::from(!expected.is_empty()), "{server} {upstream} {more}: {told:?}");
            assert!(told.iter().all(|warning| warning.starts_with(expected)), "{told:?}");
        }
    }
}
